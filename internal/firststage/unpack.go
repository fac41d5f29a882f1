package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// An unpacker unpacks an initrd into the root of the file system, as the kernel
// does (Linux, init/initramfs.c): archive after archive, plain or compressed,
// with zeros between; later files take the place of earlier ones; what cannot be
// made, for its folder is missing, is left out without a word.
//
// It belongs on a thread whose root is the folder to unpack to (see inRoot), for
// symlinks lead to where they would on the booted machine.
type unpacker struct {
	links    map[link]string // the first name of a file that has several
	folders  []folder        // their times are set last
	unpacked atomic.Int64    // bytes of files
	buf      []byte
}

// A link is a file within one archive.
type link struct{ major, minor, inode, kind uint32 }

type folder struct {
	name  string
	mtime uint32
}

// A stream knows how far it has been read.
type stream struct {
	*bufio.Reader
	under *counter
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

func newStream(r io.Reader, buffer int) *stream {
	c := &counter{r: r}
	return &stream{bufio.NewReaderSize(c, buffer), c}
}

func (s *stream) at() int64 { return s.under.n - int64(s.Buffered()) }

// unpack unpacks all of r.
func (u *unpacker) unpack(r io.Reader) error {
	u.links, u.buf = map[link]string{}, make([]byte, 256<<10)
	if err := u.archives(newStream(r, 256<<10), false); err != nil {
		return err
	}
	for _, f := range slices.Backward(u.folders) {
		setTime(f.name, f.mtime)
	}
	return nil
}

// archives unpacks archives until in ends; within a compressed one there is no
// other such.
func (u *unpacker) archives(in *stream, compressed bool) error {
	for {
		head, err := in.Peek(1)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		at := in.at()
		switch {
		case head[0] == 0:
			_, err = in.Discard(1)
		case head[0] == '0' && at%4 == 0:
			if err = u.entry(in); err != nil {
				err = fmt.Errorf("the entry at byte %d: %w", at, err)
			}
		case compressed:
			err = errors.New("it is followed by what is no archive")
		default:
			if err = u.compressed(in); err != nil {
				err = fmt.Errorf("the compressed archive at byte %d: %w", at, err)
			}
		}
		if err != nil {
			return err
		}
	}
}

func (u *unpacker) compressed(in *stream) error {
	z, err := decompress(in.Reader)
	if err != nil {
		return err
	}
	if z == nil {
		return errors.New("it is none, or is compressed in a way that is not known here")
	}
	err = u.archives(newStream(z, 64<<10), true)
	if c, ok := z.(io.Closer); ok {
		err = errors.Join(err, c.Close())
	}
	return err
}

// A header is that of one entry; see Linux,
// Documentation/driver-api/early-userspace/buffer-format.rst.
type header struct {
	inode, mode, uid, gid, links, mtime, size, major, minor, rmajor, rminor, nameSize, sum uint32
	summed                                                                                 bool
}

const headerSize = 110

func readHeader(in *stream) (header, error) {
	var raw [headerSize]byte
	if _, err := io.ReadFull(in, raw[:]); err != nil {
		return header{}, noEOF(err)
	}
	magic := string(raw[:6])
	if magic != "070701" && magic != "070702" {
		return header{}, fmt.Errorf("it begins with %q, where the kernel knows 070701 and 070702 only", magic)
	}
	var fields [13]uint32
	for i := range fields {
		v, err := strconv.ParseUint(string(raw[6+8*i:14+8*i]), 16, 32)
		if err != nil {
			return header{}, fmt.Errorf("its header: %w", err)
		}
		fields[i] = uint32(v)
	}
	return header{fields[0], fields[1], fields[2], fields[3], fields[4], fields[5], fields[6], fields[7], fields[8],
		fields[9], fields[10], fields[11], fields[12], magic == "070702"}, nil
}

// entry unpacks one entry and what pads it.
func (u *unpacker) entry(in *stream) error {
	start := in.at()
	h, err := readHeader(in)
	if err != nil {
		return err
	}
	nameEnd := align(start + headerSize + int64(h.nameSize))
	end := nameEnd + int64(h.size)
	kind := h.mode & unix.S_IFMT
	known := h.nameSize > 0 && h.nameSize <= unix.PathMax && (kind != unix.S_IFLNK || h.size <= unix.PathMax)
	if known && (kind == unix.S_IFLNK || kind == unix.S_IFREG || h.size == 0) {
		name := make([]byte, h.nameSize)
		if _, err := io.ReadFull(in, name); err != nil {
			return noEOF(err)
		}
		if name[len(name)-1] != 0 {
			return errors.New("its name has no end: the archive is damaged")
		}
		if err := skip(in, nameEnd-in.at()); err != nil {
			return err
		}
		if err := u.make(in, h, cut(name)); err != nil {
			return fmt.Errorf("%s: %w", cut(name), err)
		}
	}
	if err := skip(in, end-in.at()); err != nil {
		return err
	}
	// The last entry's padding may be missing.
	if err := skip(in, align(end)-end); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	return nil
}

func align(n int64) int64 { return (n + 3) &^ 3 }

func skip(in *stream, n int64) error {
	_, err := io.CopyN(io.Discard, in, n)
	if err != nil {
		return noEOF(err)
	}
	return nil
}

// cut is what a C string holds.
func cut(s []byte) string {
	name, _, _ := strings.Cut(string(s), "\x00")
	return name
}

// make makes what an entry describes; its content is next in in.
func (u *unpacker) make(in *stream, h header, name string) error {
	if name == "TRAILER!!!" {
		clear(u.links)
		return nil
	}
	switch h.mode & unix.S_IFMT {
	case unix.S_IFREG:
		clearWay(name, h.mode)
		return u.file(in, h, name)
	case unix.S_IFDIR:
		clearWay(name, h.mode)
		if err := unix.Mkdir(name, h.mode&0o7777); onlyFull(err) != nil {
			return err
		}
		_ = unix.Lchown(name, int(h.uid), int(h.gid))
		_ = unix.Chmod(name, h.mode&0o7777)
		u.folders = append(u.folders, folder{name, h.mtime})
	case unix.S_IFLNK:
		to := make([]byte, h.size)
		if _, err := io.ReadFull(in, to); err != nil {
			return noEOF(err)
		}
		clearWay(name, 0)
		if err := unix.Symlink(cut(to), name); onlyFull(err) != nil {
			return err
		}
		_ = unix.Lchown(name, int(h.uid), int(h.gid))
		setTime(name, h.mtime)
	case unix.S_IFBLK, unix.S_IFCHR, unix.S_IFIFO, unix.S_IFSOCK:
		clearWay(name, h.mode)
		if linked, _ := u.linked(h, name); linked {
			return nil
		}
		if err := unix.Mknod(name, h.mode, int(unix.Mkdev(h.rmajor, h.rminor))); onlyFull(err) != nil {
			return err
		}
		_ = unix.Lchown(name, int(h.uid), int(h.gid))
		_ = unix.Chmod(name, h.mode&0o7777)
		setTime(name, h.mtime)
	}
	return nil
}

// file writes a regular file. Of several names of one file, any may come with
// the content, and the others with none.
func (u *unpacker) file(in *stream, h header, name string) error {
	linked, err := u.linked(h, name)
	if err != nil {
		return onlyFull(err)
	}
	flags := unix.O_WRONLY | unix.O_CREAT | unix.O_CLOEXEC | unix.O_NONBLOCK
	if !linked {
		flags |= unix.O_TRUNC
	}
	fd, err := unix.Open(name, flags, h.mode&0o7777)
	if err != nil {
		return onlyFull(err)
	}
	_ = unix.Fchown(fd, int(h.uid), int(h.gid))
	_ = unix.Fchmod(fd, h.mode&0o7777)
	sum, err := u.content(fd, in, h)
	if err == nil && sum != h.sum {
		err = errors.New("its checksum does not fit: the archive is damaged")
	}
	if closed := unix.Close(fd); err == nil {
		err = closed
	}
	setTime(name, h.mtime)
	return err
}

// content copies what is in a file. The sum is that of its bytes, if the header has one.
func (u *unpacker) content(fd int, in *stream, h header) (sum uint32, err error) {
	if !h.summed {
		sum = h.sum
	}
	for left := int64(h.size); left > 0; {
		n, err := in.Read(u.buf[:min(int64(len(u.buf)), left)])
		if h.summed {
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

// linked makes name another name of the file, if one was there before.
func (u *unpacker) linked(h header, name string) (bool, error) {
	if h.links < 2 {
		return false, nil
	}
	key := link{h.major, h.minor, h.inode, h.mode & unix.S_IFMT}
	old, ok := u.links[key]
	if !ok {
		u.links[key] = name
		return false, nil
	}
	clearWay(name, 0)
	return true, unix.Link(old, name)
}

// clearWay removes what is called name, unless it is of the type that comes.
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

func setTime(name string, mtime uint32) {
	t := unix.NsecToTimespec(int64(mtime) * 1e9)
	_ = unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
}

// onlyFull drops the errors for which the kernel leaves a file out.
func onlyFull(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.ENOMEM) {
		return err
	}
	return nil
}
