package pxe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"provision/internal/store"
)

// Range is addresses that the DHCP server hands out, both ends included.
type Range struct {
	First, Last netip.Addr
	Bits        int // prefix length of their network; 0: that of the interface
}

// String is FIRST-LAST.
func (r Range) String() string { return r.First.String() + "-" + r.Last.String() }

// MaxRange bounds a range: a /12 is more than any link holds.
const MaxRange = 1 << 20

// ParseRange reads FIRST-LAST, or FIRST-LAST/BITS for a network behind a relay.
func ParseRange(s string) (Range, error) {
	addrs, bits, relayed := strings.Cut(s, "/")
	a, b, _ := strings.Cut(addrs, "-")
	first, err1 := netip.ParseAddr(strings.TrimSpace(a))
	last, err2 := netip.ParseAddr(strings.TrimSpace(b))
	r := Range{First: first, Last: last}
	var err3 error
	if relayed {
		if r.Bits, err3 = strconv.Atoi(bits); err3 == nil && (r.Bits < 8 || r.Bits > 30) {
			err3 = errors.New("not a prefix length")
		}
	}

	if err1 != nil || err2 != nil || err3 != nil || !first.Is4() || !last.Is4() || last.Less(first) {
		return Range{}, fmt.Errorf("DHCP range %q: write FIRST-LAST, such as 192.168.1.100-192.168.1.199, and for "+
			"machines behind a relay FIRST-LAST/24", s)
	}
	if r.size() > MaxRange {
		return Range{}, fmt.Errorf("DHCP range %q holds more than %d addresses", s, MaxRange)
	}
	return r, nil
}

func number(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func (r Range) size() int64 { return int64(number(r.Last)) - int64(number(r.First)) + 1 }

func (r Range) at(i int64) netip.Addr {
	n := number(r.First) + uint32(i)
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

func (r Range) contains(a netip.Addr) bool {
	return a.Is4() && !a.Less(r.First) && !r.Last.Less(a)
}

// lease is one address in use. An empty MAC marks an address that a client
// declined because somebody else uses it.
type lease struct {
	MAC     string    `json:"mac"`
	Expires time.Time `json:"expires"`
	loose   bool      // offered to a stranger, who did not take it yet
}

// pool hands out addresses. It lives in memory; what was acknowledged is in
// the store before the client hears of it.
type pool struct {
	store LeaseStore
	rng   Range
	term  time.Duration
	now   func() time.Time

	mu    sync.Mutex
	avoid map[netip.Addr]bool // our own, the router's
	by    map[netip.Addr]lease
	mine  map[string]netip.Addr // MAC to its address
	saved map[netip.Addr]time.Time
	relay netip.Addr // the last one that asked for these addresses
	// declines are when each MAC declined an address in the last hour.
	declines map[string][]time.Time

	probes map[netip.Addr]probe // of addresses that were free
	ahead  int                  // how many free addresses are kept probed
	wanted chan struct{}        // tells that they may be fewer
}

// maxDeclines is how many addresses a machine may decline in an hour. One that declines more keeps addresses from
// others.
const maxDeclines = 3

// LeasePrefix begins the keys of leases.
const LeasePrefix = "lease/"

// LeaseStore keeps leases: a [store.Journal], or any [store.Store].
type LeaseStore interface {
	List(ctx context.Context, prefix, after string) ([]store.Record, error)
	Commit(ctx context.Context, expect []store.Version, writes []store.Write) error
}

// storePatience is how long a lease may take to be kept. Its machine has given up by then.
const storePatience = 30 * time.Second

var (
	errNoAddress = errors.New("no address left")
	errDeclines  = fmt.Errorf("it declined %d addresses within an hour", maxDeclines)
)

// avoids sets the addresses that are never handed out.
func (p *pool) avoids(all []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.avoid = make(map[netip.Addr]bool)
	for _, a := range all {
		p.avoid[a] = true
	}
}

func newPool(db LeaseStore, rng Range, term time.Duration, now func() time.Time, avoid ...netip.Addr) (*pool, error) {
	p := &pool{
		store:    db,
		rng:      rng,
		term:     term,
		now:      now,
		by:       make(map[netip.Addr]lease),
		mine:     make(map[string]netip.Addr),
		saved:    make(map[netip.Addr]time.Time),
		declines: make(map[string][]time.Time),
		probes:   make(map[netip.Addr]probe),
		ahead:    minAhead,
		wanted:   make(chan struct{}, 1),
	}
	p.avoids(avoid)
	ctx, cancel := context.WithTimeout(context.Background(), storePatience)
	defer cancel()

	recs, err := db.List(ctx, LeasePrefix, "")
	if err != nil {
		return nil, fmt.Errorf("read leases: %w", err)
	}

	for _, rec := range recs {
		var l lease
		addr, err := netip.ParseAddr(strings.TrimPrefix(rec.Key, LeasePrefix))
		if err = errors.Join(err, json.Unmarshal(rec.Value, &l)); err != nil {
			return nil, fmt.Errorf("read lease %s: %w", rec.Key, err)
		}
		p.by[addr], p.saved[addr] = l, l.Expires
		if l.MAC != "" && l.Expires.After(p.by[p.mine[l.MAC]].Expires) {
			p.mine[l.MAC] = addr
		}
	}

	return p, nil
}

// offer picks the client's address: the fixed one, the one it has, the one it
// asks for, a free one, one whose lease ran out. Those that were probed ahead come first. A machine that is known goes
// without none while there is one that a stranger was only offered, that somebody declined, or for which somebody else
// answered a probe. It is held for a minute.
func (p *pool) offer(mac string, fixed, asked netip.Addr, known bool) (netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	addr := fixed
	if !addr.IsValid() {
		addr = p.pick(mac, asked, known)
	} else if l := p.by[fixed]; l.MAC != "" && l.MAC != mac && l.Expires.After(p.now()) {
		return netip.Addr{}, fmt.Errorf("%w: the fixed address %s of %s is leased to %s until %s", errNoAddress, fixed, mac, l.MAC, l.Expires.Format(time.TimeOnly))
	}

	if !addr.IsValid() {
		return addr, fmt.Errorf("%w in %s for %s", errNoAddress, p.rng, mac)
	}
	if l := p.by[addr]; l.MAC != mac || l.Expires.Before(p.now().Add(time.Minute)) {
		p.assign(addr, lease{mac, p.now().Add(time.Minute), !known})
	}
	return addr, nil
}

func (p *pool) pick(mac string, asked netip.Addr, known bool) netip.Addr {
	inUse := func(addr netip.Addr) bool { return p.free(addr) && p.answered(addr, mac) }
	if addr, ok := p.mine[mac]; ok && p.rng.contains(addr) && !p.avoid[addr] && !inUse(addr) {
		return addr
	}
	if p.free(asked) && !inUse(asked) {
		return asked
	}

	// A machine lands on the same address each time, as far as possible, even
	// after its lease was lost.
	h := fnv.New32a()
	h.Write([]byte(mac))
	start, size := int64(h.Sum32()), p.rng.size()
	addr := p.silent(mac, start)
	p.want(!addr.IsValid())
	if addr.IsValid() {
		return addr
	}
	var expired, loose, declined, answered netip.Addr
	claims := p.claims()
	for i := range size {
		addr := p.rng.at((start + i) % size)
		l, taken := p.by[addr]
		switch {
		case p.avoid[addr]:
		case inUse(addr): // who answers for many addresses can hardly have them all
			if !answered.IsValid() || claims[p.probes[addr].by] > claims[p.probes[answered].by] {
				answered = addr
			}
		case !taken:
			return addr
		case l.Expires.Before(p.now()):
			expired = firstOf(expired, addr)
		case l.loose:
			loose = firstOf(loose, addr)
		case l.MAC == "" && (!declined.IsValid() || l.Expires.Before(p.by[declined].Expires)):
			declined = addr
		}
	}

	if !known {
		return expired
	}
	return firstOf(expired, firstOf(loose, firstOf(declined, answered)))
}

// firstOf is the first of two addresses that is valid.
func firstOf(a, b netip.Addr) netip.Addr {
	if a.IsValid() {
		return a
	}
	return b
}

// refuses says why an address cannot be one of the machines with these MACs.
func (p *pool) refuses(addr netip.Addr, macs []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.by[addr]
	switch {
	case p.avoid[addr]:
		return errors.New("it is this server's own, or the router's")
	case l.MAC != "" && !l.loose && l.Expires.After(p.now()) && !slices.Contains(macs, l.MAC):
		return fmt.Errorf("it is leased to %s until %s", l.MAC, l.Expires.Format(time.DateTime))
	}
	return nil
}

func (p *pool) free(a netip.Addr) bool {
	l, taken := p.by[a]
	return a.IsValid() && p.rng.contains(a) && !p.avoid[a] && (!taken || l.Expires.Before(p.now()))
}

func (p *pool) assign(addr netip.Addr, l lease) {
	if old, ok := p.by[addr]; ok && old.MAC != l.MAC {
		if p.mine[old.MAC] == addr {
			delete(p.mine, old.MAC)
		}
		delete(p.saved, addr) // what is on the disk is another's
	}

	if old, ok := p.mine[l.MAC]; ok && old != addr {
		delete(p.by, old)
	}
	p.by[addr] = l
	if l.MAC != "" {
		p.mine[l.MAC] = addr
	}
}

// confirm makes the lease of addr the client's for a full term, on disk
// before it returns. False: the address is not the client's.
func (p *pool) confirm(mac string, addr netip.Addr) (bool, error) {
	l := lease{MAC: mac, Expires: p.now().Add(p.term)}
	p.mu.Lock()
	ours := p.mine[mac] == addr && addr.IsValid()
	if ours {
		p.by[addr] = l // nobody else can have it meanwhile
	}
	stale := p.saved[addr].Before(l.Expires)
	p.mu.Unlock()
	if !ours || !stale {
		return ours, nil
	}

	// Half a term more on the disk spares it a write for every DHCPREQUEST.
	longer := lease{MAC: mac, Expires: l.Expires.Add(p.term / 2)}
	if err := p.save(addr, &longer); err != nil {
		return false, err
	}

	p.mu.Lock()
	if p.by[addr].MAC == mac {
		p.saved[addr] = longer.Expires
	}
	p.mu.Unlock()
	return true, nil
}

// release frees addr if it is the client's; declined keeps it from everybody for a term, because the client found it in
// use (RFC 2131 section 4.3.3). Only an address that was leased to the client can be declined, and only a few in an
// hour: who was offered one, or declines all, is not to keep others from theirs. It reports whether the client has lost
// the address so.
func (p *pool) release(mac string, addr netip.Addr, declined bool) (lost bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()

	_, leased := p.saved[addr]
	mine, ok := p.mine[mac]
	if !ok || mine != addr || declined && !leased {
		return false, nil
	}
	if declined && !p.mayDecline(mac) {
		return false, errDeclines
	}
	delete(p.mine, mac)
	delete(p.by, addr)
	delete(p.saved, addr)
	if !declined {
		return true, p.save(addr, nil)
	}
	l := lease{Expires: p.now().Add(p.term)}
	p.by[addr] = l
	return true, p.save(addr, &l)
}

// mayDecline counts what a MAC declines.
func (p *pool) mayDecline(mac string) bool {
	hourAgo := p.now().Add(-time.Hour)
	for other, all := range p.declines {
		if all = slices.DeleteFunc(all, hourAgo.After); len(all) == 0 {
			delete(p.declines, other)
		} else {
			p.declines[other] = all
		}
	}

	if len(p.declines[mac]) >= maxDeclines {
		return false
	}
	p.declines[mac] = append(p.declines[mac], p.now())
	return true
}

// relayed notes the relay by which a client asked, and returns the last one: who
// renews an address asks directly.
func (p *pool) relayed(via netip.Addr) netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	if via.IsValid() {
		p.relay = via
	}
	return p.relay
}

func (p *pool) save(addr netip.Addr, l *lease) error {
	w := store.Write{Key: LeasePrefix + addr.String()}
	if l != nil {
		data, err := json.Marshal(l)
		if err != nil {
			return err
		}
		w.Value = data
	}

	ctx, cancel := context.WithTimeout(context.Background(), storePatience)
	defer cancel()
	if err := p.store.Commit(ctx, nil, []store.Write{w}); err != nil {
		return fmt.Errorf("save the lease of %s: %w", addr, err)
	}
	return nil
}
