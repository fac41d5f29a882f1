package doctor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/sys/unix"
)

// probe broadcasts a DHCPDISCOVER as UEFI firmware does, and returns the first offer of each server that answers within
// wait. It never requests an address.
func probe(ctx context.Context, l link, wait time.Duration) ([]offer, error) {
	seg, err := openSegment(l.Name)
	if err != nil {
		return nil, err
	}
	defer seg.conn.Close()

	ask, err := discover(seg.ifi.HardwareAddr, iana.EFI_X86_64)
	if err != nil {
		return nil, err
	}

	if err := seg.send(ask); err != nil {
		return nil, err
	}
	if err := seg.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { seg.conn.SetReadDeadline(time.Unix(1, 0)) })()

	var offers []offer
	seen := make(map[string]bool)
	for {
		o, err := seg.receive(ask.TransactionID)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return offers, ctx.Err()
		}
		if err != nil {
			return nil, err
		}

		if !seen[o.String()] {
			seen[o.String()] = true
			offers = append(offers, o)
		}
	}
}

// segment is a link as DHCP clients use it, through a packet socket: UDP port 68 may be in use by such a client, and a
// packet socket bypasses the firewall.
type segment struct {
	ifi  *net.Interface
	conn *os.File
	raw  syscall.RawConn
}

// openSegment opens the packet socket on an interface.
func openSegment(ifname string) (*segment, error) {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, err
	}
	conn, err := packetSocket(ifi)
	if err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &segment{ifi, conn, raw}, nil
}

// send broadcasts a DHCP message.
func (s *segment) send(m *dhcpv4.DHCPv4) error {
	everyone := &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_IP), Ifindex: s.ifi.Index, Halen: 6,
		Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	var sent error
	err := s.raw.Control(func(fd uintptr) { sent = unix.Sendto(int(fd), broadcast(m.ToBytes()), 0, everyone) })
	if err = errors.Join(err, sent); err != nil {
		return fmt.Errorf("send a DHCP request: %w", err)
	}
	return nil
}

// receive waits for an offer with the transaction ID xid, until the read deadline.
func (s *segment) receive(xid dhcpv4.TransactionID) (offer, error) {
	for buf := make([]byte, 4096); ; {
		var n int
		var from unix.Sockaddr
		var got error
		err := s.raw.Read(func(fd uintptr) bool {
			n, from, got = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(got, unix.EAGAIN)
		})
		if err = errors.Join(err, got); err != nil {
			return offer{}, fmt.Errorf("receive DHCP offers: %w", err)
		}

		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if o, ok := parse(buf[:n], net.HardwareAddr(ll.Addr[:6]), xid); ok {
			return o, nil
		}
	}
}

// discover returns the DHCPDISCOVER of PXE firmware (RFC 4578).
func discover(mac net.HardwareAddr, arch iana.Arch) (*dhcpv4.DHCPv4, error) {
	m, err := dhcpv4.NewDiscovery(mac, dhcpv4.WithBroadcast(true),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier(fmt.Sprintf("PXEClient:Arch:%05d:UNDI:003016", arch))),
		dhcpv4.WithOption(dhcpv4.OptClientArch(arch)),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientNetworkInterfaceIdentifier, []byte{1, 3, 16})),
		dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(1472)),
		dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionVendorSpecificInformation,
			dhcpv4.OptionClassIdentifier, dhcpv4.OptionTFTPServerName, dhcpv4.OptionBootfileName))
	if err != nil {
		return nil, fmt.Errorf("make a DHCPDISCOVER: %w", err)
	}
	return m, nil
}

// packetSocket opens a packet socket that receives the IPv4 packets to UDP port 68 on one interface.
func packetSocket(ifi *net.Interface) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}

	conn := os.NewFile(uintptr(fd), "packet socket")
	filter := []unix.SockFilter{ // classic BPF; offsets are from the IP header
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 9},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_UDP, Jf: 4},
		{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 0},
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_IND, K: 2},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: dhcpv4.ClientPort, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	err = errors.Join(
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{
			Len:    uint16(len(filter)),
			Filter: &filter[0],
		}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_IP), Ifindex: ifi.Index}))
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("open a packet socket on %s: %w", ifi.Name, err)
	}
	return conn, nil
}

// bigEndian converts a number to network byte order, as packet(7) needs it.
func bigEndian(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

// broadcast adds the IPv4 and UDP headers of a client without an address to a DHCP message. It leaves out the UDP
// checksum, which is optional.
func broadcast(payload []byte) []byte {
	p := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255}
	binary.BigEndian.PutUint16(p[2:], uint16(28+len(payload)))
	sum := uint32(0)
	for i := 0; i < len(p); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[i:]))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum+sum>>16))
	for _, n := range []int{dhcpv4.ClientPort, dhcpv4.ServerPort, 8 + len(payload), 0} {
		p = binary.BigEndian.AppendUint16(p, uint16(n))
	}
	return append(p, payload...)
}

// parse parses an IPv4 packet; ok is false if it is not an offer to the probe.
func parse(p []byte, mac net.HardwareAddr, xid dhcpv4.TransactionID) (o offer, ok bool) {
	if len(p) < 20 {
		return o, false
	}
	head := int(p[0]&0xf) * 4
	if head < 20 || len(p) < head+8 {
		return o, false
	}
	m, err := dhcpv4.FromBytes(p[head+8:])
	if err != nil || m.TransactionID != xid || m.MessageType() != dhcpv4.MessageTypeOffer {
		return o, false
	}
	return readOffer(m, mac.String(), netip.AddrFrom4([4]byte(p[12:16]))), true
}
