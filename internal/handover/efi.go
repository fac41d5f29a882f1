package handover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"unicode/utf16"
)

// LoadOption is something that UEFI firmware can boot: a variable Boot#### with an EFI_LOAD_OPTION (UEFI 2.10, section
// 3.1.3).
type LoadOption struct {
	Label  string
	Active bool // the firmware may boot it
	// The fields below are from the first instance of its device path (UEFI 2.10, section 10.3).
	MAC  net.HardwareAddr // of the network card that it boots from; nil: it boots from something else
	IPv4 bool             // it boots over IPv4
	IPv6 bool             // it boots over IPv6
	HTTP bool             // it has a URI node: HTTP boot; false: PXE
	URI  string           // "": DHCP tells it

	Partition string // GUID of the GPT partition that it boots from, in lower case; "": it boots from something else
}

// Types and sub-types of device path nodes.
const (
	pathMessaging = 3
	pathMedia     = 4
	pathBIOS      = 5
	pathEnd       = 0x7f

	mediaHardDrive = 1

	messagingISCSI = 10
	messagingMAC   = 11
	messagingIPv4  = 12
	messagingIPv6  = 13
	messagingURI   = 24
	messagingWiFi  = 28
)

// ParseLoadOption parses an EFI_LOAD_OPTION, without the attributes of the variable.
func ParseLoadOption(data []byte) (LoadOption, error) {
	const loadOptionActive = 1
	if len(data) < 6 {
		return LoadOption{}, fmt.Errorf("it is %d bytes long, too short for a load option", len(data))
	}
	o := LoadOption{Active: data[0]&loadOptionActive != 0}
	pathLen := int(binary.LittleEndian.Uint16(data[4:]))
	label, rest, ok := cutString(data[6:])
	if !ok {
		return LoadOption{}, errors.New("its description has no end")
	}
	o.Label = label
	if pathLen > len(rest) {
		return LoadOption{}, fmt.Errorf("its device path is said to be %d bytes long, and %d are left", pathLen, len(rest))
	}
	return o, o.readPath(rest[:pathLen])
}

// cutString splits off a UTF-16 string that ends with a zero; ok is false if it has no end.
func cutString(data []byte) (text string, rest []byte, ok bool) {
	var units []uint16
	for ; len(data) >= 2; data = data[2:] {
		unit := binary.LittleEndian.Uint16(data)
		if unit == 0 {
			return string(utf16.Decode(units)), data[2:], true
		}
		units = append(units, unit)
	}
	return "", nil, false
}

// readPath reads what matters for netbooting from the device path. A path may have several instances, and a load option
// several paths; the first one is what the firmware boots.
func (o *LoadOption) readPath(path []byte) error {
	other := false // it boots from something else, whether or not that is reached through a network card
	for len(path) > 0 {
		if len(path) < 4 {
			return errors.New("its device path ends within a node")
		}
		size := int(binary.LittleEndian.Uint16(path[2:]))
		if size < 4 || size > len(path) {
			return fmt.Errorf("its device path has a node of %d bytes, and %d are left", size, len(path))
		}
		kind := path[0]
		sub := path[1]
		body := path[4:size]
		path = path[size:]
		switch {
		case kind == pathEnd:
			path = nil
		case kind == pathMedia && sub == mediaHardDrive:
			other = true
			o.Partition = partitionGUID(body)
		case kind == pathMedia, kind == pathBIOS, kind == pathMessaging && sub == messagingISCSI:
			other = true // a local or remote disk
		case kind == pathMessaging && sub == messagingWiFi:
			other = true // it needs a password, which a kernel and an initrd do not have
		case kind == pathMessaging && sub == messagingMAC:
			// A MAC node has 32 bytes for the address, then its type: 0 or 1 is Ethernet (RFC 3232), whose address is the first
			// six bytes.
			if len(body) != 33 {
				return fmt.Errorf("its MAC node holds %d bytes, not 33", len(body))
			}
			if body[32] <= 1 {
				o.MAC = slices.Clone(body[:6])
			}
		case kind == pathMessaging && sub == messagingIPv4:
			o.IPv4 = true
		case kind == pathMessaging && sub == messagingIPv6:
			o.IPv6 = true
		case kind == pathMessaging && sub == messagingURI:
			o.HTTP, o.URI = true, string(body)
		}
	}

	if other {
		o.MAC = nil
		o.IPv4 = false
		o.IPv6 = false
		o.HTTP = false
		o.URI = ""
	}

	return nil
}

// partitionGUID parses a hard drive node (UEFI 2.10, section 10.3.5.1): number, start and size of the partition (20
// bytes), its signature (16 bytes), and the types of the table and of the signature. It returns "" if the signature is
// not a GUID.
func partitionGUID(body []byte) string {
	const signatureGUID = 2
	if len(body) != 38 || body[37] != signatureGUID {
		return ""
	}
	g := body[20:36]
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(g), binary.LittleEndian.Uint16(g[4:]),
		binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:])
}

// String says, for people, what the option boots.
func (o LoadOption) String() string {
	var parts []string
	if o.MAC != nil {
		way, over := "PXE", "IPv4"
		if o.HTTP {
			way = "HTTP"
		}
		if o.IPv6 {
			over = "IPv6"
		} else if !o.IPv4 {
			over = "an unnamed protocol"
		}
		parts = append(parts, fmt.Sprintf("%s over %s from %s", way, over, o.MAC))
	}

	if o.URI != "" {
		parts = append(parts, fmt.Sprintf("the URL %q", o.URI))
	}
	if !o.Active {
		parts = append(parts, "switched off")
	}
	if len(parts) == 0 {
		return fmt.Sprintf("%q", o.Label)
	}
	return fmt.Sprintf("%q (%s)", o.Label, strings.Join(parts, ", "))
}

// netboots ranks options that netboot over IPv4, from one of the MACs, the file that a DHCP server tells; 0: this one
// does not. The device paths of drivers from before IPv6 do not name the protocol.
func (o LoadOption) netboots(macs []net.HardwareAddr, http bool) int {
	ours := slices.ContainsFunc(macs, func(m net.HardwareAddr) bool { return slices.Equal(m, o.MAC) })
	switch {
	case o.MAC == nil, !ours, !o.Active, o.IPv6, o.URI != "", o.HTTP && !o.IPv4:
		return 0
	case o.HTTP != http:
		return 1
	case !o.IPv4:
		return 2
	}
	return 3
}

// bootMenu is what the firmware can boot.
type bootMenu struct {
	order   []uint16              // BootOrder: numbers of options
	options map[uint16]LoadOption // by the number in the variable's name
}

// parseOrder parses the variable BootOrder: 16-bit numbers.
func parseOrder(data []byte) (order []uint16) {
	for ; len(data) >= 2; data = data[2:] {
		order = append(order, binary.LittleEndian.Uint16(data))
	}
	return order
}

// numbers returns the options in the order in which the firmware tries them, then those that are not in its order.
func (b bootMenu) numbers() []uint16 {
	var all, rest []uint16
	for _, n := range b.order {
		if _, ok := b.options[n]; ok && !slices.Contains(all, n) {
			all = append(all, n)
		}
	}

	for n := range b.options {
		if !slices.Contains(all, n) {
			rest = append(rest, n)
		}
	}

	slices.Sort(rest)
	return append(all, rest...)
}

// choose returns the option that netboots from one of the MACs: by HTTP if http is set, else by PXE, and by the other
// way if there is none of that kind. Among equals it is the first in the firmware's order. The error lists what there
// is.
func (b bootMenu) choose(macs []net.HardwareAddr, http bool) (uint16, error) {
	best, rank := uint16(0), 0
	for _, n := range b.numbers() {
		if r := b.options[n].netboots(macs, http); r > rank {
			best, rank = n, r
		}
	}

	if rank > 0 {
		return best, nil
	}
	var of []string
	for _, m := range macs {
		of = append(of, m.String())
	}
	return 0, fmt.Errorf("choose what the firmware boots next: none of its entries netboots over IPv4 from %s; "+
		"there are: %s; enable network boot over IPv4 in the firmware's setup, or use --via kexec", strings.Join(of, " or "), b)
}

// String lists the options, for people.
func (b bootMenu) String() string {
	var all []string
	for _, n := range b.numbers() {
		all = append(all, bootName(n)+" "+b.options[n].String())
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

// bootName returns the name of an option's variable.
func bootName(n uint16) string { return fmt.Sprintf("Boot%04X", n) }

// parseBootName is the inverse of bootName.
func parseBootName(name string) (uint16, error) {
	var n uint16
	if _, err := fmt.Sscanf(name, "Boot%04X", &n); err != nil || bootName(n) != name {
		return 0, fmt.Errorf("boot entry %q: write it as the firmware does, such as Boot0001", name)
	}
	return n, nil
}
