package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// sticks are the files where the kernel describes disks and their use.
type sticks struct {
	sys       string // mount point of sysfs
	mountinfo string // proc_pid_mountinfo(5)
	swaps     string // /proc/swaps, see proc(5)
}

var machineSticks = sticks{"/sys", "/proc/self/mountinfo", "/proc/swaps"}

// stick is a removable disk that is not in use, opened for writing.
type stick struct {
	*os.File
	path  string // as it was given
	model string // empty: not known
	size  int64  // bytes
}

func (s *stick) String() string {
	what := []string{fmt.Sprintf("%.1f GB", float64(s.size)/1e9)}
	if s.size < 1e9 {
		what = []string{fmt.Sprintf("%.0f MB", float64(s.size)/1e6)}
	}
	if s.model != "" {
		what = append([]string{s.model}, what...)
	}
	return s.path + " (" + strings.Join(what, ", ") + ")"
}

// openStick opens a disk for writing if it is safe to do so: it must be the whole of a removable disk, and no part of
// it may be in use.
func openStick(in sticks, path string) (*stick, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, fmt.Errorf("write %s: %w", path, err)
	}

	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil, fmt.Errorf("write %s: it is not a disk; to make a file, leave --write out", path)
	}
	dir, err := filepath.EvalSymlinks(filepath.Join(in.sys, "dev/block", devno(st.Rdev)))
	if err != nil {
		return nil, fmt.Errorf("write %s: find out what it is: %w", path, err)
	}

	s := &stick{path: path, model: strings.TrimSpace(readTrimmed(dir, "device/model") + " " + readTrimmed(dir, "device/name"))}
	sectors, _ := strconv.ParseInt(readTrimmed(dir, "size"), 10, 64)
	s.size = sectors * 512 // sysfs counts 512-byte sectors for all disks (Documentation/ABI/stable/sysfs-block)
	if err := in.fit(dir); err != nil {
		return nil, fmt.Errorf("%s is not written: %w", s, err)
	}

	// With O_EXCL, the kernel refuses a disk whose use was not noticed here.
	if s.File, err = os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0); err != nil {
		if errors.Is(err, unix.EBUSY) {
			err = errors.New("something uses it")
		}
		return nil, fmt.Errorf("%s is not written: %w", s, err)
	}

	return s, nil
}

// devno formats a device number as sysfs does.
func devno(dev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) }

// readTrimmed returns the text of a file in sysfs; empty if there is none.
func readTrimmed(dir, name string) string {
	text, _ := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimSpace(string(text))
}

// fit returns an error if the disk at dir, in sysfs, must not be written.
func (in sticks) fit(dir string) error {
	name := filepath.Base(dir)
	if number := readTrimmed(dir, "partition"); number != "" {
		return fmt.Errorf("it is a partition; name the whole disk, /dev/%s", filepath.Base(filepath.Dir(dir)))
	}
	switch {
	case readTrimmed(dir, "size") == "0":
		return errors.New("there is no medium in it")
	case readTrimmed(dir, "ro") == "1":
		return errors.New("it is read-only: is there a switch on it?")
	case !removable(dir):
		return fmt.Errorf("it is not removable (nor on USB, nor an SD card), and may be a disk of this machine. "+
			"If it is meant all the same, make a file and write that: dd if=FILE of=/dev/%s bs=4M conv=fsync", name)
	}

	parts, err := in.parts(dir)
	if err != nil {
		return err
	}
	return in.unused(parts)
}

// removable reports whether people can plug the disk in and out: by its removable bit, which disks in USB cases lack,
// or by its bus. An MMC that is not an SD card is soldered.
func removable(dir string) bool {
	if readTrimmed(dir, "device/type") == "MMC" {
		return false
	}
	usb := slices.ContainsFunc(strings.Split(dir, "/"), func(part string) bool {
		bus, ok := strings.CutPrefix(part, "usb")
		_, err := strconv.Atoi(bus)
		return ok && err == nil
	})
	return readTrimmed(dir, "removable") == "1" || usb || readTrimmed(dir, "device/type") == "SD"
}

// parts returns the disk and its partitions: names by device number. If something is made from one of them (LUKS, LVM,
// RAID), it is in use, which is an error.
func (in sticks) parts(dir string) (map[string]string, error) {
	parts := map[string]string{}
	dirs, err := filepath.Glob(filepath.Join(dir, "*", "partition"))
	if err != nil {
		return nil, err // only for a malformed pattern
	}

	for i := range dirs {
		dirs[i] = filepath.Dir(dirs[i])
	}
	for _, d := range append(dirs, dir) {
		holders, err := os.ReadDir(filepath.Join(d, "holders"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("find out what uses it: %w", err)
		}

		for _, h := range holders {
			what := h.Name()
			if name := readTrimmed(filepath.Join(d, "holders", h.Name()), "dm/name"); name != "" {
				what = "/dev/mapper/" + name
			}
			return nil, fmt.Errorf("/dev/%s is in use: %s lies on it; close that first", filepath.Base(d), what)
		}

		parts[readTrimmed(d, "dev")] = filepath.Base(d)
	}

	return parts, nil
}

// unused returns an error if one of the parts is mounted or used as swap.
func (in sticks) unused(parts map[string]string) error {
	mounts, err := os.ReadFile(in.mountinfo)
	if err != nil {
		return fmt.Errorf("find out what is mounted: %w", err)
	}

	for line := range strings.Lines(string(mounts)) {
		// The fields are: ID parent MAJOR:MINOR root MOUNTPOINT options … - type SOURCE options. btrfs has a device number of
		// its own, and its device is the source.
		front, back, _ := strings.Cut(line, " - ")
		f, b := strings.Fields(front), strings.Fields(back)
		if len(f) < 5 || len(b) < 2 {
			continue
		}
		for _, dev := range []string{f[2], numberOf(b[1])} {
			if part, ok := parts[dev]; ok {
				return fmt.Errorf("/dev/%s is mounted on %s; unmount it first: umount %[2]s", part, unescape(f[4]))
			}
		}
	}

	swaps, err := os.ReadFile(in.swaps)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("find out what is swap: %w", err)
	}

	for line := range strings.Lines(string(swaps)) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if part, ok := parts[numberOf(f[0])]; ok {
			return fmt.Errorf("/dev/%s is swap; switch it off first: swapoff /dev/%[1]s", part)
		}
	}

	return nil
}

// numberOf returns the device number of a block device; empty if the path is not one.
func numberOf(path string) string {
	var st unix.Stat_t
	if !strings.HasPrefix(path, "/") || unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	return devno(st.Rdev)
}

// unescape decodes the octal escapes in mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// holds returns an error if the stick is too small.
func (s *stick) holds(size int64) error {
	if s.size < size {
		return fmt.Errorf("%s is not written: it holds %d bytes, and %d are needed", s, s.size, size)
	}
	return nil
}

// write writes size bytes to the beginning of the stick, syncs, and reads them back. tell is called often with what is
// being done.
func (s *stick) write(ctx context.Context, from io.ReaderAt, size int64,
	tell func(what string, done, total int64)) error {
	done := int64(0)
	partly := func(err error) error {
		return fmt.Errorf("write %s: %w; %d of %d bytes were written, and what was on it is lost: write it again", s, err, done, size)
	}
	buf := make([]byte, 4<<20)
	for done < size {
		if err := ctx.Err(); err != nil {
			return partly(errors.New("it was broken off"))
		}
		n := int(min(int64(len(buf)), size-done))
		if _, err := from.ReadAt(buf[:n], done); err != nil && err != io.EOF {
			return partly(fmt.Errorf("read the image: %w", err))
		}

		m, err := s.WriteAt(buf[:n], done)
		done += int64(m)
		if err != nil {
			return partly(err)
		}

		tell("writing", done, size)
	}

	tell("waiting until the disk has it", size, size)
	if err := s.Sync(); err != nil {
		return partly(err)
	}

	return s.compare(ctx, from, size, tell)
}

// compare reads back what was written, from the stick and not from the cache, and compares it.
func (s *stick) compare(ctx context.Context, from io.ReaderAt, size int64,
	tell func(what string, done, total int64)) error {
	if err := unix.IoctlSetInt(int(s.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("read %s back: %w", s, err)
	}
	want, got := make([]byte, 4<<20), make([]byte, 4<<20)
	for at := int64(0); at < size; {
		if ctx.Err() != nil {
			return fmt.Errorf("read %s back: it was broken off; it was written, and not compared", s)
		}
		n := int(min(int64(len(want)), size-at))
		if _, err := from.ReadAt(want[:n], at); err != nil && err != io.EOF {
			return fmt.Errorf("read the image: %w", err)
		}
		if _, err := s.ReadAt(got[:n], at); err != nil {
			return fmt.Errorf("read %s back: %w", s, err)
		}

		if !bytes.Equal(want[:n], got[:n]) {
			return fmt.Errorf("%s does not hold what was written, within %d bytes from byte %d: it is broken, or "+
				"not as large as it says; take another", s, n, at)
		}
		at += int64(n)
		tell("reading back", at, size)
	}

	// The partition table has changed. If a partition is in use, the kernel reads the table when the stick is plugged in
	// again.
	_ = unix.IoctlSetInt(int(s.Fd()), unix.BLKRRPART, 0)
	return nil
}
