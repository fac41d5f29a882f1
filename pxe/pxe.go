// Package pxe answers booting machines: DHCP or ProxyDHCP, TFTP and HTTP.
//
// What a machine gets depends on its host's state alone (decide.go), and is
// checked again at every stage: knowing a URL or a file name is not enough.
package pxe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/tinkerbell/ipxedust/binary"
	"golang.org/x/sync/errgroup"

	"provision/hosts"
	"provision/images"
)

// Server serves one network interface. Its exported fields are its options;
// Listen checks them.
type Server struct {
	Interface string // with an IPv4 address
	Mode      Mode
	Range     Range        // full DHCP mode
	Router    netip.Addr   // full DHCP mode; invalid: none is told
	DNS       []netip.Addr // full DHCP mode
	Domain    string       // full DHCP mode
	Lease     time.Duration
	HTTPPort  int  // 1 to 65535
	Hold      bool // unknown machines are shown how to be enrolled, instead of silence
	BootTime  time.Duration

	Hosts  *hosts.Inventory
	Store  hosts.Store // for leases
	Images *images.Catalog
	Login  string // public key that may log in to installers, authorized_keys form
	Log    *slog.Logger
	Now    func() time.Time

	sock    sockets
	self    netip.Addr   // our address on Interface
	link    netip.Prefix // its network
	net     network
	leases  *pool
	program []byte // what TFTP hands out: iPXE
}

// sockets are all that Run listens on, opened before any is served, so that a
// server either answers everything or says why not.
type sockets struct {
	dhcp, binl, tftp *net.UDPConn
	http             net.Listener
}

// Listen checks the options and opens all ports. Run must follow.
func (s *Server) Listen(ctx context.Context) (err error) {
	if err := s.check(); err != nil {
		return err
	}
	s.sock, err = s.listen(ctx)
	return err
}

// Run serves until ctx ends, and then returns nil.
func (s *Server) Run(ctx context.Context) error {
	sock := s.sock
	s.Log.Info("answering booting machines", "interface", s.Interface, "address", s.self, "dhcp", s.Mode, "http", s.HTTPPort)
	g, ctx := errgroup.WithContext(ctx)
	if sock.dhcp != nil {
		g.Go(func() error { return s.serveDHCP(ctx, sock.dhcp, s.answerDHCP) })
		g.Go(func() error { return s.serveDHCP(ctx, sock.binl, s.answerBINL) })
	}
	g.Go(func() error { return s.serveTFTP(ctx, sock.tftp) })
	g.Go(func() error { return s.serveHTTP(ctx, sock.http) })
	return g.Wait()
}

func (s *Server) check() error {
	self, err := interfaceAddr(s.Interface)
	if err != nil {
		return err
	}
	s.self, s.link, s.program = self.Addr(), self.Masked(), binary.IpxeEFI
	if s.Mode != Full {
		return nil
	}
	if !self.Contains(s.Range.First) || !self.Contains(s.Range.Last) {
		return fmt.Errorf("DHCP range %s-%s is not within %s, the network of %s", s.Range.First, s.Range.Last, self.Masked(), s.Interface)
	}
	s.net = network{Server: s.self, Mask: net.CIDRMask(self.Bits(), 32), Router: s.Router, DNS: s.DNS, Domain: s.Domain, Lease: s.Lease}
	s.leases, err = newPool(s.Store, s.Range, s.Lease, s.Now, s.self, s.Router)
	return err
}

// interfaceAddr is the first IPv4 address of the interface, with its network.
func interfaceAddr(name string) (netip.Prefix, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("network interface %q does not exist; there are: %s", name, interfaceNames())
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("addresses of %s: %w", name, err)
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("network interface %s has no IPv4 address; give it one: ip address add ADDRESS/24 dev %s", name, name)
}

func interfaceNames() (names []string) {
	all, _ := net.Interfaces()
	for _, i := range all {
		names = append(names, i.Name)
	}
	return names
}

func (s *Server) listen(ctx context.Context) (sock sockets, err error) {
	defer func() {
		if err == nil {
			return
		}
		for _, c := range []*net.UDPConn{sock.dhcp, sock.binl, sock.tftp} {
			if c != nil {
				c.Close()
			}
		}
	}()
	if s.Mode != Off {
		if sock.dhcp, err = listenUDP(ctx, s.Interface, 67); err != nil {
			return sock, err
		}
		if sock.binl, err = listenUDP(ctx, s.Interface, 4011); err != nil {
			return sock, err
		}
	}
	if sock.tftp, err = listenUDP(ctx, s.Interface, 69); err != nil {
		return sock, err
	}
	addr := netip.AddrPortFrom(s.self, uint16(s.HTTPPort)).String()
	if sock.http, err = new(net.ListenConfig).Listen(ctx, "tcp4", addr); err != nil {
		err = portError("tcp", s.HTTPPort, err)
	}
	return sock, err
}

// url is of a path of ours, as a machine on the link reaches it.
func (s *Server) url(path string) string {
	host := s.self.String()
	if s.HTTPPort != 80 {
		host = netip.AddrPortFrom(s.self, uint16(s.HTTPPort)).String()
	}
	return "http://" + host + path
}

// tell puts a note into a host's log.
func (s *Server) tell(h hosts.Host, format string, args ...any) {
	if _, err := s.Hosts.Apply(h.Name, hosts.Event{Kind: hosts.Noted, Message: fmt.Sprintf(format, args...)}); err != nil {
		s.Log.Error("keep a note", "host", h.Name, "err", err)
	}
}

// closed reports whether an error is only the end of a listener.
func closed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed)
}
