package lab

import (
	"context"
	"strings"
	"testing"
	"time"
)

// TestFirmwareByHand switches on a machine of each firmware, with a disk of each kind, and looks at how it asks the
// network.
func TestFirmwareByHand(t *testing.T) {
	for firmware, asks := range map[Firmware]string{
		OVMFPXE:   "vendor class: PXEClient:Arch:00007",
		OVMFHTTP:  "vendor class: HTTPClient:Arch:00016",
		OVMFiPXE:  "user class: iPXE",
		SeaBIOS:   "user class: iPXE",
		AAVMFPXE:  "vendor class: PXEClient:Arch:00011",
		AAVMFHTTP: "vendor class: HTTPClient:Arch:00019",
		UBoot:     "vendor class: U-Boot.armv8",
	} {
		t.Run(string(firmware), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			b := newBed(t)
			m := &Machine{Name: "vm", Dir: t.TempDir(), Firmware: firmware, LAN: b.lan, MAC: "52:54:00:12:34:56"}
			for _, bus := range []string{"virtio", "nvme", "sata"} {
				disk, err := NewDisk(m.Dir+"/"+bus, 64<<20, bus)
				check(t, err)
				disk.Bus = bus
				m.Disks = append(m.Disks, disk)
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
				for _, step := range []struct{ prompt, text string }{{"stop autoboot", " "}, {"=> ", "dhcp\n"}} {
					_, err := m.Console().Expect(ctx, step.prompt)
					check(t, err)
					check(t, m.Console().Type(step.text))
				}
			}
			if err := b.router.wait(ctx, func() bool { return strings.Contains(b.router.log.String(), asks) }); err != nil {
				t.Errorf("it does not ask as %q: %v", asks, err)
			}
			lap("power-on to the network")
			if firmware == SeaBIOS || firmware == OVMFiPXE {
				_, err := m.Console().Expect(ctx, "iPXE 1.0.0")
				check(t, err)
				time.Sleep(45*time.Second)
				t.Log(m.Console().Text())
			}
		})
	}
}
