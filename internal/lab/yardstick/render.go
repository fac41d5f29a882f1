// Package yardstick says what a DHCP answer holds, so that ours can stand beside dnsmasq's, and has tshark look for
// mistakes in packets.
package yardstick

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// line is one field or option.
type line struct {
	key   string // "siaddr", "67", "43.6"
	name  string
	value string
}

func (l line) String() string { return fmt.Sprintf("%-7s %-20s %s", l.key, l.name, l.value) }

// Render is the text of a DHCP packet: one line per header field, then one per option, sorted by code. Transaction ID,
// seconds and lease times are shown as *, so that the text of two answers to the same question is the same. No packet
// is "silence".
func Render(packet []byte) string {
	var b strings.Builder
	for _, l := range lines(packet) {
		b.WriteString(strings.TrimRight(l.String(), " ") + "\n")
	}
	return b.String()
}

// Beside compares two answers to one question: a line that is the same stands alone, one that differs has both values
// with | between them, and after # why that is so. why is by the line's key, such as "siaddr", "67" or "43.6"; the keys
// of the differences that it does not explain are returned. If one of the two is silence, that is the one difference.
func Beside(left, right []byte, why map[string]string) (text string, unexplained []string) {
	a, b := lines(left), lines(right)
	var b2 strings.Builder
	if (left == nil) != (right == nil) {
		who, answer := "silence | an answer", b
		if right == nil {
			who, answer = "an answer | silence", a
		}
		reason := why["silence"]
		if reason == "" {
			unexplained = []string{"silence"}
		}
		fmt.Fprintf(&b2, "! %s  # %s\n", who, cmp.Or(reason, "UNEXPLAINED"))
		a, b = answer, answer
	}
	for _, key := range keys(a, b) {
		l, r := find(a, key), find(b, key)
		if l == r {
			b2.WriteString("  " + strings.TrimRight(l.String(), " ") + "\n")
			continue
		}
		reason := why[key]
		if reason == "" {
			unexplained = append(unexplained, key)
		}
		row := line{key, cmp.Or(l.name, r.name), cmp.Or(l.value, "-") + " | " + cmp.Or(r.value, "-")}
		fmt.Fprintf(&b2, "! %s  # %s\n", row, cmp.Or(reason, "UNEXPLAINED"))
	}
	return b2.String(), unexplained
}

// keys of both, in the order of Render.
func keys(a, b []line) []string {
	all := slices.Concat(a, b)
	slices.SortStableFunc(all, func(x, y line) int { return cmp.Compare(rank(x.key), rank(y.key)) })
	var keys []string
	for _, l := range all {
		if !slices.Contains(keys, l.key) {
			keys = append(keys, l.key)
		}
	}
	return keys
}

var header = []string{"silence", "malformed", "length", "op", "hops", "xid", "secs", "flags", "ciaddr", "yiaddr", "siaddr", "giaddr", "chaddr", "sname", "file"}

func rank(key string) float64 {
	if i := slices.Index(header, key); i >= 0 {
		return float64(i - len(header))
	}
	var code, sub int
	fmt.Sscanf(key, "%d.%d", &code, &sub)
	return float64(code) + float64(sub)/1000
}

func find(all []line, key string) line {
	for _, l := range all {
		if l.key == key {
			return l
		}
	}
	return line{key: key}
}

func lines(p []byte) []line {
	switch {
	case p == nil:
		return []line{{key: "silence"}}
	case len(p) < 240 || !bytes.Equal(p[236:240], []byte{99, 130, 83, 99}):
		return []line{{"malformed", "", fmt.Sprintf("no DHCP packet: %x", p)}}
	}
	ip := func(at int) string { return netip.AddrFrom4([4]byte(p[at : at+4])).String() }
	all := []line{
		{"length", "", fmt.Sprint(len(p))},
		{"op", "", map[byte]string{1: "BOOTREQUEST", 2: "BOOTREPLY"}[p[0]]},
		{"hops", "", fmt.Sprint(p[3])},
		{"xid", "", "*"},
		{"secs", "", "*"},
		{"flags", "", fmt.Sprintf("%#04x", binary.BigEndian.Uint16(p[10:]))},
		{"ciaddr", "client has", ip(12)},
		{"yiaddr", "client gets", ip(16)},
		{"siaddr", "next server", ip(20)},
		{"giaddr", "relay agent", ip(24)},
		{"chaddr", "", net.HardwareAddr(p[28:34]).String()},
		{"sname", "", text(p[44:108])},
		{"file", "", text(p[108:236])},
	}
	opts, err := options(p[240:])
	for _, o := range opts {
		all = append(all, o.line(fmt.Sprint(o.code), optionNames[o.code]))
		if o.code == 43 {
			subs, _ := options(o.data) // an end is not required here
			for _, s := range subs {
				all = append(all, line{fmt.Sprintf("43.%d", s.code), pxeNames[s.code], fmt.Sprintf("%x", s.data)})
			}
		}
	}
	if err != nil {
		all = append(all, line{"malformed", "", err.Error()})
	}
	return all
}

type option struct {
	code byte
	data []byte
}

// options reads a list of options, sorted by code; options of one code follow each other as they came.
func options(b []byte) (opts []option, err error) {
	for {
		switch {
		case len(b) == 0:
			err = fmt.Errorf("no end option")
		case b[0] == 255:
		case b[0] == 0:
			b = b[1:]
			continue
		case len(b) < 2 || len(b) < 2+int(b[1]):
			err = fmt.Errorf("option %d is cut short", b[0])
		default:
			n := 2 + int(b[1])
			opts = append(opts, option{b[0], b[2:n]})
			b = b[n:]
			continue
		}
		slices.SortStableFunc(opts, func(x, y option) int { return cmp.Compare(x.code, y.code) })
		return opts, err
	}
}

func (o option) line(key, name string) line {
	l := line{key, name, fmt.Sprintf("%x", o.data)}
	switch {
	case o.code == 53 && len(o.data) == 1:
		l.value = []string{1: "DISCOVER", "OFFER", "REQUEST", "DECLINE", "ACK", "NAK", "RELEASE", "INFORM"}[min(8, max(1, o.data[0]))]
	case slices.Contains([]byte{51, 58, 59}, o.code):
		l.value = "*"
	case slices.Contains([]byte{1, 3, 6, 28, 42, 50, 54}, o.code) && len(o.data)%4 == 0:
		var addrs []string
		for a := range slices.Chunk(o.data, 4) {
			addrs = append(addrs, netip.AddrFrom4([4]byte(a)).String())
		}
		l.value = strings.Join(addrs, " ")
	case slices.Contains([]byte{12, 15, 17, 56, 60, 66, 67, 77}, o.code):
		l.value = fmt.Sprintf("%q", o.data)
	}
	return l
}

// text is a header field: quoted up to the first zero.
func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return fmt.Sprintf("%q", b)
}

var optionNames = map[byte]string{
	1: "subnet mask", 3: "router", 6: "DNS", 12: "host name", 15: "domain", 17: "root path", 28: "broadcast",
	43: "vendor-specific", 50: "requested address", 51: "lease time", 52: "overload", 53: "message type",
	54: "server", 55: "parameter list", 56: "message", 57: "maximum size", 58: "renewal time", 59: "rebinding time",
	60: "vendor class", 61: "client ID", 66: "TFTP server", 67: "boot file", 77: "user class", 82: "relay agent info",
	93: "architecture", 94: "network interface", 97: "machine UUID", 175: "iPXE",
}

// Of PXE 2.1, section 2.2.
var pxeNames = map[byte]string{6: "discovery control", 7: "multicast address", 8: "boot servers", 9: "boot menu",
	10: "menu prompt", 71: "boot item"}
