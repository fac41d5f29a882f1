package lab

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFirmwareByHand switches on a machine of each firmware, with a disk of each kind, and looks at how it asks the
// network, and at what it prints.
func TestFirmwareByHand(t *testing.T) {
	for firmware, want := range map[Firmware]struct {
		asks string
		says []string
	}{
		OVMFPXE:   {"vendor class: PXEClient:Arch:00007", []string{">>Start PXE over IPv4"}},
		OVMFHTTP:  {"vendor class: HTTPClient:Arch:00016", []string{">>Start HTTP Boot over IPv4"}},
		OVMFiPXE:  {"user class: iPXE", []string{"Nothing to boot", `failed to load Boot0001 "UEFI Misc Device"`}},
		SeaBIOS:   {"user class: iPXE", []string{"Nothing to boot", "Booting from Hard Disk"}},
		AAVMFPXE:  {"vendor class: PXEClient:Arch:00011", []string{">>Start PXE over IPv4"}},
		AAVMFHTTP: {"vendor class: HTTPClient:Arch:00019", []string{">>Start HTTP Boot over IPv4"}},
		UBoot:     {"vendor class: U-Boot.armv8", []string{"DHCP client bound to address", "=> "}},
	} {
		t.Run(string(firmware), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			b := newBed(t)
			m := &Machine{
				Name: "vm", Dir: t.TempDir(), Firmware: firmware, LAN: b.lan, MAC: "52:54:00:12:34:56", Disks: allDisks(t),
			}
			lap := stopwatch(t)
			check(t, m.Start(ctx))
			defer func() {
				check(t, m.PowerOff())
				if t.Failed() {
					t.Logf("%s\n%s", b.router.Log(), m.Console().Text())
				}
			}()
			lap("set up")
			if firmware == UBoot {
				typeAtUBoot(t, ctx, m, "setenv autoload no; dhcp")
			}
			if err := b.router.wait(ctx, func() bool { return strings.Contains(b.router.log.String(), want.asks) }); err != nil {
				t.Errorf("it does not ask as %q: %v", want.asks, err)
			}
			lap("power-on to the network")
			for _, text := range want.says {
				_, err := m.Console().Expect(ctx, text)
				check(t, err)
			}
		})
	}
}

// allDisks returns a disk of each kind.
func allDisks(t *testing.T) (all []Disk) {
	t.Helper()
	for _, bus := range []string{"virtio", "nvme", "sata"} {
		disk, err := NewDisk(filepath.Join(t.TempDir(), bus), 64<<20, "LAB-"+bus)
		check(t, err)
		disk.Bus = bus
		all = append(all, disk)
	}
	return all
}
