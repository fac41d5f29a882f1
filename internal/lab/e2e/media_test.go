package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"provision/hosts"
	"provision/internal/lab"
)

const (
	usbFirst = "UEFI QEMU QEMU USB"
	cdFirst  = "UEFI QEMU DVD-ROM"
)

// TestMedia: machines that cannot netboot (no ROM on the network card, the
// network last in the boot order) start from a boot medium and are installed;
// with the medium still plugged in, and first in the boot order, they then start
// from their own disks.
func TestMedia(t *testing.T) {
	t.Parallel()
	t.Run("x64", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, "proxy")
		m := w.withMedium("alpha", lab.OVMFPXE, "usb", usbFirst)
		w.enroll(m, "alpha")
		w.makeMedium(m, "--host", "alpha")
		w.notFor(m, "alpha")
		w.on(m)
		w.installed(m, "alpha")
		w.fromItsDisk(m, "alpha", "iPXE x86-64 UEFI", "alpha")
	})
	// The server is started late, and the machine is enrolled later.
	t.Run("x64 CD", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, "server", "--unknown", "hold")
		m := w.withMedium("bravo", lab.OVMFPXE, "cd", cdFirst)
		w.makeMedium(m, "--any", "--arch", "x86_64")
		w.kill()
		w.on(m)
		w.says(m, m.MAC+": no address") // the server is the DHCP server
		w.start()
		w.says(m, "This machine is not enrolled. On the provision server "+w.addr(1).String()+", run:")
		w.enroll(m, "bravo")
		w.mediumLive("bravo", "iPXE x86-64 UEFI", hosts.OfferMedium)
		w.must(m.PowerOff())
		stick := w.machine("stick") // the CD's image on a stick
		stick.First, stick.Disks = usbFirst, []lab.Disk{{Path: m.Disks[1].Path, Bus: "usb"}}
		w.on(stick)
		w.says(stick, "boot medium for any machine that is enrolled")
		w.must(stick.PowerOff())
	})
	t.Run("arm64", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, "off")
		w.arm64()
		m := w.withMedium("delta", lab.AAVMFPXE, "usb", usbFirst)
		w.enroll(m, "delta")
		w.makeMedium(m, "--any", "--arch", "aarch64", "--server", "http://"+w.addr(1).String())
		w.on(m)
		w.installed(m, "delta")
		w.fromItsDisk(m, "delta", "iPXE arm64 UEFI", "any machine that is enrolled")
	})
	// A Raspberry Pi's medium, but for what its firmware does: its U-Boot is QEMU's.
	t.Run("U-Boot", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, "proxy")
		w.arm64()
		packages, err := lab.PiFirmware(w.ctx, lab.CacheDir(), os.Stderr)
		w.must(err)
		w.provision("images", "firmware", "add", "raspberrypi", "--from", strings.Join(packages, ","))
		m := w.withMedium("delta", lab.UBoot, "usb", "")
		w.enroll(m, "delta")
		w.makeMedium(m, "--host", "delta", "--board", "rpi4")
		m.Disks[1].Bus = "virtio" // of which this U-Boot tries the first
		slices.Reverse(m.Disks)
		w.on(m)
		w.mediumLive("delta", "arm64 U-Boot", hosts.OfferUBoot)
		w.must(m.PowerOff())
		w.on(m) // without a permit
		w.says(m, "nothing to install from "+w.addr(1).String())
		w.says(m, "going on to the next way to boot")
		w.must(m.PowerOff())
	})
}

// withMedium is a machine that tries a medium first.
func (w *world) withMedium(host string, f lab.Firmware, bus, first string) *lab.Machine {
	w.t.Helper()
	m := w.machine(host)
	m.Firmware, m.First = f, first
	m.Disks = append(m.Disks, lab.Disk{Path: filepath.Join(w.dir, m.Name+map[string]string{"usb": ".img", "cd": ".iso"}[bus]), Serial: "MEDIUM", Bus: bus})
	return m
}

// makeMedium makes the machine's medium.
func (w *world) makeMedium(m *lab.Machine, args ...string) {
	w.t.Helper()
	w.provision(append([]string{"images", "media", m.Disks[len(m.Disks)-1].Path}, args...)...)
}

// notFor starts a machine that is not the medium's host: the medium says so, and
// asks nobody.
func (w *world) notFor(of *lab.Machine, host string) {
	w.t.Helper()
	m := w.machine("other")
	m.First, m.Disks = usbFirst, of.Disks[len(of.Disks)-1:]
	w.on(m)
	w.says(m, "this medium is for "+host+", which has the network card "+of.MAC+"; this machine has "+m.MAC)
	w.must(m.PowerOff())
	if text := m.Console().Text(); strings.Contains(text, "asking http") {
		w.t.Errorf("it asked the server:\n%s", tailOf(text, 10))
	}
}

// says waits until the machine's screen shows the text.
func (w *world) says(m *lab.Machine, text string) {
	w.t.Helper()
	if _, err := m.Console().Expect(w.ctx, text); err != nil {
		w.t.Fatalf("waited in vain for %q: %v", text, err)
	}
}

// mediumLive waits for the installer's SSH, which the machine came to by its
// medium alone.
func (w *world) mediumLive(host, client, offer string) {
	w.t.Helper()
	w.live(host)
	w.byMedium(host, client, offer)
	w.provision("cancel", host)
}

// byMedium: what asked first was what is on the medium.
func (w *world) byMedium(host, client, offer string) {
	w.t.Helper()
	asked := w.await(host, "a boot", func(ev hosts.Event) bool { return ev.Kind == hosts.EventNetboot })
	if s := w.status(host); !strings.HasPrefix(asked.Message, client+" asked") || s.Method.String() != offer {
		w.t.Errorf("%s: %s; its boot method is %s", host, asked.Message, s.Method)
	}
}

// fromItsDisk switches the installed machine off and on: its firmware starts the
// medium first, which leads it on to its own disk.
func (w *world) fromItsDisk(m *lab.Machine, host, client, mediumFor string) {
	w.t.Helper()
	w.byMedium(host, client, hosts.OfferMedium)
	boots := w.status(host).Permit.Boots
	w.must(m.PowerOff())
	w.on(m)
	for _, said := range []string{"boot medium for " + mediumFor, "nothing to install here", host + " login:"} {
		w.says(m, said)
	}
	w.check(host)
	if s := w.status(host); s.State != hosts.StateInstalled || s.Permit.Boots != boots {
		w.t.Errorf("%s is %s, with %d boots instead of %d", host, s.State, s.Permit.Boots, boots)
	}
}
