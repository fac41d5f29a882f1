package pxe

import (
	"fmt"
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
	Off   Mode = "off"    // TFTP and HTTP only; the operator's DHCP server points here
)

// Unknown is what machines get that are not enrolled.
type Unknown string

// What they may get.
const (
	Ignore Unknown = "ignore" // silence
	Lease  Unknown = "lease"  // in full DHCP mode an address, and nothing to boot
	Hold   Unknown = "hold"   // a screen that tells how to enroll them, and in full DHCP mode an address
)

// loader is what a booting machine is told to load next.
type loader int

const (
	nothing     loader = iota
	loadProgram        // iPXE, over TFTP or HTTP
	script             // the boot's iPXE script, over HTTP
	config             // the boot's PXELINUX configuration, over TFTP
	tree               // a Raspberry Pi's firmware and kernel, over TFTP by its own names
	// local is a PXE menu whose one entry is the local disk; for HTTP boot and a Raspberry Pi, files that are not there.
	local
)

// answer is what is decided about one DHCP request.
type answer struct {
	Lease bool   // an address, in full DHCP mode
	Load  loader //
	Why   string // why Load is nothing although the machine asked to boot
	Note  bool   // Why belongs into the host's log
}

// decide is the table of the design, "What a machine is told when it
// netboots". h is nil for an unknown MAC.
func decide(h *hosts.Host, c bootClient, mode Mode, unknown Unknown, now time.Time) answer {
	a := answer{Lease: mode == Full}
	if h == nil {
		if unknown != Hold {
			return answer{Lease: a.Lease && unknown == Lease, Why: "not enrolled"}
		}
		a.Load, a.Why = nextStage(c)
		if a.Load != nothing && !c.profile().screen {
			a.Load, a.Why = nothing, "not enrolled"
		}
		return a
	}

	if c.profile().loads == nothing {
		return a
	}
	if ok, why := h.MayBoot(now); !ok {
		a.Why, a.Note = why, h.State != hosts.StateInstalled && h.State != hosts.StateRebooting
		if !h.Permit.Spent.IsZero() && isUEFI(c) || c.profile().loads == tree && !h.Connected {
			a.Load = local
		}
		return a
	}

	if why := stranger(h, c); why != "" {
		return answer{Why: why, Note: true}
	}
	a.Load, a.Why = nextStage(c)
	if a.Load != nothing && c.processor() != h.Arch {
		a.Load, a.Why = nothing, fmt.Sprintf("the machine is %s (%s) and %s is built for %s", c.processor(), c, h.Name, h.Arch)
	}
	a.Note = a.Why != ""
	return a
}

// stranger says why this is not the machine that boots under the host's permit;
// "" if it may be. Firmware and iPXE of one machine tell the same UUID. One that
// told it and then does not is as suspicious as another one. A Raspberry Pi has
// a serial number, which not all of its programs tell.
func stranger(h *hosts.Host, c bootClient) string {
	switch {
	case h.Serial != "" && c.Pi.Serial != "" && h.Serial != c.Pi.Serial:
		return h.OtherBoard(c.Pi.Serial)
	case c.profile().uuid && h.Machine != "" && h.Machine != c.Machine:
		return h.OtherMachine(c.Machine)
	}
	return ""
}

// nextStage is what leads this client on, or why nothing does.
func nextStage(c bootClient) (loader, string) {
	leads := c.profile().loads
	if leads != nothing && c.processor() == "" {
		return nothing, fmt.Sprintf("it asks as %s, for which there is no installer: choose 64-bit UEFI or BIOS in "+
			"its firmware, if it has that", c.words())
	}
	return leads, ""
}

// isUEFI reports whether UEFI firmware asks, by PXE or by HTTP boot. A BIOS
// needs no menu to go on: without a file name it gives up at once.
func isUEFI(c bootClient) bool {
	return c.profile().firmware && c.processor() != "" && c.Arch != iana.INTEL_X86PC
}
