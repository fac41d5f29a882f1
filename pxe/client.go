package pxe

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"provision/hosts"
	"provision/images"
)

// bootClient is what a DHCP packet says about who sent it.
type bootClient struct {
	MAC     string
	Kind    clientKind
	Arch    iana.Arch // option 93, RFC 4578; of a list the first that is known
	Vendor  string    // option 60
	Machine string    // SMBIOS UUID from option 97, canonical; "" if not told
	Ours    bool      // an iPXE that we handed out
	Pi      piBoard   // of a piROM
}

var errNotClient = errors.New("not from an Ethernet client")

// identify reads a client from a packet. It trusts nothing in it.
func identify(m *dhcpv4.DHCPv4) (bootClient, error) {
	if m.OpCode != dhcpv4.OpcodeBootRequest || m.HWType != iana.HWTypeEthernet {
		return bootClient{}, errNotClient
	}
	mac, err := hosts.ParseMAC(m.ClientHWAddr.String())
	if err != nil {
		return bootClient{}, errNotClient
	}

	c := bootClient{MAC: mac, Vendor: printable(m.ClassIdentifier())}
	c.Arch = archOf(m.ClientArch(), c.Vendor)
	c.Machine = machineID(m.Options.Get(dhcpv4.OptionClientMachineIdentifier))
	user := m.Options.Get(dhcpv4.OptionUserClassInformation)
	pi, itIs := readPi(m, c)
	switch c.Ours = isOurs(user); {
	case c.Ours, isIPXE(user, m.Options.Get(etherboot)):
		c.Kind = ipxe
	case itIs:
		c.Kind = piROM
		c.Pi = pi
		c.Machine = "" // it has no UUID, and the 3B tells another one in each stage
	default:
		c.Kind = kindOfVendor(c.Vendor)
	}

	return c, nil
}

// archOf is the first architecture of option 93 that is known, else the one
// that the vendor class names ("PXEClient:Arch:00007:UNDI:003016"), else 0,
// BIOS, which is what PXE was made for.
func archOf(list []iana.Arch, vendor string) iana.Arch {
	for _, a := range list {
		if _, known := archNames[a]; known {
			return a
		}
	}

	if len(list) > 0 {
		return list[0]
	}
	if _, rest, ok := strings.Cut(strings.ToLower(vendor), ":arch:"); ok {
		digits, _, _ := strings.Cut(rest, ":")
		if n, err := strconv.ParseUint(digits, 10, 16); err == nil {
			return iana.Arch(n)
		}
	}

	return iana.INTEL_X86PC
}

// archNames are the architectures of option 93 in words (RFC 4578 and IANA),
// and what their processors are called elsewhere; "" is served by nobody here.
var archNames = map[iana.Arch]struct{ words, processor string }{
	iana.INTEL_X86PC:      {"x86 BIOS", "x86_64"},
	iana.EFI_IA32:         {"IA32 UEFI", ""},
	iana.EFI_X86_64:       {"x86-64 UEFI", "x86_64"},
	iana.EFI_BC:           {"x86-64 UEFI", "x86_64"}, // 7 and 9 both mean x64 in the field
	iana.EFI_ARM32:        {"arm32 UEFI", ""},
	iana.EFI_ARM64:        {"arm64 UEFI", "aarch64"},
	iana.EFI_X86_HTTP:     {"IA32 UEFI HTTP", ""},
	iana.EFI_X86_64_HTTP:  {"x86-64 UEFI HTTP", "x86_64"},
	iana.EFI_BC_HTTP:      {"x86-64 UEFI HTTP", "x86_64"},
	iana.EFI_ARM32_HTTP:   {"arm32 UEFI HTTP", ""},
	iana.EFI_ARM64_HTTP:   {"arm64 UEFI HTTP", "aarch64"},
	iana.UBOOT_ARM32:      {"arm32 U-Boot", ""},
	iana.UBOOT_ARM64:      {"arm64 U-Boot", "aarch64"},
	iana.UBOOT_ARM32_HTTP: {"arm32 U-Boot HTTP", ""},
	iana.UBOOT_ARM64_HTTP: {"arm64 U-Boot HTTP", "aarch64"},
}

// processor is the client's, as images.Arch; "" if it is not served.
func (c bootClient) processor() string {
	if c.profile().loads == tree {
		return string(images.AArch64)
	}
	return archNames[c.Arch].processor
}

// etherboot is iPXE's own option space (https://ipxe.org/howto/dhcpd).
const etherboot = dhcpv4.GenericOptionCode(175)

// isOurs recognises the iPXE that we hand out: tinkerbell/ipxedust embeds a
// script that sets this user class (the raw string, or framed by RFC 3004).
func isOurs(user []byte) bool { return string(unframed(user)) == "Tinkerbell" }

func unframed(user []byte) []byte {
	if len(user) > 1 && int(user[0]) == len(user)-1 {
		return user[1:]
	}
	return user
}

// isIPXE recognises any other iPXE, in ROM or loaded, if its feature list says
// that it can fetch a script over HTTP and start a Linux kernel: HTTP (0x13)
// and bzImage (0x18) or EFI (0x24).
func isIPXE(user, features []byte) bool {
	has := func(feature byte) bool {
		for rest := features; len(rest) >= 2 && len(rest) >= 2+int(rest[1]); rest = rest[2+int(rest[1]):] {
			if rest[0] == feature {
				return true
			}
		}
		return false
	}
	return string(unframed(user)) == "iPXE" && has(0x13) && (has(0x18) || has(0x24))
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
	return s[:min(len(s), 96)]
}

// words says what asks as people do.
func (c bootClient) words() string {
	if n, known := archNames[c.Arch]; known {
		return n.words
	}
	return fmt.Sprintf("architecture %d (%s)", uint16(c.Arch), c.Arch)
}

func (c bootClient) String() string { return c.profile().words(c) }
