package netboot

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// The packets of a kind, for tests that feed a server by hand. Transaction IDs are the recorded ones.

// Discover is the machine's first packet.
func (c Client) Discover() ([]byte, error) {
	p, err := c.discover()
	return p.bytes(), err
}

// Request is the DHCPREQUEST for the address that a server offered.
func (c Client) Request(server, address netip.Addr) ([]byte, error) {
	p, err := c.discover()
	return profiles[c.Kind].family.asked(p, server, address).bytes(), err
}

// BootServerRequest is the DHCPREQUEST that a machine with an address sends to a boot server's port 4011. item is the
// entry of a boot menu, four bytes; nil: there was no menu.
func (c Client) BootServerRequest(server, address netip.Addr, item []byte) ([]byte, error) {
	p, err := c.discover()
	return profiles[c.Kind].family.asked4011(p, p.xid()+1, server, address, item).bytes(), err
}

// Ask sends one packet and returns the first answer to it; nil is silence for as long as patience. To 255.255.255.255
// it is sent as by a machine without an address, else from ciaddr, from the port it is sent to (68 for 67).
func (w *Wire) Ask(ctx context.Context, bootp []byte, to netip.AddrPort, patience time.Duration) (answer []byte, err error) {
	p, err := parsePacket(bootp)
	if err != nil {
		return nil, err
	}
	mac := net.HardwareAddr(p.hardware())
	r := &run{w: w, mac: mac, own: netip.AddrFrom4([4]byte(p.head[12:16])), begun: time.Now()}
	if r.in, err = w.plug(mac); err != nil {
		return nil, err
	}
	defer w.unplug(mac)
	var got reply
	if to.Addr() == everyone {
		if err := w.broadcast(mac, bootp); err != nil {
			return nil, err
		}
		timer := time.NewTimer(patience)
		defer timer.Stop()
		got, _, err = r.receive(ctx, p.xid(), timer.C)
		return got.raw, err
	}
	if err := r.take(r.own); err != nil {
		return nil, fmt.Errorf("ask from ciaddr: %w", err)
	}
	port := to.Port()
	if port == 67 {
		port = 68
	}
	conn, err := w.udp(netip.AddrPortFrom(r.own, port))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	got, _, err = r.unicast(ctx, conn, p, to, patience, func(reply) bool { return true })
	return got.raw, err
}
