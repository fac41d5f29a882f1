package media

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"provision/images"
	"provision/internal/boards"
)

// addFirmware adds files to a catalog that pass for those of Raspberry Pis.
func addFirmware(t *testing.T, c *images.Catalog, names string) {
	t.Helper()
	dir := t.TempDir()
	for name := range strings.FieldsSeq(names) {
		content := "this is " + name
		switch filepath.Ext(name) {
		case ".elf":
			content = "\x7fELF " + name
		case ".dtb", ".dtbo":
			content = "\xd0\x0d\xfe\xed\x00\x00\x00\x09" + name
		}
		file := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(file), 0o755))
		must(t, os.WriteFile(file, []byte(content), 0o644))
	}
	_, _, err := c.AddFirmware(t.Context(), boards.RaspberryPi, []string{dir}, nil)
	must(t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// checkErr wants an error that contains want.
func checkErr(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

func TestForBoard(t *testing.T) {
	c, err := images.Open(t.TempDir())
	must(t, err)
	board := func(name string) boards.Board {
		b, err := boards.Parse(name)
		must(t, err)
		return b
	}
	to := Purpose{Host: "pine", MACs: []string{"dc:a6:32:00:00:01"}, Servers: []string{"http://10.0.0.1:8080", "http://10.1.0.1"}}
	_, err = ForBoard(c, board("rpi4"), to)
	checkErr(t, err, "add it with: provision images firmware add raspberrypi")
	addFirmware(t, c, "bootcode.bin start.elf fixup.dat bcm2710-rpi-3-b.dtb start4.elf fixup4.dat bcm2711-rpi-4-b.dtb"+
		" uboot-rpi_4/u-boot.bin overlays/vc4.dtbo pieeprom.bin")
	_, err = ForBoard(c, board("rpi3"), to)
	checkErr(t, err, "it lacks u-boot-rpi3.bin or u-boot-rpi-arm64.bin")
	_, err = ForBoard(c, board("rpi5"), to)
	checkErr(t, err, "BOOT_ORDER=0xf142")
	_, err = ForBoard(c, board("rpi4"), Purpose{Servers: []string{"http://server"}})
	checkErr(t, err, "write the server's IPv4 address")

	m, err := ForBoard(c, board("rpi4"), to)
	must(t, err)
	if got := strings.Join(m.names(), " "); got != "bcm2711-rpi-4-b.dtb boot.scr config.txt fixup4.dat overlays/vc4.dtbo start4.elf u-boot-rpi4.bin" {
		t.Error(got)
	}
	_, data := made(t, m.Disk)
	checkFAT(t, data[mebi:len(data)-mebi], m)
	if data[446+4] != 0x0c {
		t.Errorf("the partition's type is %x", data[446+4])
	}

	// What u-boot's mkimage would make, but for the date.
	script, err := ubootScript(to)
	must(t, err)
	file := filepath.Join(t.TempDir(), "boot.scr")
	must(t, os.WriteFile(file, ubootImage(script), 0o600))
	image := ubootImage(script)
	head := append([]byte(nil), image[:64]...)
	sum := binary.BigEndian.Uint32(head[4:])
	copy(head[4:8], make([]byte, 4))
	if be := binary.BigEndian; be.Uint32(image) != 0x27051956 || sum != crc32.ChecksumIEEE(head) || be.Uint32(image[24:]) != crc32.ChecksumIEEE(image[64:]) ||
		int(be.Uint32(image[12:])) != len(image)-64 || string(image[72:]) != script {
		t.Errorf("%x", image[:72])
	}
	for _, want := range []string{"if test ${mac} = dc:a6:32:00:00:01; then", "setenv serverip 10.0.0.1\n", "setenv serverip 10.1.0.1\n"} {
		if !strings.Contains(script, want) {
			t.Errorf("the script lacks %q:\n%s", want, script)
		}
	}
}
