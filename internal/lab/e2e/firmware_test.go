package e2e

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"provision/hosts"
	"provision/internal/lab"
)

// TestFirmware: whatever a machine starts with leads it to the installer's
// SSH, with us as the DHCP server and beside a home router's.
func TestFirmware(t *testing.T) {
	t.Parallel()
	type client struct {
		host     string
		firmware lab.Firmware
		pin      string // --boot-method
		via      string // what asked
		method   string // what led it to its script
	}
	for _, mode := range []string{"server", "proxy"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, mode)
			for _, c := range []client{
				{"alpha", lab.SeaBIOS, "", "iPXE x86 BIOS", "rom"},
				{"bravo", lab.OVMFHTTP, "", "x86-64 UEFI HTTP", "http+native"},
				{"charlie", lab.OVMFiPXE, "", "iPXE x86-64 UEFI", "rom"},
				// iPXE in ROM stands for a PXE client of a BIOS, and loads
				// undionly.kpxe, which uses its network driver.
				{"alpha", lab.SeaBIOS, "snponly", "iPXE x86 BIOS", "first+snponly"},
			} {
				w.reachesInstaller(c.host, c.firmware, c.pin, c.via, c.method)
			}
		})
	}
}

// TestArm64 does the same with arm64 machines, and installs one completely.
func TestArm64(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"server", "proxy"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, mode)
			w.arm64()
			w.reachesInstaller("delta", lab.AAVMFHTTP, "", "arm64 UEFI HTTP", "http+snponly")
			if mode == "proxy" {
				w.reachesInstaller("delta", lab.UBoot, "", "arm64 U-Boot", "u-boot")
				w.reachesInstaller("delta", lab.AAVMFPXE, "", "arm64 UEFI PXE", "binl+snponly")
				return
			}
			t.Run("u-boot", func(t *testing.T) { w.at(t).installsByUBoot() })
			m := w.machine("delta")
			m.Firmware = lab.AAVMFPXE
			w.enroll(m, "delta")
			w.on(m)
			w.installed(m, "delta")
			if s := w.status("delta"); s.Board != "uefi-aarch64" {
				t.Errorf("it is taken for %q", s.Board)
			}
			w.powerCycles(m, "delta")
		})
	}
}

// installsByUBoot installs a board that U-Boot starts, from the network and then from its disk.
func (w *world) installsByUBoot() {
	w.t.Helper()
	m := w.machine("delta")
	m.Firmware = lab.UBoot
	w.enroll(m, "delta")
	w.on(m)
	w.uboot(m)
	w.live("delta")
	w.t.Logf("%s", w.provision("capture", "delta"))
	w.installed(m, "delta")
	w.must(m.PowerOff())
	w.provision("forget", "delta", "--yes")
}

// uboot types what a board's own boot script does. It takes no proxy's word
// for the server, unless it is built with CONFIG_SERVERIP_FROM_PROXYDHCP.
func (w *world) uboot(m *lab.Machine) {
	w.t.Helper()
	commands := "setenv autoload no; dhcp; pxe get && pxe boot\n"
	if w.mode == "proxy" {
		commands = "setenv autoload no; dhcp; setenv serverip " + w.addr(1).String() + "; pxe get && pxe boot\n"
	}
	for _, step := range []struct{ prompt, text string }{{"stop autoboot", " "}, {"=> ", commands}} {
		_, err := m.Console().Expect(w.ctx, step.prompt)
		w.must(err)
		w.must(m.Console().Type(step.text))
	}
}

// reachesInstaller switches a new machine on, waits until its installer
// answers with the boot's key, and takes the permit away again.
func (w *world) reachesInstaller(host string, f lab.Firmware, pin, via, method string) {
	w.t.Helper()
	m := w.machine(host)
	m.Firmware = f
	if pin == "" {
		w.enroll(m, host)
	} else {
		w.enroll(m, host, "--boot-method", pin)
	}
	w.on(m)
	if f == lab.UBoot {
		w.uboot(m)
	}
	if out, err := w.try("wait", host, "--for", "live"); err != nil {
		w.t.Fatalf("%s: %s\n%s\n%s", f, out, w.provision("logs", host), w.provision("capture", host))
	}
	w.provision("cancel", host)
	w.must(m.PowerOff())
	asked := w.await(host, "a boot", func(ev hosts.Event) bool { return ev.Kind == hosts.EventNetboot })
	if !strings.HasPrefix(asked.Message, via+" asked") {
		w.t.Errorf("%s: %s", f, asked.Message)
	}
	if s := w.status(host); s.Method.String() != method {
		w.t.Errorf("%s: its boot method is %s, want %s", f, s.Method, method)
	}
	w.t.Logf("%s, %s:\n%s", f, w.mode, w.provision("capture", host))
	if w.mode != "off" { // there is TFTP and HTTP only
		w.pcap(m.MAC)
	}
	w.provision("forget", host, "--yes")
}

// pcap has Wireshark's reader read what `provision capture` writes.
func (w *world) pcap(mac string) {
	w.t.Helper()
	file := filepath.Join(w.dir, "boot.pcap")
	w.provision("capture", mac, "--pcap", file)
	out, err := exec.CommandContext(w.ctx, "tshark", "-r", file, "-V").Output()
	w.must(err)
	// iPXE is told that there is no autoexec.ipxe.
	out = bytes.ReplaceAll(out, []byte("[Expert Info (Warning/Response): TFTP ERROR packet]"), nil)
	for _, bad := range []string{"Malformed", "[Expert Info (Error", "[Expert Info (Warn", "incorrect"} {
		if strings.Contains(string(out), bad) {
			w.t.Errorf("tshark finds %q in %s:\n%s", bad, file, out)
		}
	}
	if n := strings.Count(string(out), "DHCP: Discover"); n == 0 || !strings.Contains(string(out), mac) {
		w.t.Errorf("tshark finds %d DISCOVERs of %s", n, mac)
	}
}

// TestHold: an unknown machine's screen shows how to enroll it, and it goes on
// by itself once that is done. The server has an snponly.efi, which is tried
// before the iPXE that is built in.
func TestHold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "proxy", "--unknown", "hold", "--ipxe", "/usr/lib/ipxe")
	for _, c := range []struct {
		host     string
		firmware lab.Firmware
		method   string
	}{{"alpha", lab.SeaBIOS, "rom"}, {"bravo", lab.OVMFPXE, "binl+snponly"}} {
		m := w.machine(c.host)
		m.Firmware = c.firmware
		w.on(m)
		if _, err := m.Console().Expect(w.ctx, "provision enroll "+m.MAC+" HOST"); err != nil {
			t.Fatal(err)
		}
		w.enroll(m, c.host)
		if out, err := w.try("wait", c.host, "--for", "live"); err != nil {
			t.Fatalf("%s\n%s", out, w.provision("logs", c.host))
		}
		if s := w.status(c.host); s.Method.String() != c.method {
			t.Errorf("%s: its boot method is %s, want %s", c.firmware, s.Method, c.method)
		}
		w.provision("cancel", c.host)
		w.must(m.PowerOff())
	}
}

// TestOffBesideDnsmasq: with --dhcp off the owner's DHCP server sends machines here, by the
// lines that doctor prints for it.
func TestOffBesideDnsmasq(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "off")
	w.reachesInstaller("alpha", lab.OVMFPXE, "", "x86-64 UEFI PXE", "rom")
	w.reachesInstaller("bravo", lab.SeaBIOS, "", "iPXE x86 BIOS", "rom")
}
