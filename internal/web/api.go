package web

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"time"

	"provision/disko"
	"provision/hosts"
	"provision/images"
)

// Status is what `provision status --json` prints of a host. Its field names
// are stable.
type Status struct {
	Name     string         `json:"name"`
	MACs     []string       `json:"macs"`
	State    hosts.State    `json:"state"`
	Phase    hosts.Phase    `json:"phase"`
	Percent  int            `json:"percent"` // of the phase
	Progress hosts.Progress `json:"progress"`
	Address  string         `json:"address"`
	System   string         `json:"system"` // store path of the system that was built for it
	Error    string         `json:"error"`
	Since    time.Time      `json:"since"` // when State was entered
	Proof    string         `json:"proof"` // how the installed host proved itself
	HostKey  string         `json:"host_key"`
	Arch     string         `json:"arch"`
	Method   hosts.Method   `json:"method"`           // what led the machine to its installer last
	Pinned   hosts.Method   `json:"pinned"`           // the only way it may be led there; empty: any
	Disko    hosts.Disko    `json:"disko"`            // how its disks are made
	Layout   string         `json:"layout,omitempty"` // preset that its disks are made by; missing: the flake's
	Board    string         `json:"board,omitempty"`  // images.Board; missing: not known yet
	Image    string         `json:"image"`
	Flake    string         `json:"flake"`
	Permit   hosts.Permit   `json:"permit"`
	Event    uint64         `json:"event"` // number of the newest event

	// Disks are those that the operator chose, by their names in the layout.
	Disks             map[string]string `json:"disks,omitempty"`
	Hardware          hosts.Hardware    `json:"hardware,omitzero"`    // what is found out for the flake
	BuildOn           hosts.BuildOn     `json:"build_on"`             // where its system is built
	BootOrder         hosts.BootOrder   `json:"boot_order"`           // what its install does to the firmware's
	CopyOver          hosts.CopyOver    `json:"copy_over"`            // how it gets to the machine
	StorePath         string            `json:"store_path,omitempty"` // the system that was built beforehand
	TargetSubstitutes bool              `json:"substituters_on_target,omitempty"`
	// Wipe are the disks that may be taken whatever speaks against it.
	Wipe []string `json:"wipe,omitempty"`
	// Serial is the number of the Raspberry Pi that netbooted last, 8 hex digits.
	Serial string `json:"serial,omitempty"`
	// PiConfig are lines added to the config.txt that it netboots with.
	PiConfig []string `json:"pi_config,omitempty"`
	// KernelParams are added to the command line of its image.
	KernelParams []string `json:"kernel_params,omitempty"`
	// AllowEEPROM is that it may fetch what makes it write its EEPROM anew.
	AllowEEPROM bool `json:"allow_eeprom,omitempty"`
	// TPM2 are the PCRs by which the machine's TPM opens the disks.
	TPM2 string `json:"tpm2,omitempty"`

	// ProofBy is what counts as installed.
	ProofBy hosts.Proof `json:"proof_by"`
	// Restart is what was seen of the machine since it left the installer, until it has proved itself.
	Restart hosts.Restart `json:"restart,omitzero"`
	// Warnings are what to know before it is installed, in words; told at enrolment only.
	Warnings []string `json:"warnings,omitempty"`
	// Slow is what takes its machine long over TFTP, in words; told at enrolment only.
	Slow []string `json:"slow,omitempty"`

	EscrowTo    []string           `json:"escrow_to,omitempty"`    // public keys that open the escrowed disk keys
	Secrets     []hosts.SecretFile `json:"secrets,omitempty"`      // delivered with the install
	KeepSecrets bool               `json:"keep_secrets,omitempty"` // they stay on the server after it
	Chown       []hosts.Chown      `json:"chown,omitempty"`
}

func status(h hosts.Host) Status {
	return Status{Name: h.Name, MACs: h.MACs, State: h.State, Phase: h.Phase, Percent: h.Progress.Percent(),
		Progress: h.Progress, Address: h.Address, System: h.System, Error: h.Error, Since: h.Since, Proof: h.Standing.Proof,
		HostKey: h.HostKey, Arch: h.Arch, Method: h.Method, Pinned: h.Options.Method, Disko: cmp.Or(h.Options.Disko, hosts.Fresh), Layout: h.Options.Layout, Board: h.Board, Image: h.Image, Disks: h.Options.Disks, Wipe: h.Options.Wipe, Serial: h.Serial, PiConfig: h.Options.PiConfig, KernelParams: h.Options.KernelParams, AllowEEPROM: h.Options.AllowEEPROM, TPM2: h.Options.TPM2, Flake: h.Flake, Permit: h.Permit, Event: h.LastEvent,
		Hardware: h.Options.Hardware, BuildOn: cmp.Or(h.Options.BuildOn, hosts.BuildAuto), BootOrder: cmp.Or(h.Options.BootOrder, hosts.OrderKeep), CopyOver: cmp.Or(h.Options.CopyOver, hosts.CopyAuto), StorePath: h.Options.StorePath, TargetSubstitutes: h.Options.TargetSubstitutes,
		Restart: h.Restart, ProofBy: cmp.Or(h.Options.Proof, hosts.ProofSSH),
		EscrowTo: h.Options.EscrowTo, Secrets: h.Options.Secrets, KeepSecrets: h.Options.KeepSecrets, Chown: h.Options.Chown}
}

// Serving is what the server answers, and where.
type Serving struct {
	Version    string      `json:"version"`
	PID        int         `json:"pid"`
	Interfaces []Interface `json:"interfaces"`
	WaitsFor   []string    `json:"waits_for,omitempty"` // names of interfaces that it was started with and cannot answer on now
	DHCP       string      `json:"dhcp"`                // proxy, server or off
	HTTP       int         `json:"http"`                // port
	Hold       bool        `json:"hold"`                // unknown machines are shown how to be enrolled
	SSHKey     string      `json:"ssh_key"`             // public key by which the server logs in, authorized_keys form
	Flake      string      `json:"flake,omitempty"`
	// How nix reads the flake.
	Impure            bool `json:"impure,omitempty"`
	AcceptFlakeConfig bool `json:"accept_flake_config,omitempty"`
}

// Interface is one that is served.
type Interface struct {
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
}

// serving is what the server answers now.
func (s *Server) serving() Serving {
	now := s.Serving
	now.Interfaces = []Interface{}
	if s.Interfaces != nil {
		all := s.Interfaces()
		for _, name := range slices.Sorted(maps.Keys(all)) {
			now.Interfaces = append(now.Interfaces, Interface{name, all[name]})
		}
		now.WaitsFor = slices.DeleteFunc(slices.Clone(now.WaitsFor), func(name string) bool { return all[name].IsValid() })
	}
	return now
}

// EnrollRequest is the body of POST /v1/hosts.
type EnrollRequest struct {
	Name       string            `json:"name"`
	MACs       []string          `json:"macs"`
	Image      string            `json:"image,omitempty"` // may be left out if there is one for the architecture
	Board      string            `json:"board,omitempty"` // images.ParseBoard; empty or auto: what the machine is recognised as
	Address    string            `json:"address,omitempty"`
	BootMethod string            `json:"boot_method,omitempty"` // hosts.ParseMethod; empty: whatever works
	Disko      string            `json:"disko,omitempty"`       // hosts.ParseDisko; empty: fresh
	Layout     string            `json:"layout,omitempty"`      // disko.FindPreset; empty: as before, or the flake's; hosts.NoLayout: the flake's
	ExtraFiles string            `json:"extra_files,omitempty"` // absolute path on the server
	DiskKeys   map[string][]byte `json:"disk_keys,omitempty"`   // installer path to content
	Disks      map[string]string `json:"disks,omitempty"`       // layout's name of a disk to disko.CheckSelector
	Wipe       []string          `json:"wipe,omitempty"`        // disks that may be taken whatever speaks against it: serial numbers, WWNs, paths
	// PiConfig are lines to add to the config.txt that a Raspberry Pi netboots with.
	PiConfig []string `json:"pi_config,omitempty"`
	// KernelParams are to be added to the image's command line: images.ParseKernelParams.
	KernelParams []string `json:"kernel_params,omitempty"`
	// AllowEEPROM lets a Raspberry Pi fetch what makes it write its EEPROM anew.
	AllowEEPROM bool          `json:"allow_eeprom,omitempty"`
	TPM2        string        `json:"tpm2,omitempty"`    // hosts.ParsePCRs; empty: its TPM opens no disk, or goes on as it did
	DryRun      bool          `json:"dry_run,omitempty"` // all is done but what changes the machine
	Permit      time.Duration `json:"permit"`            // nanoseconds
	Via         string        `json:"via,omitempty"`     // hosts.ParseVia; how the machine is made to come
	// GenerateHardware is hosts.ParseHardware's TOOL[=PATH]; empty: none.
	GenerateHardware  string `json:"generate_hardware_config,omitempty"`
	Proof             string `json:"proof,omitempty"`      // hosts.ParseProof; empty: ssh, or as before
	BuildOn           string `json:"build_on,omitempty"`   // hosts.ParseBuildOn; empty: auto
	BootOrder         string `json:"boot_order,omitempty"` // hosts.ParseBootOrder; empty: keep, or as before
	CopyOver          string `json:"copy_over,omitempty"`  // hosts.ParseCopyOver; empty: auto
	StorePath         string `json:"store_path,omitempty"` // a system that is in the server's store
	TargetSubstitutes bool   `json:"substituters_on_target,omitempty"`

	// NewIdentity gives a host that is installed again another SSH host key.
	NewIdentity bool `json:"new_identity,omitempty"`

	// Take is the running machine that shall become the host, and Arch its
	// architecture; provision install finds both.
	Take *hosts.Takeover `json:"take,omitempty"`
	Arch string          `json:"arch,omitempty"`
	// Facts are what that machine's disks are: disko.Facts, as JSON.
	Facts json.RawMessage `json:"facts,omitempty"`

	HostKey     []byte        `json:"host_key,omitempty"`  // OpenSSH ed25519 private key
	EscrowTo    []string      `json:"escrow_to,omitempty"` // hosts.ParseRecipient; disk keys that are not given are generated then
	Secrets     []Secret      `json:"secrets,omitempty"`
	KeepSecrets bool          `json:"keep_secrets,omitempty"` // after the host is installed
	Chown       []hosts.Chown `json:"chown,omitempty"`

	Agreement

	again bool // EscrowTo is what the host has had
}

// Agreement is the part of a request by which its plan is shown before it is carried out.
type Agreement struct {
	// PlanOnly has the request answered with its Proposal; nothing is changed.
	PlanOnly bool `json:"plan_only,omitempty"`
	// Digest is that of the proposal that was shown and confirmed: if the plan is another by now,
	// the request is refused, and the new one is in the Failure. Without it, whatever the server
	// plans at that moment is confirmed.
	Digest string `json:"digest,omitempty"`
}

// Proposal is the plan that a request is for.
type Proposal struct {
	*disko.Plan
	// Digest is of the disks that are taken, of the steps that destroy and of what --wipe names.
	Digest string `json:"digest"`
	// Unfit tells why the layout does not suit the machine as it was seen last. The plan is then
	// made without knowing the machine.
	Unfit string `json:"unfit,omitempty"`
	// Wiped are the disks, for people, that --wipe lets be taken whatever speaks against it.
	Wiped []string `json:"wiped,omitempty"`
	// Warnings are what to know before it is installed, for people.
	Warnings []string `json:"warnings,omitempty"`
	// Beyond says how it goes beyond what was confirmed already, where a failed install goes on.
	Beyond []string `json:"beyond,omitempty"`

	confirmed hosts.Confirmed // what is agreed to by confirming it
}

// Secret is a file for the new system.
type Secret struct {
	hosts.SecretFile
	Content []byte `json:"content"` // hosts.MaxSecret bytes at most
}

// HostKey is a host's identity.
type HostKey struct {
	Name    string `json:"name"`
	HostKey string `json:"host_key"` // public, authorized_keys form
	Age     string `json:"age"`      // the same as an age recipient
}

// RetryRequest is the body of POST /v1/hosts/NAME/retry.
type RetryRequest struct {
	Via  string   `json:"via,omitempty"`  // empty: as before
	Wipe []string `json:"wipe,omitempty"` // beside those of the enrolment

	Agreement
}

// ImageRequest is the body of POST /v1/images. Paths are absolute, on the
// server.
type ImageRequest struct {
	Name string `json:"name"`
	Arch string `json:"arch,omitempty"` // empty: that of the kernel
	From string `json:"from,omitempty"` // as images.Request has it; or the last three
	// SHA256 are digests that the files of From must have, by file name; "" is the only one.
	SHA256  map[string]string `json:"sha256,omitempty"`
	Kernel  string            `json:"kernel,omitempty"`
	Initrd  string            `json:"initrd,omitempty"`
	Cmdline string            `json:"cmdline,omitempty"`
	// KernelParams are images.ParseKernelParams'; left out: as they were, or none.
	KernelParams []string `json:"kernel_params,omitempty"`
}

// ImageUpdate is the body of POST /v1/images/NAME/update.
type ImageUpdate struct {
	SHA256 map[string]string `json:"sha256,omitempty"` // as in ImageRequest
}

// ImageInfo is an image, and the hosts that are enrolled with it.
type ImageInfo struct {
	images.Image
	Hosts []string `json:"hosts"`
}

// ImageProgress is a line of the answer to POST /v1/images: progress, and
// last the image or the error.
type ImageProgress struct {
	Doing    string        `json:"doing,omitempty"`
	Done     int64         `json:"done"`
	Total    int64         `json:"total"` // bytes
	Image    *images.Image `json:"image,omitempty"`
	Changed  bool          `json:"changed,omitempty"` // it is not what it was before
	Warnings []string      `json:"warnings,omitempty"`
	Error    string        `json:"error,omitempty"`
}

// News is a line of GET /v1/watch: how a host stands, and the event that led
// there, if it is one that is kept.
type News struct {
	Event  *hosts.Event `json:"event,omitempty"`
	Status Status       `json:"status"`
	Gone   bool         `json:"gone,omitempty"` // the host was forgotten
}

// Journal is the end of what an installer said, when its install failed.
type Journal struct {
	Journal string `json:"journal"`
}

// Failure is the body of every answer that is not a success.
type Failure struct {
	Error string `json:"error"`
	// Plan is the one that is to be confirmed instead, where the confirmed one is not up to date.
	Plan *Proposal `json:"plan,omitempty"`
}
