package installer

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"provision/images"
	"provision/internal/boards"
)

// firmwareCatalog has the firmware of a Pi 3 and a Pi 4.
func firmwareCatalog(t *testing.T, but ...string) *images.Catalog {
	t.Helper()
	dir := t.TempDir()
	for name := range strings.FieldsSeq("bootcode.bin start.elf fixup.dat bcm2837-rpi-3-b.dtb start4.elf fixup4.dat bcm2711-rpi-4-b.dtb " +
		"bcm2711-rpi-400.dtb overlays/vc4.dtbo u-boot-rpi3.bin u-boot-rpi4.bin pieeprom.bin") {
		data := "this is " + name
		switch filepath.Ext(name) {
		case ".elf":
			data = "\x7fELF" + data
		case ".dtb", ".dtbo":
			data = "\xd0\x0d\xfe\xed\x00\x00\x00\x10" + data
		}
		if len(but) > 0 && name == but[0] {
			continue
		}
		writeTestFile(t, filepath.Join(dir, name), data)
	}
	c, err := images.Open(t.TempDir())
	if err == nil {
		_, _, err = c.AddFirmware(t.Context(), boards.RaspberryPi, []string{dir}, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func writeTestFile(t *testing.T, file, data string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(file), 0o755)
	if err == nil {
		err = os.WriteFile(file, []byte(data), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// contents are the files below a folder.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(file)
		all[strings.TrimPrefix(file, dir+"/")] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func board(t *testing.T, name string) boards.Board {
	t.Helper()
	b, err := boards.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestPutFirmware: the board's files are put where its firmware looks, whole; what a host put
// there itself stays as it is; and one that was interrupted is done again.
func TestPutFirmware(t *testing.T) {
	c, s := firmwareCatalog(t), connect(t)
	const point = "/boot/firmware"
	put := func(root, board string, ctx context.Context) (string, error) {
		b, err := boards.Parse(board)
		if err != nil {
			t.Fatal(err)
		}
		return putFirmware(ctx, s, root, point, b, c)
	}
	root := t.TempDir()
	at := root + point
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	words, err := put(root, "rpi4", t.Context())
	if err != nil || !strings.Contains(words, "put the firmware of rpi4 (Raspberry Pi 4, 400 or CM4) into /boot/firmware: 7 files") {
		t.Fatalf("%q, %v", words, err)
	}
	got := contents(t, at)
	want := map[string]string{"start4.elf": "\x7fELFthis is start4.elf", "overlays/vc4.dtbo": "\xd0\x0d\xfe\xed\x00\x00\x00\x10this is overlays/vc4.dtbo",
		"u-boot-rpi4.bin": "this is u-boot-rpi4.bin", "config.txt": "# Written by provision: U-Boot starts the system.\narm_64bit=1\nenable_uart=1\nkernel=u-boot-rpi4.bin\n"}
	for name, data := range want {
		if got[name] != data {
			t.Errorf("%s: %q", name, got[name])
		}
	}
	if len(got) != 7 {
		t.Errorf("%d files: %q", len(got), got)
	}
	if words, err := put(root, "rpi4", t.Context()); err != nil || words != "the firmware is in /boot/firmware already" {
		t.Errorf("again: %q, %v", words, err)
	}

	// A killed one left its folder, and what it had come to.
	writeTestFile(t, at+"/.provision.part/start4.elf", "half")
	if err := os.Remove(at + "/fixup4.dat"); err != nil {
		t.Fatal(err)
	}
	if words, err := put(root, "rpi4", t.Context()); err != nil || !strings.Contains(words, ": 1 files") {
		t.Errorf("after a broken one: %q, %v", words, err)
	}
	if again := contents(t, at); len(again) != 7 || again["fixup4.dat"] != got["fixup4.dat"] {
		t.Errorf("%q", again)
	}

	// The host's own: its boot loader put it there, or only a configuration.
	own := t.TempDir()
	writeTestFile(t, own+point+"/start4.elf", "the host's")
	if words, err := put(own, "rpi4", t.Context()); err != nil || !strings.Contains(words, "already") || len(contents(t, own)) != 1 {
		t.Errorf("%q, %v, %q", words, err, contents(t, own))
	}
	own = t.TempDir()
	writeTestFile(t, own+point+"/config.txt", "the host's")
	writeTestFile(t, own+point+"/extlinux/extlinux.conf", "the host's")
	if words, err := put(own, "rpi3", t.Context()); err != nil || !strings.Contains(words, ": 6 files") || contents(t, own+point)["config.txt"] != "the host's" {
		t.Errorf("%q, %v, %q", words, err, contents(t, own))
	}

	// The connection breaks, or the installer's mount is not what it seems.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	broken := t.TempDir()
	if err := os.MkdirAll(broken+point, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := put(broken, "rpi4", ctx); err == nil || len(contents(t, broken)) != 0 {
		t.Errorf("cancelled: %v, %q", err, contents(t, broken))
	}
	out, elsewhere := t.TempDir(), t.TempDir()
	if err := os.Symlink(elsewhere, out+"/boot"); err != nil {
		t.Fatal(err)
	}
	writeTestFile(t, elsewhere+"/firmware/x", "")
	if _, err := put(out, "rpi4", t.Context()); err == nil || !strings.Contains(err.Error(), "leads out of the new system") || len(contents(t, elsewhere)) != 1 {
		t.Errorf("%v", err)
	}
}

// TestPutFirmwareRefuses: what is missing is said with the way to mend it.
func TestPutFirmwareRefuses(t *testing.T) {
	s := connect(t)
	root := t.TempDir()
	if err := os.MkdirAll(root+"/boot", 0o755); err != nil {
		t.Fatal(err)
	}
	empty, err := images.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	damaged := firmwareCatalog(t)
	f, err := damaged.Firmware(boards.RaspberryPi)
	if err != nil {
		t.Fatal(err)
	}
	file, err := damaged.OpenFile(f.Files["start4.elf"])
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	data := strings.Repeat("x", int(f.Files["start4.elf"].Size))
	if err := os.WriteFile(file.Name(), []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		catalog     *images.Catalog
		board, want string
	}{
		{empty, "rpi4", "there is none here: add it with `provision images firmware add raspberrypi --from DIR`, then run `provision retry`"},
		{firmwareCatalog(t, "u-boot-rpi4.bin"), "rpi4", "what is here lacks u-boot-rpi4.bin or u-boot-rpi-arm64.bin"},
		{firmwareCatalog(t), "rpi5", "what is here lacks bcm2712*-rpi-*.dtb"},
		{damaged, "rpi4", "start4.elf was read back, and is not as it was sent"},
	} {
		if _, err := putFirmware(t.Context(), s, root, "/boot", board(t, test.board), test.catalog); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.want, err)
		}
	}
	pretend(t, map[string]string{"df": "echo Filesystem 1024-blocks Used Available; echo /dev/x 9 5 4 50% /mnt/boot"})
	if err := os.RemoveAll(root + "/boot/start4.elf"); err != nil {
		t.Fatal(err)
	}
	small := t.TempDir()
	if err := os.MkdirAll(small+"/boot", 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = putFirmware(t.Context(), s, small, "/boot", board(t, "rpi4"), firmwareCatalog(t))
	if err == nil || !strings.Contains(err.Error(), "it has 0 MB free, and 1.1 MB are needed: make the partition larger") || len(contents(t, small)) != 0 {
		t.Errorf("too small: %v, %q", err, contents(t, small))
	}
}
