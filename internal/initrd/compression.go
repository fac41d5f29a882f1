package initrd

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
	"github.com/ulikunitz/xz/lzma"
)

// ErrNoDecoder is the error for compressions that the kernel knows but this package does not.
var ErrNoDecoder = errors.New("no decoder")

const (
	// maxWindow bounds the memory, in bytes, that the decoder of compressed data may use. The strongest usual settings
	// need half of it (zstd -19: 8 MiB, xz -9: 64 MiB).
	maxWindow = 128 << 20

	// headSize is how many bytes are read ahead to recognise the compression.
	headSize = 4096
)

// Compression returns the name of the compression of a file that starts with head: "gzip", "zstd", "xz", "lz4" (the
// legacy format of lz4 -l, which the kernel uses), "lz4 frame" (the format of lz4 without -l), "bzip2", "lzma" or
// "lzo"; "" for anything else.
func Compression(head []byte) string {
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

// Decompress returns the decompressed content of r, using bounded memory. It recognises the compression by the first
// bytes; if there is none, or none that is known, the content is r itself. Unlike [OpenFrame], it treats all of r as
// one compressed file.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(r, headSize)
	head, _ := in.Peek(64) // an error is returned again by the first read

	switch Compression(head) {
	case "gzip":
		return closer(gzip.NewReader(in))
	case "zstd":
		return newZstd(in)
	case "xz":
		if err := checkXZ(head); err != nil {
			return nil, err
		}
		return closer(xz.NewReader(in))
	case "lz4", "lz4 frame":
		return io.NopCloser(lz4.NewReader(in)), nil
	case "bzip2":
		return io.NopCloser(bzip2.NewReader(in)), nil
	case "lzma":
		return closer(newLZMA(in))
	case "lzo":
		return nil, fmt.Errorf("%w for lzo", ErrNoDecoder)
	}

	return io.NopCloser(in), nil
}

// closer gives a decoder, if err is nil, a Close method.
func closer[R io.Reader](decoder R, err error) (io.ReadCloser, error) {
	if err != nil {
		return nil, err
	}
	return io.NopCloser(decoder), nil
}

// newZstd returns a zstd decoder with bounded memory.
func newZstd(in io.Reader) (io.ReadCloser, error) {
	decoder, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return decoder.IOReadCloser(), nil
}

// newLZMA returns an LZMA decoder with bounded memory.
func newLZMA(in io.Reader) (*lzma.Reader, error) {
	return lzma.ReaderConfig{DictCap: maxWindow}.NewReader(in)
}

// checkXZ returns an error for data that would make the decoder use too much memory, as the decoder trusts the size of
// the dictionary in a block's header (xz file format, 3.1 and 5.3.1). head starts with the stream's header.
func checkXZ(head []byte) error {
	if len(head) < 44 {
		return io.ErrUnexpectedEOF
	}
	const streamHeader, blockHeaderSize = 12, 1
	return checkXZFilter(head[streamHeader+blockHeaderSize:])
}

// checkXZFilter is checkXZ for a block's header without its first byte.
func checkXZFilter(h []byte) error {
	filter := h[1:]
	for sizes := h[0] >> 6; sizes > 0; sizes &= sizes - 1 { // skips the optional sizes
		_, n := binary.Uvarint(filter)
		filter = filter[max(n, 0):]
	}

	if len(filter) < 3 {
		return errors.New("xz: a broken block header")
	}

	// The dictionary's size is 2 or 3 << (11 + half of the number) bytes.
	const lzma2, max128MiB = 0x21, 30
	if filter[0] == lzma2 && filter[2] > max128MiB {
		return fmt.Errorf("it wants more than %d MiB of memory to unpack", maxWindow>>20)
	}
	return nil
}
