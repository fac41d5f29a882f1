package netboot

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// A Relay is a relay agent (RFC 1542, RFC 3046) together with the network behind it: machines that boot through it
// are, for the server, behind the router that has its Address. The server needs a route to that network by way of an
// address of the wire's interface.
type Relay struct {
	address netip.Addr
	server  netip.Addr
	agent   []byte // option 82
	w       *Wire
	conn    *net.UDPConn
	done    chan struct{}
}

// Relay starts a relay agent. Its address (giaddr) is added to the wire. agent is the content of option 82; nil sends
// none.
func (w *Wire) Relay(address, server netip.Addr, agent []byte) (*Relay, error) {
	r := &Relay{address: address, server: server, agent: agent, w: w, done: make(chan struct{})}
	err := w.in(func() error { return w.add(address) })
	if err != nil {
		return nil, err
	}
	if r.conn, err = w.udp(netip.AddrPortFrom(address, 67)); err != nil {
		return nil, fmt.Errorf("start a relay agent at %s: %w", address, err)
	}
	go r.read()
	return r, nil
}

// Close ends the agent.
func (r *Relay) Close() error {
	err := r.conn.Close()
	<-r.done
	return errors.Join(err, r.w.in(func() error { return r.w.address(unix.RTM_DELADDR, r.address) }))
}

func (r *Relay) forward(bootp []byte) error {
	p, err := parsePacket(bootp)
	if err != nil {
		return err
	}
	p.head[3]++
	copy(p.head[24:28], r.address.AsSlice())
	if r.agent != nil {
		p.insert(len(p.opts), option{optRelay, r.agent})
	}
	if _, err := r.conn.WriteToUDPAddrPort(p.bytes(), netip.AddrPortFrom(r.server, 67)); err != nil {
		return fmt.Errorf("relay a DHCP packet to %s: %w", r.server, err)
	}
	return nil
}

// read hands the server's answers to the machines. An answer that a relay agent could not deliver is a fault that the
// machine's result tells.
func (r *Relay) read() {
	defer close(r.done)
	buf := make([]byte, 1<<16)
	for {
		n, from, err := r.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		d := datagram{from: netip.AddrPortFrom(from.Addr().Unmap(), from.Port())}
		p, err := parsePacket(buf[:n])
		switch {
		case err != nil:
			continue
		case !bytes.Equal(p.head[24:28], r.address.AsSlice()):
			d.fault = fmt.Sprintf("the relay agent dropped an answer: giaddr is %v, not %s", p.head[24:28], r.address)
		case !bytes.Equal(p.get(optRelay), r.agent):
			d.fault = fmt.Sprintf("the relay agent dropped an answer: option 82 is %x, not the %x that it sent", p.get(optRelay), r.agent)
		}
		p.remove(optRelay)
		d.data, d.at = p.bytes(), time.Now()
		r.w.deliver(d, d.data)
	}
}
