package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// sendfile is the size in bytes from which a file is sent by sendfile(2) instead of being copied. For smaller files,
	// the system calls cost more than copying.
	sendfile = 64 << 10
	// tell is after how many bytes of a large file the counter of sent bytes is updated.
	tell = 4 << 20
)

// narWriter writes a NAR (Dolstra, The Purely Functional Software Deployment Model, section 5.2.1) while it walks the
// files.
type narWriter struct {
	w    io.Writer
	buf  []byte // data that have not been written yet
	skip int64  // how many more bytes are to be left out
	size int64  // of the archive so far in bytes, including those that were left out
	err  error  // first error of a write; nothing is written after it

	sent *atomic.Int64 // counter to which written bytes are added
}

// buffers are reused to collect small files.
var buffers = sync.Pool{New: func() any { return new([2 * sendfile]byte) }}

// writeNAR writes the NAR of a store path, which must have size bytes, beginning at the offset from, and adds the
// written bytes to sent. Large files are sent by sendfile(2) if w supports it. Files are read without package os, which
// takes three times as many system calls.
func writeNAR(w io.Writer, path string, size, from int64, sent *atomic.Int64) (err error) {
	buffer := buffers.Get().(*[2 * sendfile]byte)
	defer buffers.Put(buffer)
	n := &narWriter{w: w, buf: buffer[:0], skip: from, sent: sent}
	n.text("nix-archive-1")
	if err = n.node(unix.AT_FDCWD, path); err == nil {
		n.flush()
		err = n.err
	}
	if err == nil && n.size != size {
		err = fmt.Errorf("it has %d bytes, and nix knows of %d: it was changed; repair it by nix-store --verify "+
			"--check-contents --repair", n.size, size)
	}
	if err != nil {
		err = fmt.Errorf("pack %s: %w", path, err)
	}
	return err
}

// node adds a file, a folder with everything in it, or a symbolic link.
func (n *narWriter) node(dir int, name string) error {
	n.text("(", "type")
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ELOOP {
		var to [unix.PathMax]byte
		size, err := unix.Readlinkat(dir, name, to[:])
		if err != nil {
			return &os.PathError{Op: "readlink", Path: name, Err: err}
		}
		n.text("symlink", "target", string(to[:size]), ")")
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}

	var info unix.Stat_t
	err = unix.Fstat(fd, &info)
	kind := info.Mode & unix.S_IFMT
	defer unix.Close(fd)
	if err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}

	if kind == unix.S_IFREG {
		return n.file(fd, name, info.Mode&0o100 != 0, info.Size)
	}
	if kind != unix.S_IFDIR {
		return fmt.Errorf("%s is no file, folder or link", name)
	}
	n.text("directory")
	entries, err := names(fd)
	if err != nil {
		return &os.PathError{Op: "readdirent", Path: name, Err: err}
	}

	for _, entry := range entries {
		n.text("entry", "(", "name", entry, "node")
		if err := n.node(fd, entry); err != nil {
			return err
		}
		n.text(")")
	}

	n.text(")")
	return n.err
}

// file adds a regular file.
func (n *narWriter) file(fd int, name string, executable bool, size int64) (err error) {
	n.text("regular")
	if executable {
		n.text("executable", "")
	}
	n.text("contents")
	n.length(size)
	n.size += size
	from := n.leaveOut(size)
	if size-from >= sendfile {
		from, err = n.send(fd, from, size)
	}
	if err == nil {
		err = n.copy(fd, from, size)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}

	n.put(zeros[:-size&7])
	n.text(")")
	return n.err
}

// names returns the entries of a folder in byte order, which is the order in a NAR.
func names(fd int) (all []string, err error) {
	var buffer [8 << 10]byte
	for {
		n, err := unix.ReadDirent(fd, buffer[:])
		if n <= 0 || err != nil {
			slices.Sort(all)
			return all, err
		}
		_, _, all = unix.ParseDirent(buffer[:n], -1, all)
	}
}

// zeros pads strings to a multiple of eight bytes.
const zeros = "\x00\x00\x00\x00\x00\x00\x00"

// text writes strings: each as its length, its bytes, and zeros up to a multiple of eight.
func (n *narWriter) text(words ...string) {
	for _, w := range words {
		n.length(int64(len(w)))
		n.put(w)
		n.put(zeros[:-len(w)&7])
	}
}

// length writes a number as eight bytes, little-endian.
func (n *narWriter) length(size int64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(size))
	n.put(string(b[:]))
}

// put adds bytes to the archive.
func (n *narWriter) put(s string) {
	n.size += int64(len(s))
	s = s[n.leaveOut(int64(len(s))):]
	for len(s) > 0 {
		n.room(1)
		k := min(len(s), cap(n.buf)-len(n.buf))
		n.buf = append(n.buf, s[:k]...)
		s = s[k:]
	}
}

// leaveOut returns how many of the next size bytes must be left out.
func (n *narWriter) leaveOut(size int64) int64 {
	k := min(n.skip, size)
	n.skip -= k
	return k
}

// room flushes the buffer if it has no space for size more bytes.
func (n *narWriter) room(size int) {
	if size > cap(n.buf)-len(n.buf) {
		n.flush()
	}
}

// flush writes the buffered data.
func (n *narWriter) flush() {
	if n.err == nil && len(n.buf) > 0 {
		var k int
		k, n.err = n.w.Write(n.buf)
		n.sent.Add(int64(k))
	}
	n.buf = n.buf[:0]
}

// sender is a writer to which the kernel can send parts of files directly.
type sender interface {
	// sendFile returns [errors.ErrUnsupported] if that is not possible after all, and a [net.OpError] if the network
	// failed.
	sendFile(fd int, from, size int64) (sent int64, err error)
}

// send sends a file from an offset up to size, and returns the offset that it reached, which is from if sendfile is not
// possible.
func (n *narWriter) send(fd int, from, size int64) (int64, error) {
	w, ok := n.w.(sender)
	if !ok {
		return from, nil
	}
	n.flush()
	for from < size && n.err == nil {
		k, err := w.sendFile(fd, from, min(size-from, tell))
		n.sent.Add(k)
		from += k
		switch network := (*net.OpError)(nil); {
		case errors.Is(err, errors.ErrUnsupported):
			return from, nil
		case errors.As(err, &network):
			n.err = err
		case err != nil:
			return from, err
		}
	}

	return from, nil
}

// copy copies a file from an offset up to size.
func (n *narWriter) copy(fd int, from, size int64) error {
	for from < size && n.err == nil {
		n.room(int(min(size-from, sendfile)))
		to := n.buf[len(n.buf):cap(n.buf)]
		k, err := unix.Pread(fd, to[:min(int64(len(to)), size-from)], from)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case k == 0:
			return io.ErrUnexpectedEOF
		default:
			n.buf = n.buf[:len(n.buf)+k]
			from += int64(k)
		}
	}

	return nil
}
