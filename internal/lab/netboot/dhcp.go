package netboot

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// reply is an answer to this machine.
type reply struct {
	packet
	from netip.AddrPort
	at   time.Time
	raw  []byte
}

// static stands for the lease of a DHCP server that the wire does not have.
func (r *run) static() reply {
	var p packet
	p.head[0] = 2
	copy(p.head[16:], r.Address.AsSlice())
	p.opts = []option{{optType, []byte{offer}}}
	return reply{packet: p, at: time.Now()}
}

func (p reply) proxy() bool { return p.yiaddr().IsUnspecified() }

func (p reply) pxe() bool  { return bytes.HasPrefix(p.get(optClass), []byte("PXEClient")) }
func (p reply) http() bool { return bytes.HasPrefix(p.get(optClass), []byte("HTTPClient")) }

// vendor returns the sub-options of option 43 (PXE 2.1 section 2.2).
func (p reply) vendor() map[byte][]byte {
	subs := map[byte][]byte{}
	for b := p.get(optVendor); len(b) >= 2 && b[0] != optEnd; {
		if b[0] == 0 {
			b = b[1:]
			continue
		}
		n := 2 + int(b[1])
		if n > len(b) {
			break
		}
		subs[b[0]] = b[2:n]
		b = b[n:]
	}
	return subs
}

// ten reports whether this is what EDK2 calls a PXE 1.0 offer: discovery control, addresses, or a menu.
func (p reply) ten() bool {
	if !p.pxe() {
		return false
	}
	for sub := range p.vendor() {
		if sub >= 6 && sub <= 10 {
			return true
		}
	}
	return false
}

// useFile reports whether bit 3 of the discovery control is set: the file name is in this very reply.
func (p reply) useFile() bool { return first(p.vendor()[6])&8 != 0 }

// file is the boot file name, from option 67 or else from the header.
func (p reply) file() string {
	if f := p.text(optFile); f != "" {
		return f
	}
	return untilNUL(p.head[108:236])
}

// server is who has the file: siaddr, else option 54.
func (p reply) server() netip.Addr {
	if a := p.siaddr(); !a.IsUnspecified() {
		return a
	}
	return p.serverID()
}

func (p reply) String() string {
	words := []string{map[byte]string{0: "BOOTP reply", offer: "DHCPOFFER", ack: "DHCPACK", nak: "DHCPNAK"}[p.kind()]}
	if !p.proxy() {
		words = append(words, p.yiaddr().String())
	}
	if c := p.text(optClass); c != "" {
		words = append(words, c)
	}
	if v := p.get(optVendor); v != nil {
		words = append(words, fmt.Sprintf("43=%x", v))
	}
	if f := p.file(); f != "" {
		words = append(words, "file "+f)
	}
	if !p.siaddr().IsUnspecified() {
		words = append(words, "siaddr "+p.siaddr().String())
	}
	return strings.Join(words, " ")
}

// broadcast sends a packet of a machine that is not sure of its address.
func (r *run) broadcast(p packet) error {
	raw := p.bytes()
	what := map[byte]string{discover: "DHCPDISCOVER", request: "DHCPREQUEST"}[p.kind()]
	r.note(true, netip.AddrPortFrom(everyone, 67), raw, "%s %s", what, p.text(optClass))
	return r.question(func() error {
		if r.Relay != nil {
			return r.Relay.forward(raw)
		}
		return r.w.broadcast(r.mac, raw)
	})
}

// receive returns the next reply to transaction xid, or false at the deadline.
func (r *run) receive(ctx context.Context, xid uint32, deadline <-chan time.Time) (reply, bool, error) {
	for {
		select {
		case <-ctx.Done():
			return reply{}, false, ctx.Err()
		case <-deadline:
			return reply{}, false, nil
		case d := <-r.in:
			if d = r.heard(d); d.data == nil && d.fault == "" {
				continue
			}
			if d.fault != "" {
				r.note(false, d.from, nil, "%s", d.fault)
				r.remark("%s", d.fault)
				continue
			}
			if p, ok := r.parse(d, xid); ok {
				return p, true, nil
			}
		}
	}
}

// heard is the frame that the machine handles when this one arrives: this one, but for the ROM of a Pi 3B, which handles
// the one before it (raspberrypi/firmware#764; netboot-rpi3b).
func (r *run) heard(d datagram) datagram {
	if d.wakes {
		r.note(false, d.from, nil, "a magic packet")
	}
	if r.Kind != Pi3B {
		return d
	}
	before := r.held
	r.held = &d
	if before == nil {
		return datagram{}
	}
	return *before
}

func (r *run) parse(d datagram, xid uint32) (reply, bool) {
	p, err := parsePacket(d.data)
	if err != nil {
		r.note(false, d.from, d.data, "%v", err)
		r.remark("%v", err)
		return reply{}, false
	}
	if p.xid() != xid || p.head[0] != 2 || !bytes.Equal(p.hardware(), r.mac) {
		return reply{}, false
	}
	got := reply{p, d.from, d.at, d.data}
	r.note(false, d.from, d.data, "%s", got)
	return got, true
}

// rounds sends p and waits, for each of the waits. Every reply is passed to take; true ends it at once. At the end of
// each round, settle decides whether what came is enough. It returns the round that ended it, from 1; 0 if none did.
func (r *run) rounds(ctx context.Context, p packet, waits []time.Duration, take func(reply) bool, settle func() bool) (int, error) {
	secs := time.Duration(binary.BigEndian.Uint16(p.head[8:])) * time.Second
	for i, wait := range waits {
		if r.family() != pi {
			p.setSecs(int(secs.Seconds()))
		}
		secs += wait
		if err := r.broadcast(p); err != nil {
			return 0, err
		}
		timer := time.NewTimer(r.scaled(wait))
		for {
			got, ok, err := r.receive(ctx, p.xid(), timer.C)
			if err != nil {
				timer.Stop()
				return 0, err
			}
			if !ok {
				break
			}
			if take(got) {
				timer.Stop()
				return i + 1, nil
			}
		}
		if settle() {
			return i + 1, nil
		}
	}
	return 0, nil
}

func never() bool { return false }

// lease asks for the address that a server offered, and configures it. What is returned is the ACK.
func (r *run) lease(ctx context.Context, o reply, waits []time.Duration) (reply, error) {
	if o.from == (netip.AddrPort{}) { // it is static
		if r.Relay != nil { // which forwards to all servers what one of them is asked
			if err := r.broadcast(r.family().asked(r.ask, r.Relay.address, o.yiaddr())); err != nil {
				return o, err
			}
		}
		return o, r.take(o.yiaddr())
	}
	p := r.family().asked(r.ask, o.serverID(), o.yiaddr())
	p.setXID(o.xid())
	var got reply
	begin := time.Now()
	tries, err := r.rounds(ctx, p, waits, func(a reply) bool {
		got = a
		return (a.kind() == ack && a.serverID() == o.serverID()) || a.kind() == nak
	}, never)
	switch {
	case err != nil:
		return got, err
	case tries == 0:
		return got, stopf("%s offered %s, and does not answer the request for it", o.serverID(), o.yiaddr())
	case got.kind() == nak:
		return got, stop{fmt.Sprintf("%s offered %s, and then refused it: %s", o.serverID(), o.yiaddr(), got.text(56)), true}
	}
	r.timed("lease", begin, got.at, tries)
	return got, r.take(got.yiaddr())
}

func (r *run) take(addr netip.Addr) error {
	r.own, r.res.Address = addr, addr
	return r.w.configure(r.mac, addr, r.Relay == nil)
}

// seconds makes a list of waits.
func seconds(s ...float64) []time.Duration {
	var d []time.Duration
	for _, s := range s {
		d = append(d, time.Duration(s*float64(time.Second)))
	}
	return d
}
