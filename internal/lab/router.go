package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// A Router is what stands in most homes: a DHCP server (a real dnsmasq) that leases addresses and knows nothing of
// netboot.
type Router struct {
	Address netip.Prefix
	client  *Client
	cmd     *exec.Cmd
	file    string // dnsmasq's leases
	done    chan struct{}
	stop    context.CancelFunc

	mu      sync.Mutex
	leases  map[string]netip.Addr // by MAC, as acknowledged since the start
	log     strings.Builder
	changed chan struct{} // closed and renewed with each line of the log
}

// Router plugs in a home router with the given address, which leases first to last. Its files are kept in dir. It ends
// with ctx or with Close. Args are added to dnsmasq's command line, for a router that is more than plain.
func (l *LAN) Router(ctx context.Context, dir string, address netip.Prefix, first, last netip.Addr, args ...string) (*Router, error) {
	client, err := l.Client(ctx, l.Interface+"-router", "52:54:00:77:00:02", address)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	r := &Router{
		Address: address, client: client, stop: stop, file: filepath.Join(dir, "router.leases"),
		done: make(chan struct{}), leases: map[string]netip.Addr{}, changed: make(chan struct{}),
	}
	args = append([]string{"--keep-in-foreground", "--conf-file=/dev/null", "--user=root",
		"--port=0", "--interface=eth0", "--bind-interfaces", "--no-ping", "--dhcp-authoritative", "--log-dhcp",
		"--log-facility=-", "--pid-file=", "--dhcp-leasefile=" + r.file,
		fmt.Sprintf("--dhcp-range=%s,%s,1h", first, last)}, args...)
	r.cmd = exec.CommandContext(ctx, "dnsmasq", args...)
	r.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	stderr, err := r.cmd.StderrPipe()
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	if err := client.serve(r.cmd, func() { r.read(stderr) }, r.done); err != nil {
		stop()
		return nil, errors.Join(fmt.Errorf("start the home router: %w", err), client.Close())
	}
	if err := r.wait(ctx, func() bool { return strings.Contains(r.log.String(), "DHCP, IP range") }); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// serve starts cmd on the client, reads its output with read, waits for it, and closes done. All of it happens on one
// thread, for a process started with Pdeathsig dies with the thread that started it.
func (c *Client) serve(cmd *exec.Cmd, read func(), done chan struct{}) error {
	started := make(chan error)
	go func() {
		_ = c.Do(func() error {
			err := cmd.Start()
			started <- err
			if err != nil {
				return err
			}
			defer close(done)
			read()
			return cmd.Wait()
		})
	}()
	return <-started
}

// read takes in dnsmasq's log until it ends.
func (r *Router) read(log io.Reader) {
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		r.mu.Lock()
		fmt.Fprintln(&r.log, lines.Text())
		// dnsmasq-dhcp: 3830742181 DHCPACK(eth0) 10.77.0.137 52:54:00:12:34:56 nixos-installer
		if _, ack, ok := strings.Cut(lines.Text(), "DHCPACK("); ok {
			if words := strings.Fields(ack); len(words) >= 3 {
				if address, err := netip.ParseAddr(words[1]); err == nil {
					r.leases[strings.ToLower(words[2])] = address
				}
			}
		}
		close(r.changed)
		r.changed = make(chan struct{})
		r.mu.Unlock()
	}
}

// wait waits until ready, which is asked under the lock, holds.
func (r *Router) wait(ctx context.Context, ready func() bool) error {
	for {
		r.mu.Lock()
		ok, changed := ready(), r.changed
		r.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-r.done:
			return fmt.Errorf("the home router's dnsmasq has ended: %s", tail(r.Log(), 1000))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Lease waits until the router has leased an address to the MAC, and returns it.
func (r *Router) Lease(ctx context.Context, mac string) (netip.Addr, error) {
	var address netip.Addr
	err := r.wait(ctx, func() bool {
		address = r.leases[strings.ToLower(mac)]
		return address.IsValid()
	})
	if err != nil {
		return address, fmt.Errorf("wait for a lease of %s: %w", mac, err)
	}
	return address, nil
}

// Leases returns the router's lease file as it is now (dnsmasq's format: expiry, MAC, address, name, client id).
func (r *Router) Leases() (string, error) {
	data, err := os.ReadFile(r.file)
	return string(data), err
}

// Log returns all that dnsmasq has logged: each DHCP packet with its options.
func (r *Router) Log() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

// Close unplugs the router.
func (r *Router) Close() error {
	r.stop()
	<-r.done
	return r.client.Close()
}
