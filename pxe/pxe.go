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
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"provision/hosts"
	"provision/images"
	"provision/internal/store"
)

// Server serves network interfaces. Its exported fields are its options;
// Listen checks them.
type Server struct {
	Interfaces  []string // NAME, or NAME=ADDRESS to choose among its IPv4 addresses; one that is not there is waited for
	Mode        Mode
	Ranges      []Range        // full DHCP mode
	Relays      []netip.Prefix // relay agents, or networks behind them, that are served beside links and ranges
	Router      netip.Addr     // full DHCP mode; invalid: none is told
	DNS         []netip.Addr   // full DHCP mode
	Domain      string         // full DHCP mode
	Lease       time.Duration
	HTTPPort    int // 1 to 65535
	TFTPBlksize int // bytes that a TFTP block has at most, 512 to 65464; 0: what the link takes
	Unknown     Unknown
	Programs    string // folder with boot programs beside those built in; "": none
	BootTime    time.Duration

	Hosts  *hosts.Inventory
	Leases LeaseStore
	Images *images.Catalog
	Traces *hosts.Traces
	Cache  http.Handler // answers what begins with /cache/; nil: nobody does
	Login  string       // public key that may log in to installers, authorized_keys form
	Log    *slog.Logger
	Now    func() time.Time

	mu      sync.RWMutex // guards links and subnets
	links   []*servedLink
	subnets []subnet

	programs map[string][]byte // what firmware loads, by name
	ladders  ladders
	pis      piAsks
	restarts restarts

	beyond, exhausted, doubted, muted seldom
	drops                             drops

	connections connectionShares
	transfers   int // TFTP transfers at a time
	firstStages firstStages
	prefetcher  prefetcher
	booting     [shards]sync.Mutex // by host; held while its boot is looked for and begun
}

// Check finds what Listen would find wrong with the options, for the interfaces that are there now. It opens no port.
// The server cannot be started afterwards.
func (s *Server) Check() error {
	s.Leases = new(store.Memory)
	return s.prepare()
}

// Listen checks the options and opens the ports on all interfaces that are there, so that a server either
// answers or says why not. Run must follow.
func (s *Server) Listen(ctx context.Context) error {
	if err := s.prepare(); err != nil {
		return err
	}
	if err := s.share(); err != nil {
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

// prepare checks the options, reads the boot programs, and looks the interfaces and their networks up.
func (s *Server) prepare() (err error) {
	if s.programs, err = images.Programs(s.Programs); err != nil {
		return err
	}
	for _, text := range s.Interfaces {
		if err := CheckInterface(text); err != nil {
			return err
		}
		if l, err := openLink(text, nil); err == nil { // else Run waits for it, and says so
			s.links = append(s.links, l)
		}
	}
	return s.openSubnets(len(s.links) < len(s.Interfaces))
}

// Run serves until ctx ends, and then returns nil.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	s.firstStages.run(ctx)
	defer s.firstStages.work.Wait()
	s.prefetcher.run(ctx)
	defer s.prefetcher.work.Wait()
	g.Go(func() error { return s.prefetchEach(s.Hosts.Watch(ctx)) })
	g.Go(func() error { return s.tellDrops(ctx) })
	for _, text := range s.Interfaces {
		g.Go(func() error { return s.follow(ctx, text) })
	}
	return g.Wait()
}

// follow serves an interface whenever it is there, with the address that it has.
func (s *Server) follow(ctx context.Context, text string) error {
	changed, err := linkChanges(ctx)
	if err != nil {
		return err
	}

	name, _, _ := parseInterface(text)
	l := s.linkOf(name)
	for said := ""; ; {
		if l == nil {
			if l, err = s.join(ctx, text); err != nil && err.Error() != said {
				said = err.Error()
				s.Log.Warn("waiting for an interface to answer on", "err", err)
			}
		}

		if l != nil {
			said = ""
			err = s.serve(ctx, text, l, changed)
			s.leave(l)
			if err != nil || ctx.Err() != nil {
				return err
			}
			l = nil
			continue
		}

		select {
		case <-changed:
		case <-time.After(5 * time.Second): // a port may have been taken
		case <-ctx.Done():
			return nil
		}
	}
}

// serve serves a link until ctx ends or it is another.
func (s *Server) serve(ctx context.Context, text string, l *servedLink, changed <-chan struct{}) error {
	s.Log.Info("answering booting machines", "interface", l.name, "address", l.self, "dhcp", s.Mode, "http", s.HTTPPort)
	ctx, end := context.WithCancel(ctx)
	defer end()

	g, ctx := errgroup.WithContext(ctx)
	if p := s.probedPool(l); p != nil {
		g.Go(func() error { return s.probeAhead(ctx, l, p) })
	}
	if l.sock.dhcp != nil {
		g.Go(func() error { return s.serveDHCP(ctx, l, l.sock.dhcp, (*exchange).answerDHCP) })
		g.Go(func() error { return s.serveDHCP(ctx, l, l.sock.binl, (*exchange).answerBINL) })
	}
	if l.sock.dhcp6 != nil {
		g.Go(func() error { return s.serveDHCP6(ctx, l) })
	}
	g.Go(func() error { return s.serveTFTP(ctx, l) })
	g.Go(func() error { return s.serveHTTP(ctx, l) })
	g.Go(func() error {
		defer end()
		for {
			now, err := openLink(text, l)
			switch {
			case err != nil:
				s.Log.Warn("an interface went away", "interface", l.name, "address", l.self)
				return nil
			case now.index != l.index || now.self != l.self || now.net != l.net:
				s.Log.Warn("an interface has changed", "interface", l.name, "address", l.self, "now", now.self)
				return nil
			}

			if mtu := now.mtu.Load(); l.mtu.Swap(mtu) != mtu {
				s.Log.Info("the MTU of an interface has changed", "interface", l.name, "mtu", mtu)
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return nil
			}
		}
	})
	return g.Wait()
}

func (s *Server) linkOf(name string) *servedLink {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, l := range s.links {
		if l.name == name {
			return l
		}
	}
	return nil
}

// join opens the ports on an interface that is there by now.
func (s *Server) join(ctx context.Context, text string) (*servedLink, error) {
	l, err := openLink(text, nil)
	if err == nil {
		err = s.listen(ctx, l)
	}
	if err != nil {
		return nil, err
	}
	s.arrange(func() { s.links = append(s.links, l) })
	return l, nil
}

// leave takes a link away that is not served any more.
func (s *Server) leave(l *servedLink) {
	l.sock.close()
	s.arrange(func() { s.links = slices.DeleteFunc(s.links, func(o *servedLink) bool { return o == l }) })
}

// arrange changes the links, and has the ranges belong to what they are then.
func (s *Server) arrange(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	if err := s.openSubnets(len(s.links) < len(s.Interfaces)); err != nil {
		s.Log.Error("addresses are not handed out as they were to be", "err", err)
	}
}

func (s *Server) listen(ctx context.Context, l *servedLink) (err error) {
	defer func() {
		if err != nil {
			l.sock.close()
		}
	}()
	if s.Mode != Off {
		if l.sock.dhcp, err = listenUDP(ctx, l.name, 67); err != nil {
			return err
		}
		if l.sock.binl, err = listenUDP(ctx, l.name, 4011); err != nil {
			return err
		}
		if l.sock.dhcp6, err = listenDHCP6(ctx, l); err != nil { // machines then wait longer, that is all
			s.Log.Info("no answers to netboots over IPv6", "interface", l.name, "err", err)
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

// note puts a note into a host's log that a packet caused.
func (s *Server) note(h hosts.Host, format string, args ...any) {
	note := hosts.Event{Kind: hosts.EventNote, Stranger: true, Message: fmt.Sprintf(format, args...)}
	if _, err := s.Hosts.Apply(h.Name, note); err != nil && !overtaken(err) {
		s.Log.Error("keep a note", "host", h.Name, "err", err)
	}
}

// overtaken reports whether an error is only that an operator forgot the host or cancelled its permit meanwhile.
func overtaken(err error) bool {
	return errors.Is(err, hosts.ErrNotFound) || errors.Is(err, hosts.ErrRefused)
}

// closed reports whether an error is only the end of a listener.
func closed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed)
}
