package images

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"provision/internal/initrd"
)

// headSize is how much of a file is looked at; all headers of kernels are in it.
const headSize = 4096

// checkArch returns the architecture of the kernel, which must be want unless
// that is empty.
func checkArch(want Arch, kernel io.Reader) (Arch, error) {
	head, err := readHead(kernel)
	if err != nil {
		return "", err
	}
	if initrd.Compression(head) == "gzip" { // arm64's Image.gz
		r, err := initrd.Decompress(bytes.NewReader(head))
		if err != nil {
			return "", err
		}
		head, _ = readHead(r) // ends early: the input does
	}

	got, err := kernelArch(head)
	if err == nil && want != "" && got != want {
		err = fmt.Errorf("it is for %s, the image is to be for %s: give the other kernel, or --arch %s", got, want, got)
	}
	return got, err
}

// kernelArch tells from its first bytes what a kernel runs on. See Linux,
// Documentation/arch/x86/boot.rst (HdrS, xloadflags) and
// Documentation/arch/arm64/booting.rst; the PE/COFF machine covers EFI stubs and
// zboot kernels.
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

func readHead(r io.Reader) ([]byte, error) {
	head := make([]byte, headSize)
	n, err := io.ReadFull(r, head)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil
	}
	return head[:n], err
}
