package installer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// etherWake is the EtherType of magic packets without IP.
const etherWake = 0x0842

// Wake sends the magic packet that switches on the machine with that MAC, by way of a network interface: over UDP to
// port 9 from each of its IPv4 addresses, to the broadcast address of that network and to 255.255.255.255; and as a
// bare Ethernet frame, if we may, for cards that look only for that. Nobody answers: whether the machine wakes is seen
// when it netboots. The packet is that of AMD's white paper "Magic Packet Technology" (publication 20213).
func Wake(ctx context.Context, ifname, mac string) error {
	target, err := net.ParseMAC(mac)
	if err != nil || len(target) != 6 {
		return fmt.Errorf("wake %s: write six bytes in hexadecimal, such as 52:54:00:12:34:56", mac)
	}

	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return fmt.Errorf("wake %s by way of %s: %w", mac, ifname, err)
	}

	packet := magicPacket(target)
	sent, failed := 0, error(nil)
	count := func(err error) {
		if err == nil {
			sent++
		}
		failed = errors.Join(failed, err)
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return fmt.Errorf("wake %s by way of %s: %w", mac, ifname, err)
	}

	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			count(wakeUDP(ctx, ifname, p, packet))
		}
	}

	if len(ifi.HardwareAddr) == 6 {
		if err := wakeFrame(ifi, packet); !errors.Is(err, os.ErrPermission) {
			count(err)
		}
	}

	switch {
	case failed != nil && sent == 0:
		return fmt.Errorf("wake %s by way of %s: %w", mac, ifname, failed)
	case sent == 0:
		return fmt.Errorf("wake %s by way of %s: the interface has no IPv4 address, and only root may do without; "+
			"run as root or with CAP_NET_RAW, or give it one", mac, ifname)
	}

	return nil
}

// magicPacket is six bytes of ff, then the MAC sixteen times.
func magicPacket(mac net.HardwareAddr) []byte {
	return append(bytes.Repeat([]byte{0xff}, 6), bytes.Repeat(mac, 16)...)
}

// wakeUDP sends the packet from an address to its network and to all.
func wakeUDP(ctx context.Context, ifname string, from netip.Prefix, packet []byte) error {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		ctl := c.Control(func(fd uintptr) {
			err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.BindToDevice(int(fd), ifname))
		})
		return errors.Join(ctl, err)
	}}
	conn, err := lc.ListenPacket(ctx, "udp4", netip.AddrPortFrom(from.Addr(), 0).String())
	if err != nil {
		return err
	}
	defer conn.Close()

	const discard = 9
	for _, to := range []netip.Addr{broadcast(from), netip.AddrFrom4([4]byte{255, 255, 255, 255})} {
		if _, err := conn.WriteTo(packet, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, discard))); err != nil {
			return fmt.Errorf("send to %s: %w", to, err)
		}
	}

	return nil
}

// broadcast is the last address of an IPv4 network. Networks of one and of two addresses have none (RFC 3021), and get
// what is for all.
func broadcast(p netip.Prefix) netip.Addr {
	if p.Bits() >= 31 {
		return netip.AddrFrom4([4]byte{255, 255, 255, 255})
	}
	a := p.Addr().As4()
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])|(1<<(32-p.Bits())-1))
	return netip.AddrFrom4(a)
}

// wakeFrame broadcasts the packet in an Ethernet frame of its own type.
func wakeFrame(ifi *net.Interface, packet []byte) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a packet socket: %w", err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{Protocol: etherWake>>8 | etherWake&0xff<<8, Ifindex: ifi.Index, Halen: 6}
	copy(to.Addr[:], bytes.Repeat([]byte{0xff}, 6))
	if err := unix.Sendto(fd, packet, 0, to); err != nil {
		return fmt.Errorf("send an Ethernet frame: %w", err)
	}
	return nil
}
