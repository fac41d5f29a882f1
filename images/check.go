package images

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// headSize is how much of a file is looked at; all headers of kernels are in it.
const headSize = 4096

// maxWindow bounds the memory that a compressed file may make us take. The
// strongest ordinary settings need half of it (zstd -19: 8 MiB, xz -9: 64 MiB).
const maxWindow = 128 << 20

// checkArch returns the architecture of the kernel, which must be want unless
// that is empty.
func checkArch(want Arch, kernel io.Reader) (Arch, error) {
	head, err := readHead(kernel)
	if err != nil {
		return "", err
	}
	if compression(head) == "gzip" { // arm64's Image.gz
		r, err := decompress(bytes.NewReader(head))
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

// checkInitrd returns an error unless the kernel would unpack the initrd's
// first archive: newc cpio, plain or compressed in a way the kernel knows
// (Linux, lib/decompress.c).
func checkInitrd(r io.Reader) error {
	in := bufio.NewReaderSize(r, headSize)
	head, err := in.Peek(32)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	kind := compression(head)
	if err := checkMember(kind, head); err != nil || kind == "" || noDecoder(kind, head) {
		return err
	}
	out, err := decompress(in)
	if err == nil {
		defer out.Close()
		head = make([]byte, 6)
		if _, err = io.ReadFull(out, head); errors.Is(err, io.EOF) {
			err = nil // too short: checkCpio says so
		}
	}
	if err != nil {
		return fmt.Errorf("unpack its %s: %w (was it downloaded in full?)", kind, err)
	}
	return checkCpio(head)
}

// checkMember returns an error unless the kernel would know what starts with head.
func checkMember(kind string, head []byte) error {
	switch {
	case kind == "":
		return checkCpio(head)
	case kind == "lz4 frame":
		return errors.New("it is compressed with lz4's new format, which the kernel cannot unpack: use lz4 -l")
	case kind == "xz" && len(head) > 7 && head[7] > 1:
		return errors.New("it is compressed with a check that the kernel cannot unpack: use xz --check=crc32")
	}
	return nil
}

// noDecoder says whether the kernel can unpack it, and we cannot: lzo, and xz
// with further filters.
func noDecoder(kind string, head []byte) bool {
	return kind == "lzo" || kind == "xz" && len(head) > 13 && head[13]&3 != 0
}

func checkCpio(head []byte) error {
	s := string(head)
	switch {
	case strings.HasPrefix(s, "070701"), strings.HasPrefix(s, "070702"):
		return nil
	case strings.HasPrefix(s, "070707"), strings.HasPrefix(s, "\xc7\x71"), strings.HasPrefix(s, "\x71\xc7"):
		return errors.New("it is a cpio archive of an old format: make it with cpio -H newc")
	}
	return errors.New("it is not a cpio archive, nor a compressed one: give an initrd as NixOS builds it")
}

func readHead(r io.Reader) ([]byte, error) {
	head := make([]byte, headSize)
	n, err := io.ReadFull(r, head)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = nil
	}
	return head[:n], err
}

// compression names how a file that starts with head is compressed; "" is not,
// or in no way known here.
func compression(head []byte) string {
	for _, c := range []struct{ magic, name string }{
		{"\x1f\x8b", "gzip"},
		{"\x28\xb5\x2f\xfd", "zstd"},
		{"\xfd7zXZ\x00", "xz"},
		{"\x02\x21\x4c\x18", "lz4"},
		{"\x04\x22\x4d\x18", "lz4 frame"},
		{"BZh", "bzip2"},
		{"\x5d\x00\x00", "lzma"},
		{"\x89LZO", "lzo"},
	} {
		if bytes.HasPrefix(head, []byte(c.magic)) {
			return c.name
		}
	}
	return ""
}

// decompress unpacks r by its first bytes, in bounded memory; what is not
// compressed is passed through.
func decompress(r io.Reader) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, headSize)
	head, _ := in.Peek(64) // an error comes again with the first read
	var out io.Reader = in
	var err error
	switch kind := compression(head); kind {
	case "gzip":
		out, err = gzip.NewReader(in)
	case "zstd":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow)); err == nil {
			return d.IOReadCloser(), nil
		}
	case "xz":
		if err = checkXZ(head); err == nil {
			out, err = xz.NewReader(in)
		}
	case "lz4", "lz4 frame":
		out = lz4.NewReader(in)
	case "bzip2":
		out = bzip2.NewReader(in)
	case "lzma":
		out, err = lzma.ReaderConfig{DictCap: maxWindow}.NewReader(in)
	case "lzo":
		err = errors.New("no decoder for lzo")
	}
	if err != nil {
		return nil, err
	}
	return io.NopCloser(out), nil
}

// checkXZ refuses what the decoder would allocate without bound: it takes the
// dictionary's size from a block's header (xz file format 3.1, 5.3.1).
func checkXZ(head []byte) error {
	if len(head) < 44 {
		return io.ErrUnexpectedEOF
	}
	return checkXZFilter(head[13:]) // after the stream's header of 12 bytes and the block header's size
}

// checkXZFilter checks a block's header without its first byte.
func checkXZFilter(h []byte) error {
	filter := h[1:]
	for sizes := h[0] >> 6; sizes > 0; sizes &= sizes - 1 { // optional sizes
		_, n := binary.Uvarint(filter)
		filter = filter[max(n, 0):]
	}
	if len(filter) < 3 {
		return errors.New("xz: a broken block header")
	}
	if id, dictionary := filter[0], filter[2]; id == 0x21 && dictionary > 30 { // 2 or 3 << (11 + half of it)
		return fmt.Errorf("it wants more than %d MiB of memory to unpack", maxWindow>>20)
	}
	return nil
}
