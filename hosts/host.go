// Package hosts is the inventory: which machine shall become which host, what
// state it is in, what happened to it, and whether it may be erased.
//
// pxe, the installer and the operator's API never call each other; they meet
// here. There is one noun (Host), one verb (Apply an Event) and one table
// (which event leads where).
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

// State is where a host is on its way from a blank machine to an installed
// one. The table in transition.go says which event leads from which to which.
type State string

// The states, in the order of a smooth install.
const (
	StateReady      State = "ready"      // enrolled, with a permit; waits for the machine to ask
	StateBooting    State = "booting"    // the machine was given a boot
	StateLive       State = "live"       // the installer answered with this boot's key
	StateRehearsed  State = "rehearsed"  // a dry run: all was done but what changes the machine
	StateInstalling State = "installing" // the permit is burned; the disks are being changed
	StateRebooting  State = "rebooting"  // everything is on the disk; the machine starts from it
	StateInstalled  State = "installed"  // the host answered with its own key
	StateFailed     State = "failed"     // Host.Phase and Host.Error say where and why
)

// Phase names a stretch of the install, for progress and for failures.
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

// Host is a name in the flake and the machine that shall become it.
type Host struct {
	Name    string   `json:"name"`
	MACs    []string `json:"macs"`     // lower case, colons; any of them boots the host
	Flake   string   `json:"flake"`    // flake reference, without the attribute
	Arch    string   `json:"arch"`     // as images.Arch: x86_64, aarch64
	HostKey string   `json:"host_key"` // public key of the installed host, authorized_keys form

	// Choices are what the operator chose, with image and board as they were found then.
	Choices   `json:"options"`
	DiskKeys  []string `json:"disk_keys,omitempty"` // installer paths; contents are secrets named "disk:PATH"
	Generated []string `json:"generated,omitempty"` // of DiskKeys, those whose passphrase the server makes

	State          State           `json:"state"`
	Since          time.Time       `json:"since"`           // when State was entered
	Phase          Phase           `json:"phase,omitempty"` // that is waited for; another may be under way
	Progress       Progress        `json:"progress"`
	Error          string          `json:"error,omitempty"`
	Address        string          `json:"address,omitempty"` // where the machine was last seen
	Connected      bool            `json:"contact"`           // an SSH session to its installer is up
	Lost           time.Time       `json:"lost,omitzero"`     // when the session broke, if it is broken
	Disconnects    int             `json:"losses,omitempty"`  // how often it broke since the boot, see lossPause
	LastDisconnect time.Time       `json:"counted,omitzero"`  // when Disconnects grew last
	System         string          `json:"system,omitempty"`  // store path of the toplevel that was built
	Machine        string          `json:"machine,omitempty"` // SMBIOS UUID of the machine that boots under this permit
	Serial         string          `json:"serial,omitempty"`  // of the Raspberry Pi that is the host's; see Inventory.BySerial
	Method         Method          `json:"method,omitzero"`   // what led this machine to its installer last
	Layout         string          `json:"layout,omitempty"`  // digest of the layout whose disks were made under this permit
	Installed      InstalledSystem `json:"standing,omitzero"` // what is installed, until a permit is burned
	Expected       Expected        `json:"expected,omitzero"` // what System is to show on the network
	Restart        Restart         `json:"restart,omitzero"`  // what was seen of the machine since it left the installer
	Permit         Permit          `json:"permit"`
	Owned          []Disk          `json:"owned,omitempty"` // all that permits of this host were burned for
	Boot           Boot            `json:"boot"`

	LastEvent uint64 `json:"last_event"`       // number; they run per host from 1
	Events    int    `json:"events,omitempty"` // that are kept
	// Tokens are the boots whose token is still recognised (and refused).
	Tokens []string `json:"tokens,omitempty"`
}

// Progress is how far the current phase is.
type Progress struct {
	Done  int64  `json:"done"`
	Total int64  `json:"total"`         // 0: unknown
	Unit  string `json:"unit"`          // "bytes", "paths", "steps"
	Now   string `json:"now,omitempty"` // what runs, for people: "format root with ext4"
}

// Percent is 0 to 100; 0 when the total is not known.
func (p Progress) Percent() int {
	if p.Total <= 0 {
		return 0
	}
	return int(min(p.Done, p.Total) * 100 / p.Total)
}

// Permit is the operator's one-time leave to erase and install one host.
type Permit struct {
	Issued  time.Time `json:"issued,omitzero"`
	Expires time.Time `json:"expires,omitzero"`  // to be burned by then
	Burned  time.Time `json:"burned,omitzero"`   // just before the first destructive command
	Spent   time.Time `json:"spent,omitzero"`    // installed, cancelled or used up
	Boots   int       `json:"boots"`             // that were fetched under this permit
	DryRun  bool      `json:"dry_run,omitempty"` // it may not be burned
	Disks   []Disk    `json:"disks,omitempty"`   // what it may erase, from Burned on
	Retries int       `json:"retries,omitempty"`
	// Confirmed is what the operator agreed to; nil in permits of before there was such a thing.
	Confirmed *Confirmed `json:"confirmed,omitempty"`

	Via  Via       `json:"via,omitempty"`  // how the machine is made to come; empty: by hand
	Come time.Time `json:"come,omitzero"`  // when that was done
	Take *Takeover `json:"take,omitempty"` // what runs on the machine until then
}

// Disk is a disk that a burned permit names.
type Disk struct {
	Device string `json:"device"`
	Model  string `json:"model,omitempty"`
	Serial string `json:"serial,omitempty"`
	WWN    string `json:"wwn,omitempty"`
	Size   int64  `json:"size"`           // bytes
	Wipe   bool   `json:"wipe,omitempty"` // the operator named it with --wipe

	// Vague means that another disk of the machine has the same serial number.
	Vague bool `json:"vague,omitempty"`
	// Twins are how many other disks of the machine have the same WWN, serial number, model and size.
	Twins int `json:"twins,omitempty"`
}

// MaxBoots bounds how often one permit boots a machine, so that an install
// that always dies half-way does not go round for ever.
const MaxBoots = 20

// Live reports whether the permit still lets the machine be installed. A
// burned permit does not expire: an interrupted install goes on without a
// second decision.
func (p Permit) Live(now time.Time) bool {
	return !p.Issued.IsZero() && p.Spent.IsZero() && p.Boots <= MaxBoots &&
		(!p.Burned.IsZero() || now.Before(p.Expires))
}

// Boot is one netboot of one machine.
type Boot struct {
	Token   string    `json:"token"`             // 128 random bits, hex
	HostKey string    `json:"host_key"`          // public key of this boot's installer
	Started time.Time `json:"started"`           //
	Expires time.Time `json:"expires"`           // nothing is served under the token after this
	TakenBy string    `json:"client"`            // address of the first to fetch a file of it; no other gets anything
	Taken   time.Time `json:"taken,omitzero"`    // when that request came
	Used    time.Time `json:"used,omitzero"`     // the initrd went out whole
	Machine string    `json:"machine,omitempty"` // SMBIOS UUID that asked; "": not told, or several did
	Client  string    `json:"via,omitempty"`     // what asked: "UEFI x64 PXE", …
	MAC     string    `json:"mac,omitempty"`     // of the NIC that asked
	Board   string    `json:"board,omitempty"`   // the name of the board that asked, if it has one
	Serial  string    `json:"serial,omitempty"`  // of the Raspberry Pi that asked: 8 hex digits; "": it told none
	Several bool      `json:"several,omitempty"` // boards with other serial numbers asked for it, too
	Server  string    `json:"server,omitempty"`  // our address on the machine's link
	Port    int       `json:"port,omitempty"`    // of the installer's SSH; 0: 22
	SSH     bool      `json:"ssh,omitempty"`     // it was handed over by SSH, and not fetched by firmware
}

// Serves reports whether files are still to be served under the boot's token.
func (b Boot) Serves(now time.Time) bool {
	return b.Token != "" && b.Used.IsZero() && now.Before(b.Expires)
}

// MachineID is the machine-id(5) of the host's installer. It stays the same for
// a host, because DHCP client identifiers are made from it: each boot gets the
// same address.
func (h *Host) MachineID() string {
	sum := sha256.Sum256([]byte("provision installer " + h.MACs[0]))
	return fmt.Sprintf("%x", sum[:16])
}

// About is what the installer is told about the boot, as JSON.
func (h *Host) About() []byte {
	about, err := json.Marshal(map[string]string{"host": h.Name, "server": h.Boot.Server})
	if err != nil {
		panic(err) // strings always can
	}
	return about
}

// MayBoot says whether the host's machine is to be given the installer now;
// if not, why not, in words for the operator.
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

var namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// CheckName refuses what cannot be a host's name: letters, digits, dots,
// dashes and underscores, at most 63.
func CheckName(name string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("host name %q: use letters, digits, '-', '_' and '.', starting with a letter or digit, at most 63", name)
	}
	return nil
}

// ParseMAC returns the canonical form of a unicast Ethernet address.
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
