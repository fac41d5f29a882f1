package clients

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tinkerbell/ipxedust/binary"

	"provision/images"
	"provision/internal/lab"
	"provision/internal/lab/netboot"
	"provision/pxe"
)

// TestBootOrderByHand starts an installed host whose UEFI firmware tries PXE and HTTP boot, over IPv4 and IPv6, before its
// disk, and tells how long each attempt takes. Nothing but the disk may be started.
func TestBootOrderByHand(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			w := newWorld(t, 1, speed{1, 1})
			ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
			defer cancel()
			w.ctx = ctx // four attempts of a minute
			if mode == pxe.Proxy {
				w.router(0)
				w.serve(mode)
			} else {
				w.serve(mode, "10.77.0.100-10.77.0.199")
			}
			m := w.uefi()
			mac, err := net.ParseMAC(m.MAC)
			must(t, err)
			nic := &machine{Client: netboot.Client{Kind: netboot.EDK2X64, MAC: mac}, w: w, name: "alpha"}
			w.enroll(images.X86_64, nic)
			nic.install()
			const booted = "iPXE initialising devices"
			last, begun := "", time.Time{}
			must(t, m.Start(ctx))
			for last != booted {
				said, err := m.Console().Expect(ctx, ">>Start PXE over IPv4", ">>Start PXE over IPv6", ">>Start HTTP Boot over IPv4",
					">>Start HTTP Boot over IPv6", booted)
				must(t, err)
				if last != "" {
					t.Logf("%-28s %5.1f s", last, time.Since(begun).Seconds())
				}
				last, begun = said, time.Now()
			}
		})
	}
}

// uefi is a PC on the first LAN, with an iPXE on its disk to show that it was started.
func (w *world) uefi() *lab.Machine {
	w.Helper()
	dir := w.TempDir()
	program := filepath.Join(dir, "BOOTX64.EFI")
	must(w.T, os.WriteFile(program, binary.IpxeEFI, 0o644))
	disk, err := lab.NewDisk(filepath.Join(dir, "disk"), 64<<20, "LAB-disk")
	must(w.T, err)
	esp := disk.Path + "@@1M"
	for _, command := range []string{"sgdisk --new=1:1M:+58M --typecode=1:ef00 " + disk.Path, "mformat -F -c 1 -T 118784 -i " + esp,
		"mmd -i " + esp + " ::EFI ::EFI/BOOT", "mcopy -i " + esp + " " + program + " ::EFI/BOOT"} {
		argv := strings.Fields(command)
		if said, err := exec.CommandContext(w.ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			w.Fatalf("%s: %v\n%s", command, err, said)
		}
	}
	m := &lab.Machine{Name: "uefi", Dir: dir, LAN: w.lans[0], MAC: "52:54:00:12:34:56", Disks: []lab.Disk{disk},
		IPv6PXE: true, First: "UEFI PXE|UEFI HTTP"}
	w.Cleanup(func() {
		must(w.T, m.PowerOff())
		if c := m.Console(); c != nil && w.Failed() {
			w.Log(c.Text())
		}
	})
	return m
}
