package hosts

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"provision/internal/store"
)

// Via is how a machine is made to boot its installer.
type Via string

// The ways. A permit without one leaves it to the operator, as ViaManual does.
const (
	ViaAuto    Via = "auto"    // the first of the next three that is possible
	ViaKexec   Via = "kexec"   // the running system starts the installer's kernel
	ViaNetboot Via = "netboot" // the running system reboots from the network, by the firmware's BootNext
	ViaWake    Via = "wol"     // a magic packet (Wake-on-LAN) switches the machine on
	ViaManual  Via = "manual"  // somebody switches it on
)

// vias lists the ways, in the order in which ViaAuto tries them.
var vias = []Via{ViaAuto, ViaKexec, ViaNetboot, ViaWake, ViaManual}

// Words returns all ways, for completion.
func (v *Via) Words() []string { return stringsOf(vias...) }

// UnmarshalText reads a way; the empty text means that none is chosen.
func (v *Via) UnmarshalText(text []byte) error {
	*v = Via(text)
	if *v != "" && !slices.Contains(vias, *v) {
		return fmt.Errorf("--via %s: not a way to make a machine come; choose one of %v", text, vias)
	}
	return nil
}

// InstalledSystem is what is known to be on a machine's disks: a system that proved itself, on disks that no permit
// allowed to change since.
type InstalledSystem struct {
	System  string `json:"system"`         // store path
	HostKey string `json:"host_key"`       // the host key with which it proved itself
	Proof   string `json:"proof"`          // how it proved itself, for people
	Port    int    `json:"port,omitempty"` // of its sshd; 0: 22
}

// HasInstalled reports whether an installed host is still on the machine's disks.
func (h *Host) HasInstalled() bool { return h.Installed != (InstalledSystem{}) }

// MustBeBroughtUp reports whether the server still has to make the machine boot its installer.
func (h *Host) MustBeBroughtUp() bool {
	return h.State == StateReady && h.Permit.Via != "" && h.Permit.Come.IsZero()
}

// Reinstall issues a permit for an enrolled host. The system that runs on its machine is recognised by its present SSH
// key; with newIdentity, the next system gets another one. The error is ErrNotFound if there is no such host.
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

// secretOldKey names the private key of the installed host, while another one is prepared for it.
const secretOldKey = SecretHostKey + ".old"

// keepIdentity returns the write that keeps the private key of an installed host when it gets another one.
func (inv *Inventory) keepIdentity(before, after *Host) ([]store.Write, error) {
	if !before.HasInstalled() || before.HostKey != before.Installed.HostKey || after.HostKey == before.HostKey {
		return nil, nil
	}
	rec, err := inv.store.Get(secretKey(before.Name, SecretHostKey))
	return []store.Write{store.Put(secretKey(before.Name, secretOldKey), rec.Value)}, err
}

// settleIdentity returns the writes that end what keepIdentity began. If the installed system stays, as after a cancel,
// its old key becomes the host's again; if not, the old key is removed.
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
