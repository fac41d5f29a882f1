// Package hosts is the inventory: which machine is to become which host, what state it is in, what happened to it, and
// whether it may be erased.
//
// pxe, the installer and the operator's API never call each other; they meet here. There is one noun (Host), one verb
// (Apply an Event) and one table (which event may follow which state, and what it changes).
package hosts

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"regexp"
	"slices"
	"time"
)

// State says how far a host is on its way from a blank machine to an installed host. The table in transition.go says
// which event leads from which state to which.
type State string

// The states, in the order of an install without problems.
const (
	StateReady      State = "ready"      // enrolled, with a permit; waits for the machine to ask for a boot
	StateBooting    State = "booting"    // the machine was given a boot
	StateLive       State = "live"       // the installer answered with the SSH key of this boot
	StateRehearsed  State = "rehearsed"  // a dry run ended: everything was done except what changes the machine
	StateInstalling State = "installing" // the permit is burned; the disks are being changed
	StateRebooting  State = "rebooting"  // everything is on the disk; the machine restarts from it
	StateInstalled  State = "installed"  // the host answered with its own key
	StateFailed     State = "failed"     // Host.Phase and Host.Error say where and why
)

// Phase names a part of the install, for progress and for failures.
type Phase string

// The phases, in the order in which they run.
const (
	PhaseNetboot    Phase = "netboot"
	PhaseBuild      Phase = "build"
	PhaseFacts      Phase = "facts"
	PhaseDisks      Phase = "disks"
	PhaseCopy       Phase = "copy"
	PhaseFiles      Phase = "files"
	PhaseBootloader Phase = "bootloader"
	PhaseReboot     Phase = "reboot"
)

// Host is a name in the flake and the machine that is to become that host.
type Host struct {
	Name    string   `json:"name"`
	MACs    []string `json:"macs"`     // lower case with colons; the machine netboots by any of them
	Flake   string   `json:"flake"`    // flake reference, without the attribute
	Arch    string   `json:"arch"`     // an images.Arch: x86_64, aarch64
	HostKey string   `json:"host_key"` // public key of the installed host, authorized_keys form

	// Choices are what the operator chose. Image and Board are as they were resolved then.
	Choices   `json:"options"`
	DiskKeys  []string `json:"disk_keys,omitempty"` // paths on the installer; the contents are secrets named "disk:PATH"
	Generated []string `json:"generated,omitempty"` // those of DiskKeys whose passphrase the server makes

	State          State           `json:"state"`
	Since          time.Time       `json:"since"`           // when State was entered
	Phase          Phase           `json:"phase,omitempty"` // the current phase; others may be running, too
	Progress       Progress        `json:"progress"`
	Error          string          `json:"error,omitempty"`
	Address        string          `json:"address,omitempty"` // where the machine was last seen
	Connected      bool            `json:"contact"`           // whether an SSH session to its installer is up
	Lost           time.Time       `json:"lost,omitzero"`     // when the session broke; zero if it did not
	Disconnects    int             `json:"losses,omitempty"`  // how often it broke since the boot, see lossPause
	LastDisconnect time.Time       `json:"counted,omitzero"`  // when Disconnects last grew
	System         string          `json:"system,omitempty"`  // store path of the toplevel that was built
	Machine        string          `json:"machine,omitempty"` // SMBIOS UUID of the machine that boots under this permit
	Serial         string          `json:"serial,omitempty"`  // of the host's Raspberry Pi; see Inventory.BySerial
	Method         Method          `json:"method,omitzero"`   // how this machine was last led to its installer
	Layout         string          `json:"layout,omitempty"`  // digest of the layout that the disks were made from
	Installed      InstalledSystem `json:"standing,omitzero"` // the installed system, until a permit is burned
	Expected       Expected        `json:"expected,omitzero"` // how System is to be recognised on the network
	Restart        Restart         `json:"restart,omitzero"`  // what was seen of the machine since it left the installer
	Permit         Permit          `json:"permit"`
	Owned          []Disk          `json:"owned,omitempty"` // all disks that permits of this host were burned for
	Boot           Boot            `json:"boot"`

	LastEvent uint64 `json:"last_event"`       // the number of the newest event; they count per host from 1
	Events    int    `json:"events,omitempty"` // how many events are kept
	// Tokens are the tokens of recent boots, which are still recognised (and refused).
	Tokens []string `json:"tokens,omitempty"`
}

// Progress is how far the current phase has come, in units of Unit.
type Progress struct {
	Done  int64  `json:"done"`
	Total int64  `json:"total"`         // 0: unknown
	Unit  string `json:"unit"`          // "bytes", "paths", "steps"
	Now   string `json:"now,omitempty"` // the current step, for people: "format root with ext4"
}

// Percent returns the progress from 0 to 100; 0 if the total is not known.
func (p Progress) Percent() int {
	if p.Total <= 0 {
		return 0
	}
	return int(min(p.Done, p.Total) * 100 / p.Total)
}

// Permit is the operator's one-time permission to erase and install one host.
type Permit struct {
	Issued  time.Time `json:"issued,omitzero"`
	Expires time.Time `json:"expires,omitzero"`  // the time by which it must be burned
	Burned  time.Time `json:"burned,omitzero"`   // set just before the first destructive command
	Spent   time.Time `json:"spent,omitzero"`    // when the host was installed, or the permit cancelled or used up
	Boots   int       `json:"boots"`             // how many boots were fetched under this permit
	DryRun  bool      `json:"dry_run,omitempty"` // it must not be burned
	Disks   []Disk    `json:"disks,omitempty"`   // what it may erase, set when it is burned
	Retries int       `json:"retries,omitempty"`
	// Confirmed is what the operator agreed to; nil in permits that were given before there were confirmations.
	Confirmed *Confirmed `json:"confirmed,omitempty"`

	Via  Via       `json:"via,omitempty"`  // how the machine is made to boot its installer; empty: by hand
	Come time.Time `json:"come,omitzero"`  // when it was made to boot its installer, or asked for a boot by itself
	Take *Takeover `json:"take,omitempty"` // the system that runs on the machine until then
}

// Disk is a disk that a burned permit names.
type Disk struct {
	Device string `json:"device"`
	Model  string `json:"model,omitempty"`
	Serial string `json:"serial,omitempty"`
	WWN    string `json:"wwn,omitempty"`
	Size   int64  `json:"size"`           // bytes
	Wipe   bool   `json:"wipe,omitempty"` // whether the operator named it with --wipe

	// Vague means that another disk of the machine has the same serial number.
	Vague bool `json:"vague,omitempty"`
	// Twins counts the other disks of the machine with the same WWN, serial number, model and size.
	Twins int `json:"twins,omitempty"`
}

// MaxBoots bounds how often a machine boots under one permit, so that an install that always fails half-way does not
// repeat for ever.
const MaxBoots = 20

// Live reports whether the machine may still be installed under the permit. A burned permit does not expire: an
// interrupted install continues without a second decision.
func (p Permit) Live(now time.Time) bool {
	return !p.Issued.IsZero() && p.Spent.IsZero() && p.Boots <= MaxBoots &&
		(!p.Burned.IsZero() || now.Before(p.Expires))
}

// Boot is one netboot of one machine.
type Boot struct {
	Token   string    `json:"token"`             // 128 random bits, hex
	HostKey string    `json:"host_key"`          // public SSH host key of this boot's installer
	Started time.Time `json:"started"`           // // when it was offered
	Expires time.Time `json:"expires"`           // nothing is served under the token after this time
	TakenBy string    `json:"client"`            // address of the first client that fetched a file; others get nothing
	Taken   time.Time `json:"taken,omitzero"`    // time of that first request
	Used    time.Time `json:"used,omitzero"`     // when the initrd was sent completely
	Machine string    `json:"machine,omitempty"` // SMBIOS UUID of the machine; "": not told, or several differ
	Client  string    `json:"via,omitempty"`     // the kind of client: "UEFI x64 PXE", …
	MAC     string    `json:"mac,omitempty"`     // of the network card that asked
	Board   string    `json:"board,omitempty"`   // name of the board that asked, if it is a known one
	Serial  string    `json:"serial,omitempty"`  // of the Raspberry Pi that asked: 8 hex digits; "": it told none
	Several bool      `json:"several,omitempty"` // boards with different serial numbers asked for it
	Server  string    `json:"server,omitempty"`  // our address on the machine's link
	Port    int       `json:"port,omitempty"`    // of the installer's sshd; 0: 22
	SSH     bool      `json:"ssh,omitempty"`     // the installer was started over SSH, not fetched by firmware
}

// Serves reports whether files may still be served under the boot's token.
func (b Boot) Serves(now time.Time) bool {
	return b.Token != "" && b.Used.IsZero() && now.Before(b.Expires)
}

// MachineID returns the machine-id(5) of the host's installer. It is the same for each boot, because DHCP client
// identifiers are derived from it: so the installer gets the same address each time.
func (h *Host) MachineID() string {
	sum := sha256.Sum256([]byte("provision installer " + h.MACs[0]))
	return fmt.Sprintf("%x", sum[:16])
}

// About returns what the installer is told about the boot, as JSON.
func (h *Host) About() []byte {
	about, err := json.Marshal(map[string]string{"host": h.Name, "server": h.Boot.Server})
	if err != nil {
		panic(err) // a map of strings always can be encoded
	}
	return about
}

// MayBoot reports whether the host's machine may be given the installer now and, if not, why, in words for the
// operator.
func (h *Host) MayBoot(now time.Time) (bool, string) {
	switch {
	case h.State == StateRebooting || h.State == StateInstalled:
		return false, fmt.Sprintf("%s is %s", h.Name, h.State)
	case !h.Permit.Spent.IsZero():
		return false, "the permit is spent"
	case h.Permit.Boots >= MaxBoots:
		return false, fmt.Sprintf("it booted %d times under one permit without being installed", h.Permit.Boots)
	case !h.Permit.Live(now):
		return false, "the permit expired at " + h.Permit.Expires.Format(time.RFC3339)
	case h.Connected:
		return false, "its installer is up and answers at " + h.Address
	}

	return true, ""
}

// namePattern is what CheckName accepts.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// CheckName returns an error unless name is a valid host name: letters, digits, dots, dashes and underscores, starting
// with a letter or digit, at most 63 characters.
func CheckName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("host name %q: use letters, digits, '-', '_' and '.', starting with a letter or digit, "+
			"at most 63", name)
	}
	return nil
}

// ParseMAC returns the canonical form of a unicast Ethernet address: lower case with colons.
func ParseMAC(s string) (string, error) {
	mac, err := net.ParseMAC(s)
	switch {
	case err != nil || len(mac) != 6:
		return "", fmt.Errorf("MAC address %q: write six bytes in hexadecimal, such as 52:54:00:12:34:56", s)
	case mac[0]&1 != 0:
		return "", fmt.Errorf("MAC address %q is a multicast address; a machine's own has an even first byte", s)
	case slices.Equal(mac, make([]byte, 6)):
		return "", fmt.Errorf("MAC address %q is all zero", s)
	}
	return mac.String(), nil
}
