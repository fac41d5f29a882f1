package clients

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"provision/hosts"
	"provision/internal/lab/dnsmasq"
	"provision/internal/lab/netboot"
	"provision/internal/lab/yardstick"
	"provision/pxe"
)

var update = flag.Bool("update", false, "write golden files anew")

// patience is how long silence is listened to; either server answers within a few milliseconds.
const patience = 500 * time.Millisecond

// A question is one packet of a machine, and what the two servers answer.
type question struct {
	kind    netboot.Kind
	what    string // DISCOVER, REQUEST, 4011
	dnsmasq []byte
	ours    []byte
}

// TestDnsmasq stands our answers beside those of dnsmasq, with the recipe that people use, in the same role: for each
// recorded DISCOVER, the REQUEST that follows and the one to port 4011. A difference that spec does not explain fails, and
// so does an explanation of nothing.
func TestDnsmasq(t *testing.T) {
	used := make([]bool, len(spec))
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			w := newWorld(t, 1, speed{1, 1})
			all := w.questions(mode)
			var text strings.Builder
			for _, q := range all {
				why := map[string]string{}
				for i, s := range spec {
					if !s.fits(mode, q) {
						continue
					}
					for _, key := range s.keys {
						if why[key] == "" && differs(q, key) {
							why[key], used[i] = s.why, true
						}
					}
				}
				beside, unexplained := yardstick.Beside(q.dnsmasq, q.ours, why)
				if len(unexplained) > 0 {
					t.Errorf("%s, %s: no reason is given for %v", q.kind, q.what, unexplained)
				}
				fmt.Fprintf(&text, "== %s, %s: dnsmasq | provision\n%s\n", q.kind, q.what, beside)
			}
			compare(t, filepath.Join("testdata", "dnsmasq-"+string(mode)+".golden"), token.ReplaceAllString(text.String(), "boot/TOKEN/"))
		})
	}
	for i, s := range spec {
		if !used[i] {
			t.Errorf("there is no such difference: %+v", s)
		}
	}
}

var token = regexp.MustCompile(`boot/[0-9a-f]{32}/`)

func compare(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		must(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	a, b := strings.Split(string(want), "\n"), strings.Split(got, "\n")
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			t.Fatalf("%s differs in line %d:\n got %q\nwant %q\n(go test ./internal/lab/clients -run TestDnsmasq -update writes it anew)", file, i+1, b[min(i, len(b)-1)], a[min(i, len(a)-1)])
		}
	}
}

// questions asks both servers, one after the other. Each machine has a fixed address, so that it is the same with both.
func (w *world) questions(mode pxe.Mode) []question {
	w.Helper()
	var args []string
	var machines []*machine
	cable := w.plug(0, netboot.Client{})
	kinds := slices.DeleteFunc(netboot.Kinds(), func(k netboot.Kind) bool {
		return k == netboot.OldEDK2 || k == netboot.HP || k == netboot.HPSingle // which send what EDK2X64 sends
	})
	for i, kind := range kinds {
		c := netboot.Client{Kind: kind, MAC: net.HardwareAddr{0x52, 0x54, 0, 0xcc, 0, byte(i)}}
		m := &machine{Client: c, w: w, name: fmt.Sprint("host", i), wire: cable.wire}
		address := netip.AddrFrom4([4]byte{10, 77, 0, 100 + byte(i)})
		h := hosts.Host{Name: m.name, MACs: []string{c.MAC.String()}, Arch: string(archOf(kind)), Choices: hosts.Choices{Image: string(archOf(kind))}}
		if mode == pxe.Full {
			h.FixedAddress = address.String()
		}
		_, err := w.hosts.Enroll(h, time.Hour, nil)
		must(w.T, err)
		machines = append(machines, m)
		args = append(args, fmt.Sprintf("--dhcp-host=%s,%s", c.MAC, address))
	}
	recipe := dnsmasq.Proxy(addr("10.77.0.0"), self)
	if mode == pxe.Full {
		recipe = append(dnsmasq.Full(addr("10.77.0.100"), addr("10.77.0.199"), self), args...)
	}
	d, err := dnsmasq.Start(w.ctx, w.lans[0].Interface, w.TempDir(), w.TempDir(), recipe...)
	must(w.T, err)
	theirs := w.ask(machines, mode)
	d.Close()
	w.serveLAN(mode)
	ours := w.ask(machines, mode)
	for i := range theirs {
		theirs[i].ours = ours[i].dnsmasq
	}
	return theirs
}

// ask asks everything at whoever serves, all machines at once.
func (w *world) ask(machines []*machine, mode pxe.Mode) []question {
	w.Helper()
	answers, errs := make([][]question, len(machines)), make([]error, len(machines))
	var all sync.WaitGroup
	for i, m := range machines {
		// Beside a proxy, the router has leased it an address.
		mine, server := netip.AddrFrom4([4]byte{10, 77, 0, 100 + byte(i)}), self
		if mode == pxe.Proxy {
			server = addr("10.77.0.2")
		}
		all.Go(func() { answers[i], errs[i] = m.questions(server, mine) })
	}
	all.Wait()
	must(w.T, errors.Join(errs...))
	return slices.Concat(answers...)
}

func (m *machine) questions(server, mine netip.Addr) (all []question, err error) {
	everyone := netip.AddrPortFrom(addr("255.255.255.255"), 67)
	for _, q := range []struct {
		what string
		to   netip.AddrPort
		make func() ([]byte, error)
	}{
		{"DISCOVER", everyone, m.Discover},
		{"REQUEST", everyone, func() ([]byte, error) { return m.Request(server, mine) }},
		{"4011", netip.AddrPortFrom(self, 4011), func() ([]byte, error) { return m.BootServerRequest(self, mine, nil) }},
	} {
		packet, err := q.make()
		if err != nil {
			return nil, err
		}
		answer, err := m.wire.Ask(m.w.ctx, packet, q.to, patience)
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w", q.what, m.Kind, err)
		}
		all = append(all, question{m.Kind, q.what, answer, nil})
	}
	return all, nil
}

// differs reports whether the answers to a question differ in a field or option.
func differs(q question, key string) bool {
	_, keys := yardstick.Beside(q.dnsmasq, q.ours, nil)
	return slices.Contains(keys, key)
}
