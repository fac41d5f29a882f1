package doctor

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/sys/unix"

	"provision/internal/lab"
)

// recipe is a DHCP server's settings, with what surrounds them in its file.
func recipe(t *testing.T, name string) string {
	t.Helper()
	text, err := Recipe(name, netip.MustParseAddr("10.77.0.1"), 8080)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestRecipes has real DHCP servers, with nothing but the printed lines and
// a range of addresses, answer every kind of machine.
func TestRecipes(t *testing.T) {
	dir := t.TempDir()
	kea := fmt.Sprintf(`{"Dhcp4": {
"interfaces-config": {"interfaces": ["eth0"]}, "lease-database": {"type": "memfile", "persist": false},
"subnet4": [{"subnet": "10.77.0.0/24", "pools": [{"pool": "10.77.0.100-10.77.0.199"}]}],
"loggers": [{"name": "kea-dhcp4", "severity": "INFO", "output_options": [{"output": "stderr"}]}],
"next-server": "10.77.0.1",
%s}}`, recipe(t, "kea"))
	isc := recipe(t, "isc") + "subnet 10.77.0.0 netmask 255.255.255.0 { range 10.77.0.100 10.77.0.199; }\nping-check false;\n"
	leases := filepath.Join(dir, "leases")
	for _, s := range []struct {
		name, config, ready string
		check, serve        []string // FILE and LEASES are put in
	}{
		{"dnsmasq", recipe(t, "dnsmasq"), "DHCP, IP range",
			[]string{"dnsmasq", "--test", "--conf-file=FILE"},
			[]string{"dnsmasq", "--keep-in-foreground", "--conf-file=FILE", "--user=root", "--port=0", "--interface=eth0", "--bind-interfaces",
				"--no-ping", "--log-facility=-", "--pid-file=", "--dhcp-leasefile=LEASES", "--dhcp-range=10.77.0.100,10.77.0.199,1h"}},
		{"kea", kea, "DHCP4_STARTED",
			[]string{"kea-dhcp4", "-t", "FILE"},
			[]string{"kea-dhcp4", "-c", "FILE"}},
		{"isc", isc, "Server starting service",
			[]string{"dhcpd", "-t", "-cf", "FILE"},
			[]string{"dhcpd", "-4", "-d", "-f", "-cf", "FILE", "-lf", "LEASES", "--no-pid", "eth0"}},
	} {
		t.Run(s.name, func(t *testing.T) {
			file := filepath.Join(dir, s.name)
			if err := os.WriteFile(file, []byte(s.config), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(leases, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			put := strings.NewReplacer("FILE", file, "LEASES", leases)
			for i := range s.check {
				s.check[i] = put.Replace(s.check[i])
			}
			for i := range s.serve {
				s.serve[i] = put.Replace(s.serve[i])
			}
			s.serve[0] = unconfined(t, s.serve[0])
			s.check[0] = s.serve[0]
			theirs := plug(t, lan(t), "theirs", "52:54:00:77:00:02", "10.77.0.2/24")
			if out, err := theirs.Run(t.Context(), s.check[0], s.check[1:]...); err != nil {
				t.Fatal(out, err)
			}
			start(t, theirs, s.ready, s.serve...)
			ask(t, s.name)
		})
	}
}

// unconfined copies a program: Debian's AppArmor profiles, which go by path,
// keep DHCP servers from files elsewhere than in their own folders.
func unconfined(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// start runs a server on a computer until the test ends, and waits for it to
// say that it is ready.
func start(t *testing.T, c *lab.Client, ready string, args ...string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "KEA_LOCKFILE_DIR=none", "KEA_PIDFILE_DIR="+t.TempDir())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, w
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL} // of the thread that Do starts it on
	started, stop := make(chan error), make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Do(func() error {
			err := cmd.Start()
			w.Close()
			started <- err
			if err == nil {
				<-stop
				_ = cmd.Process.Kill()
				err = cmd.Wait()
			}
			return err
		})
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	ok, read := make(chan bool, 8), make(chan struct{})
	var log strings.Builder
	go func() {
		defer close(read)
		defer r.Close()
		for lines := bufio.NewScanner(r); lines.Scan(); {
			fmt.Fprintln(&log, lines.Text())
			if strings.Contains(lines.Text(), ready) {
				ok <- true
			}
		}
		ok <- false
	}()
	t.Cleanup(func() { close(stop); <-ended; <-read })
	if !<-ok {
		<-read
		t.Fatalf("%v has ended:\n%s", args, log.String())
	}
}

// ask sends the DHCPDISCOVER of each kind of machine and compares the boot
// files.
func ask(t *testing.T, server string) {
	t.Helper()
	seg, err := openSegment("br0")
	if err != nil {
		t.Fatal(err)
	}
	defer seg.conn.Close()
	iPXE := func(m *dhcpv4.DHCPv4) {
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte("Tinkerbell")))
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(175), []byte{0x13, 1, 1, 0x24, 1, 1}))
	}
	http := func(m *dhcpv4.DHCPv4) {
		m.UpdateOption(dhcpv4.OptClassIdentifier(fmt.Sprintf("HTTPClient:Arch:%05d:UNDI:003001", m.ClientArch()[0])))
	}
	uboot := func(m *dhcpv4.DHCPv4) { m.UpdateOption(dhcpv4.OptClassIdentifier("U-Boot.armv8")) }
	plain := func(*dhcpv4.DHCPv4) {}
	for i, tt := range []struct {
		arch   iana.Arch
		like   func(*dhcpv4.DHCPv4)
		file   string
		class  string
		byTFTP bool
	}{
		{iana.INTEL_X86PC, plain, "undionly.kpxe", "", true},
		{iana.EFI_X86_64, plain, "snponly.efi", "", true},
		{iana.EFI_BC, plain, "snponly.efi", "", true},
		{iana.EFI_ARM64, plain, "snponly-arm64.efi", "", true},
		{iana.EFI_X86_64_HTTP, http, "http://10.77.0.1:8080/snponly.efi", "HTTPClient", false},
		{iana.EFI_ARM64_HTTP, http, "http://10.77.0.1:8080/snponly-arm64.efi", "HTTPClient", false},
		{iana.INTEL_X86PC, iPXE, "http://10.77.0.1:8080/ipxe", "", false},
		{iana.EFI_X86_64, iPXE, "http://10.77.0.1:8080/ipxe", "", false},
		{iana.EFI_ARM64, iPXE, "http://10.77.0.1:8080/ipxe", "", false},
		{iana.Arch(22), uboot, "", "", true},
	} {
		m, err := discover(net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, byte(i)}, tt.arch)
		if err != nil {
			t.Fatal(err)
		}
		tt.like(m)
		var o offer
		for range 4 { // as clients do: a bridge may drop what comes right after a cable was plugged in
			if err := seg.send(m); err != nil {
				t.Fatal(err)
			}
			if err := seg.conn.SetReadDeadline(time.Now().Add(4 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if o, err = seg.receive(m.TransactionID); err == nil {
				break
			}
		}
		if err != nil {
			t.Fatalf("%s answers nothing to architecture %d: %v", server, tt.arch, err)
		}
		if o.File != tt.file || o.Class != tt.class || tt.byTFTP && o.Next != netip.MustParseAddr("10.77.0.1") {
			t.Errorf("%s tells architecture %d %+v, want %s", server, tt.arch, o, tt.file)
		}
	}
}

func TestRecipeUnknown(t *testing.T) {
	if _, err := Recipe("windows", netip.MustParseAddr("10.77.0.1"), 80); err == nil || !strings.Contains(err.Error(), "there are: dnsmasq, kea") {
		t.Error(err)
	}
	if text := recipe(t, "mikrotik"); strings.Contains(text, "@") || !strings.Contains(text, "s'http://10.77.0.1:8080/ipxe'") {
		t.Error(text)
	}
	text, err := Recipe("opnsense", netip.MustParseAddr("10.77.0.1"), 80)
	if err != nil || !strings.Contains(text, "http://10.77.0.1/ipxe\n") {
		t.Error(text, err)
	}
}
