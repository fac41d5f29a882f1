package pxe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/sys/unix"

	"provision/hosts"
)

// Nothing is booted over IPv6. UEFI firmware that tries it before its disk waits a minute for a DHCPv6 server, for PXE
// and again for HTTP boot. EDK2 looks at what it was offered four seconds after its first SOLICIT, and gives the
// attempt up if that names nothing to boot. So the firmware of an installed host is sent an ADVERTISE that offers
// nothing at all: no address, which is another server's to give, and no boot file. A status code (NoAddrsAvail) would
// have EDK2 ignore it, and wait on. All other clients, which ignore an ADVERTISE without addresses (RFC 8415, section
// 18.2.9), are not answered.

// The ports of DHCPv6 (RFC 8415, section 7.2), and the length of a UDP header.
const (
	dhcp6Client = 546
	dhcp6Server = 547
	udpHeader   = 8
)

// listenDHCP6 hears what is sent to all DHCPv6 servers on an interface. It takes no port: a DHCPv6 server on this
// machine has it, or may want it.
func listenDHCP6(ctx context.Context, l *servedLink) (*net.IPConn, error) {
	lc := net.ListenConfig{Control: withOptions(func(fd int) error {
		const checksumAt = 6
		group := &unix.IPv6Mreq{Multiaddr: netip.MustParseAddr("ff02::1:2").As16(), Interface: uint32(l.index)}
		toServers := []unix.SockFilter{ // of the UDP datagrams
			{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 2}, // destination port
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: dhcp6Server, Jf: 1},
			{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 16},
			{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		}
		return errors.Join(
			unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 4, Filter: &toServers[0]}),
			unix.BindToDevice(fd, l.name),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_CHECKSUM, checksumAt),
			unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, group))
	})}
	conn, err := lc.ListenPacket(ctx, "ip6:udp", "::")
	if err != nil {
		return nil, fmt.Errorf("listen to DHCPv6 on %s: %w", l.name, err)
	}
	return conn.(*net.IPConn), nil
}

// serveDHCP6 ends the attempts of installed hosts to netboot over IPv6.
func (s *Server) serveDHCP6(ctx context.Context, l *servedLink) error {
	conn := l.sock.dhcp6
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	buf := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFromIP(buf)
		if closed(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive DHCPv6: %w", err)
		}

		if n < udpHeader {
			continue
		}
		addr, _ := netip.AddrFromSlice(from.IP)
		r := s.answerDHCP6(l, addr, buf[udpHeader:n])
		if r == nil {
			continue
		}
		_, err = conn.WriteTo(udp6(dhcp6Server, dhcp6Client, r.ToBytes()), from)
		s.Log.Debug("answered DHCPv6", "to", from, "err", err)
	}
}

// answerDHCP6 is the ADVERTISE for a SOLICIT; nil is silence.
func (s *Server) answerDHCP6(l *servedLink, from netip.Addr, packet []byte) *dhcpv6.Message {
	m, err := dhcpv6.MessageFromBytes(packet)
	if err != nil || m.Type() != dhcpv6.MessageTypeSolicit {
		return nil
	}

	c := identify6(from, m)
	if c.profile().loads == nothing {
		return nil
	}
	h, err := s.Hosts.ByMAC(c.MAC)
	if err != nil {
		if !errors.Is(err, hosts.ErrNotFound) {
			s.Log.Error("answer DHCPv6", "mac", c.MAC, "err", err)
		}
		return nil
	}

	if decide(&h, c, s.Mode, s.Unknown, s.Now()).Load != local {
		return nil
	}
	mac, err := net.ParseMAC(l.mac)
	if err != nil { // a link without Ethernet addresses
		return nil
	}

	self := &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac}
	r, err := dhcpv6.NewAdvertiseFromSolicit(m, dhcpv6.WithServerID(self))
	if err != nil { // it tells no DUID of its own
		return nil
	}

	return r
}

// identify6 reads a client from a SOLICIT: firmware or httpBoot, or system for all others. Firmware makes its
// link-local address of its MAC.
func identify6(from netip.Addr, m *dhcpv6.Message) bootClient {
	archs := m.Options.ArchTypes()
	c := bootClient{MAC: macOf(from)}
	if c.MAC == "" || len(archs) == 0 {
		return c
	}
	for _, class := range m.Options.VendorClasses() {
		for _, data := range class.Data {
			if kind := kindOfVendor(string(data)); kind != system {
				c.Kind = kind
			}
		}
	}

	c.Arch = archOf(archs, "")
	return c
}

// macOf is the MAC of which a link-local address was made (RFC 4291, appendix A); "" if it was not.
func macOf(addr netip.Addr) string {
	a := addr.As16()
	if !addr.IsLinkLocalUnicast() || a[11] != 0xff || a[12] != 0xfe {
		return ""
	}
	return net.HardwareAddr{a[8] ^ 2, a[9], a[10], a[13], a[14], a[15]}.String()
}

// udp6 is a UDP datagram, whose checksum the kernel fills in.
func udp6(from, to uint16, data []byte) []byte {
	var d []byte
	for _, field := range []uint16{from, to, uint16(udpHeader + len(data)), 0} {
		d = binary.BigEndian.AppendUint16(d, field)
	}
	return append(d, data...)
}
