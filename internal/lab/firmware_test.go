package lab

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pin/tftp/v3"
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
				for _, step := range []struct{ prompt, text string }{{"stop autoboot", " "}, {"=> ", "setenv autoload no; dhcp\n"}} {
					_, err := m.Console().Expect(ctx, step.prompt)
					check(t, err)
					check(t, m.Console().Type(step.text))
				}
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

// TestUBootByHand lets U-Boot fetch the installer image by TFTP and a pxelinux file, with commands typed at its prompt.
func TestUBootByHand(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	b := newBed(t)
	host, login := newKey(t), newKey(t)
	m := b.installer(t, AArch64, &host, &login)
	files := map[string]io.ReadSeeker{
		"pxelinux.cfg/01-52-54-00-12-34-56": strings.NewReader("default installer\nlabel installer\nkernel Image\n" +
			"initrd initrd\nappend " + m.Cmdline + "\n"),
	}
	for name, path := range map[string]string{"Image": m.Kernel, "initrd": m.Initrd} {
		file, err := os.Open(path)
		check(t, err)
		defer func() { check(t, file.Close()) }()
		files[name] = file
	}
	server := tftp.NewServer(func(name string, out io.ReaderFrom) error {
		file, ok := files[name]
		if !ok {
			return os.ErrNotExist
		}
		_, err := out.ReadFrom(file)
		return err
	}, nil)
	conn, err := net.ListenPacket("udp", "10.77.0.1:69")
	check(t, err)
	go func() { _ = server.Serve(conn) }()
	defer server.Shutdown()

	m.Firmware, m.Kernel = UBoot, ""
	lap := stopwatch(t)
	check(t, m.Start(ctx))
	for _, step := range []struct{ prompt, text string }{
		{"stop autoboot", " "},
		{"=> ", "setenv autoload no; dhcp; setenv serverip 10.77.0.1; pxe get && pxe boot\n"},
	} {
		_, err := m.Console().Expect(ctx, step.prompt)
		check(t, err)
		check(t, m.Console().Type(step.text))
	}
	_, err = m.Console().Expect(ctx, "Starting kernel")
	check(t, err)
	lap("power-on to kernel")
	address := b.up(t, ctx, m, "sshd is up")
	shell, err := Dial(ctx, address, host.Signer.PublicKey(), login.Signer)
	check(t, err)
	lap("kernel to shell")
	check(t, shell.Close())
}
