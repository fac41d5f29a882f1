package api

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"provision/hosts"
	"provision/images"
	"provision/internal/enroll"
)

// Status is what `provision status --json` prints of a host. Its field names are stable. Where they differ from those
// of requests, the choices have fields of their own here.
type Status struct {
	Name     string         `json:"name"`
	MACs     []string       `json:"macs"`
	State    hosts.State    `json:"state"`
	Phase    hosts.Phase    `json:"phase"`
	Percent  int            `json:"percent"` // of the phase
	Progress hosts.Progress `json:"progress"`
	Address  string         `json:"address"` // where the machine was last seen
	System   string         `json:"system"`  // store path of the system that was built for it
	Error    string         `json:"error"`
	Since    time.Time      `json:"since"` // when State was entered
	Proof    string         `json:"proof"` // how the installed host proved itself
	HostKey  string         `json:"host_key"`
	Arch     string         `json:"arch"`
	Method   hosts.Method   `json:"method"` // what led the machine to its installer last
	Flake    string         `json:"flake"`
	Image    string         `json:"image"`
	Permit   hosts.Permit   `json:"permit"`
	Event    uint64         `json:"event"` // number of the newest event

	// Choices are those that the operator made, but for these, whose names differ: FixedAddress, BootMethod, Hardware and
	// Proof.
	hosts.Choices
	FixedAddress string       `json:"fixed_address,omitempty"`
	Pinned       hosts.Method `json:"pinned"`            // the only way it may be led to its installer; empty: any
	Hardware     Hardware     `json:"hardware,omitzero"` // what is found out for the flake
	ProofBy      hosts.Proof  `json:"proof_by"`          // what counts as installed

	// Serial is the number of the Raspberry Pi that netbooted last, 8 hex digits.
	Serial string `json:"serial,omitempty"`
	// Restart is what was seen of the machine since it left the installer, until it has proved itself.
	Restart hosts.Restart `json:"restart,omitzero"`
	// Warnings are what to know before it is installed, in words; told at enrolment only.
	Warnings []string `json:"warnings,omitempty"`
	// Slow is what takes its machine long over TFTP, in words; told at enrolment only.
	Slow []string `json:"slow,omitempty"`
}

// Hardware is hosts.Hardware in a status.
type Hardware struct {
	Tool string `json:"tool"`
	Path string `json:"path"` // below the flake's folder, with slashes
}

func statusOf(h hosts.Host) Status {
	st := Status{
		Name:         h.Name,
		MACs:         h.MACs,
		State:        h.State,
		Phase:        h.Phase,
		Percent:      h.Progress.Percent(),
		Progress:     h.Progress,
		Address:      h.Address,
		System:       h.System,
		Error:        h.Error,
		Since:        h.Since,
		Proof:        h.Installed.Proof,
		HostKey:      h.HostKey,
		Arch:         h.Arch,
		Method:       h.Method,
		Flake:        h.Flake,
		Image:        h.Image,
		Permit:       h.Permit,
		Event:        h.LastEvent,
		Choices:      h.Choices,
		FixedAddress: h.FixedAddress,
		Pinned:       h.BootMethod,
		Hardware:     Hardware(h.Hardware),
		ProofBy:      cmp.Or(h.Choices.Proof, hosts.ProofSSH),
		Serial:       h.Serial,
		Restart:      h.Restart,
	}

	// What has a name of its own is not told twice, and these defaults are told.
	st.BootMethod = hosts.Method{}
	st.Choices.Hardware = hosts.Hardware{}
	st.Disko = cmp.Or(st.Disko, hosts.Fresh)
	st.BuildOn = cmp.Or(st.BuildOn, hosts.BuildAuto)
	st.BootOrder = cmp.Or(st.BootOrder, hosts.OrderKeep)
	st.CopyOver = cmp.Or(st.CopyOver, hosts.CopyAuto)
	return st
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

// HostKey is a host's identity.
type HostKey struct {
	Name    string `json:"name"`
	HostKey string `json:"host_key"` // public, authorized_keys form
	Age     string `json:"age"`      // the same as an age recipient
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
	Plan *enroll.Proposal `json:"plan,omitempty"`
}
