package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// network brings up every network card with a link, and connects to the server through the card on which it answers.
type network struct {
	order order
	say   func(string, ...any)

	mu      sync.Mutex
	cards   map[string]*netCard // by name
	changed chan struct{}       // closed and replaced when a card gets or loses its address
	seen    chan struct{}       // value of changed when the server was last tried
	best    string              // the card through which the server last answered
}

// netCard is a network card.
type netCard struct {
	name   string
	mac    net.HardwareAddr
	link   bool
	state  string // for people
	addr   netip.Prefix
	cancel context.CancelFunc // stops the goroutine that gets its address; nil: none runs
}

// newNetwork returns a network that knows no cards yet.
func newNetwork(o order, say func(string, ...any)) *network {
	return &network{order: o, say: say, cards: map[string]*netCard{}, changed: make(chan struct{})}
}

// run manages the cards until ctx ends.
func (n *network) run(ctx context.Context) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("listen for network cards: %w", err)
	}

	events := os.NewFile(uintptr(fd), "links")
	defer events.Close()

	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
		return fmt.Errorf("listen for network cards: %w", err)
	}

	stop := context.AfterFunc(ctx, func() { events.Close() })
	defer stop()

	var wg sync.WaitGroup
	defer wg.Wait()

	buf := make([]byte, 64<<10)
	for {
		if err := n.look(ctx, &wg); err != nil {
			n.say("look at the network cards: %v", err)
		}
		// The content of the event does not matter: look compares the present state.
		if _, err := events.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("listen for network cards: %w", err)
		}
	}
}

// look compares the cards with what was known of them.
func (n *network) look(ctx context.Context, wg *sync.WaitGroup) error {
	all, err := net.Interfaces()
	if err != nil {
		return err
	}

	n.mu.Lock()
	defer n.mu.Unlock()

	there := map[string]bool{}
	for _, i := range all {
		if i.Flags&net.FlagLoopback != 0 || len(i.HardwareAddr) != 6 {
			continue
		}
		there[i.Name] = true
		c := n.cards[i.Name]
		if c == nil {
			c = &netCard{name: i.Name, mac: i.HardwareAddr, state: "no link: is its cable in?"}
			n.cards[i.Name] = c
			n.say("%s: found, %s", i.Name, i.HardwareAddr)
			if err := setFlags(i.Name, unix.IFF_UP, 0); err != nil {
				c.state = "it cannot be switched on: " + err.Error()
				n.say("%s: %s", c.name, c.state)
			}
		}

		link := i.Flags&net.FlagUp != 0 && i.Flags&net.FlagRunning != 0
		if link == c.link {
			continue
		}
		c.link = link
		if link {
			n.start(ctx, c, wg)
		} else {
			n.stop(c, "the link is gone: was its cable pulled?")
		}
	}

	for name, c := range n.cards {
		if !there[name] {
			n.stop(c, "it is gone")
			delete(n.cards, name)
		}
	}

	return nil
}

// start gets an address for a card that has a link.
func (n *network) start(ctx context.Context, c *netCard, wg *sync.WaitGroup) {
	ctx, c.cancel = context.WithCancel(ctx)
	c.state = "the link is up"
	s := n.order.static
	if s != nil && s.device != "" && s.device != c.name {
		s = nil
	}
	wg.Add(1)
	go func() {
		defer wg.Done()
		err := guarded(func() error {
			if s != nil {
				return n.settle(ctx, c, lease{addr: s.addr, gateway: s.gateway})
			}
			return n.lease(ctx, c)
		})
		if err != nil && ctx.Err() == nil {
			n.set(c, err.Error())
		}
	}()
}

// stop stops what start began on a card. The caller holds the lock.
func (n *network) stop(c *netCard, why string) {
	if c.cancel != nil {
		c.cancel()
		c.cancel = nil
	}
	c.state, c.addr = why, netip.Prefix{}
	n.say("%s: %s", c.name, why)
	n.wake()
}

// wake announces that a card got or lost its address. The caller holds the lock.
func (n *network) wake() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// set sets the state of a card, and says it if it is new.
func (n *network) set(c *netCard, state string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.state != state {
		c.state = state
		n.say("%s: %s", c.name, state)
	}
}

// settle configures the address of a card.
func (n *network) settle(ctx context.Context, c *netCard, l lease) error {
	if err := setAddress(c.name, l.addr); err != nil {
		return fmt.Errorf("set its address %s: %w", l.addr, err)
	}
	way := "no gateway"
	if l.gateway.IsValid() && l.gateway.Is4() && !l.gateway.IsUnspecified() {
		way = "gateway " + l.gateway.String()
		if err := addRoute(c.name, l.gateway); err != nil {
			way += " (which cannot be used: " + err.Error() + ")"
		}
	}

	from := ", from the command line"
	if l.server.IsValid() {
		from = ", from the DHCP server " + l.server.String()
	}
	n.set(c, fmt.Sprintf("address %s, %s%s", l.addr, way, from))
	n.mu.Lock()
	defer n.mu.Unlock()
	if ctx.Err() == nil {
		c.addr = l.addr
		n.wake()
	}
	return nil
}

// dial connects to the server through the card that gets an answer first. It prefers the card that it used before as
// long as that works, since the server accepts a boot's token from only one address.
func (n *network) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ready, best, none := n.ready()
	if len(ready) == 0 {
		return nil, none
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	type answer struct {
		conn net.Conn
		card string
		err  error
	}
	answers := make(chan answer)
	for _, name := range ready {
		go func() {
			if best != "" && name != best {
				select { // the preferred card has a head start
				case <-time.After(3 * time.Second):
				case <-ctx.Done():
				}
			}
			conn, err := dialFrom(ctx, name, n.order.server)
			answers <- answer{conn, name, err}
		}()
	}

	var won answer
	var errs []string
	for range ready {
		a := <-answers
		switch {
		case errors.Is(a.err, context.Canceled):
		case a.err != nil:
			errs = append(errs, fmt.Sprintf("through %s: %v", a.card, reason(a.err)))
			if errors.Is(a.err, unix.ECONNREFUSED) {
				cancel() // the server's machine itself refused
			}
		case won.conn != nil:
			a.conn.Close()
		default:
			won = a
			cancel() // cancels the other attempts
		}
	}

	if won.conn == nil {
		slices.Sort(errs)
		return nil, fmt.Errorf("cannot connect to %s %s", n.order.server, strings.Join(errs, ", "))
	}
	n.mu.Lock()
	defer n.mu.Unlock()

	if n.best != won.card {
		n.best = won.card
		n.say("%s: the server %s answers", won.card, n.order.server)
	}
	return won.conn, nil
}

// unanswered forgets the card through which the server was reached. The next attempt prefers the card that the firmware
// booted from, which is the one that the server knows.
func (n *network) unanswered() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.best = ""
}

// ready returns the cards that have an address, and the one to try first. none is the error to return if there is none;
// it describes the state of all cards.
func (n *network) ready() (names []string, best string, none error) {
	n.mu.Lock()
	defer n.mu.Unlock()

	n.seen = n.changed
	var states []string
	for _, c := range n.cards {
		states = append(states, c.name+": "+c.state)
		if c.addr.IsValid() {
			names = append(names, c.name)
		}
		if c.addr.IsValid() && (c.name == n.best || n.best == "" && c.mac.String() == n.order.bootIf) {
			best = c.name
		}
	}

	if len(states) == 0 {
		states = append(states, "no network card was found: the image has no driver for it, or it is not plugged in")
	}
	slices.Sort(states)
	return names, best, errors.New("no network yet: " + strings.Join(states, "; "))
}

// wait waits for d, or until a card has got or lost its address since the server was last tried.
func (n *network) wait(ctx context.Context, d time.Duration) {
	n.mu.Lock()
	changed := cmp.Or(n.seen, n.changed)
	n.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
	case <-ctx.Done():
	}
}

// down leaves the cards as they were found: the image's udev cannot rename a card that is up, and its DHCP client
// expects a card without an address.
func (n *network) down() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, c := range n.cards {
		if c.cancel != nil {
			c.cancel()
		}
		_ = setAddress(name, netip.PrefixFrom(netip.IPv4Unspecified(), 0))
		_ = setFlags(name, 0, unix.IFF_UP)
	}
}
