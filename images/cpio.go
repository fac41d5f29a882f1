package images

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
)

// maxUnpacked bounds what an initrd may unpack to: it all has to fit into a
// machine's memory.
const maxUnpacked = 8 << 30

// A cpioEntry is one file of an initrd.
type cpioEntry struct {
	Name  string // clean slash path, without a slash at its start
	Mode  uint32 // Unix type (fileType) and permission bits
	Size  int64  // bytes
	Inode uint32
	// Links is the number of names that share Inode in this archive: the last of them has the
	// content, the others are empty.
	Links uint32
}

// The types of a cpioEntry.
const (
	fileType    = 0o170000
	typeFolder  = 0o040000
	typeRegular = 0o100000
	typeSymlink = 0o120000 // its content is where it leads
)

// eachFile walks an initrd as the kernel unpacks it (Linux, init/initramfs.c):
// newc archives one after another, each plain or in a compressed member that may
// hold several, with NUL bytes between. It calls f with each entry, in their
// order, and with its content, which need not be read. A later entry of a name
// replaces an earlier one. It ends with f's error, or quietly when that is
// [fs.SkipAll].
//
// It takes bounded memory, and unpacks maxUnpacked bytes at the most. Anything
// over which the kernel would stumble is an error that tells the offset.
func eachFile(r io.Reader, f func(cpioEntry, io.Reader) error) error {
	return eachFileUpTo(maxUnpacked, r, f)
}

func eachFileUpTo(unpacked int64, r io.Reader, f func(cpioEntry, io.Reader) error) error {
	raw := &counted{r: r, left: 1 << 62}
	w := walk{in: bufio.NewReaderSize(raw, 1<<16), left: unpacked, f: f}
	for first := true; ; first = false {
		if err := skipNULs(w.in); err != nil {
			return endOf(err, first)
		}
		offset := raw.n - int64(w.in.Buffered())
		err := w.next(offset%4 == 0)
		switch {
		case errors.Is(err, fs.SkipAll):
			return nil
		case err != nil && offset > 0:
			return fmt.Errorf("archive at byte %d: %w", offset, err)
		case err != nil:
			return err
		}
	}
}

// A walk is on its way through an initrd.
type walk struct {
	in    *bufio.Reader
	left  int64 // bytes that may still be unpacked
	plain bool  // the last archive was not compressed
	f     func(cpioEntry, io.Reader) error
}

// next walks the archive, or the compressed archives, that w.in is at.
func (w *walk) next(aligned bool) error {
	head, err := w.in.Peek(64)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	kind := compression(head)
	if err := checkMember(kind, head); err != nil {
		return err
	}
	if !aligned && (w.plain || kind == "") {
		return errors.New("it does not start at a multiple of four bytes: the kernel does not see it")
	}
	if w.plain = kind == ""; w.plain {
		return archive(w.in, w.f)
	}
	return w.compressed()
}

// endOf is nil at the end of an initrd that holds something.
func endOf(err error, empty bool) error {
	if errors.Is(err, io.EOF) && empty {
		return errors.New("it is empty")
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// compressed walks the archives in one compressed member.
func (w *walk) compressed() error {
	out, err := member(w.in)
	if err != nil {
		return err
	}
	defer out.Close()
	limited := &counted{r: out, left: w.left}
	in := bufio.NewReaderSize(limited, 1<<16)
	for {
		err := archive(in, w.f)
		if err == nil {
			err = skipNULs(in)
		}
		if errors.Is(err, io.EOF) {
			w.left = limited.left
			return nil
		}
		if err == nil && (limited.n-int64(in.Buffered()))%4 != 0 {
			err = errors.New("the next archive in it does not start at a multiple of four bytes")
		}
		if err != nil {
			return err
		}
	}
}

// archive walks one archive, to the end of its trailer.
func archive(in *bufio.Reader, f func(cpioEntry, io.Reader) error) error {
	for {
		e, padding, err := readEntry(in)
		if err != nil {
			return err
		}
		if e.Name == "TRAILER!!!" {
			return nil
		}
		content := &body{in, e.Size}
		err = f(e, content)
		if err == nil {
			_, err = io.Copy(io.Discard, content)
		}
		if err == nil {
			err = discard(in, padding)
		}
		if err != nil {
			if !errors.Is(err, fs.SkipAll) {
				err = fmt.Errorf("%s: %w", e.Name, err)
			}
			return err
		}
	}
}

// headerSize is that of a newc entry: a magic of 6 digits, 13 fields of 8.
const headerSize = 6 + 13*8

// readEntry reads an entry's header and name (Linux,
// Documentation/driver-api/early-userspace/buffer-format.rst); padding is the
// number of NUL bytes after its content.
func readEntry(in *bufio.Reader) (e cpioEntry, padding int64, err error) {
	head := make([]byte, headerSize)
	if _, err := io.ReadFull(in, head); err != nil {
		return e, 0, cutShort(err)
	}
	if err := checkCpio(head); err != nil {
		return e, 0, err
	}
	var fields [13]uint32 // inode mode uid gid links mtime size dev(2) rdev(2) namesize check
	for i := range fields {
		v, err := strconv.ParseUint(string(head[6+8*i:14+8*i]), 16, 32)
		if err != nil {
			return e, 0, errors.New("a broken entry in the cpio archive")
		}
		fields[i] = uint32(v)
	}
	e = cpioEntry{Mode: fields[1], Size: int64(fields[6]), Inode: fields[0], Links: fields[4]}
	nameSize := int(fields[11])
	if nameSize == 0 || nameSize > 4096 || e.Mode&fileType == typeSymlink && e.Size > 4096 { // PATH_MAX
		return e, 0, errors.New("a name in the cpio archive is too long")
	}
	name := make([]byte, nameSize+pad4(headerSize+nameSize))
	if _, err := io.ReadFull(in, name); err != nil {
		return e, 0, cutShort(err)
	}
	name, _, _ = bytes.Cut(name, []byte{0})
	e.Name = path.Clean("/" + string(name))[1:]
	return e, int64(pad4(int(e.Size % 4))), nil
}

// pad4 is how much is missing to a multiple of four.
func pad4(n int) int { return -n & 3 }

// skipNULs leaves in at its next byte that is not NUL; io.EOF says that there is none.
func skipNULs(in *bufio.Reader) error {
	for {
		if _, err := in.Peek(1); err != nil {
			return err
		}
		some, _ := in.Peek(in.Buffered())
		n := len(some) - len(bytes.TrimLeft(some, "\x00"))
		if _, err := in.Discard(n); n < len(some) || err != nil {
			return err
		}
	}
}

func discard(in *bufio.Reader, n int64) error {
	_, err := io.CopyN(io.Discard, in, n)
	return cutShort(err)
}

// cutShort makes an end where there must be more an error that stands.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// A body reads left bytes of r, all of which must be there.
type body struct {
	r    io.Reader
	left int64
}

func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	if b.left -= int64(n); b.left > 0 {
		err = cutShort(err)
	}
	return n, err
}

// A counted reader knows how much was read, and fails when it would be more than left.
type counted struct {
	r       io.Reader
	n, left int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.left -= int64(n); c.left < 0 {
		return 0, errors.New("it unpacks to more than fits into any machine's memory")
	}
	return n, err
}
