package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"provision/internal/initrd"
)

// unpacker unpacks an initrd into the root of the file system, as the kernel does (Linux, init/initramfs.c): one
// archive after the other, uncompressed or compressed, with zeros in between. Later files replace earlier ones. Files
// that cannot be made because their folder is missing are silently left out.
//
// It must run on a thread whose root is the folder to unpack to (see inRoot), so that symlinks lead to where they do on
// the booted machine.
type unpacker struct {
	links    map[hardLink]string // first name of each file that has several
	folders  []folder            // their times are set last
	unpacked atomic.Int64        // bytes of file contents
	buf      []byte
}

// hardLink identifies a file within an archive.
type hardLink struct{ major, minor, inode, kind uint32 }

// folder is a folder with its modification time, in seconds since 1970.
type folder struct {
	name  string
	mtime uint32
}

// unpack unpacks all of r.
func (u *unpacker) unpack(r io.Reader) error {
	u.links = map[hardLink]string{}
	u.buf = make([]byte, 256<<10)
	if err := u.archives(initrd.NewStream(r, 256<<10), false); err != nil {
		return err
	}
	for _, f := range slices.Backward(u.folders) {
		setTime(f.name, f.mtime)
	}
	return nil
}

// archives unpacks archives until in ends. Inside a compressed frame there cannot be another frame.
func (u *unpacker) archives(in *initrd.Stream, inFrame bool) error {
	for {
		head, err := in.Peek(1)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}

		at := in.Offset()
		switch {
		case head[0] == 0:
			_, err = in.Discard(1)
		case head[0] == '0' && at%4 == 0:
			if err = u.entry(in); err != nil {
				err = fmt.Errorf("the entry at byte %d: %w", at, err)
			}
		case inFrame:
			err = errors.New("it is followed by what is no archive")
		default:
			if err = u.frame(in); err != nil {
				err = fmt.Errorf("the compressed archive at byte %d: %w", at, err)
			}
		}
		if err != nil {
			return err
		}
	}
}

// frame unpacks the archives in one compressed frame.
func (u *unpacker) frame(in *initrd.Stream) error {
	if _, err := in.Peek(6); err != nil {
		return fmt.Errorf("read the start of an archive: %w", noEOF(err))
	}
	content, err := initrd.OpenFrame(in.Reader)
	if errors.Is(err, initrd.ErrNoDecoder) {
		return errors.New("it is none, or is compressed in a way that is not known here")
	}
	if err != nil {
		return err
	}
	err = u.archives(initrd.NewStream(content, 64<<10), true)
	return errors.Join(err, content.Close())
}

// entry unpacks one entry and skips its padding.
func (u *unpacker) entry(in *initrd.Stream) error {
	start := in.Offset()
	raw := make([]byte, initrd.HeaderSize)
	if _, err := io.ReadFull(in, raw); err != nil {
		return noEOF(err)
	}

	h, err := initrd.ParseHeader(raw)
	if err != nil {
		return err
	}

	nameEnd := initrd.Align(start + initrd.HeaderSize + int64(h.NameSize))
	end := nameEnd + h.Size
	if kernelMakes(h) {
		name := make([]byte, h.NameSize)
		if _, err := io.ReadFull(in, name); err != nil {
			return noEOF(err)
		}

		if name[len(name)-1] != 0 {
			return errors.New("its name has no end: the archive is damaged")
		}
		if err := in.Skip(nameEnd - in.Offset()); err != nil {
			return err
		}
		if err := u.make(in, h, cut(name)); err != nil {
			return fmt.Errorf("%s: %w", cut(name), err)
		}
	}

	if err := in.Skip(end - in.Offset()); err != nil {
		return err
	}

	// The padding of the last entry may be missing.
	err = in.Skip(initrd.Align(end) - end)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}

	return err
}

// kernelMakes reports whether the kernel makes a file with that header. It leaves out files with names that are too
// long, and files that have content although their type has none.
func kernelMakes(h initrd.Header) bool {
	if h.NameSize == 0 || h.NameSize > unix.PathMax {
		return false
	}
	switch h.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return true
	case unix.S_IFLNK:
		return h.Size <= unix.PathMax
	}
	return h.Size == 0
}

// noEOF returns err, but io.ErrUnexpectedEOF instead of io.EOF, for places where more data must follow.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// cut returns the C string in s.
func cut(s []byte) string {
	name, _, _ := strings.Cut(string(s), "\x00")
	return name
}

// make makes what an entry describes. in is at its content.
func (u *unpacker) make(in *initrd.Stream, h initrd.Header, name string) error {
	if name == "TRAILER!!!" {
		clear(u.links)
		return nil
	}
	switch h.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		clearWay(name, h.Mode)
		return u.file(in, h, name)
	case unix.S_IFDIR:
		clearWay(name, h.Mode)
		if err := unix.Mkdir(name, h.Mode&0o7777); onlyFull(err) != nil {
			return err
		}
		_ = unix.Lchown(name, int(h.UID), int(h.GID))
		_ = unix.Chmod(name, h.Mode&0o7777)
		u.folders = append(u.folders, folder{name, h.ModTime})
	case unix.S_IFLNK:
		to := make([]byte, h.Size)
		if _, err := io.ReadFull(in, to); err != nil {
			return noEOF(err)
		}
		clearWay(name, 0)
		if err := unix.Symlink(cut(to), name); onlyFull(err) != nil {
			return err
		}
		_ = unix.Lchown(name, int(h.UID), int(h.GID))
		setTime(name, h.ModTime)
	case unix.S_IFBLK, unix.S_IFCHR, unix.S_IFIFO, unix.S_IFSOCK:
		clearWay(name, h.Mode)
		if linked, _ := u.linked(h, name); linked {
			return nil
		}
		if err := unix.Mknod(name, h.Mode, int(unix.Mkdev(h.RdevMajor, h.RdevMinor))); onlyFull(err) != nil {
			return err
		}
		_ = unix.Lchown(name, int(h.UID), int(h.GID))
		_ = unix.Chmod(name, h.Mode&0o7777)
		setTime(name, h.ModTime)
	}

	return nil
}

// file writes a regular file. If a file has several names, any one of them may come with the content, and the others
// have none.
func (u *unpacker) file(in *initrd.Stream, h initrd.Header, name string) error {
	linked, err := u.linked(h, name)
	if err != nil {
		return onlyFull(err)
	}

	flags := unix.O_WRONLY | unix.O_CREAT | unix.O_CLOEXEC | unix.O_NONBLOCK
	if !linked {
		flags |= unix.O_TRUNC
	}
	fd, err := unix.Open(name, flags, h.Mode&0o7777)
	if err != nil {
		return onlyFull(err)
	}

	_ = unix.Fchown(fd, int(h.UID), int(h.GID))
	_ = unix.Fchmod(fd, h.Mode&0o7777)
	sum, err := u.content(fd, in, h)
	if err == nil && sum != h.Checksum {
		err = errors.New("its checksum does not fit: the archive is damaged")
	}

	closed := unix.Close(fd)
	if err == nil {
		err = closed
	}

	setTime(name, h.ModTime)
	return err
}

// content copies the content of a file. sum is the sum of its bytes, or h.Checksum if the header has no checksum.
func (u *unpacker) content(fd int, in *initrd.Stream, h initrd.Header) (sum uint32, err error) {
	if !h.HasChecksum {
		sum = h.Checksum
	}
	for left := h.Size; left > 0; {
		n, err := in.Read(u.buf[:min(int64(len(u.buf)), left)])
		if h.HasChecksum {
			for _, c := range u.buf[:n] {
				sum += uint32(c)
			}
		}

		for data := u.buf[:n]; len(data) > 0; {
			w, err := unix.Write(fd, data)
			if err != nil {
				return 0, err
			}
			data = data[w:]
			u.unpacked.Add(int64(w))
		}

		left -= int64(n)
		if err != nil && left > 0 {
			return 0, noEOF(err)
		}
	}

	return sum, nil
}

// linked makes name a further name of a file, if the file had an earlier name in the archive, and reports whether it
// did.
func (u *unpacker) linked(h initrd.Header, name string) (bool, error) {
	if h.Links < 2 {
		return false, nil
	}
	key := hardLink{h.DevMajor, h.DevMinor, h.Inode, h.Mode & unix.S_IFMT}
	old, ok := u.links[key]
	if !ok {
		u.links[key] = name
		return false, nil
	}
	clearWay(name, 0)
	return true, unix.Link(old, name)
}

// clearWay removes the file called name, unless it has the same type as the one to be made.
func clearWay(name string, mode uint32) {
	var there unix.Stat_t
	if unix.Lstat(name, &there) != nil || (there.Mode^mode)&unix.S_IFMT == 0 {
		return
	}
	if there.Mode&unix.S_IFMT == unix.S_IFDIR {
		_ = unix.Rmdir(name)
		return
	}
	_ = unix.Unlink(name)
}

// setTime sets the modification time of a file.
func setTime(name string, mtime uint32) {
	t := unix.NsecToTimespec(int64(mtime) * 1e9)
	_ = unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
}

// onlyFull returns err if there is no space or memory. For other errors, the kernel leaves the file out.
func onlyFull(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.ENOMEM) {
		return err
	}
	return nil
}
