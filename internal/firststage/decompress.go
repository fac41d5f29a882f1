package main

import (
	"bufio"
	"bytes"
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

// maxWindow bounds the memory that a compressed archive may make us take. The
// strongest ordinary settings need half of it.
const maxWindow = 128 << 20

// decompress returns what the compressed archive at the start of in holds, or
// nil if it is compressed in no way known here. It takes not one byte more from
// in than the archive has, for another may follow (lz4 apart, which has no end
// mark: it ends where its blocks do).
func decompress(in *bufio.Reader) (io.Reader, error) {
	head, err := in.Peek(6)
	if len(head) < 6 {
		return nil, fmt.Errorf("read the start of an archive: %w", noEOF(err))
	}
	starts := func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }
	switch {
	case starts("\x1f\x8b"):
		z, err := gzip.NewReader(in)
		if err == nil {
			z.Multistream(false)
		}
		return z, err
	case starts(zstdMagic):
		z, err := zstd.NewReader(&zstdFrame{in: in}, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case starts("\xfd7zXZ\x00"):
		z, err := xz.ReaderConfig{SingleStream: true}.NewReader(in)
		return &xzStream{in, z}, err
	case starts("\x5d\x00\x00"):
		return lzma.ReaderConfig{DictCap: maxWindow}.NewReader(in)
	case starts(lz4Magic):
		_, err := in.Discard(len(lz4Magic))
		return &lz4Blocks{in: in}, err
	}
	return nil, nil
}

// noEOF is err, or that the input ended too early.
func noEOF(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// An xzStream reads one xz stream of in. The decoder looks whether a byte
// follows, and takes that for an error.
type xzStream struct {
	in *bufio.Reader
	z  io.Reader
}

func (x *xzStream) Read(p []byte) (int, error) {
	n, err := x.z.Read(p)
	if err != nil && err.Error() == "xz: unexpected data after stream" {
		err = x.in.UnreadByte()
		if err == nil {
			err = io.EOF
		}
	}
	return n, err
}

const zstdMagic = "\x28\xb5\x2f\xfd"

// A zstdFrame reads one frame of in and no byte more: the decoder reads ahead.
// See RFC 8878, section 3.1.1.
type zstdFrame struct {
	in    *bufio.Reader
	left  int  // bytes until the next block header
	check bool // a checksum follows the last block
	state int
}

const (
	frameStart = iota
	frameBlock // a block header is next
	frameLast  // the last block is being read
	frameEnd
)

func (f *zstdFrame) Read(p []byte) (int, error) {
	for f.left == 0 {
		if err := f.next(); err != nil {
			return 0, err
		}
	}
	n, err := f.in.Read(p[:min(len(p), f.left)])
	f.left -= n
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// next looks at the header that comes next, which is still to be read, and
// takes it and its content into left.
func (f *zstdFrame) next() error {
	switch f.state {
	case frameStart:
		head, err := f.in.Peek(5)
		if err != nil {
			return noEOF(err)
		}
		flags := head[4]
		single := int(flags >> 5 & 1)
		sizes := [4]int{single, 2, 4, 8} // of the content's size
		ids := [4]int{0, 1, 2, 4}        // of the dictionary's number
		f.left = 5 + 1 - single + ids[flags&3] + sizes[flags>>6]
		f.check = flags&4 != 0
		f.state = frameBlock
	case frameBlock:
		head, err := f.in.Peek(3)
		if err != nil {
			return noEOF(err)
		}
		block := int(head[0]) | int(head[1])<<8 | int(head[2])<<16
		size := block >> 3
		if block>>1&3 == 1 { // one byte, size times
			size = 1
		}
		f.left = 3 + size
		if block&1 != 0 {
			f.state = frameLast
		}
	case frameLast:
		f.state = frameEnd
		if f.check {
			f.left = 4
		}
	case frameEnd:
		return io.EOF
	}
	return nil
}

const (
	lz4Magic = "\x02\x21\x4c\x18"
	lz4Block = 8 << 20 // of what is in it
)

// lz4Blocks reads lz4's legacy format, the only one that the kernel knows: block
// after block, each after its size. The kernel ends at a size of zero or where
// the input does, and skips the magic of a further such file
// (Linux, lib/decompress_unlz4.c).
type lz4Blocks struct {
	in   *bufio.Reader
	rest []byte // of the block, not yet read
	out  []byte
	src  []byte
	end  bool
}

func (l *lz4Blocks) Read(p []byte) (int, error) {
	for len(l.rest) == 0 {
		if l.end {
			return 0, io.EOF
		}
		if err := l.block(); err != nil {
			return 0, err
		}
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

func (l *lz4Blocks) block() error {
	var head [4]byte
	if _, err := io.ReadFull(l.in, head[:]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			l.end = true
			return nil
		}
		return err
	}
	size := binary.LittleEndian.Uint32(head[:])
	switch {
	case string(head[:]) == lz4Magic:
		return nil
	case size == 0:
		l.end = true
		return nil
	case int(size) > lz4.CompressBlockBound(lz4Block):
		return fmt.Errorf("lz4: a block of %d bytes, where 8 MiB are the most", size)
	}
	if l.out == nil {
		l.out, l.src = make([]byte, lz4Block), make([]byte, lz4.CompressBlockBound(lz4Block))
	}
	if _, err := io.ReadFull(l.in, l.src[:size]); err != nil {
		return noEOF(err)
	}
	n, err := lz4.UncompressBlock(l.src[:size], l.out)
	l.rest = l.out[:max(n, 0)]
	return err
}
