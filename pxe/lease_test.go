package pxe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"provision/internal/store"
)

func TestParseRange(t *testing.T) {
	for in, size := range map[string]int64{
		"10.0.0.1-10.0.0.1": 1, "10.0.0.1 - 10.0.1.0": 256, "10.0.0.0-10.15.255.255": 1 << 20,
		"": 0, "10.0.0.1": 0, "10.0.0.2-10.0.0.1": 0, "10.0.0.0-10.16.0.0": 0, "fe80::1-fe80::2": 0, "a-b": 0,
	} {
		r, err := ParseRange(in)
		if (err == nil) != (size > 0) || (err == nil && r.size() != size) {
			t.Errorf("%q: %v, %v", in, r, err)
		}
	}
}

func TestLeases(t *testing.T) {
	s := server(t, Full)
	now := noon
	addr := netip.MustParseAddr
	rng := Range{First: addr("10.77.0.100"), Last: addr("10.77.0.103")}
	open := func() *pool {
		t.Helper()
		p, err := newPool(s.Leases, rng, time.Hour, func() time.Time { return now }, addr("10.77.0.101"))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := open()
	offer := func(mac string, asked string) netip.Addr {
		t.Helper()
		var want netip.Addr
		if asked != "" {
			want = addr(asked)
		}
		a, err := p.offer(mac, netip.Addr{}, want, true)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	confirm := func(mac string, a netip.Addr) bool {
		t.Helper()
		ok, err := p.confirm(mac, a)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}

	a := offer("a", "10.77.0.103")
	if a != addr("10.77.0.103") || offer("a", "10.77.0.100") != a {
		t.Errorf("a was offered %s, and then another", a)
	}
	if !confirm("a", a) || confirm("b", a) || confirm("b", netip.Addr{}) {
		t.Error("the offer was not confirmed, or somebody else's was")
	}
	if b := offer("b", a.String()); b == a || b == addr("10.77.0.101") {
		t.Errorf("b was offered %s", b)
	}
	b := offer("b", "")
	c := offer("c", "")
	if b == c || !confirm("b", b) || !confirm("c", c) {
		t.Error(b, c)
	}
	if d, err := p.offer("d", netip.Addr{}, netip.Addr{}, true); err == nil {
		t.Errorf("three addresses, and a fourth machine got %s", d)
	}

	p = open() // a restart
	if offer("a", "") != a || offer("b", "") != b || !confirm("a", a) {
		t.Error("leases were forgotten over a restart")
	}
	now = now.Add(40 * time.Minute)
	if !confirm("a", a) {
		t.Error("a renewal was refused")
	}
	p = open()
	now = now.Add(59 * time.Minute) // a's second lease still runs, all others ended
	if d := offer("d", ""); d == a {
		t.Error("a's renewed lease was given away after a restart")
	}

	if _, err := p.release("a", addr("10.77.0.102"), false); err != nil || !confirm("a", a) {
		t.Error("a released an address that is not its own, and lost its own", err)
	}
	if _, err := p.release("a", a, false); err != nil {
		t.Fatal(err)
	}
	if e := offer("e", a.String()); e != a {
		t.Errorf("a released address was not given: %s", e)
	}
	if _, err := p.release("e", a, true); err != nil || offer("e", "") != a {
		t.Error("an address was declined that was only offered", err)
	}
	if !confirm("e", a) {
		t.Error("e did not get what it was offered")
	}
	if _, err := p.release("e", a, true); err != nil { // DHCPDECLINE: in use by a stranger
		t.Fatal(err)
	}
	if f := offer("f", a.String()); f == a {
		t.Error("a declined address was given again at once")
	}
	if fixed, err := p.offer("g", addr("10.77.0.50"), netip.Addr{}, true); err != nil || fixed != addr("10.77.0.50") || !confirm("g", fixed) {
		t.Errorf("fixed address: %s, %v", fixed, err)
	}
}

// TestNobodyGoesWithout: neither strangers that ask and ask nor a machine that declines all keeps a known machine from
// an address.
func TestNobodyGoesWithout(t *testing.T) {
	now := noon
	addr := netip.MustParseAddr
	rng := Range{First: addr("10.77.0.100"), Last: addr("10.77.0.105")}
	p, err := newPool(server(t, Full).Leases, rng, time.Hour, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	take := func(mac string, known bool) netip.Addr {
		t.Helper()
		a, err := p.offer(mac, netip.Addr{}, netip.Addr{}, known)
		if err != nil {
			return netip.Addr{}
		}
		if ok, err := p.confirm(mac, a); !ok || err != nil {
			t.Fatalf("%s of %s is not confirmed: %v", a, mac, err)
		}
		return a
	}
	var declined []netip.Addr
	for range 5 {
		a := take("liar", true)
		if _, err := p.release("liar", a, true); err != nil && !errors.Is(err, errDeclines) {
			t.Fatal(err)
		}
		if p.by[a].MAC == "" {
			declined = append(declined, a)
		}
		now = now.Add(time.Second)
	}
	if len(declined) != maxDeclines {
		t.Errorf("%d addresses were declined", len(declined))
	}
	for i := range 10 {
		_, _ = p.offer(fmt.Sprint("stranger ", i), netip.Addr{}, netip.Addr{}, false)
	}
	if a := take("late stranger", false); a.IsValid() {
		t.Errorf("a stranger got %s, which was declined or another's", a)
	}
	got := map[netip.Addr]bool{}
	for i := range 5 {
		got[take(fmt.Sprint("known ", i), true)] = true
	}
	if len(got) != 5 || got[netip.Addr{}] {
		t.Errorf("known machines got %v", got)
	}
	now = now.Add(time.Hour)
	if a := take("liar", true); !a.IsValid() {
		t.Error("the liar goes without when the hour is over")
	}
}

func TestLeasesAreSteady(t *testing.T) {
	s := server(t, Full)
	first, err := s.subnets[0].offer(mac, netip.Addr{}, netip.Addr{}, true)
	if err != nil {
		t.Fatal(err)
	}
	other := server(t, Full) // its store is empty
	for i := range 20 {
		if _, err := other.subnets[0].offer(fmt.Sprint("other ", i), netip.Addr{}, netip.Addr{}, true); err != nil {
			t.Fatal(err)
		}
	}
	if again, _ := server(t, Full).subnets[0].offer(mac, netip.Addr{}, netip.Addr{}, true); again != first {
		t.Errorf("%s, and with an empty store %s", first, again)
	}
}

// slowStore is a store whose commits wait.
type slowStore struct {
	LeaseStore
	asked, open chan struct{}
}

func (g slowStore) Commit(ctx context.Context, expect []store.Version, writes []store.Write) error {
	g.asked <- struct{}{}
	<-g.open
	return g.LeaseStore.Commit(ctx, expect, writes)
}

// TestLeaseIsOnDiskFirst: nothing is acknowledged before the store has it.
func TestLeaseIsOnDiskFirst(t *testing.T) {
	g := slowStore{server(t, Full).Leases, make(chan struct{}, 1), make(chan struct{})}
	addr := netip.MustParseAddr
	p, err := newPool(g, Range{First: addr("10.77.0.100"), Last: addr("10.77.0.103")}, time.Hour, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.offer("a", netip.Addr{}, netip.Addr{}, true)
	if err != nil {
		t.Fatal(err)
	}
	acknowledged := make(chan error)
	go func() {
		_, err := p.confirm("a", a)
		acknowledged <- err
	}()
	<-g.asked
	select {
	case <-acknowledged:
		t.Error("acknowledged before it was on the disk")
	case <-time.After(50 * time.Millisecond):
	}
	if b, err := p.offer("b", netip.Addr{}, a, true); err != nil || b == a { // others are not kept waiting
		t.Errorf("b was offered %s, %v", b, err)
	}
	close(g.open)
	if err := <-acknowledged; err != nil {
		t.Error(err)
	}
}
