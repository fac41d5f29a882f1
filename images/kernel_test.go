package images

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"provision/internal/initrd"
)

// armKernel is what looks like an arm64 Image.
func armKernel(size int) []byte {
	image := make([]byte, size)
	for i := range image {
		image[i] = byte(i * i >> 3)
	}
	copy(image[0x38:], "ARM\x64")
	return image
}

// zboot packs it as an EFI zboot kernel, with what may follow the payload.
func zboot(t *testing.T, method string, image []byte) []byte {
	t.Helper()
	var packed bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&packed)
	if method == "zstd" {
		z, err := zstd.NewWriter(&packed)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	}
	if _, err := w.Write(image); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 0x200)
	copy(head, "MZ\x00\x00zimg")
	binary.LittleEndian.PutUint32(head[8:], 0x200)
	binary.LittleEndian.PutUint32(head[12:], uint32(packed.Len()))
	copy(head[0x18:], method)
	binary.LittleEndian.PutUint32(head[0x3c:], 0x40)
	copy(head[0x40:], "PE\x00\x00\x64\xaa")
	kernel := append(head, packed.Bytes()...)
	if method != "gzip" { // its size, which belongs to the payload with some linkers
		kernel = binary.LittleEndian.AppendUint32(kernel, uint32(len(image)))
		binary.LittleEndian.PutUint32(kernel[12:], uint32(packed.Len()+4))
	}
	return append(kernel, make([]byte, 100)...)
}

// TestPackedKernel: whatever shape the kernel has, a board gets an Image packed by gzip, made once.
func TestPackedKernel(t *testing.T) {
	image := armKernel(100_000)
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	z.Write(image)
	z.Close()
	for name, kernel := range map[string][]byte{"plain": image, "gzip": gz.Bytes(), "zboot-gzip": zboot(t, "gzip", image), "zboot-zstd": zboot(t, "zstd", image)} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c, err := Open(filepath.Join(dir, "catalog"))
			if err != nil {
				t.Fatal(err)
			}
			img, err := c.Add(t.Context(), "arm", AArch64, Source{Kernel: write(t, filepath.Join(dir, "kernel"), string(kernel)), Initrd: write(t, filepath.Join(dir, "initrd"), string(initrd.Overlay(nil)))}, nil)
			if err != nil {
				t.Fatal(err)
			}
			f, err := c.PackedKernel(t.Context(), img)
			if err != nil {
				t.Fatal(err)
			}
			if (f == img.Kernel) != (name == "gzip") || c.OnlyUEFI(img) != strings.HasPrefix(name, "zboot") {
				t.Errorf("%+v of %+v", f, img.Kernel)
			}
			in, err := c.OpenFile(f)
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			r, err := gzip.NewReader(in)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, image) {
				t.Errorf("it unpacks to %d bytes, %v", len(got), err)
			}
			again, err := c.PackedKernel(t.Context(), img)
			if err != nil || again != f {
				t.Errorf("%+v, then %+v, %v", f, again, err)
			}
			if c, err = Open(filepath.Join(dir, "catalog")); err != nil { // which sweeps
				t.Fatal(err)
			}
			if _, err := c.OpenFile(f); err != nil {
				t.Error(err)
			}
			if err := c.Remove("arm", nil); err != nil {
				t.Fatal(err)
			}
			if left, err := os.ReadDir(filepath.Join(dir, "catalog")); err != nil || len(left) != 0 {
				t.Errorf("%v is left, %v", left, err)
			}
		})
	}
}

// TestPackedKernelRefused: a damaged kernel is an error, and nothing is kept of it.
func TestPackedKernelRefused(t *testing.T) {
	damaged := zboot(t, "zstd", armKernel(100_000))
	damaged[0x200+600] ^= 0xff
	empty := zboot(t, "gzip", make([]byte, 5000))
	long := zboot(t, "gzip", armKernel(5000))
	binary.LittleEndian.PutUint32(long[12:], 1<<31)
	odd := make([]byte, 1000) // a UEFI program
	copy(odd, "MZ")
	binary.LittleEndian.PutUint32(odd[0x3c:], 0x40)
	copy(odd[0x40:], "PE\x00\x00\x64\xaa")
	for want, kernel := range map[string][]byte{
		"pack the kernel of image arm: ":      damaged,
		"what it unpacks to is no arm64 Imag": empty,
		"was it downloaded in full?":          long,
		"it is no arm64 Image":                odd,
	} {
		dir := t.TempDir()
		c, err := Open(filepath.Join(dir, "catalog"))
		if err != nil {
			t.Fatal(err)
		}
		img, err := c.Add(t.Context(), "arm", AArch64, Source{Kernel: write(t, filepath.Join(dir, "kernel"), string(kernel)), Initrd: write(t, filepath.Join(dir, "initrd"), string(initrd.Overlay(nil)))}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.PackedKernel(t.Context(), img); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
