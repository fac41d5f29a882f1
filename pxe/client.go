package pxe

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"provision/hosts"
)

// client is what a DHCP packet says about who sent it.
type client struct {
	MAC     string
	Kind    kind
	Arches  []iana.Arch // option 93, RFC 4578; may be a list, may be empty
	Vendor  string      // option 60
	Machine string      // SMBIOS UUID from option 97, canonical; "" if not told
}

// kind is which program on the machine asks.
type kind int

const (
	system   kind = iota // an operating system: wants an address, nothing else
	firmware             // PXE in firmware: wants a program over TFTP
	ipxe                 // iPXE: takes a script over HTTP
	httpBoot             // UEFI HTTP boot: wants a program over HTTP
)

var errNotClient = errors.New("not from an Ethernet client")

// identify reads a client from a packet. It trusts nothing in it.
func identify(m *dhcpv4.DHCPv4) (client, error) {
	if m.OpCode != dhcpv4.OpcodeBootRequest || m.HWType != iana.HWTypeEthernet {
		return client{}, errNotClient
	}
	mac, err := hosts.ParseMAC(m.ClientHWAddr.String())
	if err != nil {
		return client{}, errNotClient
	}
	c := client{MAC: mac, Arches: m.ClientArch(), Vendor: printable(m.ClassIdentifier())}
	c.Machine = machineID(m.Options.Get(dhcpv4.OptionClientMachineIdentifier))
	switch user := m.Options.Get(dhcpv4.OptionUserClassInformation); {
	case isIPXE(user, m.Options.Get(etherboot)):
		c.Kind = ipxe
	case strings.HasPrefix(c.Vendor, "PXEClient"):
		c.Kind = firmware
	case strings.HasPrefix(c.Vendor, "HTTPClient"):
		c.Kind = httpBoot
	}
	return c, nil
}

// etherboot is iPXE's own option space (https://ipxe.org/howto/dhcpd).
const etherboot = dhcpv4.GenericOptionCode(175)

// isIPXE recognises our binaries (user class "Tinkerbell", set by the script
// that tinkerbell/ipxedust embeds) and an iPXE in ROM, if its feature list
// says that it can fetch a script over HTTP and start a Linux kernel: HTTP
// (0x13) and bzImage (0x18) or EFI (0x24). The user class is the raw string,
// not the list of RFC 3004; both are accepted.
func isIPXE(user, features []byte) bool {
	if len(user) > 1 && int(user[0]) == len(user)-1 {
		user = user[1:]
	}
	if string(user) == "Tinkerbell" {
		return true
	}
	has := func(feature byte) bool {
		for rest := features; len(rest) >= 2 && len(rest) >= 2+int(rest[1]); rest = rest[2+int(rest[1]):] {
			if rest[0] == feature {
				return true
			}
		}
		return false
	}
	return string(user) == "iPXE" && has(0x13) && (has(0x18) || has(0x24))
}

// machineID is the UUID of option 97 (type 0, 16 bytes; RFC 4578 section
// 2.3). EDK2 and iPXE send the SMBIOS bytes as they are (measured); a client
// that swaps the first three fields into network order must not look like
// another machine: of the two readings the smaller stands for both.
func machineID(opt []byte) string {
	if len(opt) != 17 || opt[0] != 0 || bytes.Equal(opt[1:], make([]byte, 16)) {
		return ""
	}
	raw := opt[1:]
	swapped := append([]byte{raw[3], raw[2], raw[1], raw[0], raw[5], raw[4], raw[7], raw[6]}, raw[8:]...)
	u := raw
	if bytes.Compare(swapped, raw) < 0 {
		u = swapped
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// printable keeps what a stranger wrote short and harmless on a terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	return s[:min(len(s), 64)]
}

// archWords says an architecture as people do.
func archWords(arches []iana.Arch) string {
	if len(arches) == 0 {
		return ""
	}
	switch a := arches[0]; a {
	case iana.INTEL_X86PC:
		return "x86 BIOS"
	case iana.EFI_IA32:
		return "IA32 UEFI"
	case iana.EFI_X86_64, iana.EFI_BC: // 7 and 9 both mean x64 in the field
		return "x86-64 UEFI"
	case iana.EFI_ARM64:
		return "arm64 UEFI"
	case iana.EFI_X86_64_HTTP:
		return "x86-64 UEFI HTTP"
	case iana.EFI_ARM64_HTTP:
		return "arm64 UEFI HTTP"
	default:
		return fmt.Sprintf("architecture %d (%s)", uint16(a), a)
	}
}

func (c client) String() string {
	words := archWords(c.Arches)
	switch c.Kind {
	case ipxe:
		return strings.TrimSpace("iPXE " + words)
	case firmware:
		return strings.TrimSpace(words + " PXE")
	case httpBoot:
		return words
	}
	return "an operating system"
}
