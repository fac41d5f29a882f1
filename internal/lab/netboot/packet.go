package netboot

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

//go:embed packets/*.hex
var captures embed.FS

// Captured is a recorded packet, the payload of its UDP datagram: NAME of packets/NAME.hex.
func Captured(name string) ([]byte, error) {
	text, err := captures.ReadFile("packets/" + name + ".hex")
	if err != nil {
		return nil, err
	}
	raw, err := hex.DecodeString(string(bytes.Join(bytes.Fields(text), nil)))
	if err != nil {
		return nil, fmt.Errorf("recorded packet %s: %w", name, err)
	}
	return raw, nil
}

// packet is a DHCP packet whose options keep their order: on the wire it is as the firmware laid it out.
type packet struct {
	head [240]byte // BOOTP header and magic cookie
	opts []option
	size int // at least; the rest is zeros
}

type option struct {
	code byte
	data []byte
}

// Options of DHCP and PXE, where their numbers say too little.
const (
	optVendor    = 43
	optRequested = 50
	optType      = 53
	optServer    = 54
	optMaxSize   = 57
	optClass     = 60
	optClientID  = 61
	optTFTPName  = 66
	optFile      = 67
	optUserClass = 77
	optRelay     = 82
	optArch      = 93
	optUUID      = 97
	optEtherboot = 175
	optEnd       = 255
)

// Message types (RFC 2132 section 9.6).
const (
	discover = 1
	offer    = 2
	request  = 3
	ack      = 5
	nak      = 6
)

func parsePacket(raw []byte) (p packet, err error) {
	if len(raw) < 240 || !bytes.Equal(raw[236:240], []byte{99, 130, 83, 99}) {
		return p, fmt.Errorf("%d bytes that are no DHCP packet", len(raw))
	}
	copy(p.head[:], raw)
	for rest := raw[240:]; ; {
		switch {
		case len(rest) == 0:
			return p, fmt.Errorf("a DHCP packet without end option")
		case rest[0] == optEnd:
			if len(rest) > 1 {
				p.size = len(raw)
			}
			return p, nil
		case rest[0] == 0:
			rest = rest[1:]
		case len(rest) < 2 || len(rest) < 2+int(rest[1]):
			return p, fmt.Errorf("DHCP option %d is cut short", rest[0])
		default:
			n := 2 + int(rest[1])
			p.opts = append(p.opts, option{rest[0], slices.Clone(rest[2:n])})
			rest = rest[n:]
		}
	}
}

func (p packet) bytes() []byte {
	b := slices.Clone(p.head[:])
	for _, o := range p.opts {
		b = append(append(b, o.code, byte(len(o.data))), o.data...)
	}
	b = append(b, optEnd)
	return append(b, make([]byte, max(0, p.size-len(b)))...)
}

func (p packet) clone() packet {
	p.opts = slices.Clone(p.opts)
	return p
}

// get returns the first option with this code, nil if there is none.
func (p packet) get(code byte) []byte {
	for _, o := range p.opts {
		if o.code == code {
			return o.data
		}
	}
	return nil
}

// set changes an option where it stands. It does not add one.
func (p packet) set(code byte, data []byte) {
	for i, o := range p.opts {
		if o.code == code {
			p.opts[i].data = data
		}
	}
}

func (p *packet) remove(codes ...byte) {
	p.opts = slices.DeleteFunc(slices.Clone(p.opts), func(o option) bool { return slices.Contains(codes, o.code) })
}

func (p *packet) insert(at int, opts ...option) {
	p.opts = slices.Insert(slices.Clone(p.opts), at, opts...)
}

func (p packet) xid() uint32           { return binary.BigEndian.Uint32(p.head[4:]) }
func (p *packet) setXID(x uint32)      { binary.BigEndian.PutUint32(p.head[4:], x) }
func (p *packet) setSecs(s int)        { binary.BigEndian.PutUint16(p.head[8:], uint16(s)) }
func (p packet) hardware() []byte      { return p.head[28:34] }
func (p packet) yiaddr() netip.Addr    { return netip.AddrFrom4([4]byte(p.head[16:20])) }
func (p packet) siaddr() netip.Addr    { return netip.AddrFrom4([4]byte(p.head[20:24])) }
func (p *packet) setCI(a netip.Addr)   { copy(p.head[12:], a.AsSlice()) }
func (p packet) kind() byte            { return first(p.get(optType)) }
func (p packet) text(code byte) string { return untilNUL(p.get(code)) }

// serverID is option 54; invalid if there is none.
func (p packet) serverID() netip.Addr { return address4(p.get(optServer)) }

func address4(b []byte) netip.Addr {
	if len(b) != 4 {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte(b))
}

func first(b []byte) byte {
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

func untilNUL(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

// asked is the DHCPREQUEST that follows a DISCOVER, as each family of firmware lays it out (captured, for all but Intel's
// and the Pi's).
func (f family) asked(p packet, server, addr netip.Addr) packet {
	p = p.clone()
	p.set(optType, []byte{request})
	id, want := option{optServer, server.AsSlice()}, option{optRequested, addr.AsSlice()}
	switch f {
	case edk2:
		p.insert(1, id, want)
		if class := p.get(optClass); bytes.HasPrefix(class, []byte("PXEClient")) {
			p.set(optMaxSize, []byte{0xff, 0})
		}
	case ubootFamily:
		p.insert(2, id, want)
	case pi:
		p.remove(optClass) // as the EEPROM of 2020 does
		p.insert(1, id, want)
	default:
		p.insert(len(p.opts), id, want)
	}
	return p
}

// asked4011 is the DHCPREQUEST to a boot server. item, if there is one, is the choice from a boot menu.
func (f family) asked4011(p packet, xid uint32, server, own netip.Addr, item []byte) packet {
	p = p.clone()
	p.set(optType, []byte{request})
	p.setCI(own)
	switch f {
	case ipxeFamily: // same transaction
		p.insert(len(p.opts), option{optServer, server.AsSlice()})
	default:
		p.setXID(xid)
		p.setSecs(0)
		p.head[10] = 0 // unicast
		slices.SortStableFunc(p.opts[1:], func(a, b option) int { return cmp.Compare(a.code, b.code) })
	}
	if item != nil {
		p.insert(len(p.opts), option{optVendor, append([]byte{71, byte(len(item))}, append(item, optEnd)...)})
	}
	return p
}

// stamp makes a recorded packet this machine's.
func stamp(p packet, mac net.HardwareAddr, uuid []byte) packet {
	p = p.clone()
	if mac != nil {
		copy(p.head[28:34], mac)
		if id := p.get(optClientID); len(id) == 7 && id[0] == 1 {
			p.set(optClientID, append([]byte{1}, mac...))
		}
	}
	if uuid != nil {
		p.set(optUUID, append([]byte{0}, uuid...))
	}
	return p
}

// withArch changes option 93, and the vendor class, which repeats it in five decimal digits.
func withArch(p packet, arch uint16) packet {
	p = p.clone()
	p.set(optArch, binary.BigEndian.AppendUint16(nil, arch))
	class := slices.Clone(p.get(optClass))
	if i := bytes.Index(class, []byte("Arch:")); i >= 0 && len(class) >= i+10 {
		copy(class[i+5:], fmt.Sprintf("%05d", arch))
		p.set(optClass, class)
	}
	return p
}

func be16(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}
