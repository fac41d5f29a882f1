package initrd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

const (
	// maxUnpacked bounds, in bytes, what the frames of an initrd may unpack to: it
	// all has to fit into a machine's memory.
	maxUnpacked = 8 << 30

	// maxName bounds the name of a file and the target of a symlink, in bytes
	// (PATH_MAX).
	maxName = 4096

	// readAhead is the buffer of a Stream, in bytes.
	readAhead = 64 << 10
)

// A WalkFunc is called with a file of an initrd: its name, a clean slash path
// without a slash at its start, its header, and its content, which need not be
// read.
type WalkFunc func(name string, h Header, content io.Reader) error

// Walk calls f with each file of the initrd r, in their order. A later file of a
// name replaces an earlier one. Walk ends with f's error, or without one if that
// is [fs.SkipAll].
//
// It takes bounded memory, and unpacks 8 GiB at the most. Anything over which
// the kernel would stumble is an error that tells the offset of the archive.
// What the kernel can unpack and we cannot is [ErrNoDecoder].
func Walk(r io.Reader, f WalkFunc) error { return walkUpTo(maxUnpacked, r, f) }

func walkUpTo(unpacked int64, r io.Reader, f WalkFunc) error {
	w := walk{in: NewStream(r, readAhead), left: unpacked, f: f}

	for first := true; ; first = false {
		err := skipNULs(w.in)
		if errors.Is(err, io.EOF) && first {
			return errors.New("it is empty")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}

		offset := w.in.Offset()
		err = w.next(offset%4 == 0)
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
	in         *Stream
	left       int64 // bytes that frames may still unpack to
	afterPlain bool  // the last archive was not compressed
	f          WalkFunc
}

// next walks the plain archive, or the compressed frame, that comes next.
func (w *walk) next(aligned bool) error {
	head, err := w.in.Peek(64)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}

	kind := Compression(head)
	if err := checkStart(kind, head); err != nil {
		return err
	}

	// The kernel looks for the next archive at a multiple of four, but for one that
	// is compressed and follows another such.
	plain := kind == ""
	if !aligned && (plain || w.afterPlain) {
		return errors.New("it does not start at a multiple of four bytes: the kernel does not see it")
	}

	w.afterPlain = plain
	if plain {
		return walkArchive(w.in, w.f)
	}
	return w.frame()
}

// frame walks the archives in one compressed frame.
func (w *walk) frame() error {
	out, err := OpenFrame(w.in.Reader)
	if err != nil {
		return err
	}
	defer out.Close()

	limited := &limitedReader{r: out, left: w.left}
	in := NewStream(limited, readAhead)
	for {
		err := walkArchive(in, w.f)
		if err == nil {
			err = skipNULs(in)
		}
		if errors.Is(err, io.EOF) {
			w.left = limited.left
			return nil
		}
		if err == nil && in.Offset()%4 != 0 {
			err = errors.New("the next archive in it does not start at a multiple of four bytes")
		}
		if err != nil {
			return err
		}
	}
}

// walkArchive walks one archive, to the end of its trailer.
func walkArchive(in *Stream, f WalkFunc) error {
	for {
		h, name, err := readEntry(in)
		if err != nil {
			return err
		}

		if name == trailer {
			return nil
		}

		content := &body{r: in, left: h.Size}
		err = f(name, h, content)
		if err == nil {
			_, err = io.Copy(io.Discard, content)
		}
		if err == nil {
			err = in.Skip(Align(h.Size) - h.Size)
		}
		if errors.Is(err, fs.SkipAll) {
			return err
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

// readEntry reads the header and the name of a file, and what pads the name.
func readEntry(in *Stream) (h Header, name string, err error) {
	raw := make([]byte, HeaderSize)
	if _, err := io.ReadFull(in, raw); err != nil {
		return Header{}, "", noEOF(err)
	}
	if err := checkMagic(raw); err != nil {
		return Header{}, "", err
	}

	h, err = ParseHeader(raw)
	if err != nil {
		return Header{}, "", errors.New("a broken entry in the cpio archive")
	}

	longLink := h.Type() == fs.ModeSymlink && h.Size > maxName
	if h.NameSize == 0 || h.NameSize > maxName || longLink {
		return Header{}, "", errors.New("a name in the cpio archive is too long")
	}

	padded := make([]byte, Align(HeaderSize+int64(h.NameSize))-HeaderSize)
	if _, err := io.ReadFull(in, padded); err != nil {
		return Header{}, "", noEOF(err)
	}

	text, _, _ := bytes.Cut(padded, []byte{0})
	return h, clean(string(text)), nil
}

// skipNULs leaves in at its next byte that is not NUL. It returns io.EOF if
// there is none.
func skipNULs(in *Stream) error {
	for {
		if _, err := in.Peek(1); err != nil {
			return err
		}
		ahead, _ := in.Peek(in.Buffered())
		n := len(ahead) - len(bytes.TrimLeft(ahead, "\x00"))
		if _, err := in.Discard(n); n < len(ahead) || err != nil {
			return err
		}
	}
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
	b.left -= int64(n)
	if b.left > 0 {
		err = noEOF(err)
	}
	return n, err
}

// A limitedReader fails when more than left bytes come out of it.
type limitedReader struct {
	r    io.Reader
	left int64
}

func (l *limitedReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	l.left -= int64(n)
	if l.left < 0 {
		return 0, errors.New("it unpacks to more than fits into any machine's memory")
	}
	return n, err
}
