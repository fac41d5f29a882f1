package pxe

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/iana"

	"provision/hosts"
)

// Mode is our part in the LAN's DHCP.
type Mode string

// The modes.
const (
	Proxy Mode = "proxy"  // beside somebody else's DHCP server: boot information, never an address
	Full  Mode = "server" // we are the DHCP server
	Off   Mode = "off"    // TFTP and HTTP only
)

// loader is what a booting machine is told to load next.
type loader string

const (
	nothing loader = ""
	script  loader = "script" // the boot's iPXE script, over HTTP
	hold    loader = "hold"   // the script that shows a stranger how it is enrolled
	efiX64  loader = "ipxe.efi"
	local   loader = "local" // nothing to fetch: a PXE menu whose one entry is the local disk
)

// answer is what is decided about one DHCP request.
type answer struct {
	Lease bool   // an address, in full DHCP mode
	Load  loader //
	Why   string // why Load is nothing although the machine asked to boot
	Tell  bool   // Why belongs into the host's log
}

// decide is the table of the design, "What a machine is told when it
// netboots". h is nil for an unknown MAC.
func decide(h *hosts.Host, c client, mode Mode, holdUnknown bool, now time.Time) answer {
	a := answer{Lease: mode == Full}
	if h == nil {
		if !holdUnknown {
			return answer{Why: "not enrolled"}
		}
		a.Load, a.Why = stage(c, hold)
		return a
	}
	if c.Kind == system {
		return a
	}
	if ok, why := h.MayBoot(now); !ok {
		a.Why, a.Tell = why, h.State != hosts.Installed && h.State != hosts.Rebooting
		if !h.Permit.Spent.IsZero() && c.Kind == firmware && slices.ContainsFunc(c.Arches, isX64) {
			a.Load = local
		}
		return a
	}
	// Firmware and iPXE of one machine tell the same UUID. One that told it
	// and then does not is as suspicious as another one.
	if h.Machine != "" && h.Machine != c.Machine {
		return answer{Why: fmt.Sprintf("another machine (UUID %s) uses this host's MAC %s", cmp.Or(c.Machine, "not told"), c.MAC), Tell: true}
	}
	a.Load, a.Why = stage(c, script)
	if a.Load != nothing && h.Arch != "x86_64" && slices.ContainsFunc(c.Arches, isX64) {
		a.Load, a.Why = nothing, fmt.Sprintf("the machine is x86-64 and %s is built for %s", h.Name, h.Arch)
	}
	a.Tell = a.Why != ""
	return a
}

// stage is the program that leads this client to the script, or why there is
// none.
func stage(c client, then loader) (loader, string) {
	switch {
	case c.Kind == ipxe:
		return then, ""
	case c.Kind == firmware && slices.ContainsFunc(c.Arches, isX64):
		return efiX64, ""
	case c.Kind == system:
		return nothing, ""
	}
	return nothing, fmt.Sprintf("it asks as %s, which is not served yet: choose x86-64 UEFI PXE in its firmware", c)
}

func isX64(a iana.Arch) bool { return a == iana.EFI_X86_64 || a == iana.EFI_BC }
