package netboot

import (
	"net/netip"
	"testing"
	"time"
)

// offered makes an offer: an address unless it is a proxy's, and options.
func offered(addr string, siaddr bool, file string, opts ...option) reply {
	var p packet
	p.head[0] = 2
	if addr != "" {
		copy(p.head[16:], netip.MustParseAddr(addr).AsSlice())
	}
	if siaddr {
		copy(p.head[20:], []byte{10, 0, 0, 1})
	}
	copy(p.head[108:], file)
	p.opts = append([]option{{optType, []byte{offer}}, {optServer, []byte{10, 0, 0, 1}}}, opts...)
	return reply{packet: p, at: time.Now(), raw: []byte{0}}
}

// TestPick is the facts' "How EDK2 picks an offer", and the firmware that no such offer suits.
func TestPick(t *testing.T) {
	class := option{optClass, []byte("PXEClient")}
	useFile := option{optVendor, []byte{6, 1, 8, 255}}
	web := option{optClass, []byte("HTTPClient")}
	var (
		plain     = offered("10.0.0.9", true, "")
		plainFile = offered("10.0.0.9", true, "f")
		binl      = offered("10.0.0.9", true, "f", class)
		ten       = offered("10.0.0.9", true, "f", class, useFile)
		proxyBINL = offered("", true, "f", class)
		proxyTen  = offered("", true, "f", class, useFile)
		noSiaddr  = offered("", false, "f", class, useFile)
		stray     = offered("", true, "f") // a proxy that does not say PXEClient
		url       = offered("10.0.0.9", false, "http://10.0.0.1/f", web)
		proxyURL  = offered("", false, "http://10.0.0.1/f", web)
	)
	edk2 := func(o []reply) (choice, bool) { return pickEDK2(o, false) }
	old := func(o []reply) (choice, bool) { return pickEDK2(o, true) }
	hp := func(o []reply) (choice, bool) { return pickComplete(o, true) }
	single := func(o []reply) (choice, bool) { return pickComplete(o, false) }
	for _, tt := range []struct {
		name   string
		pick   func([]reply) (choice, bool)
		offers []reply
		want   string
		asks   bool
	}{
		{"all there is", edk2, []reply{plainFile, proxyBINL, binl, proxyTen, ten}, "DHCP and PXE 1.0", false},
		{"a proxy before a router's BINL", edk2, []reply{binl, plain, proxyTen}, "plain DHCP and a proxy's PXE 1.0", false},
		{"a router that sends option 60 wins over a proxy's BINL", edk2, []reply{proxyBINL, binl}, "DHCP and BINL", true},
		{"a proxy's BINL", edk2, []reply{plain, proxyBINL}, "plain DHCP and a proxy's BINL", true},
		{"a file name is last", edk2, []reply{plainFile}, "plain DHCP with a file name", false},
		{"a lease is not enough", edk2, []reply{plain}, "", false},
		{"a proxy is not enough", edk2, []reply{proxyTen, stray}, "", false},
		{"old EDK2 drops PXE 1.0 of proxies", old, []reply{plain, proxyTen}, "", false},
		{"and waits for BINL", old, []reply{plain, proxyTen, proxyBINL}, "plain DHCP and a proxy's BINL", true},
		{"but takes a server's", old, []reply{ten}, "DHCP and PXE 1.0", false},
		{"HP takes no BINL", hp, []reply{plain, proxyBINL, binl}, "", false},
		{"HP wants siaddr", hp, []reply{plain, noSiaddr}, "", false},
		{"HP", hp, []reply{plain, proxyBINL, proxyTen}, "a lease and a proxy's complete offer", false},
		{"HP, one server", hp, []reply{ten}, "one complete offer", false},
		{"HP single takes no proxy's", single, []reply{plain, proxyTen}, "", false},
		{"HP single", single, []reply{proxyTen, plainFile}, "one complete offer", false},
		{"HTTP boot takes no PXE offer", pickHTTP, []reply{plainFile, ten, proxyTen}, "", false},
		{"HTTP boot", pickHTTP, []reply{proxyURL, url}, "DHCP with a URL", false},
		{"HTTP boot by a proxy", pickHTTP, []reply{proxyURL, plain}, "plain DHCP and a proxy's URL", false},
		{"PXE takes no HTTP offer", edk2, []reply{url, proxyURL}, "", false},
	} {
		c, ok := tt.pick(tt.offers)
		if c.how != tt.want || ok != (tt.want != "") || c.ask4011 != tt.asks {
			t.Errorf("%s: %q %v, asks port 4011: %v", tt.name, c.how, ok, c.ask4011)
		}
	}
}
