package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"provision/internal/initrd"
)

// Add checks the files of src and stores them as image name. It is atomic: at whatever moment the process is killed,
// either the complete image is there or no part of it.
//
// An empty arch is taken from the kernel. Adding the same content again changes nothing but repairs damaged stored
// files; other content replaces the image. progress, which may be nil, is called often with numbers of bytes, on this
// goroutine.
func (c *Catalog) Add(ctx context.Context, name string, arch Arch, src Source,
	progress func(done, total int64)) (Image, error) {
	img, err := c.add(ctx, Image{Name: name, Arch: arch}, src, progress)
	if err != nil {
		return Image{}, fmt.Errorf("add image %s: %w", name, err)
	}
	return img, nil
}

// add adds src as img, which has the name and what is known of the origin.
func (c *Catalog) add(ctx context.Context, img Image, src Source, progress func(done, total int64)) (Image, error) {
	err := checkName(img.Name)
	if err != nil {
		return Image{}, err
	}

	if img.Cmdline, err = cleanCmdline(src.Cmdline); err != nil {
		return Image{}, err
	}

	kernel, err := openInput("kernel", src.Kernel)
	if err != nil {
		return Image{}, err
	}
	defer kernel.Close()

	initrdFile, err := openInput("initrd", src.Initrd)
	if err != nil {
		return Image{}, err
	}
	defer initrdFile.Close()

	if img.Arch, err = checkArch(img.Arch, kernel.File); err != nil {
		return Image{}, fmt.Errorf("kernel %s: %w", src.Kernel, err)
	}
	if err := initrd.Check(initrdFile.File); err != nil {
		return Image{}, fmt.Errorf("initrd %s: %w", src.Initrd, err)
	}

	done := int64(0)
	total := kernel.before.Size() + 2*initrdFile.before.Size() // the initrd is read twice: to store it, and to inspect it
	count := func(n int) {
		done += int64(n)
		if progress != nil {
			progress(done, total)
		}
	}
	kernelBlob, err := c.copyIn(ctx, kernel, count)
	if err != nil {
		return Image{}, err
	}
	defer os.Remove(kernelBlob.tmp)

	initrdBlob, err := c.copyIn(ctx, initrdFile, count)
	if err != nil {
		return Image{}, err
	}
	defer os.Remove(initrdBlob.tmp)

	if img.Look, err = inspectFiles(ctx, img.Arch, kernelBlob, initrdBlob, count); err != nil {
		return Image{}, fmt.Errorf("initrd %s: %w (was it downloaded in full?)", src.Initrd, err)
	}

	img.Kernel = kernelBlob.File
	img.Initrd = initrdBlob.File
	img.Added = time.Now().UTC().Truncate(time.Second)
	return c.commit(img, kernelBlob, initrdBlob)
}

// inspectFiles inspects the copies of a kernel and an initrd.
func inspectFiles(ctx context.Context, arch Arch, kernel, initrdFile blob, count func(int)) (*Inspection, error) {
	k, err := os.Open(kernel.tmp)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	i, err := os.Open(initrdFile.tmp)
	if err != nil {
		return nil, err
	}
	defer i.Close()
	return inspect(arch, k, &meter{ctx, i, count})
}

// input is a file that is being added.
type input struct {
	*os.File
	what   string      // "kernel" or "initrd"
	before os.FileInfo // its state before it was read
}

// openInput opens a file to be added. The error says what is wrong with it; what is "kernel" or "initrd".
func openInput(what, path string) (*input, error) {
	if path == "" {
		return nil, fmt.Errorf("no %s given: name it with --%s FILE, or both at once with --from", what, what)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // O_NONBLOCK: opening a named pipe must not block
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", what, err)
	}

	info, err := f.Stat()
	switch {
	case err != nil:
		err = fmt.Errorf("open %s: %w", what, err)
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s %s is not a regular file", what, path)
	case info.Size() == 0:
		err = fmt.Errorf("%s %s is empty: was it downloaded in full?", what, path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return &input{f, what, info}, nil
}

// blob is content that is being put into the catalog.
type blob struct {
	File
	tmp string // path of the temporary file
}

// copyIn copies in, from its beginning, to a temporary file, and syncs that to the disk. A file that changes meanwhile
// is an error.
func (c *Catalog) copyIn(ctx context.Context, in *input, count func(int)) (blob, error) {
	h := sha256.New()
	tmp, n, err := c.writeTemp(func(w io.Writer) (int64, error) {
		if _, err := in.Seek(0, io.SeekStart); err != nil {
			return 0, err
		}
		// One byte more than it had is enough to notice that it grows.
		all := io.LimitReader(&meter{ctx, in, count}, in.before.Size()+1)
		return io.CopyBuffer(io.MultiWriter(w, h), all, make([]byte, 1<<20))
	})
	if err != nil {
		return blob{}, fmt.Errorf("copy %s %s: %w", in.what, in.Name(), err)
	}

	after, err := in.Stat()
	if err == nil && (n != in.before.Size() || after.Size() != n || !after.ModTime().Equal(in.before.ModTime())) {
		err = errors.New("it changed while it was read; add it again when it is complete")
	}
	if err != nil {
		os.Remove(tmp)
		return blob{}, fmt.Errorf("copy %s %s: %w", in.what, in.Name(), err)
	}
	return blob{File{hex.EncodeToString(h.Sum(nil)), n}, tmp}, nil
}

// writeTemp makes a temporary file in the catalog's folder with what write writes, and syncs it to the disk.
func (c *Catalog) writeTemp(write func(io.Writer) (int64, error)) (path string, n int64, err error) {
	f, err := os.CreateTemp(c.dir, tmpPrefix)
	if err != nil {
		return "", 0, err
	}
	n, err = write(f)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		os.Remove(f.Name())
		return "", 0, err
	}
	return f.Name(), n, nil
}

// commit publishes the image with its blobs, and removes the content that only the replaced image had.
func (c *Catalog) commit(img Image, blobs ...blob) (Image, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, err := c.read(img.Name); err == nil {
		img.KernelParams = old.KernelParams
		if old.same(img) {
			img.Added = old.Added
		}
	}
	err := c.publish(img, blobs)
	return img, errors.Join(err, c.sweep(false))
}

// publish puts the blobs and then the image's record into place.
func (c *Catalog) publish(img Image, blobs []blob) error {
	return c.placeAs(img.Name+recordExt, img, blobs)
}

// placeAs puts the blobs into place, and then the record that refers to them into the file name. of is encoded as JSON.
func (c *Catalog) placeAs(name string, of any, blobs []blob) error {
	for _, b := range blobs {
		// An existing file is replaced, as it may be damaged; this content has just been hashed.
		if err := os.Rename(b.tmp, filepath.Join(c.dir, b.SHA256)); err != nil {
			return err
		}
	}

	if err := syncDir(c.dir); err != nil {
		return err
	}

	record, err := json.MarshalIndent(of, "", "  ")
	if err != nil {
		return err
	}

	tmp, _, err := c.writeTemp(func(w io.Writer) (int64, error) {
		n, err := w.Write(append(record, '\n'))
		return int64(n), err
	})
	if err != nil {
		return err
	}

	if err := os.Rename(tmp, filepath.Join(c.dir, name)); err != nil {
		os.Remove(tmp)
		return err
	}
	return syncDir(c.dir)
}

// meter is a reader that fails when its context ends, and counts the bytes that it reads.
type meter struct {
	ctx   context.Context
	r     io.Reader
	count func(int) // may be nil
}

func (m *meter) Read(p []byte) (int, error) {
	if err := m.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := m.r.Read(p)
	if m.count != nil {
		m.count(n)
	}
	return n, err
}
