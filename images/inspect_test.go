package images

import (
	"bytes"
	"encoding/binary"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"provision/internal/initrd"
)

// entry is a file of a test's initrd that Overlay cannot make: a symlink.
func link(name, to string) []byte {
	b := initrd.Overlay([]initrd.File{{Path: name, Mode: 0o777, Data: []byte(to)}})
	return bytes.Replace(b, []byte("000081ff"), []byte("0000a1ff"), 1)
}

// nixInit is how a NixOS stage 1 with systemd looks from outside.
func nixInit(more ...initrd.File) []byte {
	files := append([]initrd.File{
		{Path: "nix/store/aaa-systemd-257/lib/systemd/systemd", Mode: 0o755, Data: []byte("\x7fELF")},
		{Path: "nix/store/bbb-initrd-units/initrd.target", Mode: 0o644, Data: []byte("[Unit]\n")},
		{Path: "nix/store/ccc-linux-6.12.30-modules-shrunk/lib/modules/6.12.30/kernel/drivers/net/ethernet/broadcom/genet/genet.ko.xz", Mode: 0o644, Data: nil},
		{Path: "nix/store/ccc-linux-6.12.30-modules-shrunk/lib/modules/6.12.30/kernel/drivers/net/usb/lan78xx.ko.xz", Mode: 0o644, Data: nil},
		{Path: "nix/store/ccc-linux-6.12.30-modules-shrunk/lib/modules/6.12.30/modules.builtin", Mode: 0o644,
			Data: []byte("kernel/drivers/net/ethernet/cadence/macb.ko\nkernel/drivers/net/virtio_net.ko\nkernel/fs/ext4/ext4.ko\n")},
		{Path: "etc/initrd-release", Mode: 0o644, Data: []byte("ID=nixos\n")},
		{Path: "root/.ssh/config", Mode: 0o600, Data: []byte("AuthorizedKeysFile /root/.ssh/authorized_keys /etc/ssh/authorized_keys.d/%u\n")},
	}, more...)
	return bytes.Join([][]byte{initrd.Overlay(files), link("init", "/nix/store/aaa-systemd-257/lib/systemd/systemd"), link("etc/systemd/system", "/nix/store/bbb-initrd-units")}, nil)
}

var squashfs = initrd.File{Path: "nix-store.squashfs", Mode: 0o644, Data: []byte("hsqs")}

// restore is nix-community's unit.
var restore = initrd.File{Path: "nix/store/ddd-unit-script-restore-state-from-initrd-start/bin/restore-state-from-initrd-start", Mode: 0o755, Data: []byte(`#!/nix/store/eee-bash/bin/bash
set -e
mkdir -m 700 -p /sysroot/root/.ssh
mkdir -m 755 -p /sysroot/etc/ssh
mkdir -m 755 -p /sysroot/root/network
if [[ -f ssh/authorized_keys ]]; then
  install -m 400 ssh/authorized_keys /sysroot/root/.ssh
fi
install -m 400 ssh/ssh_host_* /sysroot/etc/ssh
cp *.json /sysroot/root/network/
`)}

func TestLook(t *testing.T) {
	zboot := func() []byte {
		b := make([]byte, 0x1000)
		copy(b, "MZ\x00\x00zimg")
		copy(b[0x18:], "gzip")
		binary.LittleEndian.PutUint32(b[8:], 0x1000)
		z := gzipped(arm64Kernel())
		binary.LittleEndian.PutUint32(b[12:], uint32(len(z)))
		return append(append(b, z...), make([]byte, 512)...)
	}
	nix := Inspection{Stage1: "systemd", Contract: No, SSHD: Unknown, Squashfs: true, Kernel: "6.12.30", Modules: []string{"6.12.30"}, NICs: []string{"genet", "macb", "lan78xx", "virtio_net"}}
	with := func(edit func(*Inspection)) Inspection {
		l := nix
		edit(&l)
		return l
	}
	for _, test := range []struct {
		name   string
		arch   Arch
		kernel []byte
		initrd []byte
		want   Inspection
	}{
		{"nixpkgs netboot", AArch64, arm64Kernel(), nixInit(squashfs), nix},
		{"its second archive compressed", AArch64, arm64Kernel(), append(gzipped(nixInit()), gzipped(initrd.Overlay([]initrd.File{squashfs}))...), nix},
		{"nixos-images", AArch64, gzipped(arm64Kernel()), nixInit(squashfs, restore), with(func(l *Inspection) { l.Contract = Yes })},
		{"zboot", AArch64, zboot(), nixInit(squashfs), nix},
		{"x86_64", X86_64, x86Kernel(), nixInit(squashfs), with(func(l *Inspection) { l.NICs = []string{"virtio_net"} })},
		{"kernel without a version", X86_64, bytes.Repeat([]byte{0}, 5000), nixInit(squashfs), with(func(l *Inspection) { l.Kernel, l.NICs = "", []string{"virtio_net"} })},
		{"all in the initrd", AArch64, arm64Kernel(), nixInit(initrd.File{Path: "usr/sbin/sshd", Mode: 0o755, Data: nil}), with(func(l *Inspection) { l.Squashfs, l.SSHD = false, Yes })},
		{"no sshd", AArch64, arm64Kernel(), nixInit(initrd.File{Path: "etc/pam.d/sshd", Mode: 0o755, Data: nil}), with(func(l *Inspection) { l.Squashfs, l.SSHD = false, No })},
		{"script by link", X86_64, x86Kernel(), append(initrd.Overlay([]initrd.File{{Path: "nix/store/a-stage-1-init.sh", Mode: 0o755, Data: []byte("#!/nix/store/x/bin/ash\nmount $targetRoot/root/.ssh\n")}}), link("init", "/nix/store/a-stage-1-init.sh")...),
			Inspection{Stage1: "script", Contract: No, SSHD: No, Kernel: "6.12.30"}},
		{"script", X86_64, x86Kernel(), initrd.Overlay(fit("")), Inspection{Stage1: "script", Contract: Yes, SSHD: Yes, Kernel: "6.12.30", Modules: []string{"6.12.30"}, NICs: []string{"e1000e"}}},
		{"program", X86_64, x86Kernel(), initrd.Overlay([]initrd.File{{Path: "init", Mode: 0o755, Data: []byte("\x7fELF")}}), Inspection{Stage1: "program", Contract: Unknown, SSHD: No, Kernel: "6.12.30"}},
		{"not to be unpacked here", X86_64, x86Kernel(), packed(t, nixInit(), "xz", "--check=crc32", "--x86", "--lzma2"),
			Inspection{Contract: Unknown, SSHD: Unknown, Kernel: "6.12.30", Error: "no decoder for xz with further filters here"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := inspect(test.arch, bytes.NewReader(test.kernel), bytes.NewReader(test.initrd))
			must(t, err)
			if !reflect.DeepEqual(*got, test.want) {
				t.Errorf("got %+v\nwant %+v", *got, test.want)
			}
		})
	}
}

// The banner of a kernel may lie across the border of what is read at once.
func TestFindVersion(t *testing.T) {
	for at := 1<<20 - 40; at < 1<<20+2; at++ {
		data := make([]byte, 1<<20+1000)
		copy(data[at:], "Linux version 6.12.30 (x)")
		if v, err := findVersion(bytes.NewReader(data)); v != "6.12.30" || err != nil {
			t.Fatalf("at %d: %q, %v", at, v, err)
		}
	}
}

func TestWarnings(t *testing.T) {
	fit := Inspection{Stage1: "systemd", Contract: Yes, SSHD: Unknown, Squashfs: true, Kernel: "6.12.30", Modules: []string{"6.12.30"}, NICs: []string{"genet"}}
	for _, test := range []struct {
		name string
		edit func(*Image, *Inspection)
		want string
	}{
		{"fit", func(*Image, *Inspection) {}, ""},
		{"by an older version", func(i *Image, l *Inspection) { i.Look = nil }, ""},
		{"no init=", func(i *Image, l *Inspection) { i.Cmdline = "noinit=x" }, "no init= in its command line"},
		{"script", func(i *Image, l *Inspection) { l.Stage1, l.Contract = "script", No }, "does not take the keys"},
		{"systemd", func(i *Image, l *Inspection) { l.Contract = No }, "provision adds a unit"},
		{"program", func(i *Image, l *Inspection) { l.Stage1, l.Contract = "program", Unknown }, ""},
		{"no sshd", func(i *Image, l *Inspection) { l.SSHD = No }, "has no sshd"},
		{"other kernel", func(i *Image, l *Inspection) { l.Kernel = "6.6.1" }, "has a kernel of version 6.6.1, and modules for 6.12.30"},
		{"kernel not known", func(i *Image, l *Inspection) { l.Kernel = "" }, ""},
		{"no modules", func(i *Image, l *Inspection) { l.Modules = nil }, ""},
		{"no network, arm", func(i *Image, l *Inspection) { l.NICs = nil }, "Raspberry Pis cannot netboot it"},
		{"no network, x86_64", func(i *Image, l *Inspection) { i.Arch, l.NICs = X86_64, nil }, ""},
		{"no network at all", func(i *Image, l *Inspection) { i.Arch, l.NICs, l.Squashfs = X86_64, nil, false }, "(e1000e, igb, igc, r8169, ixgbe, virtio_net, tg3, bnxt_en): machines would not find"},
		{"not looked into", func(i *Image, l *Inspection) {
			*l = Inspection{Contract: Unknown, SSHD: Unknown, Error: "no decoder for lzo here"}
		}, "could not be looked into"},
	} {
		l := fit
		img := Image{Name: "a", Arch: AArch64, Cmdline: "init=/x", Look: &l}
		test.edit(&img, &l)
		got := img.Warnings()
		if (test.want == "") != (len(got) == 0) || test.want != "" && (len(got) != 1 || !strings.Contains(got[0], test.want)) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// What the kernel would stumble over is refused, at whatever place it is.
func TestAddRefusesDamage(t *testing.T) {
	whole := bytes.Repeat(gzipped(initrd.Overlay(fit("x"))), 3)
	for _, compress := range [][]string{{"cat"}, {"gzip"}, {"zstd"}, {"xz", "--check=crc32"}, {"lz4", "-l"}, {"bzip2"}} {
		whole := packed(t, initrd.Overlay(append(fit("x"), initrd.File{Path: "noise", Mode: 0o644, Data: whole})), compress...)
		for _, initrdData := range [][]byte{whole[:len(whole)-len(whole)/3], append(bytes.Clone(whole), "junk"...)} {
			c, src := open(t, t.TempDir()), files(t, "one")
			write(t, src.Initrd, string(initrdData))
			_, err := c.Add(t.Context(), "a", X86_64, src, nil)
			checkErr(t, err, "was it downloaded in full?")
			checkErr(t, err, "initrd "+src.Initrd+": ")
			if left := content(t, c); left != "" {
				t.Errorf("left behind:\n%s", left)
			}
		}
	}
	for name, initrdData := range map[string]string{
		"lz4's new format behind":   string(append(gzipped(initrd.Overlay(fit(""))), packed(t, initrd.Overlay(fit("")), "lz4")...)),
		"a check behind, not known": string(append(gzipped(initrd.Overlay(fit(""))), packed(t, initrd.Overlay(fit("")), "xz")...)),
	} {
		c, src := open(t, t.TempDir()), files(t, "one")
		write(t, src.Initrd, initrdData)
		if _, err := c.Add(t.Context(), "a", X86_64, src, nil); err == nil || !strings.Contains(err.Error(), "kernel cannot unpack") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// packed compresses data with a program.
func packed(t testing.TB, data []byte, argv ...string) []byte {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v (install it with apt)", argv, err)
	}
	return out
}
