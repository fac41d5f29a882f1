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
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"provision/hosts"
	"provision/images"
)

// Server serves network interfaces. Its exported fields are its options;
// Listen checks them.
type Server struct {
	Interfaces []string // each with an IPv4 address
	Mode       Mode
	Ranges     []Range        // full DHCP mode
	Relays     []netip.Prefix // relay agents, or networks behind them, that are served beside links and ranges
	Router     netip.Addr     // full DHCP mode; invalid: none is told
	DNS        []netip.Addr   // full DHCP mode
	Domain     string         // full DHCP mode
	Lease      time.Duration
	HTTPPort   int    // 1 to 65535
	Hold       bool   // unknown machines are shown how to be enrolled, instead of silence
	Programs   string // folder with boot programs beside those built in; "": none
	BootTime   time.Duration

	Hosts  *hosts.Inventory
	Leases LeaseStore
	Images *images.Catalog
	Traces *hosts.Traces
	Cache  http.Handler // answers what begins with /cache/; nil: nobody does
	Login  string       // public key that may log in to installers, authorized_keys form
	Log    *slog.Logger
	Now    func() time.Time

	links    []*link
	subnets  []subnet
	programs map[string][]byte // what firmware loads, by name
	ladders  ladders
	pis      piAsks
	restarts restarts
	beyond   seldom

	connections connections
	transfers   int // TFTP transfers at a time
	packs       packs
	warmth      warmth
	booting     [lanes]sync.Mutex // by host; held while its boot is looked for and begun
}

// Listen checks the options and opens all ports, so that a server either
// answers everything or says why not. Run must follow.
func (s *Server) Listen(ctx context.Context) (err error) {
	for _, name := range s.Interfaces {
		l, err := openLink(name)
		if err != nil {
			return err
		}
		s.links = append(s.links, l)
	}
	if s.programs, err = images.Programs(s.Programs); err != nil {
		return err
	}
	if err := s.share(); err != nil {
		return err
	}
	if err := s.openSubnets(); err != nil {
		return err
	}
	for _, l := range s.links {
		if err := s.listen(ctx, l); err != nil {
			for _, l := range s.links {
				l.sock.close()
			}
			return err
		}
	}
	return nil
}

// Run serves until ctx ends, and then returns nil.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	s.packs.run(ctx)
	defer s.packs.work.Wait()
	s.warmth.run(ctx)
	defer s.warmth.work.Wait()
	g.Go(func() error { return s.warmEach(s.Hosts.Watch(ctx)) })
	for _, l := range s.links {
		s.Log.Info("answering booting machines", "interface", l.name, "address", l.self, "dhcp", s.Mode, "http", s.HTTPPort)
		if l.sock.dhcp != nil {
			g.Go(func() error { return s.serveDHCP(ctx, l, l.sock.dhcp, s.answerDHCP) })
			g.Go(func() error { return s.serveDHCP(ctx, l, l.sock.binl, s.answerBINL) })
		}
		g.Go(func() error { return s.serveTFTP(ctx, l) })
		g.Go(func() error { return s.serveHTTP(ctx, l) })
	}
	return g.Wait()
}

func (s *Server) listen(ctx context.Context, l *link) (err error) {
	if s.Mode != Off {
		if l.sock.dhcp, err = listenUDP(ctx, l.name, 67); err != nil {
			return err
		}
		if l.sock.binl, err = listenUDP(ctx, l.name, 4011); err != nil {
			return err
		}
	}
	if l.sock.tftp, err = listenUDP(ctx, l.name, 69); err != nil {
		return err
	}
	addr := netip.AddrPortFrom(l.self, uint16(s.HTTPPort)).String()
	if l.sock.http, err = new(net.ListenConfig).Listen(ctx, "tcp4", addr); err != nil {
		return portError("tcp", s.HTTPPort, err)
	}
	return nil
}

// url is of a path of ours, as machines reach it at our address self.
func (s *Server) url(self, path string) string {
	if s.HTTPPort != 80 {
		self = net.JoinHostPort(self, fmt.Sprint(s.HTTPPort))
	}
	return "http://" + self + "/" + path
}

// tell puts a note into a host's log that a packet caused.
func (s *Server) tell(h hosts.Host, format string, args ...any) {
	if _, err := s.Hosts.Apply(h.Name, hosts.Event{Kind: hosts.Noted, Stranger: true, Message: fmt.Sprintf(format, args...)}); err != nil {
		s.Log.Error("keep a note", "host", h.Name, "err", err)
	}
}

// closed reports whether an error is only the end of a listener.
func closed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed)
}
