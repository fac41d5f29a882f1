package netboot

import (
	"encoding/binary"
	"net"
	"net/netip"
)

func ethernet(from net.HardwareAddr, kind uint16) []byte {
	frame := append([]byte{255, 255, 255, 255, 255, 255}, from...)
	return binary.BigEndian.AppendUint16(frame, kind)
}

// UDP is an IPv4 packet with a UDP datagram in it.
func UDP(from, to netip.AddrPort, data []byte) []byte {
	be := binary.BigEndian
	udp := be.AppendUint16(nil, from.Port())
	udp = be.AppendUint16(udp, to.Port())
	udp = be.AppendUint16(udp, uint16(8+len(data)))
	udp = append(append(udp, 0, 0), data...)
	addrs := append(from.Addr().AsSlice(), to.Addr().AsSlice()...)
	pseudo := append(append([]byte(nil), addrs...), 0, 17, udp[4], udp[5])
	be.PutUint16(udp[6:], checksum(append(pseudo, udp...)))

	ip := append([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0}, addrs...)
	be.PutUint16(ip[2:], uint16(20+len(udp)))
	be.PutUint16(ip[10:], checksum(ip))
	return append(ip, udp...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for len(b) > 1 {
		sum += uint32(b[0])<<8 | uint32(b[1])
		b = b[2:]
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// parseUDP reads a frame that passed toPort68.
func parseUDP(frame []byte) (from netip.AddrPort, data []byte, ok bool) {
	if len(frame) < 14+20+8 {
		return from, nil, false
	}
	ip := frame[14:]
	head := int(ip[0]&15) * 4
	if head < 20 || len(ip) < head+8 {
		return from, nil, false
	}
	udp := ip[head:]
	n := int(binary.BigEndian.Uint16(udp[4:]))
	if n < 8 || n > len(udp) {
		return from, nil, false
	}
	addr := netip.AddrFrom4([4]byte(ip[12:16]))
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(udp)), udp[8:n], true
}
