package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"provision/internal/initrd"
)

// maxDebSize bounds the unpacked size of a package, in bytes. A kernel package has about 400 MB.
const maxDebSize = 4 << 30

// deb takes firmware files from a Debian package: an ar archive with a member data.tar, which may be compressed
// (deb(5)).
func (g *gathering) deb(file string) error {
	in, err := openInput("package", file)
	if err != nil {
		return err
	}
	defer in.Close()

	done := int64(0)
	r := &meter{g.ctx, in, func(n int) {
		done += int64(n)
		if g.progress != nil {
			g.progress(done, in.before.Size())
		}
	}}
	data, err := debData(r)
	if err != nil {
		return err
	}

	out, err := initrd.Decompress(data)
	if err == nil {
		defer out.Close()
		err = g.tar(out)
	}
	if err == nil {
		// A truncated ar member looks as if it ended normally, so the rest is read to find out.
		if _, err = io.Copy(io.Discard, data); err == nil {
			_, err = io.Copy(io.Discard, r)
		}
	}
	if err == nil && data.N > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("unpack it: %w (was it downloaded in full?)", err)
	}

	return nil
}

// debData skips to the member with the files.
func debData(r io.Reader) (*io.LimitedReader, error) {
	magic := make([]byte, 8)
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != "!<arch>\n" {
		return nil, errors.New("it is neither a folder nor a Debian package")
	}

	for header := make([]byte, 60); ; {
		if _, err := io.ReadFull(r, header); err != nil {
			return nil, errors.New("it is a Debian package without files in it: was it downloaded in full?")
		}
		name := strings.TrimSuffix(strings.TrimSpace(string(header[:16])), "/")
		size, err := strconv.ParseInt(strings.TrimSpace(string(header[48:58])), 10, 64)
		if err != nil || size < 0 || !bytes.HasSuffix(header, []byte("`\n")) {
			return nil, errors.New("it is a damaged Debian package: was it downloaded in full?")
		}

		if name == "data.tar" || strings.HasPrefix(name, "data.tar.") {
			return &io.LimitedReader{R: r, N: size}, nil
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
			return nil, errors.New("it is a Debian package that ends early: was it downloaded in full?")
		}
	}
}

// tar takes firmware files from the tar archive of a package.
func (g *gathering) tar(r io.Reader) error {
	r = io.LimitReader(r, maxDebSize)
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, r) // up to the checksum of the compression
			return err
		}
		if err != nil {
			return err
		}

		if slices.Contains(strings.Split(h.Name, "/"), "..") {
			return fmt.Errorf("it holds the path %q, which no package has", h.Name)
		}
		where := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if h.Typeflag != tar.TypeReg { // licences may be links into other packages
			continue
		}
		if err := g.take(where, where, t, h.Size); err != nil {
			return err
		}
	}
}
