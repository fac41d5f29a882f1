package hosts

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Proof is what counts as an installed host: the empty one and ProofSSH wait for its own SSH key, which "ssh:PORT"
// looks for at another port than the flake says.
type Proof string

// The proofs.
const (
	ProofSSH  Proof = "ssh"  // it answers with its own SSH key
	ProofSeen Proof = "seen" // it asks for an address by its name, or some SSH server answers on it
	ProofNone Proof = "none" // the machine left the installer
)

// Words are all proofs, but for those with a port.
func (p *Proof) Words() []string { return stringsOf(ProofSSH, ProofSeen, ProofNone) }

// UnmarshalText reads ssh, ssh:PORT, seen or none; empty is [ProofSSH].
func (p *Proof) UnmarshalText(text []byte) error {
	switch word := Proof(text); word {
	case "", ProofSSH, ProofSeen, ProofNone:
		*p = word
		return nil
	}

	number, ok := strings.CutPrefix(string(text), "ssh:")
	if !ok {
		return fmt.Errorf("--proof %s: choose ssh, ssh:PORT, seen or none", text)
	}
	port, err := strconv.ParseUint(number, 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("--proof %s: write a port from 1 to 65535, such as ssh:2222", text)
	}
	*p = Proof(fmt.Sprintf("ssh:%d", port))
	return nil
}

// MarshalText implements [encoding.TextMarshaler].
func (p Proof) MarshalText() ([]byte, error) { return []byte(cmp.Or(p, ProofSSH)), nil }

// port is the one that the operator said; 0: none.
func (p Proof) port() int {
	text, _ := strings.CutPrefix(string(p), "ssh:")
	port, _ := strconv.Atoi(text) // 0 where there is none
	return port
}

// BySSH reports whether only the host's own SSH key counts.
func (p Proof) BySSH() bool { return p != ProofSeen && p != ProofNone }

// Expected is what a host's configuration says of how its machine is seen on the network, once it starts from its disk.
type Expected struct {
	HostName string `json:"host_name,omitempty"` // networking.hostName; empty: not known, or the network gives it
	Ports    []int  `json:"ports,omitempty"`     // where sshd listens; empty: not known
	Stage1   Stage1 `json:"stage1,omitzero"`
}

// Stage1 is what the initrd does on the network (boot.initrd.network) before the disks are open.
type Stage1 struct {
	Network bool `json:"network,omitempty"` // it asks for an address
	Port    int  `json:"port,omitempty"`    // of its sshd; 0: it has none
	OwnKey  bool `json:"own_key,omitempty"` // its sshd has the host's own key
	// SystemKey is a type of SSH host key that the system's sshd has and that of stage 1 has not, such as ssh-rsa;
	// empty: none is known.
	SystemKey string `json:"system_key,omitempty"`
}

// SSHPorts are where the host's own sshd is looked for.
func (h *Host) SSHPorts() []int {
	if port := h.Proof.port(); port > 0 {
		return []int{port}
	}
	if len(h.Expected.Ports) > 0 {
		return h.Expected.Ports
	}
	return []int{22}
}

// Restarting reports whether everything is on the disk, and the machine has not yet shown that it starts from it.
func (h *Host) Restarting() bool {
	return (h.State == StateRebooting || h.State == StateFailed) && h.Phase == PhaseReboot && !h.Permit.Spent.IsZero()
}

// Restart is what was seen of a machine since it was told to start from its disk, until it has proved itself.
type Restart struct {
	Waits   string    `json:"waits,omitempty"`   // where its stage 1 waits for a passphrase, for people; empty: nowhere
	Waited  time.Time `json:"waited,omitzero"`   // until when it did, if it does not any more
	Seen    string    `json:"seen,omitempty"`    // how it showed itself on the network; no proof
	Returns int       `json:"returns,omitempty"` // how often it netbooted, as far as that was told
}

// LookAt is what to look at where a machine comes back to the network instead of starting from its disk.
const LookAt = "its disk does not start. Look at its screen (does its kernel panic, or the firmware find nothing to start?), " +
	"at the firmware's boot order, and at what its configuration makes the boot loader do (an ESP that is not mounted where it installs, " +
	"boot.loader.efi.canTouchEfiVariables, efiInstallAsRemovable)"

// noteWaiting notes where the restarted machine waits for a passphrase, or that it does not any more.
func noteWaiting(h *Host, ev Event) error {
	if !h.Restarting() { // nothing was installed
		return ErrRefused
	}
	h.Restart.Waits = ev.Address
	if ev.Address == "" {
		h.Restart.Waited = ev.Time
	}
	return nil
}

func noteSeen(h *Host, ev Event) error {
	if !h.Restarting() {
		return ErrRefused
	}
	h.Restart.Seen = ev.Message
	return nil
}

func noteReturn(h *Host, ev Event) error {
	if !h.Restarting() {
		return ErrRefused
	}
	h.Restart.Returns = ev.Count
	return nil
}

func proveHost(h *Host, ev Event) error {
	if !h.Restarting() {
		return ErrRefused
	}
	h.Error = ""
	h.enter("")
	h.Restart = Restart{}
	h.Installed = InstalledSystem{System: h.System, HostKey: h.HostKey, Proof: ev.Message, Port: ev.Port}
	return nil
}
