package pxe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"provision/hosts"
)

// serveDHCP reads requests, has them answered, and sends the answers.
func (s *Server) serveDHCP(ctx context.Context, conn *net.UDPConn, answer func(*dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error)) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	buf := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFromUDP(buf)
		if closed(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receive DHCP: %w", err)
		}
		m, err := dhcpv4.FromBytes(buf[:n])
		if err != nil {
			s.Log.Debug("not a DHCP packet", "from", from, "err", err)
			continue
		}
		r, err := answer(m)
		if errors.Is(err, errNoAddress) {
			s.Log.Debug("answer DHCP", "mac", m.ClientHWAddr, "err", err)
			continue
		}
		if err != nil {
			s.Log.Error("answer DHCP", "mac", m.ClientHWAddr, "err", err)
			continue
		}
		if r == nil {
			continue
		}
		to := destination(m, r)
		if from.Port == 4011 || conn.LocalAddr().(*net.UDPAddr).Port == 4011 {
			to = from // RFC 4578 leaves it open; EDK2 and iPXE listen where they sent from
		}
		_, err = conn.WriteToUDP(r.ToBytes(), to)
		s.Log.Debug("answered DHCP", "mac", m.ClientHWAddr, "request", m.MessageType(), "answer", r.MessageType(), "to", to,
			"address", r.YourIPAddr, "file", r.BootFileName != "", "err", err)
	}
}

// answerDHCP answers what came to port 67. A nil reply is silence.
func (s *Server) answerDHCP(m *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	c, h, err := s.who(m)
	if err != nil || c.MAC == "" {
		return nil, err
	}
	if s.Mode == Proxy {
		return s.answerProxy(m, c, h)
	}
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest:
		return s.answerFull(m, c, h)
	case dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeDecline:
		if h == nil || !s.isSelf(m.ServerIdentifier()) {
			return nil, nil
		}
		return nil, s.leases.release(c.MAC, requested(m), m.MessageType() == dhcpv4.MessageTypeDecline)
	}
	return nil, nil
}

// who finds the host behind a packet: nil for a MAC that is not enrolled,
// which is recorded as discovered.
func (s *Server) who(m *dhcpv4.DHCPv4) (client, *hosts.Host, error) {
	c, err := identify(m)
	if err != nil {
		return client{}, nil, nil // somebody else's packet is not our error
	}
	h, err := s.Hosts.ByMAC(c.MAC)
	if errors.Is(err, hosts.ErrNotFound) {
		s.Hosts.See(hosts.Discovered{MAC: c.MAC, Vendor: c.Vendor, Arch: archWords(c.Arches)})
		return c, nil, nil
	}
	return c, &h, err
}

// answerProxy is ProxyDHCP on port 67 (PXE 2.1 section 2.2): offers to those
// who may boot. An address is never given. Requests to the real server pass
// by and tell where the machine will be.
func (s *Server) answerProxy(m *dhcpv4.DHCPv4, c client, h *hosts.Host) (*dhcpv4.DHCPv4, error) {
	switch m.MessageType() {
	case dhcpv4.MessageTypeRequest:
		if h != nil {
			s.moved(*h, requested(m))
		}
		if !s.isSelf(m.ServerIdentifier()) {
			return nil, nil
		}
	case dhcpv4.MessageTypeDiscover:
	default:
		return nil, nil
	}
	b, err := s.load(c, h, s.decide(c, h))
	if err != nil || b.empty() {
		return nil, err
	}
	return proxyReply(m, b)
}

// answerBINL answers on port 4011, where a PXE client asks for its file name
// after it has an address.
func (s *Server) answerBINL(m *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	if t := m.MessageType(); t != dhcpv4.MessageTypeRequest && t != dhcpv4.MessageTypeInform {
		return nil, nil
	}
	c, h, err := s.who(m)
	if err != nil || c.MAC == "" {
		return nil, err
	}
	b, err := s.load(c, h, s.decide(c, h))
	if err != nil || b.empty() {
		return nil, err
	}
	return proxyReply(m, b)
}

// answerFull is DHCP (RFC 2131) for those who may have a lease. What the machine
// loads is arranged last, so that a request that comes to nothing uses
// no boot up.
func (s *Server) answerFull(m *dhcpv4.DHCPv4, c client, h *hosts.Host) (*dhcpv4.DHCPv4, error) {
	a := s.decide(c, h)
	if !a.Lease {
		return nil, nil
	}
	if via := m.GatewayIPAddr; via != nil && !via.IsUnspecified() && !s.link.Contains(addrOf(via)) {
		return nil, nil // a relay of another network; our addresses are of no use there
	}
	addr, ok, err := s.lease(m, c, h)
	if err != nil || !addr.IsValid() {
		return nil, err
	}
	if !ok {
		return nak(m, s.self)
	}
	b, err := s.load(c, h, a)
	if err != nil {
		return nil, err
	}
	return leaseReply(m, addr, s.net, b)
}

// lease is the address for a DISCOVER, or the one that a REQUEST confirms.
// With ok false the request is to be refused; with no address it is another
// server's.
func (s *Server) lease(m *dhcpv4.DHCPv4, c client, h *hosts.Host) (addr netip.Addr, ok bool, err error) {
	var fixed netip.Addr
	if h != nil && h.Options.Address != "" {
		if fixed, err = netip.ParseAddr(h.Options.Address); err != nil {
			return addr, false, fmt.Errorf("fixed address of %s: %w", h.Name, err)
		}
	}
	want := requested(m)
	if m.MessageType() == dhcpv4.MessageTypeDiscover {
		addr, err = s.leases.offer(c.MAC, fixed, want)
		return addr, true, err
	}
	if id := m.ServerIdentifier(); id != nil && !id.IsUnspecified() && !s.isSelf(id) {
		return addr, false, nil // it chose another server
	}
	if !want.IsValid() {
		return addr, false, nil
	}
	if fixed.IsValid() && want != fixed {
		return want, false, nil
	}
	if ok, err = s.leases.confirm(c.MAC, want); ok && h != nil {
		s.moved(*h, want)
	}
	return want, ok, err
}

func (s *Server) isSelf(id net.IP) bool { return id != nil && id.Equal(s.self.AsSlice()) }

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To4())
	return a
}

// requested is the address that a client asks for or has; invalid if none.
func requested(m *dhcpv4.DHCPv4) netip.Addr {
	for _, ip := range []net.IP{m.RequestedIPAddress(), m.ClientIPAddr} {
		if a := addrOf(ip); a.IsValid() && !a.IsUnspecified() {
			return a
		}
	}
	return netip.Addr{}
}

// decide decides, and tells why there is no boot where there is none.
func (s *Server) decide(c client, h *hosts.Host) answer {
	a := decide(h, c, s.Mode, s.Hold, s.Now())
	if a.Why != "" {
		s.Log.Debug("no boot", "mac", c.MAC, "client", c, "why", a.Why)
	}
	if h != nil && a.Tell {
		s.tell(*h, "%s asked to boot and was refused: %s", c, a.Why)
	}
	return a
}

// load is where the machine finds what was decided that it loads. It begins a
// boot where that is a new one.
func (s *Server) load(c client, h *hosts.Host, a answer) (bootInfo, error) {
	b := bootInfo{Server: s.self, Kind: c.Kind, Local: a.Load == local}
	switch {
	case a.Load == nothing || a.Load == local:
		return b, nil
	case h == nil: // --unknown=hold
		b.File = s.holdFile(a.Load, c.MAC)
		return b, nil
	}
	boot := h.Boot
	if !s.fresh(*h) {
		next, err := s.Hosts.BeginBoot(h.Name, hosts.Boot{Via: c.String(), Server: s.self.String(), Expires: s.Now().Add(s.BootTime)}, c.Machine)
		if errors.Is(err, hosts.ErrRefused) { // it changed since it was decided
			return b, nil
		}
		if err != nil {
			return b, fmt.Errorf("begin a boot of %s: %w", h.Name, err)
		}
		boot = next.Boot
	}
	b.File = bootPath + boot.Token + "/" + string(a.Load)
	if a.Load == script {
		b.File = s.url("/" + b.File)
	}
	return b, nil
}

// fresh reports whether the host's boot was offered and not yet taken up:
// firmware asks several times before it loads anything, and iPXE asks again
// after it. One that was taken up and is asked for again was interrupted.
func (s *Server) fresh(h hosts.Host) bool {
	return h.State == hosts.Booting && h.Boot.Serves(s.Now()) && h.Boot.Client == ""
}

// moved keeps where a machine is, if that is new, on our link, and of use:
// once the host is installed, nobody looks for it any more.
func (s *Server) moved(h hosts.Host, addr netip.Addr) {
	if !s.link.Contains(addr) || h.Address == addr.String() || h.State == hosts.Installed {
		return
	}
	_, err := s.Hosts.Apply(h.Name, hosts.Event{Kind: hosts.Moved, Address: addr.String(), Message: "has address " + addr.String()})
	if err != nil {
		s.Log.Error("keep an address", "host", h.Name, "err", err)
	}
}
