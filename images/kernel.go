package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"

	"provision/internal/initrd"
)

// kernelExt ends the file names of the records of packed kernels. They begin with the digest of the original kernel.
const kernelExt = ".packed"

// maxKernel bounds the size of a kernel, downloaded or unpacked, in bytes: ten times that of existing ones.
const maxKernel = 1 << 30

// PackedKernel returns img's kernel, which must be for aarch64, in the smallest form that the firmware of boards can
// start: an Image compressed by gzip. An uncompressed Image is compressed, and one that is compressed by gzip is
// returned as it is. An EFI zboot kernel, which is a self-extracting PE program that only UEFI can start, is unpacked
// and compressed. This takes seconds; it is done once, and the result is kept as long as an image has the kernel.
//
// See Linux, Documentation/arch/arm64/booting.rst, and drivers/firmware/efi/libstub/zboot-header.S.
func (c *Catalog) PackedKernel(ctx context.Context, img Image) (File, error) {
	f, err := c.packedKernel(ctx, img.Kernel)
	if err != nil {
		return File{}, fmt.Errorf("pack the kernel of image %s: %w", img.Name, err)
	}
	return f, nil
}

// packedKernel returns the packed kernel from the catalog, or makes it.
func (c *Catalog) packedKernel(ctx context.Context, kernel File) (File, error) {
	in, err := c.OpenFile(kernel)
	if err != nil {
		return File{}, err
	}
	defer in.Close()

	head, err := readHead(in)
	if err != nil {
		return File{}, err
	}

	if initrd.Compression(head) == "gzip" {
		return kernel, nil
	}
	if f, err := c.readPacked(kernel.SHA256); err == nil {
		return f, nil
	}

	var sources []io.Reader // tried one after the other
	switch {
	case isImage(head):
		sources = []io.Reader{io.NewSectionReader(in, 0, kernel.Size)}
	case isZboot(head):
		if sources, err = zbootPayload(in, head, kernel.Size); err != nil {
			return File{}, err
		}
	default:
		return File{}, errors.New("it is no arm64 Image, gzip or EFI zboot kernel")
	}

	var made blob
	for _, source := range sources {
		if made, err = c.packKernel(ctx, source); err == nil {
			return made.File, c.keepPacked(kernel.SHA256, made)
		}
	}

	return File{}, err
}

// isImage reports whether a kernel is an uncompressed arm64 Image, by its first bytes.
func isImage(head []byte) bool { return len(head) > 0x40 && string(head[0x38:0x3c]) == "ARM\x64" }

// isZboot reports whether a kernel is an EFI zboot image, by its first bytes.
func isZboot(head []byte) bool {
	return len(head) > 0x40 && string(head[:2]) == "MZ" && string(head[4:8]) == "zimg"
}

// zbootPayload returns readers of the unpacked Image in a zboot kernel, which are to be tried in turn. With every
// compression but gzip, the payload is followed by its size, four bytes, which some linkers count as part of the
// payload.
func zbootPayload(in io.ReaderAt, head []byte, size int64) (tries []io.Reader, err error) {
	offset, length := int64(binary.LittleEndian.Uint32(head[8:])), int64(binary.LittleEndian.Uint32(head[12:]))
	if offset+length > size || length < 16 {
		return nil, fmt.Errorf("its EFI zboot header says %d bytes at %d, and it has %d: was it downloaded in full?", length, offset, size)
	}
	for _, n := range []int64{length, length - 4} {
		unpacked, err := initrd.Decompress(io.NewSectionReader(in, offset, n))
		if err != nil {
			return nil, fmt.Errorf("unpack its EFI zboot payload: %w", err)
		}
		tries = append(tries, unpacked)
	}
	return tries, nil
}

// OnlyUEFI reports whether the image's kernel is an EFI program that nothing else can start, so that booti of U-Boot
// needs its [Catalog.PackedKernel].
func (c *Catalog) OnlyUEFI(img Image) bool {
	in, err := c.OpenFile(img.Kernel)
	if err != nil {
		return false
	}
	defer in.Close()
	head, err := readHead(in)
	return err == nil && isZboot(head)
}

// packKernel compresses an Image into a temporary file.
func (c *Catalog) packKernel(ctx context.Context, image io.Reader) (blob, error) {
	head, err := readHead(image)
	if err != nil {
		return blob{}, fmt.Errorf("unpack: %w", err)
	}

	if !isImage(head) {
		return blob{}, errors.New("what it unpacks to is no arm64 Image")
	}
	h, size := sha256.New(), int64(0)
	tmp, _, err := c.writeTemp(func(w io.Writer) (int64, error) {
		count := &counter{w: io.MultiWriter(w, h)}
		z := gzip.NewWriter(count)
		n, err := io.Copy(z, io.LimitReader(&meter{ctx: ctx, r: io.MultiReader(bytes.NewReader(head), image)}, maxKernel))
		if err == nil && n == maxKernel {
			err = errors.New("it unpacks to more than any kernel has")
		}
		err = errors.Join(err, z.Close())
		size = count.n
		return size, err
	})
	if err != nil {
		return blob{}, err
	}
	return blob{File{hex.EncodeToString(h.Sum(nil)), size}, tmp}, nil
}

// counter counts the bytes that are written.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// readPacked returns the packed form of the kernel with this digest.
func (c *Catalog) readPacked(kernel string) (f File, err error) {
	data, err := os.ReadFile(filepath.Join(c.dir, kernel+kernelExt))
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	if err != nil {
		return f, err
	}
	in, err := c.OpenFile(f)
	if err != nil {
		return f, err
	}
	return f, in.Close()
}

// keepPacked publishes the packed form of the kernel with this digest.
func (c *Catalog) keepPacked(kernel string, b blob) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.placeAs(kernel+kernelExt, b.File, []blob{b})
}

// keepKernels marks packed kernels as used if their original is used, and removes the records of the others.
func (c *Catalog) keepKernels(used map[string]bool) error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return fmt.Errorf("list packed kernels: %w", err)
	}

	var errs []error
	for _, e := range entries {
		kernel, ok := strings.CutSuffix(e.Name(), kernelExt)
		if !ok || !isDigest(kernel) {
			continue
		}
		f, err := c.readPacked(kernel)
		if used[kernel] && err == nil {
			used[f.SHA256] = true
			continue
		}

		if err := os.Remove(filepath.Join(c.dir, e.Name())); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}

	return errors.Join(errs...)
}
