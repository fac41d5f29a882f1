package pxe

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"provision/hosts"
	"provision/internal/store"
)

// restarting is a server with a host that was told to start from its disk, and a clock.
type restarting struct {
	*Server
	t     *testing.T
	clock time.Time
}

// newRestarting has the installer ask for an address in these ways before the restart.
func newRestarting(t *testing.T, e hosts.Expected, installer ...dhcpv4.Modifier) *restarting {
	t.Helper()
	db, err := store.OpenBolt(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	r := &restarting{t: t, clock: noon}
	r.Server = serverOn(t, Proxy, db, func() time.Time { return r.clock })
	r.mustEnroll(t, "bravo", mac)
	if _, err := r.Hosts.Apply("bravo", hosts.Event{Kind: hosts.EventBuilt, Expected: &e}); err != nil {
		t.Fatal(err)
	}
	r.asks(installer...) // whatever runs before the boot
	r.reach(t, "bravo", hosts.StateInstalling)
	if installer != nil {
		r.asks(installer...)
	}
	if _, err := r.Hosts.Apply("bravo", hosts.Event{Kind: hosts.EventRebooted}); err != nil {
		t.Fatal(err)
	}
	return r
}

// asks sends a request for an address, as an operating system does.
func (r *restarting) asks(mods ...dhcpv4.Modifier) {
	r.t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		r.t.Fatal(err)
	}
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(hw), dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover)}, mods...)...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.dhcp(m)
}

func (r *restarting) restart() hosts.Restart {
	r.t.Helper()
	h, err := r.Hosts.Get("bravo")
	if err != nil {
		r.t.Fatal(err)
	}
	return h.Restart
}

func option(code dhcpv4.OptionCode, value string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptGeneric(code, []byte(value)))
}

func named(name string) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptHostName(name)) }

func class(name string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptClassIdentifier(name))
}

// TestSighted: a restarted host is seen when its own system asks for an address by its name, and not when firmware, a
// boot loader, its installer or its stage 1 does.
func TestSighted(t *testing.T) {
	stage1 := hosts.Stage1{Network: true}
	dhcpcd := class("dhcpcd-10.0.6:Linux-6.12.1:x86_64")
	for _, tt := range []struct {
		name      string
		expected  hosts.Expected
		installer []dhcpv4.Modifier
		asks      [][]dhcpv4.Modifier
		seen      bool
	}{
		{"its system", hosts.Expected{HostName: "bravo"}, nil, [][]dhcpv4.Modifier{{named("bravo")}}, true},
		{"with its domain", hosts.Expected{HostName: "Bravo"}, nil, [][]dhcpv4.Modifier{{named("bravo.example.org")}}, true},
		{"by option 81", hosts.Expected{HostName: "bravo"}, nil, [][]dhcpv4.Modifier{{option(dhcpv4.OptionFQDN, "\x00\x00\x00bravo")}}, true},
		{"by option 81 in labels", hosts.Expected{HostName: "bravo"}, nil, [][]dhcpv4.Modifier{{option(dhcpv4.OptionFQDN, "\x05\x00\x00\x05bravo\x00")}}, true},
		{"option 81 cut off", hosts.Expected{HostName: "bravo"}, nil, [][]dhcpv4.Modifier{{option(dhcpv4.OptionFQDN, "\x05\x00\x00\x09bravo")}}, false},
		{"another name", hosts.Expected{HostName: "bravo"}, nil, [][]dhcpv4.Modifier{{named("nixos")}}, false},
		{"no name", hosts.Expected{HostName: "bravo"}, nil, [][]dhcpv4.Modifier{{}}, false},
		{"no name is expected", hosts.Expected{}, nil, [][]dhcpv4.Modifier{{named("bravo")}, {}}, false},
		{"firmware", hosts.Expected{HostName: "bravo"}, nil, [][]dhcpv4.Modifier{{named("bravo"), class("PXEClient:Arch:00007:UNDI:003016")}}, false},
		{"HTTP boot", hosts.Expected{HostName: "bravo"}, nil, [][]dhcpv4.Modifier{{named("bravo"), class("HTTPClient:Arch:00016")}}, false},
		{"U-Boot", hosts.Expected{HostName: "bravo"}, nil, [][]dhcpv4.Modifier{{named("bravo"), class("U-Boot.armv8")}}, false},
		{"iPXE", hosts.Expected{HostName: "bravo"}, nil, [][]dhcpv4.Modifier{{named("bravo"), option(dhcpv4.OptionUserClassInformation, "iPXE")}}, false},
		{"an architecture", hosts.Expected{HostName: "bravo"}, nil, [][]dhcpv4.Modifier{{named("bravo"), option(dhcpv4.OptionClientSystemArchitectureType, "\x00\x07")}}, false},
		{"its installer, of the same name", hosts.Expected{HostName: "nixos"}, []dhcpv4.Modifier{named("nixos"), dhcpcd}, [][]dhcpv4.Modifier{{named("nixos"), dhcpcd}}, false},
		{"not its installer, of the same name", hosts.Expected{HostName: "nixos"}, []dhcpv4.Modifier{named("nixos"), dhcpcd}, [][]dhcpv4.Modifier{{named("nixos")}}, true},
		{"stage 1", hosts.Expected{HostName: "bravo", Stage1: stage1}, nil, [][]dhcpv4.Modifier{{named("bravo")}, {named("bravo")}}, false},
		{"stage 1 by busybox", hosts.Expected{HostName: "bravo", Stage1: stage1}, nil, [][]dhcpv4.Modifier{{named("bravo"), class("udhcp 1.36.1")}}, false},
		{"after stage 1", hosts.Expected{HostName: "bravo", Stage1: stage1}, nil, [][]dhcpv4.Modifier{{named("bravo")}, {named("bravo"), dhcpcd}}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRestarting(t, tt.expected, tt.installer...)
			for _, ask := range tt.asks {
				r.asks(ask...)
			}
			if seen := r.restart().Seen; (seen != "") != tt.seen || tt.seen && !strings.Contains(seen, mac) {
				t.Errorf("seen: %q, want %v", seen, tt.seen)
			}
		})
	}
}

// TestReturns: the second time that a restarted machine comes back to the network is told, and the first is not: it
// may be how its firmware comes to the disk. Firmware that asks again and again in one boot comes once.
func TestReturns(t *testing.T) {
	type ask struct {
		after time.Duration
		xid   byte
		secs  uint16
		class string
	}
	const pxe, http = "PXEClient:Arch:00007:UNDI:003016", "HTTPClient:Arch:00016"
	for _, tt := range []struct {
		name string
		asks []ask
		want int
	}{
		{"once", []ask{{0, 1, 0, pxe}, {4 * time.Second, 1, 4, pxe}, {8 * time.Second, 1, 12, pxe}, {16 * time.Second, 1, 28, pxe}}, 0},
		{"once, by several protocols", []ask{{0, 1, 0, pxe}, {time.Minute, 2, 0, http}, {time.Minute, 3, 0, http}}, 0},
		{"twice", []ask{{0, 1, 0, pxe}, {40 * time.Second, 2, 0, pxe}}, 2},
		{"twice, by several protocols", []ask{{0, 1, 0, pxe}, {time.Minute, 2, 0, http}, {time.Minute, 3, 0, pxe}}, 2},
		{"twice, in one exchange", []ask{{0, 1, 8, pxe}, {30 * time.Second, 1, 0, pxe}}, 2},
		{"twice, much later", []ask{{0, 1, 4, pxe}, {5 * time.Minute, 1, 4, pxe}}, 2},
		{"three times", []ask{{0, 1, 0, pxe}, {40 * time.Second, 2, 0, pxe}, {40 * time.Second, 3, 0, pxe}}, 2},
		{"four times", []ask{{0, 1, 0, pxe}, {40 * time.Second, 2, 0, pxe}, {40 * time.Second, 3, 0, pxe}, {40 * time.Second, 4, 0, pxe}}, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRestarting(t, hosts.Expected{})
			for _, a := range tt.asks {
				r.clock = r.clock.Add(a.after)
				r.asks(class(a.class), dhcpv4.WithTransactionID(dhcpv4.TransactionID{a.xid}), func(m *dhcpv4.DHCPv4) { m.NumSeconds = a.secs })
			}
			if got := r.restart().Returns; got != tt.want {
				t.Errorf("it came back %d times, want %d", got, tt.want)
			}
			events, err := r.Hosts.Events("bravo", 0)
			if err != nil {
				t.Fatal(err)
			}
			told := ""
			for _, ev := range events {
				if ev.Kind == hosts.EventReturned {
					told = ev.Message
				}
			}
			if want := fmt.Sprintf("came back to the network %d times", tt.want); tt.want > 0 && !strings.HasPrefix(told, want) {
				t.Errorf("told %q", told)
			}
		})
	}
}
