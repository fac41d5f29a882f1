package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"provision/images"
)

// ipxeMedium is one for bravo.
func ipxeMedium(t *testing.T, arch images.Arch) BootMedium {
	t.Helper()
	program, err := Program("", arch)
	if err != nil {
		t.Fatal(err)
	}
	return ForUEFI(arch, program, Script(Purpose{Host: "bravo", MACs: []string{"52:54:00:12:34:56"}, Servers: []string{"http://10.0.0.1"}}))
}

// deepMedium has what is hard: folders in folders, long names, many entries in
// one folder, empty files, sizes around that of a cluster.
func deepMedium() BootMedium {
	m := BootMedium{Label: "DEEP", Files: map[string]Content{}}
	random := rand.New(rand.NewPCG(1, 2))
	add := func(name string, size int) {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(random.Uint32())
		}
		m.Files[name] = Bytes(data)
	}
	add("kernel.img", 9<<20) // more than is copied at a time
	for i, size := range []int{0, 1, 511, 512, 513, 1024} {
		add(fmt.Sprintf("a/b/c/d/size%d", i), size)
	}
	for i := range 60 { // more than a cluster of entries
		add(fmt.Sprintf("overlays/an-overlay-with-a-long-name-%d.dtbo", i), 100+i)
	}
	add("overlays/README", 10)
	add("config.txt", 100)
	return m
}

// made makes a medium in a file.
func made(t *testing.T, write func(*os.File) error) (name string, data []byte) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "medium")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(write(f), f.Close()); err != nil {
		t.Fatal(err)
	}
	if data, err = os.ReadFile(name); err != nil {
		t.Fatal(err)
	}
	return name, data
}

// tool runs a program, which must succeed, and returns what it says.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// checkFAT has fsck.vfat find nothing, and mtools read all files back.
func checkFAT(t *testing.T, fat []byte, m BootMedium) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "fat")
	if err := os.WriteFile(name, fat, 0o600); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(tool(t, "fsck.vfat", "-n", name)), "\n")
	if len(lines) != 2 || !strings.Contains(lines[1], " files, ") { // its name, and how much there is
		t.Errorf("fsck.vfat: %q", lines)
	}
	if label := tool(t, "mlabel", "-s", "-i", name); !strings.Contains(label, m.Label) {
		t.Error(label)
	}
	out := t.TempDir()
	tool(t, "mcopy", "-s", "-i", name, "::/*", out)
	for path, c := range m.Files {
		in, err := c.Open()
		if err != nil {
			t.Fatal(err)
		}
		want, _ := io.ReadAll(in)
		if got, err := os.ReadFile(filepath.Join(out, path)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: it is not as it was, or %v", path, err)
		}
	}
	if dates := tool(t, "mdir", "-/", "-i", name); strings.Contains(dates, fmt.Sprint(time.Now().Year())+"-") {
		t.Errorf("a date of today: %s", dates)
	}
}

// nothingToSay has sgdisk check a table.
func nothingToSay(t *testing.T, name string) {
	t.Helper()
	if said := tool(t, "sgdisk", "-v", name); !strings.HasPrefix(strings.TrimSpace(said), "No problems found.") {
		t.Error(said)
	}
}

func TestDisk(t *testing.T) {
	for name, m := range map[string]BootMedium{"x64": ipxeMedium(t, images.X86_64), "arm64": ipxeMedium(t, images.AArch64), "deep": deepMedium()} {
		t.Run(name, func(t *testing.T) {
			file, data := made(t, m.Disk)
			nothingToSay(t, file)
			checkFAT(t, data[mebi:len(data)-mebi], m)
			if len(data) != 35*mebi {
				t.Errorf("%d MiB", len(data)/mebi)
			}
			if _, again := made(t, m.Disk); !bytes.Equal(again, data) {
				t.Error("two builds differ")
			}
		})
	}
}

// TestDiskMBR: a board's firmware finds one bootable FAT32 partition.
func TestDiskMBR(t *testing.T) {
	m := ipxeMedium(t, images.AArch64)
	m.MBR = true
	_, data := made(t, m.Disk)
	checkFAT(t, data[mebi:len(data)-mebi], m)
	entry := data[446:462]
	if le := binary.LittleEndian; entry[0] != 0x80 || entry[4] != 0x0c || le.Uint32(entry[8:]) != 2048 || le.Uint32(entry[12:]) != 33*2048 ||
		!bytes.Equal(data[462:510], make([]byte, 48)) || data[510] != 0x55 || data[511] != 0xaa {
		t.Errorf("the table is %x", data[440:512])
	}
	if bytes.Equal(data[440:444], make([]byte, 4)) {
		t.Error("it has no signature")
	}
	if _, again := made(t, m.Disk); !bytes.Equal(again, data) {
		t.Error("two builds differ")
	}
}

// TestISO: a CD that starts by El Torito, and from a stick by its GPT, whose
// partition is the boot image.
func TestISO(t *testing.T) {
	for name, m := range map[string]BootMedium{"x64": ipxeMedium(t, images.X86_64), "arm64": ipxeMedium(t, images.AArch64)} {
		t.Run(name, func(t *testing.T) {
			file, data := made(t, m.ISO)
			said := tool(t, "xorriso", "-indev", file, "-report_el_torito", "plain", "-report_system_area", "plain", "-pvd_info")
			for _, want := range []string{
				"Boot record  : El Torito , MBR protective-msdos-label cyl-align-off GPT", "El Torito boot img :   1  UEFI  y   none",
				"El Torito img path :   1  /EFI.IMG", "GPT partition path :   1  /EFI.IMG", "PROVISION", "Creation Time: 2000010100000000",
			} {
				if !strings.Contains(said, want) {
					t.Errorf("xorriso does not say %q:\n%s", want, said)
				}
			}
			if strings.Contains(said, "WARNING") || strings.Contains(said, "FAILURE") || strings.Contains(said, "SORRY") {
				t.Errorf("xorriso warns:\n%s", said)
			}
			nothingToSay(t, file)
			image := filepath.Join(t.TempDir(), "efi.img")
			tool(t, "xorriso", "-osirrox", "on", "-indev", file, "-extract", "/EFI.IMG", image)
			fat, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			checkFAT(t, fat, m)
			t.Setenv("TZ", "Asia/Tokyo")
			if _, again := made(t, m.ISO); !bytes.Equal(again, data) {
				t.Error("two builds differ")
			}
		})
	}
}

// TestOtherContent: other files have other identifiers.
func TestOtherContent(t *testing.T) {
	a, b := ipxeMedium(t, images.X86_64), ipxeMedium(t, images.X86_64)
	b.Files["more"] = Bytes(nil)
	_, x := made(t, a.Disk)
	_, y := made(t, b.Disk)
	for what, at := range map[string]int{"the disk's GUID": 512 + 56, "the partition's GUID": 1024 + 16, "the volume's serial number": mebi + 67} {
		if bytes.Equal(x[at:at+4], y[at:at+4]) {
			t.Errorf("%s is the same", what)
		}
	}
}

func TestBadMedium(t *testing.T) {
	good := func() BootMedium {
		return BootMedium{Label: "GOOD", Files: map[string]Content{"a": Bytes([]byte("a"))}}
	}
	broken := Content{Size: 4, Open: func() (io.ReadCloser, error) { return nil, errors.New("it is gone") }}
	for name, tt := range map[string]struct {
		change func(*BootMedium)
		want   string
	}{
		"no label":        {func(m *BootMedium) { m.Label = "" }, "volume label"},
		"a long label":    {func(m *BootMedium) { m.Label = "TWELVECHARSX" }, "volume label"},
		"an odd label":    {func(m *BootMedium) { m.Label = "größe" }, "volume label"},
		"out of it":       {func(m *BootMedium) { m.Files["../x"] = Bytes(nil) }, "cannot be on FAT"},
		"absolute":        {func(m *BootMedium) { m.Files["/x"] = Bytes(nil) }, "cannot be on FAT"},
		"an odd name":     {func(m *BootMedium) { m.Files["a:b"] = Bytes(nil) }, "cannot be on FAT"},
		"two are one":     {func(m *BootMedium) { m.Files["A"] = Bytes(nil) }, "are one on FAT"},
		"huge":            {func(m *BootMedium) { m.Files["b"] = Content{Size: 4 << 30} }, "less than 4 GiB"},
		"gone":            {func(m *BootMedium) { m.Files["b"] = broken }, "write b: it is gone"},
		"shorter":         {func(m *BootMedium) { m.Files["b"] = Content{5, Bytes([]byte("four")).Open} }, "it has not 5 bytes"},
		"longer":          {func(m *BootMedium) { m.Files["b"] = Content{3, Bytes([]byte("four")).Open} }, "it has not 3 bytes"},
		"file and folder": {func(m *BootMedium) { m.Files["a/b"] = Bytes(nil) }, "a"},
	} {
		m := good()
		tt.change(&m)
		for _, write := range []func(*os.File) error{m.Disk, m.ISO} {
			f, err := os.Create(filepath.Join(t.TempDir(), "medium"))
			if err != nil {
				t.Fatal(err)
			}
			if err := write(f); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v", name, err)
			}
			f.Close()
		}
	}
	big := deepMedium()
	big.Files["b"] = Bytes(make([]byte, 20<<20))
	f, err := os.Create(filepath.Join(t.TempDir(), "medium"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := big.ISO(f); err == nil || !strings.Contains(err.Error(), "make a disk image") {
		t.Error(err)
	}
}

// TestFullDisk: what go-diskfs does not notice.
func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	m := ipxeMedium(t, images.X86_64)
	for _, write := range []func(*os.File) error{m.Disk, m.ISO} {
		if err := write(full); err == nil {
			t.Error("a full disk holds it")
		}
	}
}
