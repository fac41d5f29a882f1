package hosts

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"provision/internal/store"
)

// Via is how a machine is made to come to its installer.
type Via string

// The ways. A permit without one leaves it to the operator, as ViaManual does.
const (
	ViaAuto    Via = "auto"    // the first of the next three that is possible
	ViaKexec   Via = "kexec"   // the running system starts the installer's kernel
	ViaNetboot Via = "netboot" // the running system restarts, from the network by the firmware's BootNext
	ViaWake    Via = "wol"     // a magic packet switches the machine on
	ViaManual  Via = "manual"  // somebody switches it on
)

// vias lists the ways, in the order in which ViaAuto tries them.
var vias = []Via{ViaAuto, ViaKexec, ViaNetboot, ViaWake, ViaManual}

// Words are all ways.
func (v *Via) Words() []string { return stringsOf(vias...) }

// UnmarshalText reads a way, or nothing.
func (v *Via) UnmarshalText(text []byte) error {
	*v = Via(text)
	if *v != "" && !slices.Contains(vias, *v) {
		return fmt.Errorf("--via %s: not a way to make a machine come; choose one of %v", text, vias)
	}
	return nil
}

// InstalledSystem is what is known to be on a machine's disks: it proved itself, and
// nothing was permitted to touch it since.
type InstalledSystem struct {
	System  string `json:"system"`         // store path
	HostKey string `json:"host_key"`       // what it proved itself by
	Proof   string `json:"proof"`          // for people
	Port    int    `json:"port,omitempty"` // of its SSH; 0: 22
}

// HasInstalled reports whether an installed host is on the machine's disks still.
func (h *Host) HasInstalled() bool { return h.Installed != (InstalledSystem{}) }

// MustBeBroughtUp reports whether the machine is still to be made to come.
func (h *Host) MustBeBroughtUp() bool {
	return h.State == StateReady && h.Permit.Via != "" && h.Permit.Come.IsZero()
}

// Reinstall issues a permit for a host that is there. What runs on its machine
// is known by the key that it has until now; newIdentity gives it another.
func (inv *Inventory) Reinstall(h Host, permit time.Duration, secrets map[string][]byte,
	newIdentity bool) (Host, error) {
	before, err := inv.Get(h.Name)
	if err != nil {
		return Host{}, err
	}
	if h.Permit.Take == nil && before.HasInstalled() {
		h.Permit.Take = &Takeover{Address: before.Address, Port: before.Installed.Port, HostKey: before.Installed.HostKey}
	}
	return inv.permit(h, permit, secrets, newIdentity)
}

// secretOldKey is the private key of the host that still stands, while another
// is prepared for it.
const secretOldKey = SecretHostKey + ".old"

// keepIdentity keeps the private key of a host that stands when it gets another.
func (inv *Inventory) keepIdentity(before, after *Host) ([]store.Write, error) {
	if !before.HasInstalled() || before.HostKey != before.Installed.HostKey || after.HostKey == before.HostKey {
		return nil, nil
	}
	rec, err := inv.store.Get(secretKey(before.Name, SecretHostKey))
	return []store.Write{store.Put(secretKey(before.Name, secretOldKey), rec.Value)}, err
}

// settleIdentity ends it: after a cancel the old key is the host's again, and
// once what stood is given up the old key is gone.
func (inv *Inventory) settleIdentity(before, after *Host) ([]store.Write, error) {
	rec, err := inv.store.Get(secretKey(before.Name, secretOldKey))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	writes := []store.Write{store.Delete(secretKey(before.Name, secretOldKey))}
	if after.HasInstalled() {
		writes = append(writes, store.Put(secretKey(before.Name, SecretHostKey), rec.Value))
	}
	return writes, err
}
