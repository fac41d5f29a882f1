package pxe

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"provision/hosts"
)

// beyondTheLink has machines at loopback addresses be in a network behind a relay.
func (s *Server) beyondTheLink() {
	s.links[0].neighbour = func(netip.Addr) string { return "" }
	s.Relays = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
}

// TestMediumAsks: what the iPXE of a boot medium is answered, from beyond the
// link, where nothing but DHCP can vouch for its MAC.
func TestMediumAsks(t *testing.T) {
	const uuid = "4c414200-0000-4000-8000-525400123456"
	ask := "/ipxe?platform=efi&arch=x86_64&from=medium&uuid=" + uuid + "&mac="
	at := func(address string) func(*testing.T, *Server) {
		return func(t *testing.T, s *Server) {
			if _, err := s.Hosts.Apply("bravo", hosts.Event{Kind: hosts.EventAddress, Address: address}); err != nil {
				t.Fatal(err)
			}
		}
	}
	state := func(state hosts.State) func(*testing.T, *Server) {
		return func(t *testing.T, s *Server) { s.reach(t, "bravo", state) }
	}
	for _, tt := range []struct {
		name   string
		mode   Mode
		hold   bool
		before func(*testing.T, *Server)
		path   string
		want   string // in the answer; empty: there is none
	}{
		{name: "off", mode: Off, path: ask + mac, want: "/kernel initrd=initrd"},
		{name: "off, in capitals with dashes", mode: Off, path: ask + strings.ToUpper(strings.ReplaceAll(mac, ":", "-")), want: "/kernel initrd=initrd"},
		{name: "off, arch not told", mode: Off, path: "/ipxe?mac=" + mac, want: "&uuid=${uuid}\n"},
		{name: "off, no MAC", mode: Off, path: "/ipxe", want: "chain --replace"},
		{name: "off, a stranger", mode: Off, path: ask + "52:54:00:00:00:99"},
		{name: "off, another processor", mode: Off, path: strings.Replace(ask, "x86_64", "arm64", 1) + mac, want: localScript},
		{name: "off, installed", mode: Off, before: state(hosts.StateInstalled), path: ask + mac, want: localScript},
		{name: "off, rebooting", mode: Off, before: state(hosts.StateRebooting), path: ask + mac, want: localScript},
		{name: "off, hold", mode: Off, hold: true, path: ask + "52:54:00:00:00:99", want: "provision enroll 52:54:00:00:00:99 HOST"},
		{name: "proxy, address not known", mode: Proxy, path: ask + mac},
		{name: "proxy, another address", mode: Proxy, before: at("127.0.0.2"), path: ask + mac},
		{name: "proxy, its address", mode: Proxy, before: at("127.0.0.1"), path: ask + mac, want: "/kernel initrd=initrd"},
		{name: "proxy, its address, a stranger's MAC", mode: Proxy, before: at("127.0.0.1"), path: ask + "52:54:00:00:00:99"},
		{name: "server, address not known", mode: Full, path: ask + mac},
		{name: "server, its address", mode: Full, before: at("127.0.0.1"), path: ask + mac, want: "/kernel initrd=initrd"},
		{name: "server, no MAC", mode: Full, path: "/ipxe"},
		{name: "server, hold", mode: Full, hold: true, path: ask + "52:54:00:00:00:99"},
		{name: "server, not a MAC", mode: Full, path: ask + "%00"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := server(t, tt.mode)
			s.mustEnroll(t, "bravo", mac)
			if tt.hold {
				s.Unknown = Hold
			}
			s.beyondTheLink()
			if tt.before != nil {
				tt.before(t, s)
			}
			srv := httptest.NewServer(s.routes(s.links[0]))
			defer srv.Close()
			resp, body, err := get(t, srv, http.MethodGet, tt.path, "")
			switch {
			case tt.want == "" && err == nil:
				t.Errorf("it was answered: %s %s", resp.Status, body)
			case tt.want != "" && (err != nil || !strings.Contains(string(body), tt.want)):
				t.Errorf("%v: %s", err, body)
			}
			h, err := s.Hosts.ByMAC(mac)
			if err != nil {
				t.Fatal(err)
			}
			if boots := strings.Contains(tt.want, "kernel"); boots != (h.Boot.TakenBy == "127.0.0.1") || boots && h.Method.Offer != hosts.OfferMedium {
				t.Errorf("its boot is that of %q, by %s", h.Boot.TakenBy, h.Method)
			}
			if strings.Contains(string(body), "/kernel") && h.Machine != uuidText(uuid) {
				t.Errorf("it is bound to the machine %q", h.Machine)
			}
		})
	}
}

// TestMediumOfAnotherMachine: a machine that copies the MAC gets nothing of a boot
// that another one has begun.
func TestMediumOfAnotherMachine(t *testing.T) {
	s := server(t, Off)
	s.mustEnroll(t, "bravo", mac)
	s.beyondTheLink()
	srv := httptest.NewServer(s.routes(s.links[0]))
	defer srv.Close()
	for _, tt := range []struct{ uuid, want string }{
		{"4c414200-0000-4000-8000-525400123456", "/kernel"},
		{"4c414200-0000-4000-8000-525400123456", "/kernel"}, // asked twice
		{"11111111-0000-4000-8000-525400123456", localScript},
		{"", localScript},
	} {
		_, body, err := get(t, srv, http.MethodGet, "/ipxe?platform=efi&arch=x86_64&from=medium&mac="+mac+"&uuid="+tt.uuid, "")
		if err != nil || !strings.Contains(string(body), tt.want) {
			t.Errorf("%s: %v: %s", tt.uuid, err, body)
		}
	}
}

// TestUUIDText: iPXE's text and its option 97 are one machine.
func TestUUIDText(t *testing.T) {
	raw := []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	for text, want := range map[string]string{
		"01020304-0506-0708-090a-0b0c0d0e0f10": machineID(raw),
		"04030201-0605-0807-090a-0b0c0d0e0f10": machineID(raw), // fields in the other order
		"":                                     "", "x": "", "01020304": "", "00000000-0000-0000-0000-000000000000": "",
	} {
		if got := uuidText(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
