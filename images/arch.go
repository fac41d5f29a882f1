package images

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"provision/internal/initrd"
)

// headSize is how many bytes of a file are examined. The headers of all kernels are within them.
const headSize = 4096

// checkArch returns the architecture of the kernel. It is an error if that is not want, unless want is empty.
func checkArch(want Arch, kernel io.Reader) (Arch, error) {
	head, err := readHead(kernel)
	if err != nil {
		return "", err
	}
	if initrd.Compression(head) == "gzip" { // Image.gz of arm64
		r, err := initrd.Decompress(bytes.NewReader(head))
		if err != nil {
			return "", err
		}
		head, _ = readHead(r) // fails at the end, as the input is truncated
	}

	got, err := kernelArch(head)
	if err == nil && want != "" && got != want {
		err = fmt.Errorf("it is for %s, the image is to be for %s: give the other kernel, or --arch %s", got, want, got)
	}
	return got, err
}

// kernelArch returns the architecture of a kernel, given its first bytes. See Linux, Documentation/arch/x86/boot.rst
// (HdrS, xloadflags) and Documentation/arch/arm64/booting.rst. For EFI stubs and zboot kernels, it is the machine field
// of the PE/COFF header.
func kernelArch(head []byte) (Arch, error) {
	le := binary.LittleEndian
	at := func(offset int, magic string) bool {
		return offset+len(magic) <= len(head) && string(head[offset:offset+len(magic)]) == magic
	}
	switch {
	case at(0x202, "HdrS") && len(head) >= 0x238:
		if le.Uint16(head[0x206:]) >= 0x20c && le.Uint16(head[0x236:])&1 == 0 {
			return "", errors.New("it is for 32-bit x86: give a kernel for x86_64 or aarch64")
		}
		return X86_64, nil
	case at(0x38, "ARM\x64"):
		return AArch64, nil
	case at(0, "MZ") && len(head) >= 0x40:
		pe := int64(le.Uint32(head[0x3c:]))
		if pe+6 > int64(len(head)) || !at(int(pe), "PE\x00\x00") {
			break
		}
		switch machine := le.Uint16(head[pe+4:]); machine {
		case 0x8664:
			return X86_64, nil
		case 0xaa64:
			return AArch64, nil
		default:
			return "", fmt.Errorf("it is for another machine (PE type %#x): give a kernel for x86_64 or aarch64", machine)
		}
	case at(0, "\x7fELF"):
		return "", errors.New("it is an ELF file (vmlinux?): give the bzImage (x86_64) or Image (aarch64)")
	}

	return "", errors.New("it is not a Linux kernel that can be netbooted: give a bzImage (x86_64) or Image (aarch64)")
}

// readHead reads the first headSize bytes, or all if there are fewer.
func readHead(r io.Reader) ([]byte, error) {
	head := make([]byte, headSize)
	n, err := io.ReadFull(r, head)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil
	}
	return head[:n], err
}
