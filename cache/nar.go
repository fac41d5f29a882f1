package cache

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// nar is a NAR that is not written yet (Dolstra, The Purely Functional Software
// Deployment Model, section 5.2.1): where its bytes are.
type nar struct {
	parts []part
	size  int64 // bytes
}

// part is bytes of the archive itself, then the content of a file.
type part struct {
	text []byte
	file string // path; none: ""
	size int64  // of the file, bytes
}

// sendfile is from what size on a file is sent by the kernel rather than
// copied: below, the system calls cost more than the bytes.
const sendfile = 64 << 10

// pack looks at the files of a store path, and reads none.
func pack(path string) (*nar, error) {
	n := new(nar)
	n.text("nix-archive-1")
	if err := n.node(path); err != nil {
		return nil, fmt.Errorf("pack %s: %w", path, err)
	}
	return n, nil
}

// node adds a file, a folder with all that is in it, or a link.
func (n *nar) node(path string) error {
	var info unix.Stat_t
	if err := unix.Lstat(path, &info); err != nil {
		return &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	n.text("(", "type")
	switch info.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		n.text("regular")
		if info.Mode&0o100 != 0 {
			n.text("executable", "")
		}
		n.text("contents")
		n.content(path, info.Size)
	case unix.S_IFLNK:
		to, err := os.Readlink(path)
		if err != nil {
			return err
		}
		n.text("symlink", "target", to)
	case unix.S_IFDIR:
		n.text("directory")
		entries, err := names(path)
		if err != nil {
			return err
		}
		for _, name := range entries {
			n.text("entry", "(", "name", name, "node")
			if err := n.node(path + "/" + name); err != nil {
				return err
			}
			n.text(")")
		}
	default:
		return fmt.Errorf("%s is no file, folder or link", path)
	}
	n.text(")")
	return nil
}

// names are the entries of a folder, in the order that a NAR wants. As [counter.small], it is past package os.
func names(dir string) ([]string, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	var all []string
	var buffer [8 << 10]byte
	for {
		n, err := unix.ReadDirent(fd, buffer[:])
		if err != nil {
			return nil, &os.PathError{Op: "readdirent", Path: dir, Err: err}
		}
		if n == 0 {
			slices.Sort(all)
			return all, nil
		}
		_, _, all = unix.ParseDirent(buffer[:n], -1, all)
	}
}

// text adds strings: each its length, itself, and zeros to a multiple of eight.
func (n *nar) text(words ...string) {
	if len(n.parts) == 0 || n.parts[len(n.parts)-1].file != "" {
		n.parts = append(n.parts, part{})
	}
	p := &n.parts[len(n.parts)-1]
	before := len(p.text)
	for _, w := range words {
		p.text = binary.LittleEndian.AppendUint64(p.text, uint64(len(w)))
		p.text = append(p.text, w...)
		p.text = append(p.text, make([]byte, -len(w)&7)...)
	}
	n.size += int64(len(p.text) - before)
}

// content adds what is in a file.
func (n *nar) content(path string, size int64) {
	p := &n.parts[len(n.parts)-1] // there is one: the words before it
	p.text = binary.LittleEndian.AppendUint64(p.text, uint64(size))
	p.file, p.size = path, size
	n.size += 8 + size
	if pad := -size & 7; pad > 0 {
		n.parts = append(n.parts, part{text: make([]byte, pad)})
		n.size += pad
	}
}

// buffers are what small files are collected in.
var buffers = sync.Pool{New: func() any { return new([2 * sendfile]byte) }}

// writeTo writes the archive from the offset on, and returns how many bytes of
// it went out. Large files go by sendfile if w can do that.
func (n *nar) writeTo(w io.Writer, from int64) (sent int64, err error) {
	buffer := buffers.Get().(*[2 * sendfile]byte)
	defer buffers.Put(buffer)
	out := &counter{w: w, buf: buffer[:0]}
	for _, p := range n.parts {
		skip := min(from, int64(len(p.text)))
		from -= skip
		out.text(p.text[skip:])
		skip = min(from, p.size)
		from -= skip
		switch left := p.size - skip; {
		case left == 0:
		case left < sendfile:
			err = out.small(p.file, skip, int(left))
		default:
			err = out.large(p.file, skip, left)
		}
		if err != nil {
			return out.n, err
		}
	}
	out.flush()
	return out.n, out.err
}

// counter counts what is written, and collects what is small.
type counter struct {
	w   io.Writer
	buf []byte
	n   int64 // bytes that were written
	err error // of a write; none comes after it
}

func (c *counter) flush() {
	if c.err == nil && len(c.buf) > 0 {
		var n int
		n, c.err = c.w.Write(c.buf)
		c.n += int64(n)
	}
	c.buf = c.buf[:0]
}

func (c *counter) text(s []byte) {
	for len(s) > 0 {
		if len(c.buf) == cap(c.buf) {
			c.flush()
		}
		n := min(len(s), cap(c.buf)-len(c.buf))
		c.buf = append(c.buf, s[:n]...)
		s = s[n:]
	}
}

// small reads a file past package os, whose files cost three times as many system calls.
func (c *counter) small(file string, from int64, size int) error {
	if size > cap(c.buf)-len(c.buf) {
		c.flush()
	}
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: file, Err: err}
	}
	defer unix.Close(fd)
	for size > 0 {
		n, err := unix.Pread(fd, c.buf[len(c.buf):len(c.buf)+size], from)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return &os.PathError{Op: "read", Path: file, Err: err}
		case n == 0:
			return fmt.Errorf("read %s: %w", file, io.ErrUnexpectedEOF)
		default:
			c.buf = c.buf[:len(c.buf)+n]
			size -= n
			from += int64(n)
		}
	}
	return c.err
}

func (c *counter) large(file string, from, size int64) error {
	c.flush()
	if c.err != nil {
		return c.err
	}
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return err
	}
	n, err := io.CopyN(c.w, f, size)
	c.n += n
	return err
}
