package yardstick

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"provision/internal/lab"
	"provision/internal/lab/dnsmasq"
	"provision/internal/lab/netboot"
)

var update = flag.Bool("update", false, "write golden files anew")

func TestMain(m *testing.M) { os.Exit(lab.InNamespace(m.Run)) }

var (
	addr   = netip.MustParseAddr
	self   = addr("10.77.0.1")
	router = addr("10.77.0.2")
	all    = netip.AddrPortFrom(addr("255.255.255.255"), 67)
)

// Silence is listened to for a moment where the golden file has it too; dnsmasq answers within a millisecond. Where an
// answer is due, a busy machine may take its time.
const moment, due = 250 * time.Millisecond, 20 * time.Second

// TestDnsmasq records what dnsmasq answers to each kind's packets, in both roles, and has tshark check it.
func TestDnsmasq(t *testing.T) {
	for role, recipe := range map[string][]string{
		"full":  dnsmasq.Full(addr("10.77.0.100"), addr("10.77.0.199"), self),
		"proxy": dnsmasq.Proxy(addr("10.77.0.0"), self),
	} {
		t.Run(role, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			lan, err := lab.NewLAN(ctx, "br0", netip.PrefixFrom(self, 24))
			must(t, err)
			defer lan.Close()
			d, err := dnsmasq.Start(ctx, "br0", t.TempDir(), t.TempDir(), recipe...)
			must(t, err)
			defer d.Close()
			c, err := lan.Client(ctx, "port", "52:54:00:12:34:56", netip.Prefix{})
			must(t, err)
			defer c.Close()
			wire, err := netboot.Open(c, c.Interface)
			must(t, err)
			defer wire.Close()
			r := &recorder{t: t, ctx: ctx, wire: wire, silent: silences(t, "dnsmasq-"+role+".golden")}
			for _, kind := range netboot.Kinds() {
				r.kind(kind)
			}
			compare(t, "dnsmasq-"+role+".golden", r.text.String())
			wrong, err := Malformed(ctx, r.answers)
			must(t, err)
			if len(r.answers) < 30 || len(wrong) != 0 {
				t.Errorf("%d answers; tshark: %s", len(r.answers), strings.Join(wrong, "\n"))
			}
		})
	}
}

// recorder asks and writes down.
type recorder struct {
	t       *testing.T
	ctx     context.Context
	wire    *netboot.Wire
	silent  map[string]bool // questions that the golden file has no answer to
	text    strings.Builder
	answers []Datagram
}

// silences reads the questions of a golden file that are met by silence.
func silences(t *testing.T, name string) map[string]bool {
	text, err := os.ReadFile(filepath.Join("testdata", name))
	must(t, err)
	silent := map[string]bool{}
	for section := range strings.SplitSeq(string(text), "== ") {
		question, answer, _ := strings.Cut(section, "\n")
		silent[question] = strings.TrimSpace(answer) == "silence"
	}
	return silent
}

// kind goes through DISCOVER, REQUEST and the question to port 4011. A machine that was offered no address asks the
// router for 10.77.0.50 and has it.
func (r *recorder) kind(kind netboot.Kind) {
	c := netboot.Client{Kind: kind}
	ask, err := c.Discover()
	must(r.t, err)
	offer := r.ask(kind, "DHCPDISCOVER", ask, all)
	server, mine := router, addr("10.77.0.50")
	if offer != nil && [4]byte(offer[16:20]) != [4]byte{} {
		server, mine = self, netip.AddrFrom4([4]byte(offer[16:20]))
	}
	ask, err = c.Request(server, mine)
	must(r.t, err)
	r.ask(kind, "DHCPREQUEST", ask, all)
	ask, err = c.BootServerRequest(self, mine, nil)
	must(r.t, err)
	r.ask(kind, "DHCPREQUEST to port 4011", ask, netip.AddrPortFrom(self, 4011))
}

func (r *recorder) ask(kind netboot.Kind, what string, packet []byte, to netip.AddrPort) []byte {
	r.t.Helper()
	question, patience := fmt.Sprintf("%s, %s", kind, what), due
	if r.silent[question] || *update {
		patience = moment
	}
	answer, err := r.wire.Ask(r.ctx, packet, to, patience)
	must(r.t, err)
	fmt.Fprintf(&r.text, "== %s\n%s\n", question, Render(answer))
	if answer != nil {
		r.answers = append(r.answers, Datagram{netip.AddrPortFrom(self, to.Port()), netip.AddrPortFrom(all.Addr(), 68), answer})
	}
	return answer
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func compare(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		must(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if got != string(want) {
		a, b := strings.Split(string(want), "\n"), strings.Split(got, "\n")
		for i := range min(len(a), len(b)) {
			if a[i] != b[i] {
				t.Fatalf("%s, line %d:\n got %s\nwant %s\n(go test ./internal/lab/yardstick -update writes it anew)", name, i+1, b[i], a[i])
			}
		}
		t.Fatalf("%s has %d lines, and %d were got", name, len(a), len(b))
	}
}

// TestMalformed: what is wrong is found, with the number of its packet.
func TestMalformed(t *testing.T) {
	good, err := netboot.Captured("edk2-x64-discover")
	must(t, err)
	cut := slices.Clone(good[:len(good)-20]) // in the middle of option 60
	from, to := netip.AddrPortFrom(self, 67), netip.AddrPortFrom(all.Addr(), 68)
	wrong, err := Malformed(context.Background(), []Datagram{{from, to, good}, {from, to, cut}})
	must(t, err)
	if len(wrong) == 0 || slices.ContainsFunc(wrong, func(s string) bool { return !strings.HasPrefix(s, "packet 1, 10.77.0.1:67 to 255") }) {
		t.Errorf("%q", wrong)
	}
	// Option 51 must be four bytes long.
	end := len(good) - 1
	short := append(slices.Clone(good[:end]), 51, 2, 0, 1, 255)
	if wrong, err = Malformed(context.Background(), []Datagram{{from, to, short}}); err != nil || len(wrong) == 0 {
		t.Errorf("%q, %v", wrong, err)
	}
}

func TestBeside(t *testing.T) {
	a, err := netboot.Captured("edk2-x64-discover")
	must(t, err)
	b := slices.Clone(a)
	copy(b[4:8], "abcd") // another transaction
	if text, rest := Beside(a, b, nil); len(rest) != 0 || strings.Contains(text, "|") {
		t.Errorf("%q\n%s", rest, text)
	}
	b[23] = 7
	b = append(b[:len(b)-1], 43, 4, 6, 1, 8, 255, 255)
	text, rest := Beside(a, b, map[string]string{"siaddr": "we serve", "43": "no 4011"})
	if !slices.Equal(rest, []string{"43.6", "length"}) && !slices.Equal(rest, []string{"length", "43.6"}) {
		t.Errorf("%q", rest)
	}
	for _, want := range []string{"! siaddr  next server          0.0.0.0 | 0.0.0.7  # we serve\n", "43.6    discovery control    - | 08  # UNEXPLAINED\n", "  53      message type         DISCOVER\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	text, rest = Beside(nil, a, nil)
	if !slices.Equal(rest, []string{"silence"}) || !strings.HasPrefix(text, "! silence | an answer  # UNEXPLAINED\n  length ") {
		t.Errorf("%q\n%s", rest, text)
	}
	text, rest = Beside(a, nil, map[string]string{"silence": "ours"})
	if len(rest) != 0 || !strings.HasPrefix(text, "! an answer | silence  # ours\n  length ") {
		t.Errorf("%q\n%s", rest, text)
	}
	if text, rest := Beside(nil, nil, nil); text != "  silence\n" || len(rest) != 0 {
		t.Errorf("%q\n%s", rest, text)
	}
}

func TestRender(t *testing.T) {
	for _, tt := range [][2]string{{"", "malformed"}, {"short", "malformed"}} {
		if got := Render([]byte(tt[0])); !strings.HasPrefix(got, tt[1]) {
			t.Errorf("%q: %s", tt[0], got)
		}
	}
	good, err := netboot.Captured("pi4-discover")
	must(t, err)
	if got := Render(good[:len(good)-1]); !strings.Contains(got, "malformed                      no end option") {
		t.Error(got)
	}
}
