package pxe

import (
	"errors"
	"net/netip"
	"sync"
	"time"
)

// The border of what is served is that of our links, of the networks whose addresses we hand out, and of those that the
// operator named. Packets can be sent to us from everywhere, and say of themselves what they like.

// ParseRelay reads the address of a relay agent, or the network behind one.
func ParseRelay(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if a, addrErr := netip.ParseAddr(text); addrErr == nil {
		p, err = netip.PrefixFrom(a, a.BitLen()), nil
	}
	if err != nil || !p.Addr().Is4() {
		return p, errors.New("write the IPv4 address of a relay agent, such as 10.9.0.1, " +
			"or the network behind it, such as 10.9.0.0/24")
	}
	return p.Masked(), nil
}

// networks calls yield with each network that is served.
func (s *Server) networks(yield func(netip.Prefix) bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, l := range s.links {
		if !yield(l.net) {
			return
		}
	}

	for _, sub := range s.subnets {
		if !yield(sub.prefix) {
			return
		}
	}

	for _, p := range s.Relays {
		if !yield(p) {
			return
		}
	}
}

// serves reports whether an address is in a network that is served.
func (s *Server) serves(at netip.Addr) bool {
	for p := range s.networks {
		if p.Contains(at) {
			return true
		}
	}
	return false
}

// behind reports whether a machine that asks through this relay can have this address: one of the network that the
// relay is in, or any if the relay alone is named.
func (s *Server) behind(relay, at netip.Addr) bool {
	for p := range s.networks {
		if p.Contains(relay) && (p.IsSingleIP() || p.Contains(at)) {
			return true
		}
	}
	return false
}

// admits reports whether a request comes from a network that is served, through a relay or, if that is invalid,
// directly; or from the host's last address. Else it says so.
func (e *exchange) admits(from, relay netip.Addr) bool {
	switch {
	case relay.IsValid():
		if e.serves(relay) {
			return true
		}
	case from.IsUnspecified(), e.serves(from), e.host != nil && e.host.Address == from.String():
		return true
	}

	beyond, words := from, "from "+from.String()
	if relay.IsValid() {
		beyond, words = relay, "through the relay "+relay.String()
	}
	if e.host != nil {
		e.note(*e.host, "%s asked %s, which is in no network that is served, and got no answer: "+
			"if it is yours, serve with --relay %s, or better with the whole network", e.client, words, beyond)
	}
	if e.beyond.due(e.Now()) {
		e.Log.Warn("DHCP from a network that is not served is not answered; if it is yours, serve with --relay NETWORK",
			"mac", e.client.MAC, "asked", words)
	}
	return false
}

// seldom bounds how often strangers cause a line in the log.
type seldom struct {
	mu   sync.Mutex
	last time.Time
}

// due is true once a minute.
func (o *seldom) due(now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now.Sub(o.last) < time.Minute {
		return false
	}
	o.last = now
	return true
}
