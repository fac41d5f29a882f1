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
// in requests, Status has fields of its own for these choices.
type Status struct {
	Name     string         `json:"name"`
	MACs     []string       `json:"macs"`
	State    hosts.State    `json:"state"`
	Phase    hosts.Phase    `json:"phase"`
	Percent  int            `json:"percent"` // of the phase, 0 to 100
	Progress hosts.Progress `json:"progress"`
	Address  string         `json:"address"` // where the machine was last seen
	System   string         `json:"system"`  // store path of the system that was built for the host
	Error    string         `json:"error"`
	Since    time.Time      `json:"since"` // when State was entered
	Proof    string         `json:"proof"` // how the installed host proved itself
	HostKey  string         `json:"host_key"`
	Arch     string         `json:"arch"`
	Method   hosts.Method   `json:"method"` // how the machine was last led to its installer
	Flake    string         `json:"flake"`
	Image    string         `json:"image"`
	Permit   hosts.Permit   `json:"permit"`
	Event    uint64         `json:"event"` // number of the newest event

	// Choices are those of the operator. Four of them are in the fields below instead, as their JSON form or name differs:
	// FixedAddress, BootMethod, Hardware and Proof.
	hosts.Choices
	FixedAddress string       `json:"fixed_address,omitempty"`
	Pinned       hosts.Method `json:"pinned"`            // the boot method that the operator chose; empty: any
	Hardware     Hardware     `json:"hardware,omitzero"` // the tool that describes the hardware for the flake
	ProofBy      hosts.Proof  `json:"proof_by"`          // what counts as installed

	// Serial is the serial number of the host's Raspberry Pi, 8 hex digits.
	Serial string `json:"serial,omitempty"`
	// Restart is what was seen of the machine between the end of its install and its proof.
	Restart hosts.Restart `json:"restart,omitzero"`
	// Warnings are texts for people about the coming install; only in the answer to an enrolment.
	Warnings []string `json:"warnings,omitempty"`
	// Slow says, for people, which files the machine will load slowly over TFTP; only in the answer to an enrolment.
	Slow []string `json:"slow,omitempty"`
}

// Hardware is hosts.Hardware in a status, as an object instead of a text.
type Hardware struct {
	Tool string `json:"tool"`
	Path string `json:"path"` // relative to the flake's folder, with slashes
}

// statusOf returns the status of a host.
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

	// Fields with another name are not repeated, and these defaults are written out.
	st.BootMethod = hosts.Method{}
	st.Choices.Hardware = hosts.Hardware{}
	st.Disko = cmp.Or(st.Disko, hosts.Fresh)
	st.BuildOn = cmp.Or(st.BuildOn, hosts.BuildAuto)
	st.BootOrder = cmp.Or(st.BootOrder, hosts.OrderKeep)
	st.CopyOver = cmp.Or(st.CopyOver, hosts.CopyAuto)
	return st
}

// Serving says what the server serves, and where.
type Serving struct {
	Version    string      `json:"version"`
	PID        int         `json:"pid"`
	Interfaces []Interface `json:"interfaces"`
	WaitsFor   []string    `json:"waits_for,omitempty"` // names of interfaces that it was started with but cannot serve now
	DHCP       string      `json:"dhcp"`                // proxy, server or off
	HTTP       int         `json:"http"`                // TCP port
	Hold       bool        `json:"hold"`                // whether unknown machines are shown how to enroll them
	SSHKey     string      `json:"ssh_key"`             // public key with which the server logs in, authorized_keys form
	Flake      string      `json:"flake,omitempty"`
	// Impure and AcceptFlakeConfig say how nix reads the flake.
	Impure            bool `json:"impure,omitempty"`
	AcceptFlakeConfig bool `json:"accept_flake_config,omitempty"`
}

// Interface is an interface that is served, with the server's address on it.
type Interface struct {
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
}

// serving returns what the server serves now.
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
	Age     string `json:"age"`      // the same key as an age recipient
}

// ImageRequest is the body of POST /v1/images. Paths are absolute, on the server. It has either From, or Kernel, Initrd
// and Cmdline.
type ImageRequest struct {
	Name string `json:"name"`
	Arch string `json:"arch,omitempty"` // empty: that of the kernel
	From string `json:"from,omitempty"` // as in images.Request
	// SHA256 are digests that the files of From must have, by file name; "" means the only file.
	SHA256  map[string]string `json:"sha256,omitempty"`
	Kernel  string            `json:"kernel,omitempty"`
	Initrd  string            `json:"initrd,omitempty"`
	Cmdline string            `json:"cmdline,omitempty"`
	// KernelParams have the form of images.ParseKernelParams; left out: those that the image has stay.
	KernelParams []string `json:"kernel_params,omitempty"`
}

// ImageUpdate is the body of POST /v1/images/NAME/update.
type ImageUpdate struct {
	SHA256 map[string]string `json:"sha256,omitempty"` // as in ImageRequest
}

// ImageInfo is an image, and the names of the hosts that are enrolled with it.
type ImageInfo struct {
	images.Image
	Hosts []string `json:"hosts"`
}

// ImageProgress is a line of the answer to POST /v1/images: progress, and in the last line the image or the error.
type ImageProgress struct {
	Doing    string        `json:"doing,omitempty"`
	Done     int64         `json:"done"`
	Total    int64         `json:"total"` // bytes; 0: not known
	Image    *images.Image `json:"image,omitempty"`
	Changed  bool          `json:"changed,omitempty"` // whether the image differs from what it was
	Warnings []string      `json:"warnings,omitempty"`
	Error    string        `json:"error,omitempty"`
}

// News is a line of GET /v1/watch: the status of a host, and the event that led to it, if that event is kept.
type News struct {
	Event  *hosts.Event `json:"event,omitempty"`
	Status Status       `json:"status"`
	Gone   bool         `json:"gone,omitempty"` // the host was forgotten
}

// Journal is the end of an installer's journal, kept when its install failed.
type Journal struct {
	Journal string `json:"journal"`
}

// Failure is the body of every answer that is not a success.
type Failure struct {
	Error string `json:"error"`
	// Plan is the present plan, which has to be confirmed instead if the confirmed plan is out of date.
	Plan *enroll.Proposal `json:"plan,omitempty"`
}
