package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// loop is a loop device of size bytes.
func loop(t *testing.T, size int64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, size)); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", dev).CombinedOutput(); err != nil {
			t.Errorf("losetup: %v: %s", err, out)
		}
	})
	return dev
}

// pretence is a machine on which a block device is a stick: files of sysfs by
// their names below it, and where it hangs.
type pretence struct {
	at     string // below sysfs
	files  map[string]string
	mounts string // lines of mountinfo; NUMBER is the device's, DEV its path
	swaps  string
}

func (p pretence) set(t *testing.T, dev string) sticks {
	t.Helper()
	root := t.TempDir()
	number := numberOf(dev)
	fill := strings.NewReplacer("NUMBER", number, "DEV", dev).Replace
	dir := filepath.Join(root, "sys", p.at)
	write := func(name, text string) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(fill(text)), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"dev": "NUMBER\n", "size": "65536\n", "ro": "0\n", "removable": "1\n", "device/model": "Ultra Fit  \n"} {
		if given, ok := p.files[name]; ok {
			text = given
		}
		write(filepath.Join(dir, name), text)
	}
	for name, text := range p.files {
		write(filepath.Join(dir, name), text)
	}
	link := filepath.Join(root, "sys/dev/block", number)
	if err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink(dir, link)); err != nil {
		t.Fatal(err)
	}
	in := sticks{filepath.Join(root, "sys"), filepath.Join(root, "mountinfo"), filepath.Join(root, "swaps")}
	write(in.mountinfo, "22 1 8:1 / / rw - ext4 /dev/sda1 rw\nnonsense\n"+p.mounts)
	write(in.swaps, "Filename\tType\tSize\tUsed\tPriority\n"+p.swaps)
	return in
}

// TestStickRefused: what is not written, and why.
func TestStickRefused(t *testing.T) {
	dev := loop(t, 32<<20)
	const usb = "devices/pci0000:00/0000:00:14.0/usb2/2-1/block/sdx"
	for _, tt := range []struct {
		name string
		pretence
		want string // empty: it is written
	}{
		{"a stick", pretence{at: usb}, ""},
		{"a disk in a USB case", pretence{at: usb, files: map[string]string{"removable": "0"}}, ""},
		{"an SD card", pretence{at: "devices/platform/mmc0/block/mmcblk0", files: map[string]string{"removable": "0", "device/type": "SD", "device/model": "", "device/name": "SU08G"}}, ""},
		{"other things are mounted", pretence{at: usb, mounts: "30 22 8:2 / /home rw - ext4 /dev/sda2 rw\n"}, ""},
		{"eMMC", pretence{at: "devices/platform/mmc0/block/mmcblk0", files: map[string]string{"removable": "0", "device/type": "MMC"}}, "it is not removable"},
		{"a built-in disk", pretence{at: "devices/pci0000:00/ata1/block/sda", files: map[string]string{"removable": "0"}}, "it is not removable"},
		{"a partition", pretence{at: usb + "/sdx1", files: map[string]string{"partition": "1"}}, "it is a partition; name the whole disk, /dev/sdx"},
		{"an empty reader", pretence{at: usb, files: map[string]string{"size": "0"}}, "there is no medium in it"},
		{"locked", pretence{at: usb, files: map[string]string{"ro": "1"}}, "it is read-only"},
		{"mounted", pretence{at: usb, mounts: "30 22 NUMBER / /media/my\\040stick rw,nosuid - vfat /dev/sdx rw\n"}, "/dev/sdx is mounted on /media/my stick; unmount it first: umount /media/my stick"},
		{"a partition of it is mounted", pretence{at: usb, files: map[string]string{"sdx1/dev": "8:99", "sdx1/partition": "1"}, mounts: "30 22 8:99 / /mnt rw - vfat /dev/sdx1 rw\n"}, "/dev/sdx1 is mounted on /mnt"},
		{"mounted as btrfs", pretence{at: usb, mounts: "30 22 0:40 / /mnt rw shared:1 - btrfs DEV rw\n"}, "/dev/sdx is mounted on /mnt"},
		{"swap", pretence{at: usb, swaps: "DEV partition 1048572 0 -2\n"}, "/dev/sdx is swap; switch it off first: swapoff /dev/sdx"},
		{"LUKS on it", pretence{at: usb, files: map[string]string{"sdx2/dev": "8:98", "sdx2/partition": "2", "sdx2/holders/dm-0/dm/name": "luks-1"}}, "/dev/sdx2 is in use: /dev/mapper/luks-1 lies on it"},
		{"RAID on it", pretence{at: usb, files: map[string]string{"holders/md0/x": ""}}, "/dev/sdx is in use: md0 lies on it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, err := openStick(tt.set(t, dev), dev)
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want == "":
				s.Close()
			case err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), dev+" ("):
				t.Errorf("%v; want %q", err, tt.want)
			}
		})
	}
}

// TestStickRefusedHere: on this machine, as it is.
func TestStickRefusedHere(t *testing.T) {
	dev := loop(t, 32<<20)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dev:            dev + " (34 MB) is not written: it is not removable",
		file:           "it is not a disk; to make a file, leave --write out",
		"/dev/null":    "it is not a disk",
		"/nothing/sdx": "no such file or directory",
	} {
		if _, err := openStick(machineSticks, path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", path, err, want)
		}
	}
	// Whatever we overlooked, the kernel does not.
	held, err := os.OpenFile(dev, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	in := pretence{at: "devices/usb1/block/sdx"}.set(t, dev)
	if _, err := openStick(in, dev); err == nil || !strings.Contains(err.Error(), "something uses it") {
		t.Error(err)
	}
}

func TestStickWrite(t *testing.T) {
	const size = 9<<20 + 512
	dev := loop(t, 16<<20)
	s, err := openStick(pretence{at: "devices/usb1/block/sdx"}.set(t, dev), dev)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	image := make([]byte, size)
	rand.Read(image) // never fails (crypto/rand)
	told := map[string]int64{}
	tell := func(what string, done, total int64) {
		if done < told[what] || total != size && total != 64<<20 {
			t.Errorf("%s: %d of %d", what, done, total)
		}
		told[what] = done
	}
	if err := s.write(t.Context(), bytes.NewReader(image), size, tell); err != nil {
		t.Fatal(err)
	}
	if told["writing"] != size || told["reading back"] != size {
		t.Errorf("told %v", told)
	}
	got := make([]byte, size)
	if _, err := s.ReadAt(got, 0); err != nil || !bytes.Equal(got, image) {
		t.Errorf("it holds something else, or %v", err)
	}

	// One that forgets.
	if _, err := s.WriteAt([]byte("forgotten"), 5<<20); err != nil {
		t.Fatal(err)
	}
	if err := s.compare(t.Context(), bytes.NewReader(image), size, func(string, int64, int64) {}); err == nil || !strings.Contains(err.Error(), "does not hold what was written, within 4194304 bytes from byte 4194304") {
		t.Error(err)
	}
	// One that lies about its size.
	if err := s.write(t.Context(), bytes.NewReader(make([]byte, 64<<20)), 64<<20, func(string, int64, int64) {}); err == nil ||
		!strings.Contains(err.Error(), fmt.Sprintf("%d of %d bytes were written, and what was on it is lost: write it again", 16<<20, 64<<20)) {
		t.Error(err)
	}
	broken, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.write(broken, bytes.NewReader(image), size, tell); err == nil || !strings.Contains(err.Error(), "it was broken off; 0 of") {
		t.Error(err)
	}
	if err := s.holds(33 << 20); err == nil || !strings.Contains(err.Error(), "it holds 33554432 bytes, and 34603008 are needed") {
		t.Error(err)
	}
}

// TestBurn is what the command does with its stick and its image.
func TestBurn(t *testing.T) {
	dev := loop(t, 16<<20)
	s, err := openStick(pretence{at: "devices/usb1/block/sdx"}.set(t, dev), dev)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	img, err := os.Create(filepath.Join(t.TempDir(), "img"))
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	if _, err := img.WriteAt([]byte("the image"), 5<<20); err != nil {
		t.Fatal(err)
	}
	c := &cobra.Command{}
	c.SetContext(t.Context())
	c.SetIn(strings.NewReader("yes\n"))
	var out, words bytes.Buffer
	c.SetOut(&out)
	c.SetErr(&words)
	if err := (mediaFlags{}).confirm(c, s); err == nil || !strings.Contains(err.Error(), "all that is on "+dev+" (Ultra Fit, 34 MB) will be lost: say --yes") {
		t.Error(err)
	}
	if err := errors.Join(mediaFlags{yes: true}.confirm(c, s), burn(c, s, img)); err != nil {
		t.Fatal(err)
	}
	if got := dev + " (Ultra Fit, 34 MB): 5.2 MB written, read back and compared\n"; out.String() != got || words.Len() > 0 {
		t.Errorf("%q, %q", out.String(), words.String())
	}
	got := make([]byte, 9)
	if _, err := s.ReadAt(got, 5<<20); err != nil || string(got) != "the image" {
		t.Errorf("%q, %v", got, err)
	}
	if err := img.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	if err := burn(c, s, img); err == nil || !strings.Contains(err.Error(), "67108864 are needed") {
		t.Error(err)
	}
}
