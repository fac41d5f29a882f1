package pxe

import (
	"bytes"
	"encoding/hex"
	"flag"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"provision/hosts"
	"provision/images"
	"provision/internal/store"
	"provision/internal/tftp"
)

var update = flag.Bool("update", false, "write golden files anew")

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const mac = "52:54:00:12:34:56"

func packet(t testing.TB, name string) *dhcpv4.DHCPv4 {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	m, err := dhcpv4.FromBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// server is one that answers, without sockets.
func server(t testing.TB, mode Mode) *Server {
	t.Helper()
	db, err := store.OpenBolt(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return serverOn(t, mode, db, func() time.Time { return noon })
}

func serverOn(t testing.TB, mode Mode, db store.Store, now func() time.Time) *Server {
	t.Helper()
	dir := t.TempDir()
	vault, err := hosts.OpenVault(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Mode: mode, Traces: &hosts.Traces{Now: now}, HTTPPort: 80, BootTime: 10 * time.Minute, Leases: db, Log: slog.New(slog.DiscardHandler),
		Login: "ssh-ed25519 AAAA provision", Now: now}
	if s.Hosts, err = hosts.New(db, vault, s.Now); err != nil {
		t.Fatal(err)
	}
	if s.Images, err = images.Open(filepath.Join(dir, "images")); err != nil {
		t.Fatal(err)
	}
	s.links = []*servedLink{{name: "eth0", self: netip.MustParseAddr("10.77.0.1"), net: netip.MustParsePrefix("10.77.0.0/24"), mac: "52:54:00:00:00:01",
		neighbour: func(netip.Addr) string { return mac }}}
	s.links[0].mtu.Store(1500)
	if s.programs, err = images.Programs(""); err != nil {
		t.Fatal(err)
	}
	s.Lease, s.Ranges = time.Hour, []Range{{First: netip.MustParseAddr("10.77.0.100"), Last: netip.MustParseAddr("10.77.0.199")}}
	if err := s.openSubnets(false); err != nil {
		t.Fatal(err)
	}
	s.withImage(t, 9000)
	return s
}

// dhcp is a packet's way through port 67, and binl through port 4011.
func (s *Server) dhcp(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	r, _ := s.handle(s.links[0], netip.MustParseAddrPort("0.0.0.0:68"), 67, nil, m, (*exchange).answerDHCP)
	return r
}

func (s *Server) binl(m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	r, _ := s.handle(s.links[0], netip.MustParseAddrPort("10.77.0.104:68"), 4011, nil, m, (*exchange).answerBINL)
	return r
}

func (s *Server) mustEnroll(t testing.TB, name, mac string) hosts.Host {
	t.Helper()
	h, err := s.Hosts.Enroll(hosts.Host{Name: name, MACs: []string{mac}, Arch: "x86_64", Choices: hosts.Choices{Image: "lab"}}, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// reach brings a fresh host into a state.
func (s *Server) reach(t testing.TB, name string, state hosts.State) {
	t.Helper()
	h, err := s.Hosts.Get(name)
	if err == nil && state != hosts.StateReady {
		h, err = s.Hosts.BeginBoot(name, hosts.Boot{Expires: noon.Add(time.Minute)}, "")
	}
	boot := h.Boot
	path := []hosts.Event{
		{Kind: hosts.EventContacted, Address: "10.77.0.104", Boot: &boot}, {Kind: hosts.EventBurned},
		{Kind: hosts.EventRebooted}, {Kind: hosts.EventProved},
	}
	for i := 0; err == nil && h.State != state; i++ {
		h, err = s.Hosts.Apply(name, path[i])
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestIdentify(t *testing.T) {
	for _, tt := range []struct {
		file string
		kind clientKind
		arch iana.Arch
	}{
		{"ovmf-x64-discover", pxeFirmware, iana.EFI_X86_64},
		{"ovmf-x64-request", pxeFirmware, iana.EFI_X86_64},
		{"ipxe-discover", ipxe, iana.EFI_X86_64},
		{"ipxe-request", ipxe, iana.EFI_X86_64},
	} {
		c, err := identify(packet(t, tt.file))
		if err != nil || c.MAC != mac || c.Kind != tt.kind || c.Arch != tt.arch {
			t.Errorf("%s: %+v, %v", tt.file, c, err)
		}
	}
	uefi, _ := identify(packet(t, "ovmf-x64-discover"))
	chained, _ := identify(packet(t, "ipxe-discover"))
	if uefi.Machine == "" || uefi.Machine != chained.Machine {
		t.Errorf("one machine, two identities: %q from UEFI, %q from iPXE", uefi.Machine, chained.Machine)
	}
}

func TestMachineID(t *testing.T) {
	raw := []byte{0, 0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 8, 9, 10, 11, 12, 13, 14, 15}
	swapped := []byte{0, 0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 8, 9, 10, 11, 12, 13, 14, 15}
	if a, b := machineID(raw), machineID(swapped); a != b || a != "00112233-4455-6677-0809-0a0b0c0d0e0f" {
		t.Errorf("%s and %s", a, b)
	}
	for _, bad := range [][]byte{nil, {0}, raw[:16], append([]byte{1}, raw[1:]...), make([]byte, 17)} {
		if id := machineID(bad); id != "" {
			t.Errorf("%x is %s", bad, id)
		}
	}
}

func TestIsIPXE(t *testing.T) {
	http, bzImage, efi := "\x13\x01\x01", "\x18\x01\x01", "\x24\x01\x01"
	for _, tt := range []struct {
		user, features string
		want           bool
	}{
		{"Tinkerbell", "", false},          // it is ours
		{"\x04iPXE", http + bzImage, true}, // RFC 3004 framing
		{"iPXE", http + bzImage, true},
		{"iPXE", efi + http, true},
		{"iPXE", http, false}, // cannot start a kernel
		{"iPXE", bzImage, false},
		{"iPXE", "", false},
		{"", http + efi, false},
		{"iPXE", "\x13\xff", false}, // cut short
	} {
		if got := isIPXE([]byte(tt.user), []byte(tt.features)); got != tt.want {
			t.Errorf("user class %q, features %x: %v", tt.user, tt.features, got)
		}
	}
}

// TestDecide is the design's table "What a machine is told when it netboots".
func TestDecide(t *testing.T) {
	pxe := bootClient{MAC: mac, Kind: pxeFirmware, Arch: iana.EFI_X86_64, Machine: "m1"}
	host := func(state hosts.State, edit ...func(*hosts.Host)) *hosts.Host {
		h := &hosts.Host{Name: "bravo", MACs: []string{mac}, Arch: "x86_64", State: state, Address: "10.77.0.9",
			Permit: hosts.Permit{Issued: noon.Add(-time.Hour), Expires: noon.Add(time.Hour)}}
		if state == hosts.StateRebooting || state == hosts.StateInstalled {
			h.Permit.Spent = noon
		}
		for _, e := range edit {
			e(h)
		}
		return h
	}
	arm := func(h *hosts.Host) { h.Arch = "aarch64" }
	with := func(c bootClient, edit func(*bootClient)) bootClient { edit(&c); return c }
	for _, tt := range []struct {
		name string
		h    *hosts.Host
		c    bootClient
		hold bool
		load loader
		none bool // not even a lease
		why  string
		tell bool
	}{
		{name: "unknown", c: pxe, none: true, why: "not enrolled"},
		{name: "unknown, hold", c: pxe, hold: true, load: loadProgram},
		{name: "unknown iPXE, hold", c: with(pxe, func(c *bootClient) { c.Kind = ipxe }), hold: true, load: script},
		{name: "unknown system, hold", c: bootClient{MAC: mac}, hold: true},
		{name: "ready", h: host(hosts.StateReady), c: pxe, load: loadProgram},
		{name: "ready, architecture 9", h: host(hosts.StateReady), c: with(pxe, func(c *bootClient) { c.Arch = iana.EFI_BC }), load: loadProgram},
		{name: "ready iPXE", h: host(hosts.StateReady), c: with(pxe, func(c *bootClient) { c.Kind = ipxe }), load: script},
		{name: "ready, a running system", h: host(hosts.StateReady), c: bootClient{MAC: mac}},
		{name: "ready, permit expired", h: host(hosts.StateReady, func(h *hosts.Host) { h.Permit.Expires = noon }), c: pxe, why: "permit expired", tell: true},
		{name: "booting", h: host(hosts.StateBooting), c: pxe, load: loadProgram},
		{name: "live, in contact", h: host(hosts.StateLive, func(h *hosts.Host) { h.Connected = true }), c: pxe, why: "answers at 10.77.0.9", tell: true},
		{name: "installing, in contact", h: host(hosts.StateInstalling, func(h *hosts.Host) { h.Connected = true }), c: pxe, why: "answers at 10.77.0.9", tell: true},
		{name: "installing, lost", h: host(hosts.StateInstalling), c: pxe, load: loadProgram},
		{name: "failed, permit live", h: host(hosts.StateFailed), c: pxe, load: loadProgram},
		{name: "failed, permit spent", h: host(hosts.StateFailed, func(h *hosts.Host) { h.Permit.Spent = noon }), c: pxe, load: local, why: "spent", tell: true},
		{name: "rebooting", h: host(hosts.StateRebooting), c: pxe, load: local, why: "rebooting"},
		{name: "installed", h: host(hosts.StateInstalled), c: pxe, load: local, why: "installed"},
		{name: "installed, a running system", h: host(hosts.StateInstalled), c: bootClient{MAC: mac}},
		{name: "installed iPXE", h: host(hosts.StateInstalled), c: with(pxe, func(c *bootClient) { c.Kind = ipxe }), why: "installed"},
		{name: "another machine", h: host(hosts.StateBooting, func(h *hosts.Host) { h.Machine = "m2" }), c: pxe, none: true, why: "another machine", tell: true},
		{name: "a machine that tells no UUID any more", h: host(hosts.StateBooting, func(h *hosts.Host) { h.Machine = "m1" }), c: with(pxe, func(c *bootClient) { c.Machine = "" }), none: true, why: "another machine (UUID not told, not m1)", tell: true},
		{name: "installed BIOS", h: host(hosts.StateInstalled), c: bootClient{MAC: mac, Kind: pxeFirmware, Arch: iana.INTEL_X86PC}, why: "installed"},
		{name: "wrong architecture", h: host(hosts.StateReady, func(h *hosts.Host) { h.Arch = "aarch64" }), c: pxe, why: "built for aarch64", tell: true},
		{name: "BIOS", h: host(hosts.StateReady), c: bootClient{MAC: mac, Kind: pxeFirmware, Arch: iana.INTEL_X86PC}, load: loadProgram},
		{name: "BIOS for arm64", h: host(hosts.StateReady, arm), c: bootClient{MAC: mac, Kind: pxeFirmware, Arch: iana.INTEL_X86PC}, why: "built for aarch64", tell: true},
		{name: "arm64", h: host(hosts.StateReady, arm), c: bootClient{MAC: mac, Kind: pxeFirmware, Arch: iana.EFI_ARM64}, load: loadProgram},
		{name: "installed arm64", h: host(hosts.StateInstalled, arm), c: bootClient{MAC: mac, Kind: pxeFirmware, Arch: iana.EFI_ARM64}, load: local, why: "installed"},
		{name: "arm64 for x86-64", h: host(hosts.StateReady), c: bootClient{MAC: mac, Kind: pxeFirmware, Arch: iana.EFI_ARM64}, why: "the machine is aarch64 (arm64 UEFI PXE) and bravo is built for x86_64", tell: true},
		{name: "arm64 iPXE for x86-64", h: host(hosts.StateReady), c: bootClient{MAC: mac, Kind: ipxe, Arch: iana.EFI_ARM64}, why: "built for x86_64", tell: true},
		{name: "HTTP boot", h: host(hosts.StateReady), c: bootClient{MAC: mac, Kind: httpBoot, Arch: iana.EFI_X86_64_HTTP}, load: loadProgram},
		{name: "arm64 HTTP boot", h: host(hosts.StateReady, arm), c: bootClient{MAC: mac, Kind: httpBoot, Arch: iana.EFI_ARM64_HTTP}, load: loadProgram},
		{name: "installed HTTP boot", h: host(hosts.StateInstalled), c: bootClient{MAC: mac, Kind: httpBoot, Arch: iana.EFI_X86_64_HTTP}, load: local, why: "installed"},
		{name: "U-Boot", h: host(hosts.StateReady, arm), c: bootClient{MAC: mac, Kind: uboot, Arch: iana.UBOOT_ARM64}, load: config},
		{name: "unknown U-Boot, hold", c: bootClient{MAC: mac, Kind: uboot, Arch: iana.UBOOT_ARM64}, hold: true, why: "not enrolled"},
		{name: "arm32 U-Boot", h: host(hosts.StateReady, arm), c: bootClient{MAC: mac, Kind: uboot, Arch: iana.UBOOT_ARM32}, why: "arm32 U-Boot, for which there is no installer", tell: true},
		{name: "IA32", h: host(hosts.StateReady), c: bootClient{MAC: mac, Kind: pxeFirmware, Arch: iana.EFI_IA32}, why: "IA32 UEFI, for which there is no installer: choose 64-bit", tell: true},
		{name: "a Raspberry Pi", h: host(hosts.StateReady, arm), c: bootClient{MAC: mac, Kind: piROM}, load: tree},
		{name: "an unknown Raspberry Pi, hold", c: bootClient{MAC: mac, Kind: piROM}, hold: true, why: "not enrolled"},
		{name: "a Raspberry Pi, permit expired", h: host(hosts.StateReady, arm, func(h *hosts.Host) { h.Permit.Expires = noon }), c: bootClient{MAC: mac, Kind: piROM}, load: local, why: "permit expired", tell: true},
		{name: "a Raspberry Pi, in contact", h: host(hosts.StateLive, arm, func(h *hosts.Host) { h.Connected = true }), c: bootClient{MAC: mac, Kind: piROM}, why: "answers at 10.77.0.9", tell: true},
		{name: "a Raspberry Pi for x86-64", h: host(hosts.StateReady), c: bootClient{MAC: mac, Kind: piROM}, why: "built for x86_64", tell: true},
		{name: "installed Raspberry Pi", h: host(hosts.StateInstalled, arm), c: bootClient{MAC: mac, Kind: piROM}, load: local, why: "installed"},
	} {
		for _, mode := range []Mode{Proxy, Full} {
			unknown := Ignore
			if tt.hold {
				unknown = Hold
			}
			a := decide(tt.h, tt.c, mode, unknown, noon)
			if a.Load != tt.load || a.Note != tt.tell || !strings.Contains(a.Why, tt.why) || (tt.why == "" && a.Why != "") {
				t.Errorf("%s, %s: %+v", tt.name, mode, a)
			}
			if want := mode == Full && !tt.none; a.Lease != want {
				t.Errorf("%s, %s: lease %v, want %v", tt.name, mode, a.Lease, want)
			}
		}
	}
}

var tokenPattern = regexp.MustCompile(`[0-9a-f]{32}`)

// TestGolden compares whole replies, byte by byte; the random token is
// replaced by one of the same length.
func TestGolden(t *testing.T) {
	for _, mode := range []Mode{Proxy, Full} {
		for _, state := range []hosts.State{"unknown", hosts.StateReady, hosts.StateRebooting, hosts.StateInstalled} {
			s := server(t, mode)
			if state != "unknown" {
				s.mustEnroll(t, "bravo", mac)
				s.reach(t, "bravo", state)
			}
			var got strings.Builder
			for _, name := range []string{"ovmf-x64-discover", "ovmf-x64-request", "ipxe-discover", "ipxe-request"} {
				m := packet(t, name)
				if strings.HasSuffix(name, "request") && mode == Full && state != "unknown" {
					// The address in the capture is the one offered here: it
					// depends on the MAC alone.
					if m.RequestedIPAddress().String() != "10.77.0.104" {
						t.Fatal(m.RequestedIPAddress())
					}
				}
				got.WriteString(name + "\n" + reply(t, s.dhcp, m))
				if strings.HasSuffix(name, "request") {
					got.WriteString(name + ", port 4011\n" + reply(t, s.binl, m))
				}
			}
			compare(t, string(mode)+"-"+string(state)+"-reply.golden", got.String())
		}
	}
}

func reply(t *testing.T, answer func(*dhcpv4.DHCPv4) *dhcpv4.DHCPv4, m *dhcpv4.DHCPv4) string {
	t.Helper()
	r := answer(m)
	if r == nil {
		return "  silence\n"
	}
	raw := tokenPattern.ReplaceAll(r.ToBytes(), bytes.Repeat([]byte("7"), 32))
	same, err := dhcpv4.FromBytes(raw)
	if err != nil {
		t.Fatal(err)
	}
	to := destination(m, r, func(a netip.Addr) bool { return a.IsValid() })
	summary := strings.NewReplacer("\n", "\n  ", "\x00", `\0`).Replace(strings.TrimSpace(same.Summary()))
	return "  to " + to.String() + "\n  " + summary + "\n" + hex.Dump(raw)
}

func compare(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got:\n%s", name, got)
	}
}

// TestUnknownIsRecorded: silence, and an entry among the discovered.
func TestUnknownIsRecorded(t *testing.T) {
	s := server(t, Full)
	if r := s.dhcp(packet(t, "ovmf-x64-discover")); r != nil {
		t.Fatal(r)
	}
	seen := s.Hosts.Discovered()
	if len(seen) != 1 || seen[0].MAC != mac || seen[0].Arch != "x86-64 UEFI PXE" || !strings.HasPrefix(seen[0].Vendor, "PXEClient:Arch:00007") {
		t.Errorf("%+v", seen)
	}
}

// TestOneBootPerAttempt: firmware asks several times, iPXE asks again; all
// that is one boot, until its files were fetched.
func TestOneBootPerAttempt(t *testing.T) {
	s := server(t, Full)
	now := noon
	s.Now = func() time.Time { return now }
	s.mustEnroll(t, "bravo", mac)
	ask := func(name string) string {
		t.Helper()
		r := s.dhcp(packet(t, name))
		if r == nil {
			t.Fatal("silence")
		}
		return tokenPattern.FindString(r.BootFileName)
	}
	first := ask("ovmf-x64-discover")
	if again := ask("ovmf-x64-discover"); first == "" || again != first {
		t.Errorf("asked twice, got %s and %s", first, again)
	}
	if chained := ask("ipxe-discover"); chained != first {
		t.Errorf("iPXE was given another boot")
	}
	if _, err := s.Hosts.UseBoot(first, hosts.Fetch{Client: "10.77.0.104", File: "script"}); err != nil {
		t.Fatal(err)
	}
	for _, whole := range []bool{false, true} { // a small image on a quick network
		if _, err := s.Hosts.UseBoot(first, hosts.Fetch{Client: "10.77.0.104", File: "initrd", Whole: whole}); err != nil {
			t.Fatal(err)
		}
		if late := ask("ipxe-discover"); late != first {
			t.Error("a DISCOVER that arrived twice began another boot")
		}
	}
	now = now.Add(10 * time.Second)
	if next := ask("ovmf-x64-discover"); next == first {
		t.Error("a machine that started over was given the boot it had begun")
	}
	h, _ := s.Hosts.Get("bravo")
	if len(h.Tokens) != 2 || h.Permit.Boots != 1 {
		t.Errorf("%d boots, of which %d were fetched", len(h.Tokens), h.Permit.Boots)
	}
}

// TestOneBootSideBySide: a U-Boot that does not wait for our offer asks by TFTP
// while its DISCOVER is answered.
func TestOneBootSideBySide(t *testing.T) {
	s := server(t, Proxy)
	h := s.mustEnroll(t, "bravo", mac)
	tokens := make([]string, 8)
	var all sync.WaitGroup
	for i := range tokens {
		all.Go(func() {
			b, err := s.boot(s.links[0], bootClient{MAC: mac, Kind: uboot}, h)
			if tokens[i] = b.Token; err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if h, _ := s.Hosts.Get("bravo"); len(h.Tokens) != 1 || len(slices.Compact(tokens)) != 1 {
		t.Errorf("%d boots: %v", len(h.Tokens), tokens)
	}
}

func TestTFTPNames(t *testing.T) {
	s := server(t, Full)
	s.mustEnroll(t, "bravo", mac)
	if s.dhcp(packet(t, "ovmf-x64-discover")) == nil {
		t.Fatal("silence")
	}
	open := func(name string) (tftp.File, error) {
		return s.open(s.links[0], requestedName(t, name), netip.MustParseAddrPort("10.77.0.104:1024"))
	}
	h, _ := s.Hosts.Get("bravo")
	token := h.Boot.Token
	good := "boot/" + token + "/ipxe.efi"
	// The last two are what firmware asks for that takes option 67 for a C string.
	for _, name := range []string{good, "/" + good, good + "\xff", good + "a\x11"} {
		if f, err := open(name); err != nil || f.Size != int64(len(s.programs["ipxe.efi"])) {
			t.Errorf("%s: %d bytes, %v", name, f.Size, err)
		}
	}
	for _, name := range []string{"", "ipxe.efi", "snp.efi", "boot/ipxe.efi", "boot//ipxe.efi", "boot/" + token, "../" + good,
		good + "a", good + " a", "boot/" + token + "/../../state.db", "boot/hold/ipxe.efi", "boot/" + strings.Repeat("0", 32) + "/ipxe.efi", strings.ToUpper(good)} {
		if _, err := open(name); err == nil {
			t.Errorf("%q is served", name)
		}
	}
	if _, err := s.Hosts.UseBoot(token, hosts.Fetch{Client: "10.77.0.104", File: "script"}); err != nil {
		t.Fatal(err)
	}
	if _, err := open(good); err == nil {
		t.Error("the program is served after its boot went on")
	}
}
