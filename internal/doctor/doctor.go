// Package doctor finds out what keeps machines from netbooting, and says how to mend it.
//
// Each check looks at one thing (the LAN's DHCP servers, a port, the firewall, an interface, a tool, an image, a
// machine), and judges what it found in a pure function.
package doctor

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"provision/hosts"
	"provision/images"
	"provision/internal/nix"
	"provision/pxe"
)

// Severity says what a finding means for a boot.
type Severity string

// The severities.
const (
	Stop    Severity = "stop"    // machines do not boot
	Warning Severity = "warning" // some machines may not boot, or it is probably not intended
	Hint    Severity = "hint"    // nothing is wrong
)

// Finding is something that is not as it should be.
type Finding struct {
	Check     string   `json:"check"` // dhcp, port, firewall, interface, tool, flake, image, machine or server
	Severity  Severity `json:"severity"`
	Interface string   `json:"interface,omitempty"` // if it is about an interface
	What      string   `json:"what"`
	Remedy    string   `json:"remedy"`
}

// Server is what a running server serves.
type Server struct {
	Interfaces map[string]netip.Addr // its address on each interface; invalid: it waits for one
	Mode       pxe.Mode
	HTTPPort   int
}

// Doctor examines this machine and the LANs that it serves or is to serve. Its exported fields are its options.
type Doctor struct {
	Interfaces []string
	Mode       pxe.Mode
	HTTPPort   int
	Flake      string        // checked if not empty
	Nix        nix.Settings  // settings for reading the flake
	Wait       time.Duration // how long to wait for offers of DHCP servers

	// The fields below are what a running server knows; Server is nil if none runs.
	Server *Server
	Hosts  []hosts.Host
	Images []images.Image
	Traces []hosts.Trace
	Verify func(ctx context.Context, image string) error

	Now func() time.Time
}

// Run makes all checks and returns their findings, the most severe first, each as one line. It needs root.
func (d *Doctor) Run(ctx context.Context) []Finding {
	rules, problems := loadFirewall(ctx)
	found := append([]Finding{}, problems...)
	var lock sync.Mutex
	var all sync.WaitGroup
	check := func(f func() []Finding) {
		all.Go(func() {
			fs := f()
			lock.Lock()
			defer lock.Unlock()
			found = append(found, fs...)
		})
	}
	check(func() []Finding { return tools(ctx, d.Nix, d.Flake) })
	if d.Server != nil {
		check(func() []Finding { return d.images(ctx) })
		check(d.machines)
		check(func() []Finding { return judgeNeighbours(neighbours(), len(d.Hosts)) })
	}

	for _, name := range d.Interfaces {
		l := readLink(name)
		faults, usable := judgeLink(l, d.Mode)
		if d.Server != nil {
			address, served := d.Server.Interfaces[name]
			faults = append(faults, judgeServed(l, address, served)...)
			l.use(address)
		}

		check(func() []Finding { return faults })
		if !usable {
			continue
		}
		check(func() []Finding { return rules.judge(l, usedPorts(d.Mode, d.HTTPPort)) })
		check(func() []Finding {
			taken, dhcp := d.takenPorts(ctx, l)
			return append(taken, d.dhcp(ctx, l, dhcp)...)
		})
	}

	all.Wait()
	for i := range found { // some contain the output of another program
		found[i].What = strings.ReplaceAll(found[i].What, "\n", "; ")
	}
	rank := map[Severity]int{Stop: 0, Warning: 1, Hint: 2}
	slices.SortStableFunc(found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(rank[a.Severity], rank[b.Severity]), cmp.Compare(a.Interface, b.Interface),
			cmp.Compare(a.Check, b.Check), cmp.Compare(a.What, b.What))
	})
	return found
}

// Healthy reports whether no finding stops a boot.
func Healthy(found []Finding) bool {
	return !slices.ContainsFunc(found, func(f Finding) bool { return f.Severity == Stop })
}

// link is what matters about a network interface.
type link struct {
	Name     string
	Missing  bool
	Others   []string // names of existing interfaces, if it is missing
	Up       bool
	Carrier  bool
	Wireless bool
	Default  bool // carries the default route
	MTU      int
	MAC      string
	Address  netip.Prefix   // the address that is served, else the first IPv4 address; invalid if there is none
	All      []netip.Prefix // all IPv4 addresses
	Local    []netip.Addr   // all addresses of this machine, on any interface
	Members  map[string]int // ports of a bridge, with their MTUs
}

// enumerate joins items as in a sentence: a, b and c.
func enumerate(items []string) string {
	if len(items) < 2 {
		return strings.Join(items, "")
	}
	return strings.Join(items[:len(items)-1], ", ") + " and " + items[len(items)-1]
}
