package netboot

import (
	"bufio"
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

	"golang.org/x/sys/unix"

	"provision/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.InNamespace(m.Run)) }

// pace makes the firmware's seconds quick.
const pace = 0.03

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
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	lan, err := lab.NewLAN(ctx, "br0", netip.MustParsePrefix("10.77.0.1/24"))
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
	args = append([]string{"--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--port=0", "--interface=br0",
		"--bind-interfaces", "--no-ping", "--log-dhcp", "--log-facility=-", "--pid-file=", "--dhcp-leasefile=" + filepath.Join(w.t.TempDir(), "leases"),
		"--enable-tftp", "--tftp-root=" + w.tftp}, args...)
	cmd := exec.CommandContext(w.ctx, "dnsmasq", args...)
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	var log strings.Builder
	ready, ended := make(chan bool, 1), make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			fmt.Fprintln(&log, lines.Text())
			if strings.Contains(lines.Text(), "TFTP root is") {
				ready <- true
			}
		}
	}()
	w.t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		cmd.Wait()
		if w.t.Failed() {
			w.t.Log(log.String())
		}
	})
	select {
	case <-ready:
	case <-ended:
		w.t.Fatalf("dnsmasq does not start: %s", log.String())
	}
}

// full is the usual recipe for a dnsmasq that is the LAN's DHCP server: programs by architecture, iPXE gets a script.
func (w *world) full(more ...string) {
	w.t.Helper()
	w.dnsmasq(append([]string{"--dhcp-range=10.77.0.100,10.77.0.199,1h", "--dhcp-authoritative",
		"--dhcp-userclass=set:ipxe,iPXE", "--dhcp-userclass=set:ipxe,Tinkerbell",
		"--dhcp-match=set:bios,option:client-arch,0", "--dhcp-match=set:x64,option:client-arch,7",
		"--dhcp-match=set:x64,option:client-arch,9", "--dhcp-match=set:arm64,option:client-arch,11",
		"--dhcp-match=set:x64http,option:client-arch,16", "--dhcp-match=set:arm64http,option:client-arch,19",
		"--dhcp-match=set:uboot,option:client-arch,22",
		"--dhcp-boot=tag:ipxe,http://10.77.0.1/boot.ipxe",
		"--dhcp-boot=tag:!ipxe,tag:bios,undionly.kpxe",
		"--dhcp-boot=tag:!ipxe,tag:x64,ipxe.efi", "--dhcp-boot=tag:!ipxe,tag:arm64,ipxe-arm64.efi",
		"--dhcp-boot=tag:x64http,http://10.77.0.1/ipxe.efi", "--dhcp-option=tag:x64http,60,HTTPClient",
		"--dhcp-boot=tag:arm64http,http://10.77.0.1/ipxe.efi", "--dhcp-option=tag:arm64http,60,HTTPClient",
	}, more...)...)
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
	c.Scale = pace
	res, err := c.Boot(w.ctx, wire)
	if err != nil {
		t.Fatalf("%s: %v", c.Kind, err)
	}
	return res
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

func trace(r Result) string {
	var b strings.Builder
	for _, m := range r.Trace {
		fmt.Fprintln(&b, m)
	}
	fmt.Fprintf(&b, "stopped: %s\nfetched: %s\nremarks: %q\n", r.Stopped, fetched(r), r.Remarks)
	return b.String()
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
			r := w.boot(t, Client{Kind: tt.kind})
			if r.Chose != tt.chose || fetched(r) != tt.fetched || !strings.HasPrefix(r.Stopped, tt.stopped) || (tt.stopped == "") != (r.Stopped == "") {
				t.Errorf("chose %q\n%s", r.Chose, trace(r))
			}
		})
	}
}

