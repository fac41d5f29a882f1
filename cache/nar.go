package cache

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
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
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	n.text("(", "type")
	switch mode := info.Mode(); mode.Type() {
	case 0:
		n.text("regular")
		if mode&0o100 != 0 {
			n.text("executable", "")
		}
		n.text("contents")
		n.content(path, info.Size())
	case os.ModeSymlink:
		to, err := os.Readlink(path)
		if err != nil {
			return err
		}
		n.text("symlink", "target", to)
	case os.ModeDir:
		n.text("directory")
		entries, err := os.ReadDir(path) // in the order that a NAR wants
		if err != nil {
			return err
		}
		for _, e := range entries {
			n.text("entry", "(", "name", e.Name(), "node")
			if err := n.node(filepath.Join(path, e.Name())); err != nil {
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

// writeTo writes the archive from the offset on, and returns how many bytes of
// it went out. Large files go by sendfile if w can do that.
func (n *nar) writeTo(w io.Writer, from int64) (sent int64, err error) {
	out := &counter{w: w}
	small := bufio.NewWriterSize(out, sendfile)
	for _, p := range n.parts {
		skip := min(from, int64(len(p.text)))
		from -= skip
		small.Write(p.text[skip:]) // an error stays until Flush
		skip = min(from, p.size)
		from -= skip
		if err := copyFile(small, out, p, skip); err != nil {
			return out.n, err
		}
	}
	err = small.Flush()
	return out.n, err
}

func copyFile(small *bufio.Writer, out *counter, p part, skip int64) error {
	if p.file == "" || skip > 0 && skip == p.size {
		return nil
	}
	f, err := os.OpenFile(p.file, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(skip, io.SeekStart); err != nil {
		return err
	}
	if p.size-skip < sendfile {
		_, err = io.CopyN(small, f, p.size-skip)
		return err
	}
	if err := small.Flush(); err != nil {
		return err
	}
	_, err = io.CopyN(out, f, p.size-skip)
	return err
}

// counter counts what is written, and leaves sendfile to w.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func (c *counter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(c.w, r)
	c.n += n
	return n, err
}
