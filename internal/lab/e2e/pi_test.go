package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"provision/hosts"
	"provision/internal/lab"
	"provision/internal/lab/netboot"
)

// TestPi: Raspberry Pis netboot from their own firmware. The firmware is a simulated one, which asks
// and fetches as that of each model; what it was given is then started by QEMU, on its
// own device tree, and all from there on is real: the first stage, the image, the install. The disk
// that was installed is started by U-Boot, as on a Pi 3 or 4: by extlinux.conf on its root, or (the 4) by EFI.
func TestPi(t *testing.T) {
	t.Parallel()
	t.Run("server", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, "server")
		w.boards()
		w.piInstalls("pi4", netboot.Pi4, "delta", "")
		w.piInstalls("pi5", netboot.Pi5, "mike", "rpi5")
	})
	t.Run("proxy", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, "proxy")
		w.boards()
		w.piInstalls("pi400", netboot.Pi4, "mike", "rpi4")
		w.piInstalls("pi3b", netboot.Pi3B, "mike", "rpi3")
		w.piInstalls("pi3b+", netboot.Pi3BPlus, "mike", "rpi3")
	})
}

// boards gives the server an image for boards, and firmware for all Raspberry Pis: Debian's, and where its kernel is
// older than the Pi 5, what looks like the device tree of one. Nothing here runs it.
func (w *world) boards() {
	w.t.Helper()
	w.arm64()
	packages, err := lab.PiFirmware(w.ctx, lab.CacheDir(), os.Stderr)
	w.must(err)
	suite, err := lab.CurrentSuite()
	w.must(err)
	if suite == lab.Bookworm {
		dir := filepath.Join(w.dir, "pi5")
		w.must(os.Mkdir(dir, 0o755))
		tree := "\xd0\x0d\xfe\xed\x00\x00\x80\x00" + strings.Repeat("tree", 1<<13)
		w.must(os.WriteFile(filepath.Join(dir, "bcm2712-rpi-5-b.dtb"), []byte(tree), 0o644))
		packages = append(packages, dir)
	}
	w.provision("images", "firmware", "add", "raspberrypi", "--from", strings.Join(packages, ","))
}

// pi is a blank Raspberry Pi, as far as QEMU can be one.
func (w *world) pi(kind netboot.Kind, host string) *lab.Machine {
	w.t.Helper()
	m := w.machine(host)
	oui := "dc:a6:32"
	if kind == netboot.Pi3B || kind == netboot.Pi3BPlus {
		oui = "b8:27:eb"
	}
	m.MAC = fmt.Sprintf("%s:77:%02x:%02x", oui, w.number, w.machines)
	m.Firmware = lab.BareARM64
	m.Args = []string{"-no-reboot"} // a Pi that restarts asks the network again
	return m
}

// asks has the firmware of a Raspberry Pi ask the network, once.
func (w *world) asks(m *lab.Machine, kind netboot.Kind) netboot.Result {
	w.t.Helper()
	mac, err := net.ParseMAC(m.MAC)
	w.must(err)
	port, err := w.lan.Client(w.ctx, "pi-"+m.Name, m.MAC, netip.Prefix{})
	w.must(err)
	wire, err := netboot.Open(port, port.Interface)
	w.must(err)
	dir := w.t.TempDir()
	begun := time.Now()
	r, err := netboot.Client{Kind: kind, MAC: mac, Save: dir}.Boot(w.ctx, wire)
	w.must(errors.Join(err, wire.Close(), port.Close()))
	m.Kernel, m.Initrd, m.Cmdline = filepath.Join(dir, "kernel"), filepath.Join(dir, "initrd"), r.Args
	w.t.Logf("%s asked for %.1f s", kind, time.Since(begun).Seconds())
	return r
}

// piBoots has a new Raspberry Pi boot what its firmware is given.
func (w *world) piBoots(kind netboot.Kind, host string, flags ...string) *lab.Machine {
	w.t.Helper()
	m := w.pi(kind, host)
	w.enroll(m, host, append(flags, "--image", "arm")...)
	r := w.asks(m, kind)
	if r.Stopped != "" || r.Local || !strings.Contains(r.Args, "provision.initrd=http://") {
		w.t.Fatalf("%s:\n%s\n%s", kind, r, w.provision("logs", host))
	}
	for _, stage := range []string{"kernel", "initrd"} {
		for _, f := range r.Fetched {
			if strings.HasSuffix(f.Stage, stage) {
				w.t.Logf("%s: %s of %d bytes in %.1f s", kind, stage, f.Bytes, f.Took.Seconds())
			}
		}
	}
	w.on(m)
	return m
}

func (w *world) live(host string) {
	w.t.Helper()
	if out, err := w.try("wait", host, "--for", "live"); err != nil {
		w.t.Fatalf("%s\n%s\n%s", out, w.provision("logs", host), w.provision("capture", host))
	}
}

// piInstalls: it is installed, asks the network again, as it is to for ever, is told that
// nothing is there, and starts from its disk. A host without disko is installed by a preset.
func (w *world) piInstalls(name string, kind netboot.Kind, host, preset string) {
	w.t.Run(name, func(t *testing.T) {
		w := w.at(t)
		flags, board, boot := []string(nil), "rpi4", "/boot"
		if preset != "" {
			mountPreset(w, host, preset)
			flags, board, boot = []string{"--layout", preset, "--disk", "main=largest"}, preset, "/boot/firmware"
			w.lies = "ext2/ext3: disk part; part / part /boot/firmware"
		}
		m := w.piBoots(kind, host, flags...)
		if out, err := w.try("wait", host, "--for", "rebooting"); err != nil {
			t.Fatalf("%s\n%s", out, w.provision("logs", host))
		}
		if s := w.status(host); s.Method.String() != hosts.OfferPi || s.Serial == "" {
			t.Errorf("its boot method is %s, its serial number %q", s.Method, s.Serial)
		}
		w.must(m.Wait(w.ctx))
		begun := time.Now()
		if r := w.asks(m, kind); !r.Local || r.Stopped != "" || time.Since(begun) > 10*time.Second {
			t.Fatalf("after %s:\n%s", time.Since(begun), r)
		}
		m.Firmware, m.Args, m.Kernel, m.Initrd, m.Cmdline = lab.UBoot, nil, "", "", ""
		w.on(m)
		w.installed(m, host)
		w.firmwareIsThere(host, board, boot)
		w.must(m.PowerOff())
		if r := w.asks(m, kind); !r.Local || w.status(host).Permit.Boots != 1 {
			t.Errorf("once it is installed:\n%s", r)
		}
		w.provision("forget", host, "--yes")
	})
}

// at is the same world in a subtest.
func (w *world) at(t *testing.T) *world {
	sub := *w
	sub.t = t
	return &sub
}
