package pxe

import (
	"slices"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"provision/hosts"
	"provision/images"
)

var both = map[string][]byte{images.ProgramUNDI: {1}, images.ProgramSNP: {1}, images.ProgramNative: {1}, images.ProgramSNPArm64: {1}}

// TestSteps: what is tried with each client, in order.
func TestSteps(t *testing.T) {
	for _, tt := range []struct {
		name            string
		c               bootClient
		proxy, full     []string
		programs        []string
		program, native string
	}{
		{"x64", bootClient{Kind: pxeFirmware, Arch: iana.EFI_X86_64}, []string{"binl", "first", "header"},
			[]string{"first", "binl", "plain", "header"}, []string{"snponly", "native"}, "snponly.efi", "ipxe.efi"},
		{"arm64", bootClient{Kind: pxeFirmware, Arch: iana.EFI_ARM64}, []string{"binl", "first", "header"},
			[]string{"first", "binl", "plain", "header"}, []string{"snponly"}, "snponly-arm64.efi", "ipxe-arm64.efi"},
		{"BIOS", bootClient{Kind: pxeFirmware, Arch: iana.INTEL_X86PC}, []string{"first", "binl", "header"},
			[]string{"first", "binl", "plain", "header"}, []string{"snponly"}, "undionly.kpxe", "ipxe.pxe"},
		{"HTTP", bootClient{Kind: httpBoot, Arch: iana.EFI_X86_64_HTTP}, []string{"http"}, []string{"http"},
			[]string{"snponly", "native"}, "snponly.efi", "ipxe.efi"},
	} {
		for mode, want := range map[Mode][]string{Proxy: tt.proxy, Full: tt.full} {
			st := stepsFor(tt.c, mode, both)
			if !slices.Equal(st.offers, want) || !slices.Equal(st.programs, tt.programs) {
				t.Errorf("%s, %s: %v", tt.name, mode, st)
			}
		}
		if a, b := programFile(tt.c, "snponly"), programFile(tt.c, "native"); a != tt.program || b != tt.native {
			t.Errorf("%s: %s, %s", tt.name, a, b)
		}
	}
}

// TestLadder follows one machine: each line is what happens, and the method
// with which the next DISCOVER is answered.
func TestLadder(t *testing.T) {
	c := bootClient{MAC: mac, Kind: pxeFirmware, Arch: iana.EFI_X86_64}
	asked := func(cl *climb) { cl.asked = true }
	loaded := func(cl *climb) { cl.asked, cl.loaded = true, true }
	up := func(cl *climb) { cl.asked, cl.loaded, cl.ipxe = true, true, true }
	done := func(cl *climb) { *cl = climb{offer: cl.offer, program: cl.program, round: cl.round, done: true} }
	type line struct {
		after time.Duration
		note  func(*climb)
		want  string
	}
	for _, tt := range []struct {
		name           string
		pinned, worked hosts.Method
		lines          []line
	}{
		{name: "nothing is fetched", lines: []line{{0, nil, "binl+snponly"}, {4 * time.Second, nil, "first+snponly"},
			{8 * time.Second, nil, "header+snponly"}, {16 * time.Second, nil, "binl+snponly"}}},
		{name: "a duplicate is no round", lines: []line{{0, nil, "binl+snponly"}, {100 * time.Millisecond, nil, "binl+snponly"}, {100 * time.Millisecond, nil, "binl+snponly"}}},
		{name: "the program hangs", lines: []line{{0, nil, "binl+snponly"}, {time.Minute, loaded, "binl+native"}, {time.Minute, loaded, "binl+snponly"}}},
		{name: "the program is fetched in part", lines: []line{{0, nil, "binl+snponly"}, {time.Minute, asked, "binl+snponly"}}},
		{name: "iPXE came up and had no luck", lines: []line{{0, nil, "binl+snponly"}, {time.Minute, up, "binl+snponly"}}},
		{name: "it worked", lines: []line{{0, nil, "binl+snponly"}, {time.Minute, done, "binl+snponly"}, {time.Minute, nil, "first+snponly"}}},
		{name: "it worked before", worked: hosts.Method{Offer: "first", Program: "native"},
			lines: []line{{0, nil, "first+native"}, {4 * time.Second, nil, "header+native"}}},
		{name: "pinned", pinned: hosts.Method{Offer: "first"}, lines: []line{{0, nil, "first+snponly"}, {4 * time.Second, nil, "first+snponly"}, {4 * time.Second, loaded, "first+native"}}},
		{name: "pinned to what cannot be", pinned: hosts.Method{Offer: "plain"}, lines: []line{{0, nil, ""}}},
	} {
		var l ladders
		now := noon
		for i, line := range tt.lines {
			now = now.Add(line.after)
			if line.note != nil {
				l.note(mac, line.note)
			}
			got := l.ask(c, stepsFor(c, Proxy, both), true, tt.pinned, tt.worked, now)
			if again := l.ask(c, stepsFor(c, Proxy, both), false, tt.pinned, tt.worked, now.Add(time.Hour)); again != got {
				t.Errorf("%s, line %d: its REQUEST was answered by %s, its DISCOVER by %s", tt.name, i, again, got)
			}
			if got.String() != line.want {
				t.Errorf("%s, line %d: %s, want %s", tt.name, i, got, line.want)
			}
		}
	}
}

// TestWorked: what led a machine to its script is that of its ladder if it asked
// for a program by it, even if it was not seen to have it whole.
func TestWorked(t *testing.T) {
	c := bootClient{MAC: mac, Kind: pxeFirmware, Arch: iana.EFI_X86_64}
	for _, tt := range []struct {
		now  climb
		want string
	}{
		{climb{}, "rom"},
		{climb{ipxe: true}, "rom"},
		{climb{asked: true}, "rom"},
		{climb{asked: true, ipxe: true}, "binl+snponly"},
		{climb{asked: true, loaded: true}, "binl+snponly"},
	} {
		var l ladders
		l.ask(c, stepsFor(c, Proxy, both), true, hosts.Method{}, hosts.Method{}, noon)
		l.note(mac, func(cl *climb) { cl.asked, cl.loaded, cl.ipxe = tt.now.asked, tt.now.loaded, tt.now.ipxe })
		if got := l.worked(mac).String(); got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.now, got, tt.want)
		}
	}
}

// TestLadderOnTheWire: the offers differ as firmware sees them, and what
// worked is kept.
func TestLadderOnTheWire(t *testing.T) {
	s := server(t, Full)
	now := noon
	s.Now = func() time.Time { return now }
	s.mustEnroll(t, "bravo", mac)
	var token string
	for i, want := range []struct {
		class, vendor string
		has67         bool
	}{{"PXEClient", "\x06\x01\x08\xff", true}, {"PXEClient", "", true}, {"", "", true}, {"PXEClient", "\x06\x01\x08\xff", false}} {
		r := s.dhcp(packet(t, "ovmf-x64-discover"))
		if r == nil || r.BootFileName == "" || r.Options.Has(dhcpv4.OptionBootfileName) != want.has67 || r.ClassIdentifier() != want.class ||
			string(r.Options.Get(dhcpv4.OptionVendorSpecificInformation)) != want.vendor {
			t.Fatalf("round %d: %v", i, r)
		}
		if next := tokenPattern.FindString(r.BootFileName); token != "" && next != token {
			t.Error("a step began another boot")
		}
		token = tokenPattern.FindString(r.BootFileName)
		now = now.Add(4 * time.Second)
	}
	r := s.binl(packet(t, "ovmf-x64-request"))
	if r == nil || r.BootFileName == "" || r.Options.Has(dhcpv4.OptionBootfileName) ||
		r.Options.Has(dhcpv4.OptionVendorSpecificInformation) {
		t.Errorf("port 4011 at the last step: %v", r)
	}
	f, err := s.open(s.links[0], "boot/"+token+"/ipxe.efi", addrPort("10.77.0.104:1024"))
	if err != nil {
		t.Fatal(err)
	}
	f.Close(true)
	if r := s.dhcp(packet(t, "ipxe-discover")); r == nil || tokenPattern.FindString(r.BootFileName) != token {
		t.Fatal("iPXE was not led on", r)
	}
	if _, err := s.Hosts.UseBoot(token, hosts.Fetch{Client: "10.77.0.104", File: "script", Method: s.ladders.worked(mac)}); err != nil {
		t.Fatal(err)
	}
	if h, _ := s.Hosts.Get("bravo"); h.Method.String() != "header+native" {
		t.Errorf("it remembers %q", h.Method)
	}
	s.ladders = ladders{} // as after a restart
	now = now.Add(time.Minute)
	if r := s.dhcp(packet(t, "ovmf-x64-discover")); r == nil || r.Options.Has(dhcpv4.OptionBootfileName) {
		t.Errorf("what worked was not tried first: %v", r)
	}
}
