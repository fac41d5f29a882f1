package pxe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"provision/hosts"
)

// Before an address is handed out, a server is to see whether somebody uses it (RFC 2131 section 2.2). That takes a
// second, for whoever has the address may be slow or a frame be lost, and firmware waits for an offer no longer than
// that. So a few free addresses are always probed ahead, by ARP as in RFC 5227 section 2.1.1. Behind a relay there is
// no ARP: those addresses are handed out unprobed.

const (
	// A probe's result is used for probeGood. Results are renewed when half of it is over, which is looked for each
	// probeEvery.
	probeGood  = time.Minute
	probeEvery = 20 * time.Second

	// probeWait is how long an answer is waited for, after each of two frames.
	probeWait = 500 * time.Millisecond

	// minAhead is for machines that one person switches on. When they do not suffice, twice as many are probed ahead, up
	// to maxAhead: a rack of machines, and 128 broadcasts a second, which disturb no LAN.
	minAhead, maxAhead = 8, 64
)

// probe is what was found out about an address.
type probe struct {
	at time.Time
	by string // the MAC that answered for it; "": nobody did
}

// current reports whether the result may still be used.
func (p *pool) current(r probe) bool { return p.now().Sub(r.at) < probeGood }

// answered reports whether an address was answered for by another machine than this one. p.mu is held.
func (p *pool) answered(addr netip.Addr, mac string) bool {
	r, probed := p.probes[addr]
	return probed && r.by != "" && r.by != mac && p.current(r)
}

// silent is the free address that follows a place in the range most closely, among those for which nobody answered but
// this machine itself; invalid if there is none. p.mu is held.
func (p *pool) silent(mac string, start int64) (best netip.Addr) {
	after := func(addr netip.Addr) int64 {
		size := p.rng.size()
		return ((int64(number(addr))-int64(number(p.rng.First))-start)%size + size) % size
	}
	for addr, r := range p.probes {
		if r.by == "" && !p.free(addr) { // handed out since: with thousands of them, each answer would look at all
			delete(p.probes, addr)
			continue
		}
		if p.current(r) && p.free(addr) && !p.answered(addr, mac) && (!best.IsValid() || after(addr) < after(best)) {
			best = addr
		}
	}

	return best
}

// claims counts the addresses for which each MAC answered. p.mu is held.
func (p *pool) claims() map[string]int {
	count := make(map[string]int)
	for _, r := range p.probes {
		if r.by != "" && p.current(r) {
			count[r.by]++
		}
	}
	return count
}

// doubt says why an address that a machine was offered may be in use; "" if nothing says so.
func (p *pool) doubt(mac string, addr netip.Addr) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.answered(addr, mac) {
		return ""
	}
	by, others := p.probes[addr].by, ""
	if p.claims()[by] > 1 {
		others = " and for other free addresses of " + p.rng.String()
	}
	return fmt.Sprintf("%s answers ARP for %s%s", by, addr, others)
}

// want tells that addresses may have to be probed; more doubles how many are probed ahead. p.mu is held.
func (p *pool) want(more bool) {
	if more {
		p.ahead = min(2*p.ahead, maxAhead)
	}
	select {
	case p.wanted <- struct{}{}:
	default:
	}
}

// unprobed are the addresses that are to be probed now: as many as are missing from those that are kept probed ahead.
// First come those that nobody ever had.
func (p *pool) unprobed() []netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()

	silent := 0
	var never, expired []netip.Addr
	for i := int64(0); i < p.rng.size() && silent+len(never) < p.ahead; i++ {
		addr := p.rng.at(i)
		_, taken := p.by[addr]
		switch r, probed := p.probes[addr]; {
		case !p.free(addr):
		case probed && p.now().Sub(r.at) < probeGood/2:
			if r.by == "" {
				silent++
			}
		case taken:
			expired = append(expired, addr)
		default:
			never = append(never, addr)
		}
	}

	all := append(never, expired...)
	return all[:min(len(all), p.ahead-silent)]
}

// learn keeps what was found out about addresses: the MACs of those who answered.
func (p *pool) learn(addrs []netip.Addr, answers map[netip.Addr]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.probes, func(_ netip.Addr, r probe) bool { return !p.current(r) })
	for _, addr := range addrs {
		p.probes[addr] = probe{p.now(), answers[addr]}
	}
}

// calm halves how many addresses are probed ahead.
func (p *pool) calm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ahead = max(p.ahead/2, minAhead)
}

// probedPool are the addresses of a link that can be probed; nil if there are none.
func (s *Server) probedPool(l *servedLink) *pool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	sub := s.subnet(l.self)
	if sub == nil || sub.prefix != l.net {
		return nil
	}
	return sub.pool
}

// probeAhead keeps free addresses of the range on a link probed, until ctx ends.
func (s *Server) probeAhead(ctx context.Context, l *servedLink, p *pool) error {
	arp, err := openARP(l)
	if err != nil {
		s.Log.Warn("addresses are handed out without a look whether somebody uses them", "interface", l.name, "err", err)
		return nil
	}
	defer arp.conn.Close()

	for tick := time.NewTicker(probeEvery); ctx.Err() == nil; {
		if addrs := p.unprobed(); len(addrs) > 0 {
			answers, err := arp.probe(ctx, addrs)
			s.Log.Debug("probed free "+
				"addresses", "interface", l.name, "addresses", len(addrs), "answers", len(answers), "err", err)
			if err == nil {
				p.learn(addrs, answers)
				continue
			}
		}

		select {
		case <-p.wanted:
		case <-tick.C:
			p.calm()
		case <-ctx.Done():
		}
	}

	return nil
}

// arpSocket hears the answers to ARP probes on a link.
type arpSocket struct {
	conn *os.File
	mac  net.HardwareAddr
}

// openARP needs CAP_NET_RAW.
func openARP(l *servedLink) (*arpSocket, error) {
	mac, err := net.ParseMAC(l.mac)
	if err != nil || len(mac) != 6 {
		return nil, fmt.Errorf("interface %s is not an Ethernet", l.name)
	}

	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}

	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(probeAnswers)), Filter: &probeAnswers[0]})
	if err == nil {
		protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP))
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: l.index})
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen to ARP on %s: %w", l.name, err)
	}
	return &arpSocket{os.NewFile(uintptr(fd), "arp"), mac}, nil
}

// probeAnswers is a filter (bpf(4)) that lets in what answers ARP probes, and not the ARP of a thousand machines: a
// reply whose target protocol address is that of a probe's sender, 0.0.0.0.
var probeAnswers = [...]unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 20},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 2, Jf: 3},
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 38},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 64},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

// probe asks for addresses twice, and returns the MACs of those who answered for one.
func (a *arpSocket) probe(ctx context.Context, addrs []netip.Addr) (map[netip.Addr]string, error) {
	answers := make(map[netip.Addr]string)
	defer context.AfterFunc(ctx, func() { a.conn.Close() })()
	for range 2 {
		for _, addr := range addrs {
			if answers[addr] != "" {
				continue
			}
			if _, err := a.conn.Write(arpProbe(a.mac, addr)); err != nil {
				return nil, fmt.Errorf("probe %s by ARP: %w", addr, err)
			}
		}

		if err := a.hear(addrs, answers); err != nil {
			return nil, err
		}
	}

	return answers, nil
}

// hear adds the answers for addresses that come in time. It waits for all of it, so that who answers at once for every
// address of a large range is not asked for all of them at once.
func (a *arpSocket) hear(addrs []netip.Addr, answers map[netip.Addr]string) error {
	if err := a.conn.SetReadDeadline(time.Now().Add(probeWait)); err != nil {
		return err
	}
	for buf := make([]byte, 64); ; {
		n, err := a.conn.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case err != nil:
			return fmt.Errorf("listen for answers to ARP probes: %w", err)
		case n < 42: // Ethernet's header and ARP
			continue
		}

		addr := netip.AddrFrom4([4]byte(buf[28:32]))
		if mac, err := hosts.ParseMAC(net.HardwareAddr(buf[22:28]).String()); err == nil && slices.Contains(addrs, addr) {
			answers[addr] = mac
		}
	}
}

// arpProbe is the Ethernet frame that asks who has an address, for one who has none yet: its sender's is 0.0.0.0, so
// that nobody takes it for a neighbour (RFC 826; RFC 5227 section 2.1.1).
func arpProbe(mac net.HardwareAddr, addr netip.Addr) []byte {
	frame := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	frame = append(frame, mac...)
	frame = append(frame, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1) // ARP; Ethernet, IPv4, their lengths; a request
	frame = append(frame, mac...)
	frame = append(frame, make([]byte, 4+6)...)
	return append(frame, addr.AsSlice()...)
}
