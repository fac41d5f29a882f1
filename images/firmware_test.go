package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"provision/internal/boards"
)

// bootFile is content that passes for that of a firmware file.
func bootFile(name string) string {
	switch ext := filepath.Ext(name); {
	case ext == ".elf":
		return "\x7fELF " + name
	case strings.HasPrefix(ext, ".dtb"):
		return "\xd0\x0d\xfe\xed\x00\x00\x00\x09" + name
	}
	return "this is " + name
}

func bootDir(t *testing.T, names string) string {
	t.Helper()
	dir := t.TempDir()
	for name := range strings.FieldsSeq(names) {
		write(t, filepath.Join(dir, name), bootFile(name))
	}
	return dir
}

// debFile packs files as dpkg-deb does: an ar archive of three members.
func debFile(t *testing.T, compress string, headers ...tar.Header) string {
	t.Helper()
	var data bytes.Buffer
	var z io.WriteCloser
	var err error
	switch compress {
	case "xz":
		z, err = xz.NewWriter(&data)
	case "zst":
		z, err = zstd.NewWriter(&data)
	case "gz":
		z = gzip.NewWriter(&data)
	}
	must(t, err)
	w := tar.NewWriter(z)
	for _, h := range headers {
		content := bootFile(h.Name)
		if h.Typeflag == tar.TypeReg || h.Typeflag == 0 {
			h.Size = int64(len(content))
		}
		must(t, w.WriteHeader(&h))
		if h.Size > 0 {
			io.WriteString(w, content)
		}
	}
	must(t, errors.Join(w.Close(), z.Close()))
	var ar bytes.Buffer
	ar.WriteString("!<arch>\n")
	for _, m := range []struct {
		name string
		data []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar." + compress, []byte("odd")}, {"data.tar." + compress, data.Bytes()}} {
		fmt.Fprintf(&ar, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.name, 0, 0, 0, "100644", len(m.data))
		ar.Write(m.data)
		if len(m.data)%2 == 1 {
			ar.WriteByte('\n')
		}
	}
	return write(t, filepath.Join(t.TempDir(), "package.deb"), ar.String())
}

const pi3and4 = "bootcode.bin start.elf fixup.dat bcm2710-rpi-3-b.dtb start4.elf fixup4.dat bcm2711-rpi-4-b.dtb"

func TestAddFirmware(t *testing.T) {
	c := open(t, t.TempDir())
	_, err := c.Firmware(boards.RaspberryPi)
	checkErr(t, err, "add it with: provision images firmware add raspberrypi --from DIR")
	if !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	dir := bootDir(t, pi3and4+" LICENCE.broadcom boot/overlays/vc4.dtbo boot/overlays/README boot/bcm2712-rpi-5-b.dtb "+
		"uboot-rpi_4_defconfig-2025.01/u-boot.bin start4x.elf pieeprom.bin kernel8.img issue.txt overlays/evil.sh")
	f, notes, err := c.AddFirmware(t.Context(), boards.RaspberryPi, []string{dir}, nil)
	must(t, err)
	const want = "bcm2710-rpi-3-b.dtb bcm2711-rpi-4-b.dtb bcm2712-rpi-5-b.dtb bootcode.bin fixup.dat fixup4.dat " +
		"overlays/README overlays/vc4.dtbo pieeprom.bin start.elf start4.elf start4x.elf u-boot-rpi4.bin"
	if got := names(f.Files); got != want || names(f.Licences) != "LICENCE.broadcom" || len(notes) > 0 {
		t.Errorf("got %s, licences %s, notes %q", got, names(f.Licences), notes)
	}
	if got := FitWords(f.Fitness(boards.TFTP)); got != "enough for rpi3, rpi4, rpi5" {
		t.Error(got)
	}
	if got := FitWords(f.Fitness(boards.FAT)); got != "enough for rpi4; rpi3 needs u-boot-rpi3.bin or u-boot-rpi-arm64.bin; rpi5 needs u-boot-rpi-arm64.bin" {
		t.Error(got)
	}

	again := open(t, c.dir) // as after a restart, which sweeps
	got, err := again.Firmware(boards.RaspberryPi)
	must(t, err)
	must(t, again.VerifyFirmware(t.Context(), boards.RaspberryPi))
	file, err := again.OpenFile(got.Files["overlays/vc4.dtbo"])
	must(t, err)
	defer file.Close()
	if data, err := io.ReadAll(file); err != nil || string(data) != bootFile("boot/overlays/vc4.dtbo") {
		t.Errorf("%q, %v", data, err)
	}
	if all, err := again.List(); err != nil || len(all) != 0 {
		t.Errorf("images: %v, %v", all, err)
	}

	two := bootDir(t, pi3and4)
	write(t, filepath.Join(two, "LICENCE.broadcom"), "another")
	other := open(t, t.TempDir())
	if f, _, err := other.AddFirmware(t.Context(), boards.RaspberryPi, []string{dir, two, dir}, nil); err != nil || names(f.Licences) != "LICENCE.broadcom LICENCE.broadcom-2" {
		t.Errorf("%s, %v", names(f.Licences), err)
	}

	// The same again changes nothing; less takes the place of what was there.
	before := content(t, c)
	f.Added = f.Added.Add(-time.Hour)
	must(t, c.placeAs(boards.RaspberryPi+firmwareExt, f, nil))
	if same, _, err := c.AddFirmware(t.Context(), boards.RaspberryPi, []string{dir}, nil); err != nil || !same.Added.Equal(f.Added) || content(t, c) != before {
		t.Errorf("the same again: %v, %v", same.Added, err)
	}
	img := add(t, c, "beside", files(t, "one"))
	less, _, err := c.AddFirmware(t.Context(), boards.RaspberryPi, []string{bootDir(t, pi3and4)}, nil)
	must(t, err)
	if n := strings.Count(content(t, c), "\n"); len(less.Files) != 7 || n != 7+1+3 {
		t.Errorf("%d files, %d in the folder:\n%s", len(less.Files), n, content(t, c))
	}
	must(t, os.WriteFile(filepath.Join(c.dir, less.Files["start.elf"].SHA256), []byte("x"), 0o644))
	err = c.VerifyFirmware(t.Context(), boards.RaspberryPi)
	checkErr(t, err, "verify firmware raspberrypi: start.elf: ")
	checkErr(t, c.RemoveFirmware(boards.RaspberryPi, []string{"alpha"}), "needed by alpha")
	must(t, c.RemoveFirmware(boards.RaspberryPi, nil))
	must(t, c.Verify(t.Context(), img.Name))
	if n := strings.Count(content(t, c), "\n"); n != 3 {
		t.Errorf("left behind:\n%s", content(t, c))
	}
}

func names(files map[string]File) string {
	return strings.Join(slices.Sorted(maps.Keys(files)), " ")
}

func TestFirmwareFromDebs(t *testing.T) {
	for _, compress := range []string{"xz", "zst", "gz"} {
		t.Run(compress, func(t *testing.T) {
			c := open(t, t.TempDir())
			firmware := debFile(t, compress, tar.Header{Name: "./usr/lib/raspi-firmware/start4.elf"}, tar.Header{Name: "./usr/lib/raspi-firmware/fixup4.dat"},
				tar.Header{Name: "./usr/share/doc/raspi-firmware/copyright"}, tar.Header{Name: "./etc/default/raspi-firmware"},
				tar.Header{Name: "./usr/share/doc/x/copyright", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow"})
			kernel := debFile(t, compress, tar.Header{Name: "./usr/lib/linux-image-6.12-arm64/broadcom/bcm2711-rpi-4-b.dtb"},
				tar.Header{Name: "./usr/lib/linux-image-6.12-arm64/rockchip/rk3399.dtb"}, tar.Header{Name: "./boot/vmlinuz-6.12"})
			uboot := debFile(t, compress, tar.Header{Name: "./usr/lib/u-boot/rpi_3/u-boot.bin"}, tar.Header{Name: "./usr/lib/u-boot/rpi_4/u-boot.bin"},
				tar.Header{Name: "./usr/lib/u-boot/rpi_arm64/u-boot.bin"}, tar.Header{Name: "./usr/lib/u-boot/rpi_4/uboot.elf"},
				tar.Header{Name: "./usr/share/doc/u-boot-rpi/copyright"})
			var last, total int64
			f, _, err := c.AddFirmware(t.Context(), boards.RaspberryPi, []string{firmware, kernel, uboot}, func(d, n int64) { last, total = d, n })
			must(t, err)
			if got := names(f.Files); got != "bcm2711-rpi-4-b.dtb fixup4.dat start4.elf u-boot-rpi-arm64.bin u-boot-rpi3.bin u-boot-rpi4.bin" ||
				names(f.Licences) != "raspi-firmware/copyright u-boot-rpi/copyright" {
				t.Errorf("got %s, licences %s", got, names(f.Licences))
			}
			if total == 0 || last != total {
				t.Errorf("progress ended at %d of %d", last, total)
			}
		})
	}
}

func TestFirmwareRefuses(t *testing.T) {
	good, err := os.ReadFile(debFile(t, "xz", tar.Header{Name: "usr/lib/raspi-firmware/start4.elf"}, tar.Header{Name: "fixup4.dat"}, tar.Header{Name: "bcm2711-rpi-4-b.dtb"}))
	must(t, err)
	dir := t.TempDir()
	deb := func(data string) string { return write(t, filepath.Join(dir, fmt.Sprint(len(data), ".deb")), data) }
	with := func(names, file, data string) string {
		d := bootDir(t, names)
		write(t, filepath.Join(d, file), data)
		return d
	}
	for _, test := range []struct{ from, err string }{
		{deb(string(good[:len(good)-40])), "downloaded in full"},
		{deb(string(good[:100])), "downloaded in full"},
		{deb(string(good[:20])), "downloaded in full"},
		{deb("!<arch>\n"), "without files in it"},
		{deb("!<arch>\n" + strings.Repeat("x", 60)), "damaged Debian package"},
		{deb("hello"), "neither a folder nor a Debian package"},
		{deb(""), "is empty"},
		{debFile(t, "gz", tar.Header{Name: "usr/../../../etc/start4.elf"}), `it holds the path "usr/../../../etc/start4.elf"`},
		{bootDir(t, "start.txt"), "nothing of a Raspberry Pi's firmware is in it"},
		{bootDir(t, "fixup4.dat bcm2711-rpi-4-b.dtb bootcode.bin"), "not enough for any board: rpi3 needs start.elf, fixup.dat, bcm2710-rpi-3-*.dtb or bcm2837-rpi-3-*.dtb; rpi4 needs start4.elf; rpi5 needs bcm2712*-rpi-*.dtb"},
		{with(pi3and4, "start4.elf", "text"), "start4.elf: it is not an ELF program"},
		{with(pi3and4, "fixup4.dat", ""), "fixup4.dat is empty"},
		{with(pi3and4, "bcm2711-rpi-400.dtb", "text"), "bcm2711-rpi-400.dtb: it is not a device tree"},
		{with(pi3and4, "bcm2711-rpi-400.dtb", "\xd0\x0d\xfe\xed\x00\x01\x00\x00cut"), "it has 11 of its 65536 bytes: was it downloaded in full?"},
		{with(pi3and4, "rpi_4/u-boot.bin", "\x7fELF"), "the firmware starts u-boot.bin"},
		{with(pi3and4, "old/start.elf", "\x7fELF older"), "it holds start.elf twice, and not the same"},
		{"https://example.org/firmware.zip", "a URL must be one of a Debian package"},
		{"http://example.org/x.deb", "anyone on the way can change what comes over plain http"},
		{"https://me:secret@example.org/x.deb", "a name or password in a URL"},
		{"git+https://me:secret@example.org/x#y", "a name or password in a URL"},
		{"http://example.org/x.deb?signature=secret", "anyone on the way"},
		{dir + "/none", "no such file"},
	} {
		c := open(t, t.TempDir())
		_, _, err := c.AddFirmware(t.Context(), boards.RaspberryPi, []string{test.from}, nil)
		checkErr(t, err, test.err)
		checkErr(t, err, "add firmware raspberrypi: ")
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("it tells the password: %v", err)
		}
		if left := content(t, c); left != "" {
			t.Errorf("%s left behind:\n%s", test.err, left)
		}
	}
	c := open(t, t.TempDir())
	_, _, err = c.AddFirmware(t.Context(), "../x", nil, nil)
	checkErr(t, err, "no board needs firmware of that name")
	_, err = c.Firmware("../x")
	checkErr(t, err, "no firmware")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err = c.AddFirmware(ctx, boards.RaspberryPi, []string{bootDir(t, pi3and4)}, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	f, notes, err := c.AddFirmware(t.Context(), boards.RaspberryPi, []string{bootDir(t, pi3and4+" u-boot.bin")}, nil)
	if err != nil || f.Files["u-boot.bin"] != (File{}) || !strings.Contains(strings.Join(notes, "\n"), "does not say for which board") {
		t.Errorf("%v, %q, %v", f, notes, err)
	}
}

// TestBoardFiles: each board gets its own files, and what writes an EEPROM is never among them.
func TestBoardFiles(t *testing.T) {
	c := open(t, t.TempDir())
	f, _, err := c.AddFirmware(t.Context(), boards.RaspberryPi, []string{bootDir(t, pi3and4+" bcm2712-rpi-5-b.dtb bcm2712d0-rpi-5-b.dtb overlays/vc4.dtbo "+
		"start_x.elf start4x.elf pieeprom.bin pieeprom.upd recovery.bin vl805.sig armstub8-gic.bin u-boot-rpi3.bin u-boot-rpi_arm64.bin")}, nil)
	must(t, err)
	for _, test := range []struct {
		board string
		m     boards.Medium
		want  string
	}{
		{"rpi3", boards.TFTP, "bcm2710-rpi-3-b.dtb bootcode.bin fixup.dat overlays/vc4.dtbo start.elf start_x.elf"},
		{"rpi3", boards.FAT, "bcm2710-rpi-3-b.dtb bootcode.bin fixup.dat overlays/vc4.dtbo start.elf u-boot-rpi3.bin"},
		{"rpi4", boards.TFTP, "armstub8-gic.bin bcm2711-rpi-4-b.dtb fixup4.dat overlays/vc4.dtbo start4.elf start4x.elf"},
		{"rpi4", boards.FAT, "armstub8-gic.bin bcm2711-rpi-4-b.dtb fixup4.dat overlays/vc4.dtbo start4.elf u-boot-rpi-arm64.bin"},
		{"rpi5", boards.FAT, "bcm2712-rpi-5-b.dtb bcm2712d0-rpi-5-b.dtb overlays/vc4.dtbo u-boot-rpi-arm64.bin"},
		{"pc", boards.TFTP, ""},
	} {
		b, err := boards.Parse(test.board)
		must(t, err)
		missing := b.Missing(f.Names(), test.m)
		if got := names(f.For(b, test.m)); got != test.want || missing != nil {
			t.Errorf("%s, %d: %s, missing %q", test.board, test.m, got, missing)
		}
	}
	if got := names(f.EEPROM()); got != "pieeprom.bin pieeprom.upd recovery.bin vl805.sig" {
		t.Error(got)
	}
}

// TestFirmwareFromURL: packages are downloaded, checked by the digest that is published beside
// them, and gone afterwards.
func TestFirmwareFromURL(t *testing.T) {
	deb, err := os.ReadFile(debFile(t, "xz", tar.Header{Name: "usr/lib/raspi-firmware/start4.elf"}, tar.Header{Name: "fixup4.dat"}, tar.Header{Name: "bcm2711-rpi-4-b.dtb"}))
	must(t, err)
	m := &mirror{files: map[string]string{"/raspi.deb": string(deb)}}
	srv := httptest.NewServer(m)
	defer srv.Close()
	c := open(t, t.TempDir())
	f, _, err := c.AddFirmware(t.Context(), boards.RaspberryPi, []string{srv.URL + "/raspi.deb"}, nil)
	must(t, err)
	if names(f.Files) != "bcm2711-rpi-4-b.dtb fixup4.dat start4.elf" || strings.Count(content(t, c), "\n") != 4 {
		t.Errorf("%s\n%s", names(f.Files), content(t, c))
	}
	m.files["/raspi.deb.sha256"] = strings.Repeat("0", 64)
	_, _, err = c.AddFirmware(t.Context(), boards.RaspberryPi, []string{srv.URL + "/raspi.deb"}, nil)
	checkErr(t, err, "it is not the file that was meant")
	_, _, err = c.AddFirmware(t.Context(), boards.RaspberryPi, []string{srv.URL + "/none.deb"}, nil)
	checkErr(t, err, "404")
	if strings.Count(content(t, c), "\n") != 4 {
		t.Errorf("left behind:\n%s", content(t, c))
	}
}

// TestDamagedDeb: a package that is cut short anywhere is refused, and one with a flipped byte is
// taken whole or refused; nothing is left behind.
func TestDamagedDeb(t *testing.T) {
	good, err := os.ReadFile(debFile(t, "xz", tar.Header{Name: "usr/lib/raspi-firmware/start4.elf"}, tar.Header{Name: "fixup4.dat"}, tar.Header{Name: "bcm2711-rpi-4-b.dtb"}))
	must(t, err)
	file := filepath.Join(t.TempDir(), "package.deb")
	for n := 0; n < len(good); n += 3 {
		for what, data := range map[string][]byte{"cut": good[:n], "flipped": append(append(bytes.Clone(good[:n]), good[n]^0x55), good[n+1:]...)} {
			c := open(t, t.TempDir())
			must(t, os.WriteFile(file, data, 0o600))
			f, _, err := c.AddFirmware(t.Context(), boards.RaspberryPi, []string{file}, nil)
			// What follows the compressed data is padding, if anything.
			if what == "cut" && n < len(good)-1 && err == nil {
				t.Errorf("%d of %d bytes are taken", n, len(good))
			}
			if left := content(t, c); err != nil && left != "" || err == nil && (len(f.Files) != 3 || strings.Count(left, "\n") != 4) {
				t.Errorf("%s at %d: %v; left:\n%s", what, n, err, left)
			}
		}
	}
}
