package pxe

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestARPProbe: the frame is that of RFC 5227 section 2.1.1: a request whose sender has no address yet.
func TestARPProbe(t *testing.T) {
	const want = "ffffffffffff" + "525400123456" + "0806" + // Ethernet
		"0001" + "0800" + "06" + "04" + "0001" + // a request for IPv4 on Ethernet
		"525400123456" + "00000000" + "000000000000" + "0a4d0064"
	hw, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(arpProbe(hw, netip.MustParseAddr("10.77.0.100"))); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// lines is a log of which each line can be waited for.
type lines chan string

func (l lines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}

// probed waits until addresses have been probed.
func (l lines) probed(t *testing.T) {
	t.Helper()
	for line := range l {
		if strings.Contains(line, "probed free addresses") {
			return
		}
	}
}

// besideProbing runs f beside a server that probes, on a cable with a machine of which a command makes what the test
// needs.
func besideProbing(t *testing.T, rng, command string, f func(s *Server, log lines)) {
	t.Helper()
	besideMachine(t, func(l *servedLink, there func(string)) {
		there(command)
		s := server(t, Full)
		log := make(lines, 1000)
		s.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		s.links, s.subnets = []*servedLink{l}, nil
		r, err := ParseRange(rng)
		s.Ranges = []Range{r}
		if err := errors.Join(err, s.openSubnets(false)); err != nil {
			t.Error(err)
			return
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer cancel()
			f(s, log)
		}()
		if err := s.probeAhead(ctx, l, s.probedPool(l)); err != nil { // in this thread's namespace
			t.Error(err)
		}
		<-done
	})
}

// offered is the address that a machine is offered; "" if none is.
func (s *Server) offered(t *testing.T, mac string) string {
	t.Helper()
	r := s.dhcp(as(t, mac, 0, ""))
	if r == nil {
		return ""
	}
	return r.YourIPAddr.String()
}

// TestAddressInUse: what somebody uses whom nobody leased it is for others the last choice, and none for strangers. He
// himself may have it.
func TestAddressInUse(t *testing.T) {
	const used = "10.77.0.102"
	besideProbing(t, "10.77.0.100-10.77.0.103", "ip address add "+used+"/24 dev port2", func(s *Server, log lines) {
		log.probed(t)
		got := map[string]bool{}
		for i := range 4 {
			mac := fmt.Sprintf("52:54:00:aa:00:%02x", i)
			s.mustEnroll(t, fmt.Sprint("host", i), mac)
			addr := s.offered(t, mac)
			if got[addr] || (addr == used) != (i == 3) {
				t.Errorf("machine %d of 4 was offered %q", i, addr)
			}
			got[addr] = true
			events, err := s.Hosts.Events(fmt.Sprint("host", i), 0)
			if err != nil {
				t.Error(err)
			}
			told := strings.Contains(events[len(events)-1].Message, "got an address that may be in use: "+liar+" answers ARP for "+used+";")
			if told != (i == 3) {
				t.Errorf("the log of machine %d of 4 ends with %q", i, events[len(events)-1].Message)
			}
		}
	})
	besideProbing(t, "10.77.0.102-10.77.0.103", "ip address add "+used+"/24 dev port2", func(s *Server, log lines) {
		log.probed(t)
		s.mustEnroll(t, "bravo", mac)
		s.mustEnroll(t, "other", "52:54:00:aa:00:00")
		if addr := s.offered(t, "52:54:00:aa:00:00"); addr == used {
			t.Errorf("another machine was offered %s", addr)
		}
		if addr := s.offered(t, mac); addr != used {
			t.Errorf("the machine that has %s was offered %s", used, addr)
		}
	})
}

// liar answers ARP for what it was not leased.
const liar = mac

// TestARPLiar: a machine that answers ARP for all addresses keeps no known machine from one, and it is told who that is.
func TestARPLiar(t *testing.T) {
	besideProbing(t, "10.77.0.100-10.77.0.103", "ip route add local 10.77.0.0/24 dev lo", func(s *Server, log lines) {
		log.probed(t)
		if addr := s.offered(t, "52:54:00:bb:00:01"); addr != "" {
			t.Errorf("a stranger was offered %s, which is answered for", addr)
		}
		got := map[string]bool{"": true}
		for i := range 4 {
			mac := fmt.Sprintf("52:54:00:aa:00:%02x", i)
			s.mustEnroll(t, fmt.Sprint("host", i), mac)
			addr := s.offered(t, mac)
			if got[addr] || s.offered(t, mac) != addr {
				t.Errorf("machine %d of 4 was offered %q, or then another", i, addr)
			}
			got[addr] = true
		}
		events, err := s.Hosts.Events("host0", 0)
		if err != nil {
			t.Error(err)
		}
		told := 0
		for _, ev := range events {
			if strings.Contains(ev.Message, mac+" answers ARP for ") && strings.Contains(ev.Message, " and for other free addresses of 10.77.0.100-10.77.0.103;") {
				told++
			}
		}
		if told != 1 {
			t.Errorf("it was told %d times: %v", told, events)
		}
		warned := 0
		for len(log) > 0 {
			if strings.Contains(<-log, "an address was handed out that may be in use") {
				warned++
			}
		}
		if warned != 1 {
			t.Errorf("%d lines in the log", warned)
		}
	})
}

// TestLeastBad: where all addresses are answered for, the one is chosen whose owner answers for the most.
func TestLeastBad(t *testing.T) {
	for _, tt := range []struct {
		answers map[int64]string // by place in a range of four
		known   bool
		want    string // the last bytes that may be chosen
	}{
		{nil, true, "100"}, // to which the MAC's hash leads
		{map[int64]string{0: "", 1: "", 2: "", 3: ""}, true, "100"},
		{map[int64]string{0: "x", 1: "x", 2: "x"}, true, "103"},
		{map[int64]string{0: "x", 1: "", 2: "x", 3: "x"}, false, "101"},
		{map[int64]string{0: "x", 1: "liar", 2: "liar", 3: "y"}, true, "101 102"},
		{map[int64]string{0: "x", 1: "liar", 2: "liar", 3: "y"}, false, ""},
		{map[int64]string{0: "x", 1: mac, 2: "x", 3: "x"}, false, "101"},
	} {
		s := server(t, Full)
		p := s.subnets[0].pool
		p.rng.Last = p.rng.at(3)
		for i, by := range tt.answers {
			p.learn([]netip.Addr{p.rng.at(i)}, map[netip.Addr]string{p.rng.at(i): by})
		}
		addr, err := p.offer(mac, netip.Addr{}, netip.Addr{}, tt.known)
		if got := strings.TrimPrefix(addr.String(), "10.77.0."); (err == nil) != (tt.want != "") || err == nil && !strings.Contains(tt.want, got) {
			t.Errorf("%v: %s, %v", tt.answers, addr, err)
		}
	}
}

// TestProbedAhead: how many are probed follows what is asked for, and results are renewed before they are too old.
func TestProbedAhead(t *testing.T) {
	s := server(t, Full)
	now := noon
	p := s.subnets[0].pool
	p.now = func() time.Time { return now }
	look := func(want int) {
		t.Helper()
		addrs := p.unprobed()
		if len(addrs) != want {
			t.Errorf("%d addresses are to be probed, want %d", len(addrs), want)
		}
		p.learn(addrs, map[netip.Addr]string{netip.MustParseAddr("10.77.0.100"): "x"})
	}
	look(minAhead)
	look(1) // for the one that is in use
	look(0)
	for i := range minAhead {
		if a, err := p.offer(fmt.Sprint("new ", i), netip.Addr{}, netip.Addr{}, false); err != nil || p.probes[a] != (probe{at: now}) {
			t.Errorf("%s was not probed: %v", a, err)
		}
	}
	<-p.wanted
	look(minAhead)
	for i := range 100 - 1 - minAhead {
		if _, err := p.offer(fmt.Sprint("many ", i), netip.Addr{}, netip.Addr{}, false); err != nil {
			t.Fatal(err)
		}
	}
	if p.ahead != maxAhead {
		t.Errorf("%d are to be probed ahead", p.ahead)
	}
	for range 10 {
		p.calm()
	}
	if p.ahead != minAhead {
		t.Errorf("%d are to be probed ahead when all is calm", p.ahead)
	}
	now = now.Add(probeGood / 2)
	look(1) // the one that is in use
	now = now.Add(time.Minute + time.Second)
	look(minAhead) // whose offers nobody took
}
