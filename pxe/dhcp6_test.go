package pxe

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"provision/hosts"
)

// solicit is a SOLICIT of testdata, as it came behind its UDP header.
func solicit(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name + ".hex")
	if err != nil {
		t.Fatal(err)
	}
	data, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestDHCP6: who is told that there is nothing to boot over IPv6.
func TestDHCP6(t *testing.T) {
	const pxe, http = "ovmf-x64-solicit", "ovmf-x64-http-solicit"
	// Another client identifier, and no more options: those of the firmware follow it.
	system := func(b []byte) []byte { return b[:4+4+18] }
	for _, tt := range []struct {
		name   string
		packet string
		state  hosts.State // "": nobody knows it
		from   string
		edit   func([]byte) []byte
		told   bool
	}{
		{name: "PXE", packet: pxe, state: hosts.StateInstalled, told: true},
		{name: "HTTP boot", packet: http, state: hosts.StateInstalled, told: true},
		{name: "restarting", packet: pxe, state: hosts.StateRebooting, told: true},
		{name: "to be installed", packet: pxe, state: hosts.StateReady},
		{name: "in its installer", packet: http, state: hosts.StateLive},
		{name: "a stranger", packet: pxe},
		{name: "another machine", packet: pxe, state: hosts.StateInstalled, from: "fe80::5054:ff:fe12:3457"},
		{name: "an address that is not made of a MAC", packet: pxe, state: hosts.StateInstalled, from: "fe80::1234"},
		{name: "an address of another network", packet: pxe, state: hosts.StateInstalled, from: "2001:db8::5054:ff:fe12:3456"},
		{name: "an operating system", packet: pxe, state: hosts.StateInstalled, edit: system},
		{name: "another class", packet: pxe, state: hosts.StateInstalled,
			edit: func(b []byte) []byte { return bytes.Replace(b, []byte("PXEClient"), []byte("PXEServer"), 1) }},
		{name: "a REQUEST", packet: pxe, state: hosts.StateInstalled, edit: func(b []byte) []byte { b[0] = 3; return b }},
		{name: "a relay's", packet: pxe, state: hosts.StateInstalled, edit: func(b []byte) []byte { b[0] = 12; return b }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := server(t, Full)
			if tt.state != "" {
				s.mustEnroll(t, "bravo", mac)
				s.reach(t, "bravo", tt.state)
			}
			from, packet := "fe80::5054:ff:fe12:3456", solicit(t, tt.packet)
			if tt.from != "" {
				from = tt.from
			}
			if tt.edit != nil {
				packet = tt.edit(packet)
			}
			r := s.answerDHCP6(s.links[0], netip.MustParseAddr(from), packet)
			if (r != nil) != tt.told {
				t.Fatalf("answered: %v", r)
			}
			if r == nil {
				return
			}
			// The type, the transaction, who asks, and who answers (a DUID-LL); nothing else.
			want := slices.Concat([]byte{2}, packet[1:4+4+18], []byte{0, 2, 0, 10, 0, 3, 0, 1, 0x52, 0x54, 0, 0, 0, 1})
			if got := r.ToBytes(); !bytes.Equal(got, want) {
				t.Errorf("the answer is\n%x, want\n%x", got, want)
			}
		})
	}
}

// TestDHCP6Damaged: no damaged SOLICIT is more than silence or the usual answer.
func TestDHCP6Damaged(t *testing.T) {
	s := server(t, Proxy)
	s.mustEnroll(t, "bravo", mac)
	s.reach(t, "bravo", hosts.StateInstalled)
	from, whole := netip.MustParseAddr("fe80::5054:ff:fe12:3456"), solicit(t, "ovmf-x64-http-solicit")
	for i := range whole {
		s.answerDHCP6(s.links[0], from, whole[:i])
		for _, b := range []byte{0, 1, 0x7f, 0xff} {
			damaged := bytes.Clone(whole)
			damaged[i] = b
			if r := s.answerDHCP6(s.links[0], from, damaged); r != nil && len(r.ToBytes()) > len(whole) {
				t.Errorf("with byte %d as %02x it is answered: %v", i, b, r)
			}
		}
	}
}

// FuzzDHCP6: whatever is in a SOLICIT, the answer has nothing to boot and no address, and a stranger gets none.
func FuzzDHCP6(f *testing.F) {
	for _, name := range []string{"ovmf-x64-solicit", "ovmf-x64-http-solicit"} {
		f.Add(solicit(f, name), uint8(roleInstalled))
		f.Add(solicit(f, name), uint8(0))
	}
	all := targets(f)
	f.Fuzz(func(t *testing.T, data []byte, role uint8) {
		role %= roles
		from := netip.MustParseAddr(fmt.Sprintf("fe80::5054:ff:fe12:34%02x", role)) // see roleMAC
		for _, tg := range all {
			r := tg.answerDHCP6(tg.links[0], from, data)
			if r != nil && (role == 0 || r.Options.BootFileURL() != "" || r.Options.OneIANA() != nil) {
				t.Errorf("%s got %s", from, r)
			}
		}
	})
}
