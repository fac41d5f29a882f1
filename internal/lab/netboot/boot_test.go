package netboot

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"provision/internal/lab"
	"provision/internal/lab/dnsmasq"
)

func TestMain(m *testing.M) { os.Exit(lab.InNamespace(m.Run)) }

// pace makes the firmware's seconds quick, and leaves a busy machine's servers the time to answer within them. hurry is
// for machines that wait in vain.
const (
	pace  = 0.1
	hurry = 0.03
)

const script = `#!ipxe
echo hello
kernel --name kernel http://10.77.0.1/kernel initrd=initrd init=/nix/store/x BOOTIF=01-${netX/mac:hexhyp} || goto failed
initrd --name initrd http://10.77.0.1/initrd || goto failed
boot || goto failed
:failed
reboot
`

// world is a LAN with a server: a real dnsmasq, and the files that machines fetch.
type world struct {
	t    *testing.T
	ctx  context.Context
	lan  *lab.LAN
	tftp string // folder
	http *http.ServeMux
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldAt(t, netip.MustParsePrefix("10.77.0.1/24"))
}

func newWorldAt(t *testing.T, server netip.Prefix) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	lan, err := lab.NewLAN(ctx, "br0", server)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ctx: ctx, lan: lan, tftp: t.TempDir(), http: http.NewServeMux()}
	t.Cleanup(func() { lan.Close() })
	for name, size := range map[string]int{"ipxe.efi": 300_000, "undionly.kpxe": 70_000, "ipxe-arm64.efi": 5 * 1468, "Image": 100_000, "initrd": 200_000} {
		w.file(name, strings.Repeat("x", size))
	}
	w.file("pxelinux.cfg/default-arm", "default nixos\nlabel nixos\n kernel Image\n initrd initrd\n append init=/x\n")
	w.http.HandleFunc("/boot.ipxe", func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, script) })
	for _, name := range []string{"kernel", "initrd", "ipxe.efi"} {
		w.http.HandleFunc("/"+name, func(rw http.ResponseWriter, r *http.Request) {
			http.ServeContent(rw, r, name, time.Time{}, strings.NewReader(strings.Repeat(name[:1], 1<<20)))
		})
	}
	l, err := net.Listen("tcp4", "10.77.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: w.http}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return w
}

func (w *world) file(name, data string) {
	w.t.Helper()
	p := filepath.Join(w.tftp, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// dnsmasq runs on the LAN's bridge until the test ends.
func (w *world) dnsmasq(args ...string) {
	w.t.Helper()
	d, err := dnsmasq.Start(w.ctx, w.lan.Interface, w.tftp, w.t.TempDir(), args...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		d.Close()
		if w.t.Failed() {
			w.t.Log(d.Log())
		}
	})
}

var addr = netip.MustParseAddr

// full makes dnsmasq the DHCP server.
func (w *world) full(more ...string) {
	w.t.Helper()
	w.dnsmasq(append(dnsmasq.Full(addr("10.77.0.100"), addr("10.77.0.199"), addr("10.77.0.1")), more...)...)
}

var macs byte

// wire plugs in a computer with a MAC of its own.
func (w *world) wire() (*Wire, net.HardwareAddr) {
	w.t.Helper()
	macs++
	mac := net.HardwareAddr{0x52, 0x54, 0, 0xaa, 0, macs}
	c, err := w.lan.Client(w.ctx, fmt.Sprintf("port%d", macs), mac.String(), netip.Prefix{})
	if err != nil {
		w.t.Fatal(err)
	}
	wire, err := Open(c, c.Interface)
	if err == nil {
		err = running(fmt.Sprintf("port%d", macs)) // the other end
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { wire.Close(); c.Close() })
	return wire, mac
}

// boot boots a new machine on a cable of its own.
func (w *world) boot(t *testing.T, c Client) Result {
	t.Helper()
	wire, mac := w.wire()
	if c.MAC == nil {
		c.MAC = mac
	}
	if c.Scale == 0 {
		c.Scale = pace
	}
	res, err := c.Boot(w.ctx, wire)
	if err != nil {
		t.Fatalf("%s: %v", c.Kind, err)
	}
	return res
}

// scale is for a machine that is to stop, or to go all the way.
func scale(stopped string) float64 {
	if strings.HasPrefix(stopped, "PXE-E16: no valid offer") || strings.HasPrefix(stopped, "no reply") {
		return hurry
	}
	return pace
}

// fetched lists the stages that were fetched, and the refused ones with "!".
func fetched(r Result) string {
	var s []string
	for _, f := range r.Fetched {
		if f.Failed != "" {
			f.Stage += "!"
		}
		s = append(s, f.Stage)
	}
	return strings.Join(s, ", ")
}

// check compares what matters of a boot. stopped is how its end begins; "": it went all the way.
func check(t *testing.T, r Result, chose, files, stopped string) {
	t.Helper()
	if r.Chose != chose || fetched(r) != files || !strings.HasPrefix(r.Stopped, stopped) || (stopped == "") != (r.Stopped == "") {
		t.Errorf("%s", r)
	}
}

const viaIPXE = "program, ipxe script, ipxe kernel, ipxe initrd"

// TestFullDHCP: dnsmasq is the LAN's DHCP server, without option 60.
func TestFullDHCP(t *testing.T) {
	w := newWorld(t)
	w.full()
	for _, tt := range []struct {
		kind    Kind
		chose   string
		fetched string
		stopped string
	}{
		{EDK2X64, "plain DHCP with a file name", viaIPXE, ""},
		{EDK2X64As9, "plain DHCP with a file name", viaIPXE, ""},
		{EDK2ARM64, "plain DHCP with a file name", viaIPXE, ""},
		{OldEDK2, "plain DHCP with a file name", viaIPXE, ""},
		{HPSingle, "one complete offer", viaIPXE, ""},
		{HP, "", "", "PXE-E16: no valid offer received, after 4 DHCPDISCOVERs"},
		{EDK2IA32, "", "", "PXE-E16: no valid offer received, after 4 DHCPDISCOVERs"},
		{BIOS, "plain DHCP with a file name", viaIPXE, ""},
		{HTTPX64, "DHCP with a URL", "program size, " + viaIPXE, ""},
		{HTTPARM64, "DHCP with a URL", "program size, " + viaIPXE, ""},
		{IPXE, "a lease", "script, kernel, initrd", ""},
		{Tinkerbell, "a lease", "script, kernel, initrd", ""},
		{UBoot2023, "a lease", "script!, script!, script!, script!, script!, script!, script!, script!, script!, script, initrd, kernel", ""},
		{UBoot2025, "a lease", "script!, script!, script!, script!, script!, script!, script!, script!, script!, script, initrd, kernel", ""},
		{Pi3B, "", "", "no reply for a Raspberry Pi, after 5 DHCPDISCOVERs"},
		{Pi3BPlus, "", "", "no reply for a Raspberry Pi, after 5 DHCPDISCOVERs"},
		{Pi4, "", "", "no reply for a Raspberry Pi, after 11 DHCPDISCOVERs"},
		{Pi5, "", "", "no reply for a Raspberry Pi, after 11 DHCPDISCOVERs"},
		{System, "a lease", "", ""},
	} {
		t.Run(string(tt.kind), func(t *testing.T) {
			check(t, w.boot(t, Client{Kind: tt.kind, Scale: scale(tt.stopped)}), tt.chose, tt.fetched, tt.stopped)
		})
	}
}

// router adds a home router that leases addresses and knows nothing of netboot.
func (w *world) router() {
	w.t.Helper()
	r, err := w.lan.Router(w.ctx, w.t.TempDir(), netip.MustParsePrefix("10.77.0.2/24"), addr("10.77.0.100"), addr("10.77.0.199"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { r.Close() })
}

// proxy makes dnsmasq a proxy.
func (w *world) proxy(more ...string) {
	w.t.Helper()
	w.dnsmasq(append(dnsmasq.Proxy(addr("10.77.0.0"), addr("10.77.0.1")), more...)...)
}

// TestProxy: dnsmasq is a proxy beside a router.
func TestProxy(t *testing.T) {
	w := newWorld(t)
	w.router()
	w.proxy()
	for _, tt := range []struct {
		kind    Kind
		chose   string
		fetched string
		stopped string
	}{
		{EDK2X64, "plain DHCP and a proxy's BINL", viaIPXE, ""},
		{EDK2X64As9, "plain DHCP and a proxy's BINL", viaIPXE, ""},
		{EDK2ARM64, "plain DHCP and a proxy's BINL", viaIPXE, ""},
		{OldEDK2, "plain DHCP and a proxy's BINL", viaIPXE, ""},
		{HPSingle, "", "", "PXE-E16: no valid offer received, after 4 DHCPDISCOVERs"},
		{HP, "", "", "PXE-E16: no valid offer received, after 4 DHCPDISCOVERs"},
		{EDK2IA32, "plain DHCP and a proxy's BINL", "", "PXE-E16: the boot information has no file name"},
		{BIOS, "plain DHCP and a proxy's PXE 1.0", viaIPXE, ""}, // by the first entry of dnsmasq's menu
		{HTTPX64, "", "", "PXE-E16: no valid offer received, after 4 DHCPDISCOVERs"},
		{IPXE, "a lease and a proxy's offer", "script, kernel, initrd", ""},
		{Tinkerbell, "a lease and a proxy's offer", "script, kernel, initrd", ""},
		{UBoot2025, "a lease", "script", "PXE-E18: server response timeout: tftp://10.77.0.2/"}, // it asks the router
		{Pi3B, "", "", "no reply for a Raspberry Pi, after 5 DHCPDISCOVERs"},
		{Pi4, "", "", "no reply for a Raspberry Pi, after 11 DHCPDISCOVERs"},
	} {
		t.Run(string(tt.kind), func(t *testing.T) {
			check(t, w.boot(t, Client{Kind: tt.kind, Scale: scale(tt.stopped)}), tt.chose, tt.fetched, tt.stopped)
		})
	}
}

// echo97 makes dnsmasq send the BIOS machine's UUID, which it does by itself only as a proxy.
const echo97 = "--dhcp-option-force=tag:bios,97,00:6d:1b:8d:4c:3c:5e:4f:0a:9b:7e:2a:41:c0:ff:ee:01"

// TestPort4011: a server that sends option 60 and does not answer on port 4011 (facts: measured with real EDK2).
func TestPort4011(t *testing.T) {
	w := newWorld(t)
	w.full("--dhcp-option=tag:x64,60,PXEClient", "--dhcp-option=tag:bios,60,PXEClient", echo97)
	for _, kind := range []Kind{EDK2X64, BIOS} {
		r := w.boot(t, Client{Kind: kind})
		check(t, r, "DHCP and BINL", "", "PXE-E16: no valid offer received: 10.77.0.1 does not answer on port 4011, asked 4 times")
		var asked []time.Duration
		for _, m := range r.Trace {
			if m.Sent && m.Peer.Port() == 4011 {
				asked = append(asked, m.At)
			}
		}
		if len(asked) != 4 {
			t.Fatalf("%s asked %v", kind, asked)
		}
		for i, want := range []float64{1, 2, 3} {
			if got := (asked[i+1] - asked[i]).Seconds() / pace; got < want || got > want+1.5 {
				t.Errorf("%s waited %.1f s after question %d, want %g", kind, got, i+1, want)
			}
		}
	}
}

// TestUseFile: with 43.6 = 8 the file name of the offer counts, and nobody asks port 4011.
func TestUseFile(t *testing.T) {
	w := newWorld(t)
	w.full("--dhcp-option=tag:x64,60,PXEClient", "--dhcp-option-force=tag:x64,43,06:01:08:ff",
		"--dhcp-option=tag:bios,60,PXEClient", "--dhcp-option-force=tag:bios,43,06:01:08:ff", echo97)
	for _, kind := range []Kind{EDK2X64, OldEDK2, BIOS} {
		check(t, w.boot(t, Client{Kind: kind}), "DHCP and PXE 1.0", viaIPXE, "")
	}
	check(t, w.boot(t, Client{Kind: HP}), "one complete offer", viaIPXE, "")
}

// TestPi: dnsmasq's recipe for Raspberry Pis, beside a router; the 3B wants three spaces.
func TestPi(t *testing.T) {
	w := newWorld(t)
	w.router()
	for _, name := range []string{"bootcode.bin", "start.elf", "fixup.dat", "kernel8.img", "bcm2710-rpi-3-b.dtb",
		"e5ef6e9d/start4.elf", "e5ef6e9d/fixup4.dat", "e5ef6e9d/config.txt", "e5ef6e9d/kernel8.img", "e5ef6e9d/bcm2711-rpi-4-b.dtb"} {
		w.file(name, name)
	}
	w.dnsmasq("--dhcp-range=10.77.0.0,proxy", "--pxe-service=0,Raspberry Pi Boot   ")
	chose := "a lease and a TFTP server for a Raspberry Pi"
	r := w.boot(t, Client{Kind: Pi3B})
	if r.Chose != chose || r.Stopped != "" || !strings.HasPrefix(fetched(r), "program, bootcode.bin file!, bootcode.bin probe!") {
		t.Error(r)
	}
	r = w.boot(t, Client{Kind: Pi4, Serial: "e5ef6e9d"})
	if r.Chose != chose || r.Stopped != "" || !strings.HasPrefix(fetched(r), "probe, file") || r.Fetched[0].URL != "tftp://10.77.0.1/e5ef6e9d/start4.elf" {
		t.Error(r)
	}
	r = w.boot(t, Client{Kind: Pi5, Serial: "e5ef6e9d"})
	if r.Chose != chose || !strings.Contains(r.Stopped, "e5ef6e9d/bcm2712-rpi-5-b.dtb") {
		t.Error(r)
	}
}

// TestWithout: firmware that leaves options out is served by the same recipe, but for option 93, which is how dnsmasq
// tells architectures apart.
func TestWithout(t *testing.T) {
	w := newWorld(t)
	w.full()
	for _, code := range []byte{94, 97} {
		check(t, w.boot(t, Client{Kind: EDK2X64, Without: []byte{code}, Until: UntilProgram}), "plain DHCP with a file name", "program", "")
	}
	check(t, w.boot(t, Client{Kind: EDK2X64, Without: []byte{93}, Until: UntilProgram}), "", "", "PXE-E16")
}

// TestUntil: a boot goes no further than it is told to.
func TestUntil(t *testing.T) {
	w := newWorld(t)
	w.full()
	for until, want := range map[Stage]string{UntilOffer: "", UntilLease: "", UntilProgram: "program", UntilScript: "program, ipxe script"} {
		r := w.boot(t, Client{Kind: EDK2X64, Until: until})
		check(t, r, "plain DHCP with a file name", want, "")
		if (until == UntilOffer) == r.Address.IsValid() {
			t.Errorf("until %d it has address %v", until, r.Address)
		}
	}
	for _, limit := range []int64{-1, 1000} {
		r := w.boot(t, Client{Kind: EDK2X64, Limit: limit})
		k, ok := r.Got("ipxe kernel")
		if !ok || k.Size != 1<<20 || k.Bytes != max(limit, 0) {
			t.Errorf("limit %d: %+v", limit, k)
		}
	}
}

// TestRelay: the machine is behind a router that relays DHCP and routes the rest.
func TestRelay(t *testing.T) {
	w := newWorld(t)
	w.full("--dhcp-range=10.78.0.100,10.78.0.199,255.255.255.0,1h")
	c, err := w.lan.Client(w.ctx, "relay", "52:54:00:77:00:09", netip.MustParsePrefix("10.77.0.9/24"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if out, err := exec.Command("ip", "route", "add", "10.78.0.0/24", "via", "10.77.0.9").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	wire, err := Open(c, c.Interface)
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()
	relay, err := wire.Relay(addr("10.78.0.1"), w.lan.Address.Addr(), []byte("\x01\x04port\x02\x05rack7"))
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	for _, kind := range []Kind{EDK2X64, HTTPARM64, UBoot2025} {
		r, err := Client{Kind: kind, Relay: relay, Scale: pace}.Boot(w.ctx, wire)
		if err != nil || r.Stopped != "" || !strings.HasPrefix(r.Address.String(), "10.78.0.") || len(r.Fetched) < 4 {
			t.Errorf("%s: %v\n%s", kind, err, r)
		}
	}
}
