package lab

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tinkerbell/ipxedust/binary"
)

// TestNetbootByHand netboots the installer image with each firmware from a router that is told to, by dnsmasq's own
// TFTP, and a plain web server: what boots from these can boot from provision.
func TestNetbootByHand(t *testing.T) {
	const server = "http://10.77.0.1/"
	for firmware, boot := range map[Firmware]struct {
		arch Arch
		file string // what a client that is not iPXE is told to load
	}{
		OVMFPXE:   {X86_64, "ipxe.efi"},
		OVMFHTTP:  {X86_64, server + "ipxe.efi"},
		OVMFiPXE:  {X86_64, "unused"},
		SeaBIOS:   {X86_64, "unused"},
		AAVMFPXE:  {AArch64, "snp.efi"},
		AAVMFHTTP: {AArch64, server + "snp.efi"},
		UBoot:     {AArch64, "unused"},
	} {
		t.Run(string(firmware), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			dir := t.TempDir()
			b := newBed(t, "--enable-tftp", "--tftp-root="+dir, "--dhcp-boot=tag:!ipxe,"+boot.file,
				"--dhcp-userclass=set:ipxe,iPXE", "--dhcp-userclass=set:ipxe,Tinkerbell", // ipxedust's
				"--dhcp-boot=tag:ipxe,"+server+"boot.ipxe",
				"--dhcp-vendorclass=set:http,HTTPClient", "--dhcp-option-force=tag:http,60,HTTPClient")
			host, login := newKey(t), newKey(t)
			m := b.installer(t, boot.arch, &host, &login)
			serveNetboot(t, dir, m)
			m.Firmware, m.Kernel = firmware, ""

			lap := stopwatch(t)
			check(t, m.Start(ctx))
			if firmware == UBoot {
				typeAtUBoot(t, ctx, m, "setenv autoload no; dhcp; pxe get && pxe boot")
			}
			address := b.up(t, ctx, m, "sshd is up")
			shell, err := Dial(ctx, address, host.Signer.PublicKey(), login.Signer)
			check(t, err)
			lap("power-on to shell")
			check(t, shell.Close())
		})
	}
}

// serveNetboot fills dir with iPXE and what m boots, and serves it by HTTP until the test ends.
func serveNetboot(t *testing.T, dir string, m *Machine) {
	t.Helper()
	check(t, os.Mkdir(filepath.Join(dir, "pxelinux.cfg"), 0o755))
	for name, data := range map[string][]byte{
		"ipxe.efi":  binary.IpxeEFI,
		"snp.efi":   binary.SNP,
		"boot.ipxe": []byte("#!ipxe\nkernel kernel initrd=initrd " + m.Cmdline + "\ninitrd initrd\nboot\n"),
		"pxelinux.cfg/01-52-54-00-12-34-56": []byte("default installer\nlabel installer\nkernel kernel\ninitrd initrd\n" +
			"append " + m.Cmdline + "\n"),
	} {
		check(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	check(t, os.Symlink(m.Kernel, filepath.Join(dir, "kernel")))
	check(t, os.Symlink(m.Initrd, filepath.Join(dir, "initrd")))
	listener, err := net.Listen("tcp", "10.77.0.1:80")
	check(t, err)
	web := &http.Server{Handler: http.FileServer(http.Dir(dir))}
	done := make(chan error)
	go func() { done <- web.Serve(listener) }()
	t.Cleanup(func() {
		check(t, web.Close())
		<-done
	})
}

// typeAtUBoot types a command at the prompt of the machine, which was just switched on.
func typeAtUBoot(t *testing.T, ctx context.Context, m *Machine, command string) {
	t.Helper()
	for _, step := range []struct{ prompt, text string }{{"stop autoboot", " "}, {"=> ", command + "\n"}} {
		_, err := m.Console().Expect(ctx, step.prompt)
		check(t, err)
		check(t, m.Console().Type(step.text))
	}
}
