package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A LAN is an Ethernet segment: a bridge, which is at the same time the interface of the provisioning server. It lives
// in the network namespace of the process (see InNamespace).
type LAN struct {
	Interface string       // of the bridge
	Address   netip.Prefix // of the bridge
}

// NewLAN makes a bridge called name with the given address, such as 10.77.0.1/24, or without if that is zero: then the
// server is not on it.
func NewLAN(ctx context.Context, name string, address netip.Prefix) (*LAN, error) {
	l := &LAN{Interface: name, Address: address}
	commands := []string{
		// Without forward_delay a port would be deaf for its first 15 seconds.
		"link add " + name + " type bridge stp_state 0 forward_delay 0",
		"link set " + name + " up",
	}
	if address.IsValid() {
		commands = append(commands, "address add "+address.String()+" dev "+name)
	}
	for _, args := range commands {
		if _, err := run(ctx, "ip", strings.Fields(args)...); err != nil {
			return nil, errors.Join(fmt.Errorf("make LAN %s: %w", name, err), l.Close())
		}
	}
	return l, nil
}

// Close takes the bridge down. What was plugged into it is left without a cable.
func (l *LAN) Close() error {
	_, err := run(context.Background(), "ip", "link", "delete", l.Interface)
	return err
}

// Tap plugs a tap device called name into the LAN, for a machine's network card; it makes it if it is not there.
func (l *LAN) Tap(ctx context.Context, name string) error {
	if _, err := net.InterfaceByName(name); err != nil {
		if _, err := run(ctx, "ip", "tuntap", "add", "dev", name, "mode", "tap"); err != nil {
			return err
		}
	}
	_, err := run(ctx, "ip", "link", "set", name, "master", l.Interface, "up")
	return err
}

// A Client is a plain computer on the LAN, in a network namespace of its own, from which a test can talk to the server
// as somebody else: with a MAC and, if it has been given one, an address that are not the server's.
type Client struct {
	Interface string // "eth0"
	MAC       string
	port      string // the other end of its cable
	ns        namespace
}

// Client plugs in a computer. name is that of its port on the bridge, at most 15 characters; address may be zero, as
// for a computer that has no lease yet.
func (l *LAN) Client(ctx context.Context, name, mac string, address netip.Prefix) (*Client, error) {
	ns, err := newNamespace(ctx)
	if err != nil {
		return nil, err
	}
	c := &Client{Interface: "eth0", MAC: mac, port: name, ns: ns}
	if err := c.plug(ctx, l, name, address); err != nil {
		return nil, errors.Join(fmt.Errorf("plug in %s: %w", name, err), c.Close())
	}
	return c, nil
}

// plug lays the cable between bridge and client, and waits for nothing: both ends are up at once.
func (c *Client) plug(ctx context.Context, l *LAN, name string, address netip.Prefix) error {
	if _, err := run(ctx, "ip", "link", "add", name, "type", "veth", "peer", "name", c.Interface,
		"address", c.MAC, "netns", c.ns.path()); err != nil {
		return err
	}
	if _, err := run(ctx, "ip", "link", "set", name, "master", l.Interface, "up"); err != nil {
		return err
	}
	if address.IsValid() {
		if _, err := c.ns.run(ctx, "ip", "address", "add", address.String(), "dev", c.Interface); err != nil {
			return err
		}
	}
	_, err := c.ns.run(ctx, "ip", "link", "set", c.Interface, "up")
	return err
}

// Cable lays another cable, from the client to a second one, with a name and an MTU that both ends have.
func (c *Client) Cable(ctx context.Context, to *Client, name string, mtu int) error {
	bytes := strconv.Itoa(mtu)
	_, err := c.ns.run(ctx, "ip", "link", "add", name, "up", "mtu", bytes, "type", "veth",
		"peer", "name", name, "mtu", bytes, "netns", to.ns.path())
	if err != nil {
		return err
	}
	_, err = to.ns.run(ctx, "ip", "link", "set", name, "up")
	return err
}

// Do runs f on a thread of the client's. Sockets that f opens itself stay the client's; a goroutine that f starts is
// not on the client, so a dialer must be given addresses, not names.
func (c *Client) Do(f func() error) error { return c.ns.do(f) }

// Start starts a command on the client, which ends with this process at the latest. ended is closed when it has, after Wait's
// error was sent to it.
func (c *Client) Start(cmd *exec.Cmd) (ended <-chan error, err error) {
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGTERM}
	started, end := make(chan error, 1), make(chan error, 1)
	go func() {
		err := c.Do(func() error { // for as long as it runs: Pdeathsig is of the thread
			defer close(end)
			err := cmd.Start()
			started <- err
			if err == nil {
				end <- cmd.Wait()
			}
			return nil
		})
		if err != nil {
			started <- err
		}
	}()
	return end, <-started
}

// Run runs a command on the client and returns its stdout.
func (c *Client) Run(ctx context.Context, name string, args ...string) (string, error) {
	return c.ns.run(ctx, name, args...)
}

// Close unplugs the client.
func (c *Client) Close() error {
	err := c.ns.file.Close()
	// The kernel clears the namespace away in its own time; the port's name must be free at once. It may be that the
	// kernel is quicker after all, so what counts is whether the port is gone.
	_, deleted := run(context.Background(), "ip", "link", "delete", c.port)
	if _, missing := net.InterfaceByName(c.port); missing == nil {
		err = errors.Join(err, deleted)
	}
	return err
}
