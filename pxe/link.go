package pxe

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"provision/hosts"
)

// servedLink is one network interface that is served, as it is at a time.
type servedLink struct {
	name  string
	index int          // an interface that is made again has another
	self  netip.Addr   // our address on it
	net   netip.Prefix // its network
	mtu   atomic.Int64 // bytes; it may change while the link is served
	mac   string       // of the interface
	sock  sockets
	// neighbour is the MAC of an address, as the kernel resolved it; "" if it did not.
	neighbour func(netip.Addr) string
}

// sockets are all that is listened on at one link.
type sockets struct {
	dhcp, binl, tftp *net.UDPConn // dhcp and binl are nil in mode Off
	dhcp6            *net.IPConn  // nil in mode Off, and without IPv6
	http             net.Listener
}

func (s *sockets) close() {
	for _, c := range []*net.UDPConn{s.dhcp, s.binl, s.tftp} {
		if c != nil {
			c.Close()
		}
	}
	if s.dhcp6 != nil {
		s.dhcp6.Close()
	}
	if s.http != nil {
		s.http.Close()
	}
}

// CheckInterface returns an error if a text is not NAME or NAME=ADDRESS[/BITS].
func CheckInterface(text string) error {
	_, _, err := parseInterface(text)
	return err
}

func parseInterface(text string) (name string, chosen netip.Prefix, err error) {
	name, at, is := strings.Cut(text, "=")
	if !is {
		return name, chosen, nil
	}
	if chosen, err = netip.ParsePrefix(at); err != nil {
		addr, addrErr := netip.ParseAddr(at)
		chosen, err = netip.PrefixFrom(addr, 32), addrErr
	}
	if err != nil || !chosen.Addr().Is4() {
		return name, chosen, fmt.Errorf("interface %q: write NAME, or NAME=ADDRESS to choose among its IPv4 "+
			"addresses", text)
	}
	return name, chosen, nil
}

// openLink looks an interface up, and which of its IPv4 addresses is ours: the one that was chosen; else the first that
// is not link-local, if there is one. was is what it was before: an address that is still there stays ours.
func openLink(text string, was *servedLink) (*servedLink, error) {
	name, chosen, err := parseInterface(text)
	if err != nil {
		return nil, err
	}

	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("network interface %q does not exist; there are: %s", name, strings.Join(interfaceNames(), ", "))
	}

	addrs, err := ifi.Addrs()
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", name, err)
	}

	var all []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			all = append(all, p)
		}
	}

	slices.SortStableFunc(all, func(a, b netip.Prefix) int { return rank(a, chosen, was) - rank(b, chosen, was) })
	l := &servedLink{name: name, index: ifi.Index, mac: ifi.HardwareAddr.String()}
	l.mtu.Store(int64(ifi.MTU))
	l.neighbour = l.kernelNeighbour
	switch {
	case len(all) == 0 && !chosen.IsValid():
		return nil, fmt.Errorf("network interface %s has no IPv4 address; give it one: ip address add ADDRESS/24 dev %s", name, name)
	case chosen.IsValid() && (len(all) == 0 || all[0].Addr() != chosen.Addr()):
		return nil, fmt.Errorf("network interface %s has not the address %s; it has: %s", name, chosen.Addr(), networksText(all))
	}

	l.self, l.net = all[0].Addr(), all[0].Masked()
	return l, nil
}

// rank is lower for an address that is rather ours.
func rank(p, chosen netip.Prefix, was *servedLink) int {
	switch {
	case p.Addr() == chosen.Addr():
		return 0
	case p.Addr().IsLinkLocalUnicast():
		return 3
	case was != nil && p.Addr() == was.self:
		return 1
	}
	return 2
}

func networksText(all []netip.Prefix) string {
	if len(all) == 0 {
		return "none"
	}
	return strings.Trim(fmt.Sprint(all), "[]")
}

func interfaceNames() (names []string) {
	all, _ := net.Interfaces()
	for _, i := range all {
		names = append(names, i.Name)
	}
	return names
}

// Addresses are ours on the interfaces that are served now, by their names.
func (s *Server) Addresses() map[string]netip.Addr {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make(map[string]netip.Addr)
	for _, l := range s.links {
		all[l.name] = l.self
	}
	return all
}

// kernelNeighbour looks an address up in the kernel's table. Who sends us TCP or answered UDP is in its table, which
// may be long: it is asked for the one address (arp(7), SIOCGARP).
func (l *servedLink) kernelNeighbour(addr netip.Addr) string {
	if !addr.Is4() {
		return ""
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)

	req := arpRequest{protocol: unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: addr.As4()}}
	copy(req.device[:unix.IFNAMSIZ-1], l.name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGARP, uintptr(unsafe.Pointer(&req)))
	const complete = 2 // ATF_COM
	if errno != 0 || req.flags&complete == 0 || req.hardware.Family != unix.ARPHRD_ETHER {
		return ""
	}
	mac, err := hosts.ParseMAC(net.HardwareAddr(req.hardware.Data[:6]).String())
	if err != nil {
		return ""
	}
	return mac
}

// keepNeighbour renews an entry of the kernel's table (arp(7), SIOCSARP), as one
// that is to be asked for when it is next used; it outlasts nothing. Without
// CAP_NET_ADMIN it does nothing.
func (l *servedLink) keepNeighbour(addr netip.Addr, mac string) {
	hardware, err := net.ParseMAC(mac)
	if err != nil || !addr.Is4() || l.neighbour(addr) != mac {
		return
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	req := arpRequest{protocol: unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: addr.As4()}, flags: 2} // ATF_COM
	req.hardware.Family = unix.ARPHRD_ETHER
	copy(req.hardware.Data[:], hardware)
	copy(req.device[:unix.IFNAMSIZ-1], l.name)
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSARP, uintptr(unsafe.Pointer(&req)))
}

// arpRequest is struct arpreq of arp(7).
type arpRequest struct {
	protocol unix.RawSockaddrInet4
	hardware struct {
		Family uint16
		Data   [14]byte
	}
	flags   int32
	netmask unix.RawSockaddrInet4
	device  [unix.IFNAMSIZ]byte
}

// A subnet is addresses to hand out, on a link or behind a relay.
type subnet struct {
	*pool
	prefix netip.Prefix
	router netip.Addr // invalid: none is told
}

// openSubnets opens the pools of full DHCP mode. A range without a prefix length
// is of the link that holds it; behind a relay it says its own. A range that is of no link is an error, but left out
// while an interface is waited for. s.mu is held.
func (s *Server) openSubnets(waiting bool) error {
	if s.Mode != Full {
		return nil
	}
	avoid := []netip.Addr{s.Router}
	for _, l := range s.links {
		avoid = append(avoid, l.self)
	}
	var all []subnet
	for _, r := range s.Ranges {
		sub := subnet{router: s.Router}
		if r.Bits > 0 {
			sub.prefix = netip.PrefixFrom(r.First, r.Bits).Masked()
		}
		for _, l := range s.links {
			if l.net.Contains(r.First) {
				sub.prefix = l.net
			}
		}

		switch {
		case !sub.prefix.IsValid() && waiting:
			continue
		case !sub.prefix.IsValid():
			return fmt.Errorf("DHCP range %s is in the network of none of the interfaces (%s); for machines behind "+
				"a relay write its prefix length, as in %s/24", r, s.where(), r)
		case !sub.prefix.Contains(r.Last):
			return fmt.Errorf("DHCP range %s is not within %s", r, sub.prefix)
		case slices.ContainsFunc(all, func(o subnet) bool { return o.prefix.Overlaps(sub.prefix) }):
			return fmt.Errorf("DHCP range %s: there is another range in %s; write one for each network", r, sub.prefix)
		}

		if !sub.prefix.Contains(s.Router) { // behind a relay, that is the router
			sub.router = netip.Addr{}
		}
		if i := slices.IndexFunc(s.subnets, func(o subnet) bool { return o.rng == r }); i >= 0 {
			sub.pool = s.subnets[i].pool
			sub.pool.avoids(avoid)
		} else {
			var err error
			if sub.pool, err = newPool(s.Leases, r, s.Lease, s.Now, avoid...); err != nil {
				return err
			}
		}

		all = append(all, sub)
	}

	within := func(sub subnet) bool { return sub.prefix.Contains(s.Router) }
	if s.Router.IsValid() && !waiting && !slices.ContainsFunc(all, within) {
		return fmt.Errorf("router %s is in none of the networks whose addresses are handed out", s.Router)
	}
	s.subnets = all
	return nil
}

// where is the networks that are served, for messages. s.mu is held.
func (s *Server) where() string {
	var all []string
	for _, l := range s.links {
		all = append(all, l.name+": "+l.net.String())
	}
	return strings.Join(all, ", ")
}

// subnetFor is the subnet of a request that came by a link: that of the link which the relay
// names, by which it came; else that of a relay by which the client had its address,
// which it asks us directly to renew; else the link's. nil: there is none.
func (s *Server) subnetFor(l *servedLink, m *dhcpv4.DHCPv4) *subnet {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if via := agentOf(m); via.addr.IsValid() {
		return s.subnet(via.link)
	}
	sub := s.subnet(addrOf(m.ClientIPAddr))
	if sub != nil && !slices.ContainsFunc(s.links, func(l *servedLink) bool { return l.net.Overlaps(sub.prefix) }) {
		return sub
	}
	return s.subnet(l.self)
}

// CheckAddress says why machines with these MACs cannot have an address of ours: it is this server's own or the
// router's, of no network whose addresses are handed out, or leased to another machine.
func (s *Server) CheckAddress(addr netip.Addr, macs []string) error {
	if s.Mode != Full {
		return nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	sub := s.subnet(addr)
	if sub == nil {
		var all []string
		for _, sub := range s.subnets {
			all = append(all, sub.prefix.String())
		}
		return fmt.Errorf("address %s is in none of the networks whose addresses are handed out (%s)", addr, strings.Join(all, ", "))
	}

	if err := sub.refuses(addr, macs); err != nil {
		return fmt.Errorf("address %s: %w", addr, err)
	}
	return nil
}

// subnet is the one that holds an address. s.mu is held.
func (s *Server) subnet(at netip.Addr) *subnet {
	for i := range s.subnets {
		if s.subnets[i].prefix.Contains(at) {
			return &s.subnets[i]
		}
	}
	return nil
}
