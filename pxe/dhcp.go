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
	"slices"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"provision/hosts"
)

// A responder answers what came to one port; a nil reply is silence.
type responder func(*servedLink, *dhcpv4.DHCPv4, bootClient, *hosts.Host) (*dhcpv4.DHCPv4, error)

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
	c, h, err := s.who(l, m)
	if c.MAC == "" {
		return nil, netip.AddrPort{}
	}
	// RFC 4578 leaves open where an answer from port 4011 goes; EDK2 and iPXE listen where they sent from.
	back := port == 4011 || from.Port() == 4011
	relay := addrOf(m.GatewayIPAddr)
	if back {
		relay = netip.Addr{}
	}
	if err == nil && !s.admits(from.Addr().Unmap(), relay, c, h) {
		return nil, netip.AddrPort{}
	}
	var r *dhcpv4.DHCPv4
	if err == nil {
		if h == nil {
			s.discovered(l, m, c)
		}
		s.traceRequest(l, from, port, raw, m, c, h)
		s.watchRestart(m, c, h)
		r, err = respond(l, m, c, h)
	}
	switch {
	case errors.Is(err, errNoAddress):
		const help = "end leases, or serve with a larger --dhcp-range"
		s.traceFailure(c.MAC, err, help)
		if h != nil {
			s.note(*h, "%s got no address: %v; %s", c, err, help)
		}
		if s.exhausted.due(s.Now()) {
			s.Log.Warn("no address is left to hand out: serve with a larger --dhcp-range", "mac", c.MAC, "err", err)
		}
	case err != nil && !overtaken(err):
		s.Log.Error("answer DHCP", "mac", c.MAC, "err", err)
	}
	if err != nil || r == nil {
		return nil, netip.AddrPort{}
	}
	to := destination(m, r, s.serves)
	if back {
		to = from
	}
	s.traceReply(l, to, port, r, c)
	return r, to
}

// who finds the host behind a packet: nil for a MAC that is not enrolled. A client
// without a MAC is nobody's.
func (s *Server) who(l *servedLink, m *dhcpv4.DHCPv4) (bootClient, *hosts.Host, error) {
	c, err := identify(m)
	if err != nil || c.MAC == l.mac { // somebody else's packet is not our error; our own is `provision doctor`
		return bootClient{}, nil, nil
	}
	h, err := s.Hosts.ByMAC(c.MAC)
	if errors.Is(err, hosts.ErrNotFound) {
		if h := s.installerOf(m, c); h != nil {
			return c, h, nil
		}
		return c, nil, nil
	}
	return s.pis.resume(m, c), &h, err
}

// discovered records a machine that is not enrolled.
func (s *Server) discovered(l *servedLink, m *dhcpv4.DHCPv4, c bootClient) {
	d := hosts.Discovered{MAC: c.MAC, Vendor: c.Vendor, Board: c.board()}
	if addr := requested(m); addr.IsValid() && l.net.Contains(addr) && m.MessageType() == dhcpv4.MessageTypeRequest {
		d.Address = addr.String()
	}
	if c.profile().loads != nothing {
		d.Arch = c.String()
	}
	s.Hosts.See(d)
}

// answerDHCP answers what came to port 67.
func (s *Server) answerDHCP(l *servedLink, m *dhcpv4.DHCPv4, c bootClient, h *hosts.Host) (*dhcpv4.DHCPv4, error) {
	if h != nil && c.profile().loads == tree && s.pis.askedBefore(m, c, s.Now()) {
		return nil, nil
	}
	if s.Mode == Proxy {
		return s.answerProxy(l, m, c, h)
	}
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest:
		return s.answerFull(l, m, c, h)
	case dhcpv4.MessageTypeInform, dhcpv4.MessageTypeNone: // none: BOOTP
		if h == nil {
			return nil, nil
		}
		return s.answerFull(l, m, c, h)
	case dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeDecline:
		sub := s.subnetFor(l, m)
		if h == nil || sub == nil || !isSelf(l, m) {
			return nil, nil
		}
		if m.MessageType() == dhcpv4.MessageTypeDecline {
			return nil, s.decline(sub, c, *h, requested(m))
		}
		_, err := sub.release(c.MAC, requested(m), false)
		return nil, err
	}
	return nil, nil
}

// decline takes an address back that a machine found in use, and tells of it.
func (s *Server) decline(sub *subnet, c bootClient, h hosts.Host, addr netip.Addr) error {
	lost, err := sub.release(c.MAC, addr, true)
	if errors.Is(err, errDeclines) {
		s.drops.add("declined addresses", c.MAC)
		s.note(h, "%s declined %s, and keeps it: %v; look for what answers its ARP probes", c.MAC, addr, err)
		return nil
	}
	if !lost {
		return err
	}
	until := s.Now().Add(s.Lease).Format(time.DateTime)
	const help = "look for the machine that uses it; if others are in use, too, serve with another --dhcp-range"
	s.note(h, "%s declined %s: it found that another machine uses it, so it is handed out to nobody until %s; %s",
		c.MAC, addr, until, help)
	s.Log.Warn("a machine declined its address, because another one uses it; "+help,
		"host", h.Name, "mac", c.MAC, "address", addr, "kept back until", until)
	return err
}

// answerProxy is ProxyDHCP on port 67 (PXE 2.1 section 2.2): offers to those
// who may boot. An address is never given. Requests to the real server pass
// by and tell where the machine will be.
func (s *Server) answerProxy(l *servedLink, m *dhcpv4.DHCPv4, c bootClient, h *hosts.Host) (*dhcpv4.DHCPv4, error) {
	switch m.MessageType() {
	case dhcpv4.MessageTypeRequest:
		if h != nil {
			s.moved(l, *h, m, requested(m))
		}
		// A server identifier override (RFC 5107) is that of the server which gave the address.
		if addrOf(m.ServerIdentifier()) != l.self {
			return nil, nil
		}
	case dhcpv4.MessageTypeDiscover:
	default:
		// DHCPINFORM is for the server that configures the client's network; who wants to boot sends it to port 4011.
		// A BOOTP client takes one reply for its whole configuration (RFC 951), and a proxy has no address to put in it.
		return nil, nil
	}
	b, err := s.load(l, m, c, h, s.decide(c, h))
	if err != nil || b.empty() {
		return nil, err
	}
	return proxyReply(m, b)
}

// answerBINL answers on port 4011, where a PXE client asks for its file name
// after it has an address.
func (s *Server) answerBINL(l *servedLink, m *dhcpv4.DHCPv4, c bootClient, h *hosts.Host) (*dhcpv4.DHCPv4, error) {
	if t := m.MessageType(); t != dhcpv4.MessageTypeRequest && t != dhcpv4.MessageTypeInform || c.profile().loads == tree {
		return nil, nil
	}
	b, err := s.load(l, m, c, h, s.decide(c, h))
	if err != nil || b.empty() {
		return nil, err
	}
	r, err := proxyReply(m, b)
	if err == nil && !b.Local {
		r.Options.Del(dhcpv4.OptionVendorSpecificInformation) // discovery is over; this is the server that was found
	}
	return r, err
}

// answerFull is DHCP (RFC 2131) for those who may have a lease. What the machine
// loads is arranged last, so that a request that comes to nothing uses
// no boot up.
func (s *Server) answerFull(l *servedLink, m *dhcpv4.DHCPv4, c bootClient, h *hosts.Host) (*dhcpv4.DHCPv4, error) {
	a := s.decide(c, h)
	if !a.Lease {
		return nil, nil
	}
	via := agentOf(m)
	sub := s.subnetFor(l, m)
	if sub == nil {
		if via.addr.IsValid() && h != nil {
			s.note(*h, "%s asked %s, for whose network there are no addresses: "+
				"serve with --dhcp-range FIRST-LAST/BITS for it too", c, via)
		}
		return nil, nil
	}
	addr, ok, err := s.lease(l, sub, m, c, h)
	if err != nil || !addr.IsValid() {
		return nil, err
	}
	if !ok {
		return nak(m, serverID(l, m))
	}
	b, err := s.load(l, m, c, h, a)
	if err != nil {
		return nil, err
	}
	n := bootNetwork{
		Server: serverID(l, m),
		Mask:   net.CIDRMask(sub.prefix.Bits(), 32),
		Router: sub.router,
		DNS:    s.DNS,
		Domain: s.Domain,
		Lease:  s.Lease,
	}
	if !n.Router.IsValid() && !l.net.Overlaps(sub.prefix) {
		n.Router = sub.relayed(via.router(sub.prefix))
	}
	return leaseReply(m, addr, n, b)
}

// lease is the address for a DISCOVER, or the one that a REQUEST confirms.
// With ok false the request is to be refused; with no address it is another
// server's.
func (s *Server) lease(l *servedLink, sub *subnet, m *dhcpv4.DHCPv4, c bootClient, h *hosts.Host) (addr netip.Addr,
	ok bool, err error) {
	var fixed netip.Addr
	if h != nil && h.FixedAddress != "" && slices.Contains(h.MACs, c.MAC) {
		if fixed, err = netip.ParseAddr(h.FixedAddress); err != nil {
			return addr, false, fmt.Errorf("fixed address of %s: %w", h.Name, err)
		}
		if !sub.prefix.Contains(fixed) { // the machine hangs on another network today
			fixed = netip.Addr{}
		}
	}
	want := requested(m)
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		if h != nil && !fixed.IsValid() {
			sub.awaitProbes()
		}
		if addr, err = sub.offer(c.MAC, fixed, want, h != nil); err == nil && h != nil {
			s.tellDoubt(*h, c, sub.doubt(c.MAC, addr))
		}
		return addr, true, err
	case dhcpv4.MessageTypeInform:
		if has := addrOf(m.ClientIPAddr); sub.prefix.Contains(has) { // whoever gave it (RFC 2131 section 4.3.5)
			addr = has
		}
		return addr, true, nil
	case dhcpv4.MessageTypeNone:
		return s.leaseBOOTP(l, sub, m, c, h, fixed)
	}
	if id := m.ServerIdentifier(); id != nil && !id.IsUnspecified() && !isSelf(l, m) {
		return addr, false, nil // it chose another server
	}
	if !want.IsValid() {
		return addr, false, nil
	}
	if !fixed.IsValid() || want == fixed {
		if ok, err = sub.confirm(c.MAC, want); ok && h != nil {
			s.moved(l, *h, m, want)
		}
	}
	// What is in this network and was not ours to give may be another server's (RFC 2131, section 4.3.2, INIT-REBOOT),
	// and that one is called by the same server identifier override.
	named := addrOf(m.ServerIdentifier()) == l.self
	if !ok && err == nil && !named && !fixed.IsValid() && sub.prefix.Contains(want) && !sub.rng.contains(want) {
		return addr, false, nil
	}
	return want, ok, err
}

// leaseBOOTP is the host's fixed address, the only one for a BOOTP client: it never renews, so that a lease of it would
// have to last for ever (RFC 1534 section 2).
func (s *Server) leaseBOOTP(l *servedLink, sub *subnet, m *dhcpv4.DHCPv4, c bootClient, h *hosts.Host,
	fixed netip.Addr) (
	addr netip.Addr, ok bool, err error) {
	if !fixed.IsValid() {
		s.note(*h, "%s asked by BOOTP, which knows no leases, and got no address: give it one outside of --dhcp-range "+
			"with `provision set %s --address ADDRESS`", c.MAC, h.Name)
		return addr, false, nil
	}
	if _, err = sub.offer(c.MAC, fixed, fixed, true); err != nil {
		return addr, false, err
	}
	if ok, err = sub.confirm(c.MAC, fixed); err != nil || !ok {
		return addr, false, err
	}
	s.moved(l, *h, m, fixed)
	return fixed, true, nil
}

// tellDoubt tells of an address that was handed out although it may be in use.
func (s *Server) tellDoubt(h hosts.Host, c bootClient, why string) {
	if why == "" {
		return
	}
	const help = "look for the machine with that MAC; if the addresses are really in use, serve with another --dhcp-range"
	s.note(h, "%s got an address that may be in use: %s; %s", c, why, help)
	if s.doubted.due(s.Now()) {
		s.Log.Warn("an address was handed out that may be in use; "+help, "host", h.Name, "mac", c.MAC, "why", why)
	}
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
	a := decide(h, c, s.Mode, s.Hold, s.Now())
	if a.Why != "" {
		s.Log.Debug("no boot", "mac", c.MAC, "client", c, "why", a.Why)
		s.traceRefusal(c.MAC, a.Why)
	}
	if h != nil && a.Note {
		s.note(*h, "%s asked to boot and was refused: %s", c, a.Why)
	}
	return a
}

// load is where the machine finds what was decided that it loads. It begins a
// boot where that is a new one.
func (s *Server) load(l *servedLink, m *dhcpv4.DHCPv4, c bootClient, h *hosts.Host, a answer) (bootInfo, error) {
	b := bootInfo{Server: l.self, Kind: c.Kind, Arch: c.Arch, Local: a.Load == local}
	if a.Load == local && c.profile().url {
		b.File, b.Local = s.url(l.self.String(), localPath), false
		return b, nil
	}
	if a.Load == nothing || a.Load == local {
		return b, nil
	}
	if a.Load == tree {
		boot, err := s.bootPi(l, c, *h)
		b.Tree = boot.Token != ""
		return b, err
	}
	var pinned, worked hosts.Method
	if h != nil {
		pinned, worked = h.BootMethod, h.Method
	}
	if a.Load == script && !c.Ours && pinned != (hosts.Method{}) && !s.ladders.loaded(c.MAC) {
		// An iPXE in ROM is not trusted: it loads another as firmware does.
		a.Load, b.Kind = loadProgram, pxeFirmware
	}
	file := map[loader]string{script: "script", config: "u-boot"}[a.Load]
	if a.Load == loadProgram {
		how := s.ladders.ask(c, stepsFor(c, s.Mode, s.programs), m.MessageType() == dhcpv4.MessageTypeDiscover, pinned,
			worked, s.Now())
		if file = programFile(c, how.Program); file == "" || how.Program == "" {
			if h != nil {
				s.note(*h, "%s asked, and its boot method %s cannot be used with it in %s mode: enroll it with another --boot-method", c, pinned, s.Mode)
			}
			return b, nil
		}
		b.Offer = how.Offer
	}
	if h == nil {
		b.File = s.holdFile(a.Load, c.MAC, file)
	} else {
		boot, err := s.boot(l, c, *h)
		if err != nil || boot.Token == "" {
			return b, err
		}
		b.File = bootPath + boot.Token + "/" + file
	}
	if a.Load == script || profiles[b.Kind].url {
		b.File = s.url(l.self.String(), b.File)
	}
	return b, nil
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
		s.note(h, "%s asked to boot and was refused: image %s is for %s, and %s is built for %s: enroll it with another --image", c, h.Image, img.Arch, h.Name, h.Arch)
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
