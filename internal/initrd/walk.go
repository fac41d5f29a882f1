package initrd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
)

const (
	// maxUnpacked bounds the total content of the frames of an initrd, in bytes, as it must fit into a machine's memory.
	maxUnpacked = 8 << 30

	// maxName bounds the name of a file and the target of a symlink, in bytes (PATH_MAX).
	maxName = 4096

	// readAhead is the buffer size of a Stream, in bytes.
	readAhead = 64 << 10
)

// WalkFunc is called with a file of an initrd: its name, which is a clean path without a slash at the beginning, its
// header, and its content, which need not be read.
type WalkFunc func(name string, h Header, content io.Reader) error

// Walk calls f with each file of the initrd r in their order. A later file replaces an earlier one of the same name. If
// f returns an error, Walk stops and returns it, but nil for [fs.SkipAll].
//
// It uses bounded memory, and unpacks at most 8 GiB. Anything that the kernel could not read is an error with the
// offset of the archive. For what the kernel can unpack but this package cannot, the error is [ErrNoDecoder].
func Walk(r io.Reader, f WalkFunc) error { return walkUpTo(maxUnpacked, r, f) }

// walkUpTo is Walk with a limit on the total content of the frames, in bytes.
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

// walk is the state of a Walk.
type walk struct {
	in         *Stream
	left       int64 // bytes that frames may still contain
	afterPlain bool  // the last archive was uncompressed
	f          WalkFunc
}

// next walks the next uncompressed archive or compressed frame. aligned means that it is at a multiple of four bytes.
func (w *walk) next(aligned bool) error {
	head, err := w.in.Peek(64)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}

	kind := Compression(head)
	if err := checkStart(kind, head); err != nil {
		return err
	}

	// The kernel looks for the next archive at a multiple of four, except for a compressed one that follows another
	// compressed one.
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

// walkArchive walks one archive, up to the end of its trailer.
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

// readEntry reads the header and the name of a file, and the padding of the name.
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

// skipNULs advances in to its next byte that is not NUL. It returns io.EOF if there is none.
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

// body reads exactly left bytes of r; fewer are an error.
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

// limitedReader fails when more than left bytes are read.
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
