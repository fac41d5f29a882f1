package doctor

import (
	"fmt"
	"net/netip"
	"strings"
)

// sub returns a member of a JSON object; nil if v is not an object or has no such member.
func sub(v any, key string) any {
	m, _ := v.(map[string]any)
	return m[key]
}

// fieldName returns nft's name of a field: "meta iifname", "udp dport".
func fieldName(left any) string {
	m, _ := left.(map[string]any)
	for group, body := range m {
		word := func(key string) string { s, _ := sub(body, key).(string); return s }
		switch group {
		case "meta", "ct":
			return group + " " + word("key")
		case "payload":
			return word("protocol") + " " + word("field")
		case "fib":
			return fmt.Sprint("fib ", sub(body, "flags"), " ", word("result"))
		}
	}

	return ""
}

// field returns the value of a packet's field: a string, an int or a netip.Prefix. known is maybe if the packet may
// have any value, and no if it does not have the field.
func field(left any, p packet) (value any, known truth) {
	for _, op := range []string{"concat", "&"} { // & is a mask; only whether the parts exist is considered
		if parts, ok := sub(left, op).([]any); ok {
			known := yes
			for _, part := range parts {
				if _, k := field(part, p); k == no {
					known = no
				}
			}
			return nil, min(known, maybe)
		}
	}

	name := fieldName(left)
	switch proto, _, _ := strings.Cut(name, " "); proto {
	case "ip6", "icmp", "icmpv6", "sctp", "dccp", "udplite", "igmp", "ah", "esp", "comp":
		return nil, no
	case "tcp", "udp":
		if proto != p.Proto {
			return nil, no
		}
	}

	switch name {
	case "meta iifname", "meta iif":
		return p.In, yes
	case "meta oifname", "meta oif":
		return p.Out, yes
	case "meta l4proto", "ip protocol":
		return p.Proto, yes
	case "meta nfproto":
		return "ipv4", yes
	case "meta protocol":
		return "ip", yes
	case "meta pkttype":
		return pick(p.Broadcast, "broadcast", "host"), pick(p.Out == "", yes, maybe)
	case "fib [daddr] type":
		return p.destination(), yes
	case "ct state":
		return p.State, yes
	case "ct status":
		return "", pick(p.State == "new", yes, maybe) // a new packet is not confirmed yet, and not rewritten
	case "ip saddr":
		return p.From, yes
	case "ip daddr":
		return p.To, yes
	case "udp dport", "tcp dport", "th dport":
		return p.Port, yes
	case "udp sport", "tcp sport", "th sport":
		return p.Source, pick(p.Source != 0, yes, maybe)
	}

	return nil, maybe
}

// destination returns the type of a packet's destination address (ip-route(8)).
func (p packet) destination() string {
	switch {
	case p.Broadcast:
		return "broadcast"
	case p.Out != "":
		return "unicast"
	}
	return "local"
}

// pick returns one if b is true, and else other.
func pick[T any](b bool, one, other T) T {
	if b {
		return one
	}
	return other
}

// sameValue compares a field's value with a JSON value: a word, a number, a prefix or a range.
func sameValue(v, right any) truth {
	switch v := v.(type) {
	case string:
		switch r := right.(type) {
		case string:
			if stem, ok := strings.CutSuffix(r, "*"); ok {
				return truthOf(strings.HasPrefix(v, stem))
			}
			return truthOf(v == r)
		case float64: // the number of a protocol for which the system has no name
			return truthOf(v == "udp" && r == 17 || v == "tcp" && r == 6)
		}
	case int:
		if r, ok := right.(float64); ok {
			return truthOf(float64(v) == r)
		}
		if r, ok := sub(right, "range").([]any); ok && len(r) == 2 {
			low, ok1 := r[0].(float64)
			high, ok2 := r[1].(float64)
			if ok1 && ok2 {
				return truthOf(low <= float64(v) && float64(v) <= high)
			}
		}
	case netip.Prefix:
		return within(v, right)
	}

	return maybe
}

// within reports whether all (yes), some (maybe) or none (no) of the addresses are among those on the right.
func within(from netip.Prefix, right any) truth {
	var low, high netip.Addr
	var err error
	switch r := right.(type) {
	case string:
		low, err = netip.ParseAddr(r)
		high = low
	case map[string]any:
		if ends, ok := r["range"].([]any); ok && len(ends) == 2 {
			a, _ := ends[0].(string)
			b, _ := ends[1].(string)
			low, err = netip.ParseAddr(a)
			high, _ = netip.ParseAddr(b)
			break
		}

		addr, _ := sub(r["prefix"], "addr").(string)
		bits, _ := sub(r["prefix"], "len").(float64)
		var net netip.Prefix
		net, err = netip.ParsePrefix(fmt.Sprintf("%s/%d", addr, int(bits)))
		low, high = net.Masked().Addr(), last(net)
	default:
		return maybe
	}
	if err != nil || !high.IsValid() {
		return maybe
	}
	return overlap(from, low, high)
}

// overlap reports whether all, some or none of the addresses of a network are in a range.
func overlap(from netip.Prefix, low, high netip.Addr) truth {
	first, end := from.Masked().Addr(), last(from)
	switch {
	case low.Compare(first) <= 0 && end.Compare(high) <= 0:
		return yes
	case high.Compare(first) < 0 || end.Compare(low) < 0:
		return no
	}
	return maybe
}

// last returns the highest address of an IPv4 network; invalid for other networks.
func last(p netip.Prefix) netip.Addr {
	if !p.Addr().Is4() {
		return netip.Addr{}
	}
	a := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(a)
}
