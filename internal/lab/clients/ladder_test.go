package clients

import (
	"slices"
	"strings"
	"testing"

	"provision/internal/lab/netboot"
	"provision/pxe"
)

// boots is how each firmware comes up: in which round, and by which method. ipxe.efi is the only program for x86-64 that
// is built in.
var boots = []struct {
	kind   netboot.Kind
	rounds int // beside a router; 0: TestInVain has it
	proxy  string
	full   string // in the first round
}{
	{netboot.EDK2X64, 1, "binl+native", "first+native"},
	{netboot.EDK2X64As9, 1, "binl+native", "first+native"},
	{netboot.EDK2ARM64, 1, "binl+snponly", "first+snponly"},
	{netboot.OldEDK2, 1, "binl+native", "first+native"}, // it drops the other kind
	{netboot.HP, 2, "first+native", "first+native"},     // it leaves the first offer, for which it would have to ask 4011
	{netboot.HPSingle, 0, "", "first+native"},
	{netboot.BIOS, 1, "first+snponly", "first+snponly"},
	{netboot.HTTPX64, 1, "http+native", "http+native"},
	{netboot.HTTPARM64, 1, "http+snponly", "http+snponly"},
	{netboot.IPXE, 1, "rom", "rom"},
	{netboot.Tinkerbell, 1, "rom", "rom"},
	{netboot.TinkerbellBIOS, 1, "rom", "rom"},
	{netboot.UBoot2023, 1, "u-boot", "u-boot"},
	{netboot.UBoot2025, 1, "u-boot", "u-boot"},
	{netboot.UBootEFI, 0, "", "first+snponly"},
}

// climber is a machine, and how it is to come up.
type climber struct {
	*machine
	rounds int
	method string
}

// climbers plugs in one machine of each kind that can be booted in this mode.
func (w *world) climbers(mode pxe.Mode) (all []climber) {
	w.Helper()
	for _, b := range boots {
		c := netboot.Client{Kind: b.kind}
		rounds, method := 1, b.full
		if mode == pxe.Proxy {
			if rounds, method = b.rounds, b.proxy; rounds == 0 {
				continue
			}
			c.Server = self // for U-Boot, which takes no proxy's word for it
		}
		all = append(all, climber{w.known(c), rounds, method})
	}
	return all
}

// climb boots them for the nth time.
func (w *world) climb(all []climber, n int) {
	w.Helper()
	var machines []*machine
	for _, c := range all {
		machines = append(machines, c.machine)
	}
	for i, r := range w.bootAll(machines...) {
		c := all[i]
		if n > 1 {
			c.rounds = 1 // it is remembered
		}
		h := c.host()
		if rounds := c.machine.rounds(r); !c.up(r) || rounds != c.rounds || h.Method.String() != c.method || h.Permit.Boots != n {
			w.Errorf("%s, boot %d: in round %d by method %q, and %d boots under its permit; want round %d, method %s\n%s", c.Kind, n,
				rounds, h.Method, h.Permit.Boots, c.rounds, c.method, c.conversation(r))
		}
	}
}

// begin starts a server beside a router, or one that is the DHCP server.
func (w *world) begin(mode pxe.Mode) {
	w.Helper()
	if mode == pxe.Proxy {
		w.router(0)
	}
	w.serveLAN(mode)
}

// serveLAN starts a server on the first LAN, with its addresses if they are its to give.
func (w *world) serveLAN(mode pxe.Mode) {
	w.Helper()
	if mode == pxe.Full {
		w.serve(mode, "10.77.0.100-10.77.0.199")
		return
	}
	w.serve(mode)
}

var modes = []pxe.Mode{pxe.Proxy, pxe.Full}

// TestLadder: each firmware comes up within three rounds; once the server has been restarted, in one, by what worked; and
// where packets arrive twice, and late, that makes no second boot and no step of the ladder.
func TestLadder(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			w := newWorld(t, 1, brisk)
			w.begin(mode)
			all := w.climbers(mode)
			if slices.ContainsFunc(all, func(c climber) bool { return c.rounds > 3 }) {
				t.Error("more than three rounds are too many")
			}
			w.climb(all, 1)
			w.serveLAN(mode)
			w.restart()
			w.climb(all, 2)
			for _, c := range all {
				must(t, w.hosts.Forget(c.name, "a test"))
				w.enroll(archOf(c.Kind), c.machine)
				c.Twice = true
			}
			w.serveLAN(mode)
			w.restart()
			w.climb(all, 1)
		})
	}
}

// TestWithout: firmware that leaves out what servers tell it by comes up all the same.
func TestWithout(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			w := newWorld(t, 1, brisk)
			w.begin(mode)
			var machines []*machine
			for _, kind := range []netboot.Kind{netboot.EDK2X64, netboot.EDK2ARM64, netboot.BIOS, netboot.HTTPX64} {
				for _, without := range [][]byte{{93}, {94}, {97}, {93, 94, 97}} {
					machines = append(machines, w.known(netboot.Client{Kind: kind, Without: without}))
				}
			}
			for i, r := range w.bootAll(machines...) {
				if m := machines[i]; !m.up(r) || m.rounds(r) != 1 {
					t.Errorf("%s without %v:\n%s", m.Kind, m.Without, m.conversation(r))
				}
			}
		})
	}
}

// TestKinds: no firmware is left out.
func TestKinds(t *testing.T) {
	rest := slices.DeleteFunc(netboot.Kinds(), func(k netboot.Kind) bool {
		return k == netboot.System || slices.Contains(refusedKinds(), k)
	})
	for _, b := range boots {
		rest = slices.DeleteFunc(rest, func(k netboot.Kind) bool { return k == b.kind })
	}
	if len(rest) > 0 {
		t.Errorf("%v are neither booted nor refused", rest)
	}
}

// TestInVain: beside a router, firmware that nobody can boot there stops, and says so.
func TestInVain(t *testing.T) {
	w := newWorld(t, 1, hasty)
	w.begin(pxe.Proxy)
	stops := []struct {
		kind    netboot.Kind
		stopped string
	}{
		{netboot.HPSingle, "PXE-E16: no valid offer received, after 4 DHCPDISCOVERs"},  // it wants the lease from us
		{netboot.UBootEFI, "PXE-E18: server response timeout: tftp://10.77.0.2/boot."}, // it asks the router
	}
	var machines []*machine
	for _, s := range stops {
		machines = append(machines, w.known(netboot.Client{Kind: s.kind}))
	}
	for i, r := range w.bootAll(machines...) {
		m := machines[i]
		trace, err := w.traces.Get(m.MAC.String())
		if !strings.HasPrefix(r.Stopped, stops[i].stopped) || err != nil || trace.Host != m.name || trace.Why != "" {
			t.Errorf("%s: %v, trace %+v\n%s", m.Kind, err, trace, m.conversation(r))
		}
	}
}

// TestSystem: what runs on a machine has its lease and its renewal, and is told nothing of a boot; nor is the operator.
func TestSystem(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			w := newWorld(t, 1, brisk)
			w.begin(mode)
			w.quiet = mode == pxe.Proxy
			m := w.known(netboot.Client{Kind: netboot.System})
			r := w.bootAll(m)[0]
			if r.Stopped != "" || len(r.Remarks) > 0 || r.Timing[len(r.Timing)-1].Stage != "renewal" || len(m.host().Tokens) != 0 || strings.Contains(m.log(), "asked") {
				t.Error(m.conversation(r))
			}
		})
	}
}
