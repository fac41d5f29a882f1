package images

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"

	"provision/internal/initrd"
)

// kernelRelease returns the release of img's kernel, as uname -r prints it. It is the name of the folder with its
// modules.
func (c *Catalog) kernelRelease(img Image) (string, error) {
	f, err := c.OpenFile(img.Kernel)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return "", fmt.Errorf("read the kernel: %w", err)
	}
	return releaseOf(data)
}

// releaseOf finds the release in a kernel. A bzImage has it at the offset in its header (kernel_version in
// Documentation/arch/x86/boot.rst of Linux). An arm64 Image has it in its banner; the Image may be compressed by gzip,
// or be inside a self-extracting EFI program (drivers/firmware/efi/libstub/zboot-header.S).
func releaseOf(kernel []byte) (string, error) {
	le := binary.LittleEndian
	if len(kernel) > 0x210 && string(kernel[0x202:0x206]) == "HdrS" {
		at := int(le.Uint16(kernel[0x20e:])) + 0x200
		if at > 0x200 && at < len(kernel) {
			version, _, _ := bytes.Cut(kernel[at:min(at+256, len(kernel))], []byte{0})
			if release, _, _ := bytes.Cut(version, []byte(" ")); len(release) > 0 {
				return string(release), nil
			}
		}
		return "", errors.New("its kernel's header does not say its version")
	}

	if len(kernel) > 0x40 && string(kernel[4:8]) == "zimg" {
		at, size := int64(le.Uint32(kernel[8:])), int64(le.Uint32(kernel[12:]))
		if at+size > int64(len(kernel)) {
			return "", errors.New("its kernel is cut short")
		}
		kernel = kernel[at : at+size]
	}

	const most = 256 << 20
	r, err := initrd.Decompress(bytes.NewReader(kernel))
	if err != nil {
		return "", fmt.Errorf("unpack its kernel: %w", err)
	}
	defer r.Close()

	// Data after the end of the compressed stream make an error, but do not matter.
	plain, err := io.ReadAll(io.LimitReader(r, most))
	if found := regexp.MustCompile(`Linux version ([0-9][!-~]*) `).FindSubmatch(plain); found != nil {
		return string(found[1]), nil
	}
	return "", errors.Join(errors.New("its kernel does not say its version"), err)
}
