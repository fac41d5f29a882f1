package images

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"provision/internal/initrd"
)

// isolinux and grub are what NixOS's ISOs have.
const isolinux = `SERIAL 0 115200
UI vesamenu.c32
DEFAULT boot

LABEL boot
MENU LABEL NixOS 25.05 Installer
LINUX /boot/bzImage
APPEND init=/nix/store/i-nixos-system-nixos/init ROOT boot.shell_on_fail nohibernate loglevel=4
INITRD /boot/initrd

LABEL boot-nomodeset
LINUX /boot/bzImage
APPEND init=/nix/store/i-nixos-system-nixos/init ROOT nomodeset
INITRD /boot/initrd
`

const grub = `set timeout=10
search --set=root --file /EFI/nixos-installer-image
menuentry 'NixOS 25.05 Installer'  --class installer {
  terminal_output console
  linux /boot//bzImage ${isoboot} init=/nix/store/i-nixos-system-nixos/init ROOT nohibernate loglevel=4
  initrd /boot//initrd
}
`

// iso packs files with xorriso, as NixOS does.
func iso(t *testing.T, args []string, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		write(t, filepath.Join(dir, "tree", name), data)
	}
	out := filepath.Join(dir, "nixos.iso")
	argv := append([]string{"-as", "mkisofs", "-quiet", "-V", "nixos-minimal", "-o", out}, args...)
	if text, err := exec.Command("xorriso", append(argv, filepath.Join(dir, "tree"))...).CombinedOutput(); err != nil {
		t.Fatalf("xorriso: %v: %s (apt install xorriso)", err, text)
	}
	return out
}

func TestFromISO(t *testing.T) {
	src := files(t, strings.Repeat("one", 1<<19))
	kernel, err := os.ReadFile(src.Kernel)
	must(t, err)
	initrdData, err := os.ReadFile(src.Initrd)
	must(t, err)
	whole := append(initrdData, initrd.Overlay([]initrd.File{squashfs})...)
	tree := func(initrdData []byte, root string, more ...string) map[string]string {
		m := map[string]string{"boot/bzImage": string(kernel), "boot/initrd": string(initrdData), "version.txt": "25.05"}
		for i := 0; i < len(more); i += 2 {
			m[more[i]] = strings.ReplaceAll(more[i+1], "ROOT", root)
		}
		return m
	}
	rockRidge, joliet := []string{"-R"}, []string{"-J"}
	for _, test := range []struct {
		name  string
		args  []string
		files map[string]string
		err   string
	}{
		{"isolinux", rockRidge, tree(whole, "root=fstab", "isolinux/isolinux.cfg", isolinux), ""},
		{"isolinux, all in the initrd", rockRidge, tree(initrdData, "", "isolinux/isolinux.cfg", isolinux), ""},
		{"GRUB", []string{"-R", "-J"}, tree(whole, "root=fstab", "EFI/BOOT/grub.cfg", grub), ""},
		{"plain names", nil, tree(whole, "", "isolinux/isolinux.cfg", isolinux), ""},
		{"Joliet", joliet, tree(whole, "", "isolinux/isolinux.cfg", isolinux), ""},
		{"a medium's root, and yet all inside", rockRidge, tree(whole, "root=LABEL=nixos-minimal", "isolinux/isolinux.cfg", isolinux), ""},
		{"NixOS", rockRidge, tree(initrdData, "root=LABEL=nixos-minimal-25.05-x86_64", "isolinux/isolinux.cfg", isolinux, "nix-store.squashfs", "hsqs"),
			"its stage 1 looks for the medium (root=LABEL=nixos-minimal-25.05-x86_64), which a netbooted machine does not have; use the netboot files"},
		{"NixOS of later days", rockRidge, tree(initrdData, "root=fstab", "EFI/BOOT/grub.cfg", grub, "nix-store.squashfs", "hsqs"), "its system is in nix-store.squashfs on the medium"},
		{"Debian live", rockRidge, tree(initrdData, "boot=live", "isolinux/isolinux.cfg", isolinux), "looks for the medium (boot=live)"},
		{"no menu", rockRidge, tree(initrdData, "", "isolinux/isolinux.cfg", "UI vesamenu.c32\n"), "names a kernel and an initrd"},
		{"no kernel", rockRidge, map[string]string{"boot/initrd": "070701", "isolinux/isolinux.cfg": isolinux}, "copy /boot/bzImage: /boot/bzImage: file does not exist"},
		{"two initrds", rockRidge, tree(whole, "", "isolinux/isolinux.cfg", strings.Replace(isolinux, "INITRD /boot/initrd", "INITRD /boot/initrd,/boot/initrd2", 1)), "initrd2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := open(t, filepath.Join(t.TempDir(), "images"))
			img, err := c.From(t.Context(), Request{Name: "a", From: iso(t, test.args, test.files)}, nil)
			checkErr(t, err, test.err)
			if err != nil && content(t, c) != "" {
				t.Errorf("left behind:\n%s", content(t, c))
			}
			if err != nil {
				return
			}
			have, err := os.ReadFile(filepath.Join(c.dir, img.Initrd.SHA256))
			must(t, err)
			if img.Kernel.SHA256 != sum(string(kernel)) || string(have) != test.files["boot/initrd"] {
				t.Error("kernel or initrd differ")
			}
			if !strings.HasPrefix(img.Cmdline, "init=/nix/store/i-nixos-system-nixos/init") || !strings.HasSuffix(img.Cmdline, "nohibernate loglevel=4") || strings.Contains(img.Cmdline, "$") {
				t.Errorf("command line %q", img.Cmdline)
			}
		})
	}
}

func TestBootEntries(t *testing.T) {
	got := bootEntries("LABEL a\nkernel vmlinuz\nappend initrd=/i.img quiet ${x}\nlabel b\nLINUX /v\n\nmenuentry 'x' {\n\tlinuxefi /k a=\"b c\" $y\n\tinitrdefi /i /j\n}")
	want := []bootEntry{{"vmlinuz", "/i.img", "initrd=/i.img quiet"}, {"/k", "/i,/j", `a="b c"`}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
}

// TestDamagedISO cuts and overwrites an image: it is refused, without a panic.
func TestDamagedISO(t *testing.T) {
	src := files(t, "one")
	initrdData, err := os.ReadFile(src.Initrd)
	must(t, err)
	good, err := os.ReadFile(iso(t, []string{"-R", "-J"}, map[string]string{"boot/bzImage": string(x86Kernel()[:8192]), "boot/initrd": string(initrdData), "isolinux/isolinux.cfg": isolinux}))
	must(t, err)
	c := open(t, t.TempDir())
	file := filepath.Join(t.TempDir(), "iso")
	try := func(data []byte) error {
		write(t, file, string(data))
		_, err := c.From(t.Context(), Request{Name: "a", From: file}, nil)
		return err
	}
	for _, cut := range []int{16*2048 + 6, 17 * 2048, 20 * 2048, 30 * 2048, bytes.Index(good, initrdData) + len(initrdData) - 1} {
		if try(good[:cut]) == nil {
			t.Errorf("cut to %d of %d bytes: no error", cut, len(good))
		}
	}
	for at := 16 * 2048; at < min(len(good), 60*2048); at += 509 {
		bad := bytes.Clone(good)
		copy(bad[at:], bytes.Repeat([]byte{0xff}, 12))
		try(bad) // what it says of it is nothing to rely on; that it returns is
	}
}
