package pxe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"provision/hosts"
)

// A responder answers what came to one port; a nil reply is silence.
type responder func(*exchange) (*dhcpv4.DHCPv4, error)

const (
	// waitingRoom is how many requests may wait to be read: those of so many
	// machines that are switched on at once.
	waitingRoom = 4096

	// shards is how many requests of one port are answered at a time. Most of that
	// time the disk has them, and it takes many at once (store.Journal).
	shards = 256
)

// seed spreads machines and hosts over lanes.
var seed = maphash.MakeSeed()

// dhcpRequest is a packet that came, and from where.
type dhcpRequest struct {
	*dhcpv4.DHCPv4
	raw  []byte // as it came; the parsed one has forgotten the order of its options
	from netip.AddrPort
}

// serveDHCP reads requests and has them answered: those of one machine one
// after another, as they came.
func (s *Server) serveDHCP(ctx context.Context, l *servedLink, conn *net.UDPConn, respond responder) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	if err := roomFor(conn, waitingRoom); err != nil {
		return fmt.Errorf("receive DHCP: %w", err)
	}

	var answering sync.WaitGroup
	defer answering.Wait()

	var lane [shards]chan dhcpRequest
	for i := range lane {
		lane[i] = make(chan dhcpRequest, waitingRoom/shards)
		defer close(lane[i])
		answering.Go(func() {
			for m := range lane[i] {
				if s.answer(l, conn, m, respond) {
					answering.Go(func() { s.wake(ctx, l, m.ClientHWAddr) })
				}
			}
		})
	}

	buf := make([]byte, 4096)
	control := make([]byte, 64)
	var lost uint32
	for {
		n, controls, _, from, err := conn.ReadMsgUDPAddrPort(buf, control)
		if closed(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive DHCP: %w", err)
		}

		if now := overflow(control[:controls]); now != lost && now != 0 {
			s.drops.addMany("DHCP requests", "", uint64(now-lost))
			lost = now
		}
		m, err := dhcpv4.FromBytes(buf[:n])
		if err != nil {
			s.Log.Debug("not a DHCP packet", "from", from, "err", err)
			continue
		}

		lane[maphash.Bytes(seed, m.ClientHWAddr)%shards] <- dhcpRequest{m, bytes.Clone(buf[:n]), from}
	}
}

// answer has one request answered, and sends the answer, which the client may be
// deaf to.
func (s *Server) answer(l *servedLink, conn *net.UDPConn, m dhcpRequest, respond responder) (isDeaf bool) {
	port := conn.LocalAddr().(*net.UDPAddr).Port
	r, to := s.handle(l, m.from, uint16(port), m.raw, m.DHCPv4, respond)
	if r == nil {
		return false
	}
	_, err := conn.WriteToUDPAddrPort(r.ToBytes(), to)
	if s.Log.Enabled(context.Background(), slog.LevelDebug) { // it is said thousands of times a second
		s.Log.Debug("answered DHCP", "mac", m.ClientHWAddr.String(), "request", m.MessageType(), "answer", r.MessageType(), "to", to,
			"address", r.YourIPAddr, "file", r.BootFileName != "", "err", err)
	}
	if err != nil && !closed(err) {
		s.unsent(m.ClientHWAddr.String(), to, err)
	}
	return deaf(m.DHCPv4, r)
}

// unsent tells of an answer that this machine did not let out: of a firewall, or of a network that is down.
func (s *Server) unsent(mac string, to netip.AddrPort, err error) {
	const help = "look at the rules for output of this machine's firewall, and whether the interface is up"
	s.traceFailure(mac, fmt.Errorf("the answer could not be sent (%w)", err), help)
	if h, hostErr := s.Hosts.ByMAC(mac); hostErr == nil {
		s.note(h, "the answer to %s could not be sent to %s: %v; %s", mac, to, err, help)
	}
	if s.muted.due(s.Now()) {
		s.Log.Warn("an answer could not be sent; "+help, "mac", mac, "to", to, "err", err)
	}
}

// handle has one request answered, and keeps both in the machine's trace.
func (s *Server) handle(l *servedLink, from netip.AddrPort, port uint16, raw []byte, m *dhcpv4.DHCPv4,
	respond responder) (*dhcpv4.DHCPv4, netip.AddrPort) {
	e, err := s.who(l, m)
	if e == nil {
		return nil, netip.AddrPort{}
	}

	// RFC 4578 leaves open where an answer from port 4011 goes; EDK2 and iPXE listen where they sent from.
	back := port == 4011 || from.Port() == 4011
	relay := addrOf(m.GatewayIPAddr)
	if back {
		relay = netip.Addr{}
	}
	if err == nil && !e.admits(from.Addr().Unmap(), relay) {
		return nil, netip.AddrPort{}
	}

	var r *dhcpv4.DHCPv4
	if err == nil {
		if e.host == nil {
			e.discovered()
		}
		e.traceRequest(from, port, raw)
		e.watchRestart()
		r, err = respond(e)
	}
	if err != nil {
		e.tellError(err)
		return nil, netip.AddrPort{}
	}

	if r == nil {
		return nil, netip.AddrPort{}
	}

	to := destination(m, r, s.serves)
	if back {
		to = from
	}
	e.traceReply(to, port, r)
	return r, to
}

// who finds the client and the host behind a packet; nil for a packet that is nobody's, such as one without a MAC.
func (s *Server) who(l *servedLink, m *dhcpv4.DHCPv4) (*exchange, error) {
	c, err := identify(m)
	if err != nil || c.MAC == l.mac { // somebody else's packet is not our error; our own is `provision doctor`
		return nil, nil
	}
	e := &exchange{Server: s, link: l, request: m, client: c}
	h, err := s.Hosts.ByMAC(c.MAC)
	switch {
	case errors.Is(err, hosts.ErrNotFound):
		e.host = e.installerOf()
		return e, nil
	case err != nil:
		return e, err
	}

	e.client = s.pis.resume(m, c)
	e.host = &h
	return e, nil
}

// addrOf is an IPv4 address; invalid if there is none, or 0.0.0.0.
func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To4())
	if a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// requested is the address that a client asks for or has; invalid if none.
func requested(m *dhcpv4.DHCPv4) netip.Addr {
	for _, ip := range []net.IP{m.RequestedIPAddress(), m.ClientIPAddr} {
		if a := addrOf(ip); a.IsValid() {
			return a
		}
	}
	return netip.Addr{}
}

// decide decides, and tells why there is no boot where there is none.
func (s *Server) decide(c bootClient, h *hosts.Host) answer {
	a := decide(h, c, s.Mode, s.Unknown, s.Now())
	if a.Why != "" {
		s.Log.Debug("no boot", "mac", c.MAC, "client", c, "why", a.Why)
		s.traceRefusal(c.MAC, a.Why)
	}
	if h != nil && a.Note {
		s.note(*h, "%s asked to boot and was refused: %s", c, a.Why)
	}
	return a
}

// boot is the host's boot: the one under way, or a new one. It is empty if the
// host cannot be booted after all.
func (s *Server) boot(l *servedLink, c bootClient, h hosts.Host) (hosts.Boot, error) {
	turn := &s.booting[maphash.String(seed, h.Name)%shards]
	turn.Lock()
	defer turn.Unlock()

	h, err := s.Hosts.Get(h.Name) // DHCP and TFTP are answered side by side
	if err != nil {
		return hosts.Boot{}, err
	}

	if (s.fresh(h) || s.late(h)) && h.Boot.MAC == c.MAC {
		if c.profile().uuid {
			return s.oneOfTwo(c, h)
		}
		return s.toldMore(c, h)
	}

	img, err := s.Images.Get(h.Image)
	switch {
	case err != nil:
		s.note(h, "%s asked to boot and was refused: %s", c, err)
		return hosts.Boot{}, nil
	case string(img.Arch) != h.Arch:
		s.note(h, "%s asked to boot and was refused: image %s is for %s, and %s is built for %s: enroll it with "+
			"another --image", c, h.Image, img.Arch, h.Name, h.Arch)
		return hosts.Boot{}, nil
	}

	machine := c.Machine
	if !c.profile().uuid {
		machine = h.Machine
	}
	next, err := s.Hosts.BeginBoot(h.Name, hosts.Boot{
		Client:  c.String(),
		MAC:     c.MAC,
		Server:  l.self.String(),
		Expires: s.Now().Add(s.BootTime),
		Board:   c.board(),
		Serial:  c.Pi.Serial,
	}, machine)
	if s.clash(err) {
		return hosts.Boot{}, nil
	}
	if errors.Is(err, hosts.ErrRefused) { // it changed since it was decided
		return hosts.Boot{}, nil
	}
	if err != nil {
		return hosts.Boot{}, fmt.Errorf("begin a boot of %s: %w", h.Name, err)
	}

	s.prefetch(img)
	return next.Boot, nil
}

// oneOfTwo is the host's boot as it is. Where machines with several UUIDs have asked before anybody fetched it, it is
// not known which of them will: it binds the host to none.
func (s *Server) oneOfTwo(c bootClient, h hosts.Host) (hosts.Boot, error) {
	if !s.fresh(h) || c.Machine == "" || h.Boot.Machine == "" || h.Boot.Machine == c.Machine {
		return h.Boot, nil
	}
	h, err := s.Hosts.UnbindBoot(h.Name, h.Boot, c.Machine)
	if errors.Is(err, hosts.ErrRefused) { // it was fetched meanwhile
		return h.Boot, nil
	}
	return h.Boot, err
}

// fresh reports whether the host's boot was offered and not yet taken up:
// firmware asks several times before it loads anything, and iPXE asks again
// after it. One that was taken up and is asked for again was interrupted.
func (s *Server) fresh(h hosts.Host) bool {
	return h.State == hosts.StateBooting && h.Boot.Serves(s.Now()) && h.Boot.TakenBy == ""
}

// late reports whether the host's boot was taken up so short a time ago that
// what is answered now was sent before: some networks let packets arrive twice,
// and U-Boot does not wait for a proxy's offer. A machine that restarted as
// quickly has the same address, and goes on with the same boot.
func (s *Server) late(h hosts.Host) bool {
	return h.State == hosts.StateBooting && s.Now().Sub(h.Boot.Taken) < 5*time.Second
}

// moved keeps where a machine is, if that is new, on our link or behind a
// relay to it, and of use: once the host is installed, nobody looks for it any
// more.
func (s *Server) moved(l *servedLink, h hosts.Host, m *dhcpv4.DHCPv4, addr netip.Addr) {
	via := agentOf(m)
	if !addr.IsValid() || h.Address == addr.String() || h.State == hosts.StateInstalled ||
		!l.net.Contains(addr) && !s.behind(via.addr, addr) && !s.behind(via.link, addr) {
		return
	}
	_, err := s.Hosts.Apply(h.Name, hosts.Event{
		Kind:    hosts.EventAddress,
		Address: addr.String(),
		Message: "has address " + addr.String(),
	})
	if err != nil && !overtaken(err) {
		s.Log.Error("keep an address", "host", h.Name, "err", err)
	}
}
