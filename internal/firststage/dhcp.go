package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/sys/unix"
)

// lease is what a DHCP server assigned.
type lease struct {
	addr    netip.Prefix
	gateway netip.Addr // zero: none
	server  netip.Addr
	time    time.Duration // how long it is valid
}

// lease gets an address for a card and renews it, until ctx ends.
func (n *network) lease(ctx context.Context, c *netCard) error {
	var had netip.Addr
	for {
		l, err := n.askFor(ctx, c, had)
		if err != nil {
			return err
		}
		if err := n.settle(ctx, c, l); err != nil {
			return err
		}
		had = l.addr.Addr()

		// If the server does not answer any more, the address is kept all the same.
		if !sleep(ctx, l.time/2) {
			return nil
		}
	}
}

// askFor requests a lease until it gets one (RFC 2131, section 4.4.1). had, if valid, is the address to request.
//
// It requests that answers are sent as broadcasts: an ordinary socket receives those even though the card has no
// address yet, so the kernel need not have packet sockets.
func (n *network) askFor(ctx context.Context, c *netCard, had netip.Addr) (lease, error) {
	conn, err := listenDHCP(ctx, c.name)
	if err != nil {
		return lease{}, fmt.Errorf("DHCP: %w", err)
	}
	defer conn.Close()

	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	begin := time.Now()
	for wait := 2 * time.Second; ; wait = min(2*wait, 16*time.Second) {
		l, err := exchange(conn, c.mac, had, wait, time.Since(begin))
		if err == nil {
			return l, nil
		}
		if ctx.Err() != nil {
			return lease{}, ctx.Err()
		}

		if !had.IsValid() {
			n.set(c, "no DHCP answer: "+err.Error())
		}
		if errors.Is(err, errNak) {
			had = netip.Addr{}
		}
		if !errors.Is(err, errSilence) && !sleep(ctx, wait) {
			return lease{}, ctx.Err()
		}
	}
}

// listenDHCP opens the DHCP client's port on a card.
func listenDHCP(ctx context.Context, card string) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: onCard(card, func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
	})}
	return lc.ListenPacket(ctx, "udp4", ":68")
}

var (
	errSilence = errors.New("no server answers, asked again and again")
	errNak     = errors.New("the server refused the address")
)

// exchange does one DISCOVER, OFFER, REQUEST, ACK. Each answer may take as long as wait. secs is the time since the
// first DISCOVER.
func exchange(conn net.PacketConn, mac net.HardwareAddr, had netip.Addr, wait, secs time.Duration) (lease, error) {
	xid := rand.Uint32()

	// dhcpv4.New is not used, as it waits for the kernel's random numbers, which may not be available soon after power-on.
	packet := func(kind dhcpv4.MessageType, options ...dhcpv4.Option) *dhcpv4.DHCPv4 {
		p := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, HWType: iana.HWTypeEthernet, ClientHWAddr: mac,
			ClientIPAddr: net.IPv4zero, YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero, GatewayIPAddr: net.IPv4zero,
			NumSeconds: uint16(min(secs/time.Second, 0xffff)), Options: dhcpv4.Options{}}
		binary.NativeEndian.PutUint32(p.TransactionID[:], xid)
		p.SetBroadcast()
		p.UpdateOption(dhcpv4.OptMessageType(kind))
		p.UpdateOption(dhcpv4.OptParameterRequestList(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter))
		for _, o := range options {
			p.UpdateOption(o)
		}
		return p
	}
	discover := packet(dhcpv4.MessageTypeDiscover)
	if had.IsValid() {
		discover.UpdateOption(dhcpv4.OptRequestedIPAddress(had.AsSlice()))
	}
	offer, err := ask(conn, discover, wait, dhcpv4.MessageTypeOffer)
	if err != nil {
		return lease{}, err
	}

	request := packet(dhcpv4.MessageTypeRequest, dhcpv4.OptRequestedIPAddress(offer.YourIPAddr))
	if id := offer.ServerIdentifier(); id != nil {
		request.UpdateOption(dhcpv4.OptServerIdentifier(id))
	}
	ack, err := ask(conn, request, wait, dhcpv4.MessageTypeAck)
	if err != nil {
		return lease{}, err
	}

	return readLease(ack)
}

// ask sends a packet and returns the first answer of the wanted type. Answers of a ProxyDHCP server are skipped, as
// they have no address.
func ask(conn net.PacketConn, p *dhcpv4.DHCPv4, wait time.Duration, want dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return nil, err
	}
	if _, err := conn.WriteTo(p.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
		return nil, reason(err)
	}

	buf := make([]byte, 2048)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			if isTimeout(err) {
				err = errSilence
			}
			return nil, err
		}

		answer, err := dhcpv4.FromBytes(buf[:n])
		if err != nil || answer.OpCode != dhcpv4.OpcodeBootReply || answer.TransactionID != p.TransactionID {
			continue
		}

		switch kind := answer.MessageType(); {
		case kind == dhcpv4.MessageTypeNak && want == dhcpv4.MessageTypeAck:
			return nil, errNak
		case kind == want && len(answer.YourIPAddr.To4()) == 4 && !answer.YourIPAddr.IsUnspecified():
			return answer, nil
		}
	}
}

// readLease extracts the lease from an acknowledgement. The time is an hour if the server does not set it, and at least
// a minute.
func readLease(ack *dhcpv4.DHCPv4) (lease, error) {
	addr, _ := netip.AddrFromSlice(ack.YourIPAddr.To4())
	l := lease{time: max(ack.IPAddressLeaseTime(time.Hour), time.Minute)}
	mask := ack.SubnetMask()
	if mask == nil {
		mask = net.IP(addr.AsSlice()).DefaultMask()
	}
	bits, size := net.IPMask(mask).Size()
	if size != 32 {
		return lease{}, fmt.Errorf("the server's answer has the mask %s, which is none", mask)
	}
	l.addr = netip.PrefixFrom(addr, bits)
	if routers := ack.Router(); len(routers) > 0 {
		l.gateway, _ = netip.AddrFromSlice(routers[0].To4())
	}
	l.server, _ = netip.AddrFromSlice(ack.ServerIdentifier().To4())
	return l, nil
}

// sleep waits for d. It returns false if ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
