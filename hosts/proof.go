package hosts

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Proof says what proves that a host is installed. The empty value and ProofSSH wait for the host's own SSH key;
// "ssh:PORT" looks for it at that port instead of those in the flake.
type Proof string

// The proofs.
const (
	ProofSSH  Proof = "ssh"  // it answers with its own SSH key
	ProofSeen Proof = "seen" // it sends its name in a DHCP request, or some SSH server answers at its address
	ProofNone Proof = "none" // the machine left the installer
)

// Words returns all proofs except those with a port, for completion.
func (p *Proof) Words() []string { return stringsOf(ProofSSH, ProofSeen, ProofNone) }

// UnmarshalText reads ssh, ssh:PORT, seen or none; the empty text means [ProofSSH].
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

// port returns the port that the operator chose; 0 if none.
func (p Proof) port() int {
	text, _ := strings.CutPrefix(string(p), "ssh:")
	port, _ := strconv.Atoi(text) // 0 if there is none
	return port
}

// BySSH reports whether only the host's own SSH key counts.
func (p Proof) BySSH() bool { return p != ProofSeen && p != ProofNone }

// Expected is what a host's configuration says about how its machine appears on the network after it starts from its
// disk.
type Expected struct {
	HostName string `json:"host_name,omitempty"` // networking.hostName; empty: not known, or set by the network
	Ports    []int  `json:"ports,omitempty"`     // of sshd; empty: not known
	Stage1   Stage1 `json:"stage1,omitzero"`
}

// Stage1 is what the initrd does on the network (boot.initrd.network) before the disks are unlocked.
type Stage1 struct {
	Network bool `json:"network,omitempty"` // it requests an address
	Port    int  `json:"port,omitempty"`    // of its sshd; 0: it has none
	OwnKey  bool `json:"own_key,omitempty"` // its sshd uses the host's own key
	// SystemKey is a type of SSH host key that the system's sshd has and that of stage 1 has not, such as ssh-rsa;
	// empty: none is known.
	SystemKey string `json:"system_key,omitempty"`
}

// SSHPorts returns the ports where the host's own sshd is looked for.
func (h *Host) SSHPorts() []int {
	if port := h.Proof.port(); port > 0 {
		return []int{port}
	}
	if len(h.Expected.Ports) > 0 {
		return h.Expected.Ports
	}
	return []int{22}
}

// Restarting reports whether everything is on the disk and the machine has not yet proved that it starts from it.
func (h *Host) Restarting() bool {
	return (h.State == StateRebooting || h.State == StateFailed) && h.Phase == PhaseReboot && !h.Permit.Spent.IsZero()
}

// Restart is what was seen of a machine between the end of its install and its proof.
type Restart struct {
	Waits   string    `json:"waits,omitempty"`   // where stage 1 waits for a passphrase, for people; empty: nowhere
	Waited  time.Time `json:"waited,omitzero"`   // when it stopped waiting, if it did
	Seen    string    `json:"seen,omitempty"`    // how it appeared on the network; no proof
	Returns int       `json:"returns,omitempty"` // how often it netbooted again, as far as that was noticed
}

// LookAt tells people what to check when a machine netboots again instead of starting from its disk.
const LookAt = "its disk does not start. Look at its screen (does its kernel panic, or the firmware find nothing " +
	"to start?), " +
	"at the firmware's boot order, and at what its configuration makes the boot loader do (an ESP that is not " +
	"mounted where it installs, " +
	"boot.loader.efi.canTouchEfiVariables, efiInstallAsRemovable)"

// noteWaiting records where the restarted machine waits for a passphrase, or that it stopped waiting.
func noteWaiting(h *Host, ev Event) error {
	if !h.Restarting() { // there is no installed system to wait for
		return ErrRefused
	}
	h.Restart.Waits = ev.Address
	if ev.Address == "" {
		h.Restart.Waited = ev.Time
	}
	return nil
}

// noteSeen records how the restarted machine appeared on the network.
func noteSeen(h *Host, ev Event) error {
	if !h.Restarting() {
		return ErrRefused
	}
	h.Restart.Seen = ev.Message
	return nil
}

// noteReturn records how often the restarted machine netbooted again.
func noteReturn(h *Host, ev Event) error {
	if !h.Restarting() {
		return ErrRefused
	}
	h.Restart.Returns = ev.Count
	return nil
}

// proveHost makes the host an installed one.
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
