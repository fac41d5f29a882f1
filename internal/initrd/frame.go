package initrd

import (
	"bufio"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

// OpenFrame returns the content of the compressed frame at the beginning of in. It reads no byte of in beyond the
// frame, as another frame may follow. Since decoders read ahead, the end of the frame is found by the structure of each
// format. lz4 has no end mark: the frame ends at four NUL bytes, or at the end of in.
//
// It uses bounded memory. Data that are compressed in another way, or not at all, are an [ErrNoDecoder].
func OpenFrame(in *bufio.Reader) (io.ReadCloser, error) {
	head, _ := in.Peek(64)
	switch kind := Compression(head); kind {
	case "gzip":
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, noEOF(err)
		}
		z.Multistream(false)
		return z, nil
	case "zstd":
		return newZstd(&frame{in: in, next: zstdHeader})
	case "xz":
		z, err := xz.NewReader(&frame{in: in, next: xzHeader})
		return closer(z, noEOF(err))
	case "lz4":
		return io.NopCloser(&lz4Blocks{in: in}), nil
	case "bzip2":
		return io.NopCloser(newBzip2Stream(in)), nil
	case "lzma":
		z, err := newLZMA(in) // it reads byte by byte
		return closer(z, noEOF(err))
	default:
		return nil, fmt.Errorf("%w for %s here", ErrNoDecoder, kind)
	}
}

// frame is a reader for a decoder: it returns the bytes of one compressed frame of in, and then io.EOF.
//
// It is a state machine that follows the structure of the format. A state reads the header of a part with take, which
// also passes it on, and announces with pass how many bytes follow until the next header.
type frame struct {
	in    *bufio.Reader
	next  frameState // nil at the end
	ahead []byte     // read, but not yet passed on
	rest  int64      // bytes to pass on after ahead without looking at them
	size  int64      // of the present block so far in bytes, to compute its padding
	check int64      // size in bytes of the checksum after a block (xz) or after the frame (zstd)
}

// frameState reads the next part of a frame, and returns the state after it.
type frameState func(*frame) (frameState, error)

func (f *frame) Read(p []byte) (int, error) {
	for len(f.ahead) == 0 && f.rest == 0 {
		if f.next == nil {
			return 0, io.EOF
		}
		next, err := f.next(f)
		if err != nil {
			f.next = func(*frame) (frameState, error) { return nil, err }
			f.ahead = nil
			f.rest = 0
			return 0, noEOF(err)
		}

		f.next = next
	}

	if len(f.ahead) > 0 {
		n := copy(p, f.ahead)
		f.ahead = f.ahead[n:]
		return n, nil
	}

	n, err := f.in.Read(p[:min(int64(len(p)), f.rest)])
	f.rest -= int64(n)
	return n, noEOF(err)
}

// take reads n bytes of the frame for a state to examine.
func (f *frame) take(n int) ([]byte, error) {
	before := len(f.ahead)
	f.ahead = append(f.ahead, make([]byte, n)...)
	if _, err := io.ReadFull(f.in, f.ahead[before:]); err != nil {
		return nil, noEOF(err)
	}
	f.size += int64(n)
	return f.ahead[before:], nil
}

// pass announces n bytes of the frame that no state examines.
func (f *frame) pass(n int64) {
	f.rest += n
	f.size += n
}

// zstdHeader reads the header of a frame (RFC 8878, section 3.1.1.1).
func zstdHeader(f *frame) (frameState, error) {
	h, err := f.take(5)
	if err != nil {
		return nil, err
	}

	descriptor := h[4]
	dictionaryID := []int{0, 1, 2, 4}[descriptor&3]
	contentSize := []int{0, 2, 4, 8}[descriptor>>6]
	rest := dictionaryID + contentSize

	// One more byte follows: the size of the window or, in a frame with a single segment, a content size of one byte.
	singleSegment := descriptor&0x20 != 0
	if !singleSegment || contentSize == 0 {
		rest++
	}
	if descriptor&4 != 0 {
		f.check = 4
	}
	_, err = f.take(rest)
	return zstdBlock, err
}

// zstdBlock reads the header of a block (3.1.1.2).
func zstdBlock(f *frame) (frameState, error) {
	h, err := f.take(3)
	if err != nil {
		return nil, err
	}

	header := int64(h[0]) | int64(h[1])<<8 | int64(h[2])<<16
	size := header >> 3
	switch header >> 1 & 3 {
	case 1: // one byte, which is repeated size times
		f.pass(1)
	case 3:
		return nil, errors.New("zstd: a block of a reserved type")
	default:
		f.pass(size)
	}

	last := header&1 != 0
	if !last {
		return zstdBlock, nil
	}
	f.pass(f.check)
	return nil, nil
}

// xzHeader reads the header of a stream (xz file format, 2.1.1).
func xzHeader(f *frame) (frameState, error) {
	h, err := f.take(12)
	if err != nil {
		return nil, err
	}
	f.check = []int64{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}[h[7]&15]
	return xzBlock, nil
}

// xzBlock reads the header of a block (3.1), or the beginning of the index.
func xzBlock(f *frame) (frameState, error) {
	f.size = 0
	size, err := f.take(1)
	if err != nil {
		return nil, err
	}
	if size[0] == 0 {
		return xzIndex, nil
	}

	h, err := f.take(4*int(size[0]) + 3)
	if err != nil {
		return nil, err
	}
	if h[0]&3 != 0 {
		return nil, fmt.Errorf("%w for xz with further filters here", ErrNoDecoder)
	}
	return xzChunk, checkXZFilter(h)
}

// xzChunk reads the header of an LZMA2 chunk (Linux, lib/xz/xz_dec_lzma2.c).
func xzChunk(f *frame) (frameState, error) {
	control, err := f.take(1)
	if err != nil {
		return nil, err
	}

	switch c := control[0]; {
	case c == 0: // the end of the block; padding and the checksum follow
		f.pass(-f.size & 3)
		f.rest += f.check
		return xzBlock, nil
	case c == 1 || c == 2: // an uncompressed chunk
		size, err := f.take(2)
		if err != nil {
			return nil, err
		}
		f.pass(int64(binary.BigEndian.Uint16(size)) + 1)
	case c >= 0x80:
		sizes, err := f.take(4)
		if err != nil {
			return nil, err
		}
		f.pass(int64(binary.BigEndian.Uint16(sizes[2:])) + 1)
		if c >= 0xc0 { // the chunk has new properties
			f.pass(1)
		}
	default:
		return nil, errors.New("xz: a broken block")
	}

	return xzChunk, nil
}

// xzIndex reads the number of records at the beginning of the index (4).
func xzIndex(f *frame) (frameState, error) {
	records, err := f.varint()
	if err != nil {
		return nil, err
	}
	return func(f *frame) (frameState, error) { return xzRecords(f, records) }, nil
}

// xzRecords reads a record of the index, of which left remain, or passes on what follows the last one.
func xzRecords(f *frame, left uint64) (frameState, error) {
	if left == 0 {
		const checksum, footer = 4, 12
		f.pass(-f.size & 3)
		f.pass(checksum + footer)
		return nil, nil
	}

	for range 2 { // each record has two sizes
		if _, err := f.varint(); err != nil {
			return nil, err
		}
	}

	return func(f *frame) (frameState, error) { return xzRecords(f, left-1) }, nil
}

// varint reads a number of up to nine bytes with seven bits each (1.2).
func (f *frame) varint() (v uint64, err error) {
	for i := range 9 {
		b, err := f.take(1)
		if err != nil {
			return 0, err
		}
		v |= uint64(b[0]&0x7f) << (7 * i)
		if b[0] < 0x80 {
			return v, nil
		}
	}
	return 0, errors.New("xz: a broken number in its index")
}

// lz4Blocks decompresses the legacy format of lz4, which is the only one that the kernel knows: blocks of up to 8 MiB,
// each preceded by its size. As in the kernel (Linux, lib/decompress_unlz4.c), it ends at a block of size zero, since
// padding follows, or where the input ends instead of a size; and the magic number of another such file is skipped.
type lz4Blocks struct {
	in     *bufio.Reader
	packed []byte
	block  []byte
	out    []byte // the part of block that has not been read yet
	end    bool
}

const (
	lz4Magic = 0x184c2102
	lz4Block = 8 << 20 // largest size of a decompressed block in bytes
)

func (z *lz4Blocks) Read(p []byte) (int, error) {
	for len(z.out) == 0 {
		if z.end {
			return 0, io.EOF
		}
		if err := z.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, z.out)
	z.out = z.out[n:]
	return n, nil
}

// next reads and decompresses the next block.
func (z *lz4Blocks) next() error {
	var head [4]byte
	_, err := io.ReadFull(z.in, head[:])
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		z.end = true
		return nil
	}
	if err != nil {
		return err
	}

	size := binary.LittleEndian.Uint32(head[:])
	switch {
	case size == lz4Magic:
		return nil
	case size == 0:
		z.end = true
		return nil
	case int64(size) > int64(lz4.CompressBlockBound(lz4Block)):
		return errors.New("lz4: a block of more than 8 MiB (something follows it without four NUL bytes between?)")
	}

	if z.block == nil {
		z.block = make([]byte, lz4Block)
		z.packed = make([]byte, lz4.CompressBlockBound(lz4Block))
	}
	if _, err := io.ReadFull(z.in, z.packed[:size]); err != nil {
		return noEOF(err)
	}

	n, err := lz4.UncompressBlock(z.packed[:size], z.block)
	if err != nil {
		return err
	}

	z.out = z.block[:n]
	return nil
}

// bzip2Stream ends after one stream, or after several without a gap. Its decoder reads two bytes too many, to see
// whether they are the BZ of another stream.
type bzip2Stream struct {
	in      *lateDiscard
	decoder io.Reader
	end     bool
}

// newBzip2Stream returns a reader of the stream at the beginning of in.
func newBzip2Stream(in *bufio.Reader) *bzip2Stream {
	late := &lateDiscard{in: in}
	return &bzip2Stream{in: late, decoder: bzip2.NewReader(late)}
}

func (b *bzip2Stream) Read(p []byte) (int, error) {
	if b.end {
		return 0, io.EOF
	}
	n, err := b.decoder.Read(p)
	switch {
	case errors.Is(err, bzip2.StructuralError("bad magic value in continuation file")):
		b.end = true
		return n, io.EOF
	case errors.Is(err, io.EOF):
		b.end = true
		return n, b.in.discard()
	}

	return n, err
}

// lateDiscard reads in byte by byte, but leaves the last two bytes that it returned in it.
type lateDiscard struct {
	in   *bufio.Reader
	kept int // bytes that were returned but are still in in
}

func (l *lateDiscard) ReadByte() (byte, error) {
	if l.kept == 2 {
		if _, err := l.in.Discard(1); err != nil {
			return 0, err
		}
		l.kept--
	}
	ahead, err := l.in.Peek(l.kept + 1)
	if len(ahead) <= l.kept {
		return 0, err
	}
	l.kept++
	return ahead[l.kept-1], nil
}

// Read implements [io.Reader]. The decoder calls only ReadByte.
func (l *lateDiscard) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b, err := l.ReadByte()
	if err != nil {
		return 0, err
	}
	p[0] = b
	return 1, nil
}

// discard removes the bytes that are still in the input, and returns io.EOF.
func (l *lateDiscard) discard() error {
	if _, err := l.in.Discard(l.kept); err != nil {
		return err
	}
	return io.EOF
}
