package images

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
	"github.com/ulikunitz/xz/lzma"
)

// member unpacks the compressed data that in starts with, and reads no byte
// beyond them: decoders want to see what follows, and would swallow a part of
// the next member. So the end is found by each format's structure.
func member(in *bufio.Reader) (io.ReadCloser, error) {
	head, _ := in.Peek(64)
	switch kind := compression(head); kind {
	case "gzip":
		z, err := gzip.NewReader(in)
		if err != nil {
			return nil, cutShort(err)
		}
		z.Multistream(false)
		return z, nil
	case "zstd":
		return decompress(&framed{in: in, state: zstdHeader})
	case "xz":
		z, err := xz.NewReader(&framed{in: in, state: xzHeader}) // which checks what each block wants of memory
		if err != nil {
			return nil, cutShort(err)
		}
		return io.NopCloser(z), nil
	case "lz4":
		return io.NopCloser(&lz4Blocks{in: in}), nil
	case "bzip2":
		return io.NopCloser(&bzip2Stream{in, bzip2.NewReader(in)}), nil
	case "lzma": // it reads byte by byte
		z, err := lzma.ReaderConfig{DictCap: maxWindow}.NewReader(in)
		if err != nil {
			return nil, cutShort(err)
		}
		return io.NopCloser(z), nil
	default:
		return nil, fmt.Errorf("%w for %s here", errNoDecoder, kind)
	}
}

// A framed reader passes on what belongs to one compressed frame: what state
// reads ahead to see the structure, then body bytes as they are, and again.
type framed struct {
	in    *bufio.Reader
	state frameState // nil at the end
	head  []byte     // read ahead, not yet passed on
	body  int64
	size  int64 // of the present block so far, for padding
	check int64 // bytes of checksum after a block (xz) or a frame (zstd)
}

// A frameState reads ahead with take, sets body, and returns the state after that.
type frameState func(*framed) (frameState, error)

func (f *framed) Read(p []byte) (int, error) {
	for len(f.head) == 0 && f.body == 0 {
		if f.state == nil {
			return 0, io.EOF
		}
		var err error
		if f.state, err = f.state(f); err != nil {
			f.state = func(*framed) (frameState, error) { return nil, err }
			f.head, f.body = nil, 0
			return 0, cutShort(err)
		}
	}
	if len(f.head) > 0 {
		n := copy(p, f.head)
		f.head = f.head[n:]
		return n, nil
	}
	n, err := f.in.Read(p[:min(int64(len(p)), f.body)])
	f.body -= int64(n)
	return n, cutShort(err)
}

// take reads n bytes ahead.
func (f *framed) take(n int) ([]byte, error) {
	old := len(f.head)
	f.head = append(f.head, make([]byte, n)...)
	if _, err := io.ReadFull(f.in, f.head[old:]); err != nil {
		return nil, cutShort(err)
	}
	f.size += int64(n)
	return f.head[old:], nil
}

func (f *framed) pass(n int64) {
	f.body += n
	f.size += n
}

// zstdHeader reads a frame's header (RFC 8878, section 3.1.1.1).
func zstdHeader(f *framed) (frameState, error) {
	h, err := f.take(5)
	if err != nil {
		return nil, err
	}
	descriptor := h[4]
	single := descriptor&0x20 != 0
	rest := []int{0, 1, 2, 4}[descriptor&3] + []int{0, 2, 4, 8}[descriptor>>6]
	if !single || descriptor>>6 == 0 { // the window's size, or a content size of one byte
		rest++
	}
	if descriptor&4 != 0 {
		f.check = 4
	}
	_, err = f.take(rest)
	return zstdBlock, err
}

func zstdBlock(f *framed) (frameState, error) {
	h, err := f.take(3)
	if err != nil {
		return nil, err
	}
	v := int64(h[0]) | int64(h[1])<<8 | int64(h[2])<<16
	switch size := v >> 3; v >> 1 & 3 {
	case 1: // one byte, repeated
		f.pass(1)
	case 3:
		return nil, errors.New("zstd: a block of a reserved type")
	default:
		f.pass(size)
	}
	if v&1 == 0 {
		return zstdBlock, nil
	}
	f.pass(f.check)
	return nil, nil
}

// xzHeader reads a stream's header (xz file format, 2.1.1).
func xzHeader(f *framed) (frameState, error) {
	h, err := f.take(12)
	if err != nil {
		return nil, err
	}
	f.check = []int64{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}[h[7]&15]
	return xzBlock, nil
}

// xzBlock reads a block's header (3.1), or comes to the index.
func xzBlock(f *framed) (frameState, error) {
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
		return nil, fmt.Errorf("%w for xz with further filters here", errNoDecoder)
	}
	return xzChunk, checkXZFilter(h)
}

// xzChunk reads the header of an LZMA2 chunk (Linux, lib/xz/xz_dec_lzma2.c).
func xzChunk(f *framed) (frameState, error) {
	control, err := f.take(1)
	if err != nil {
		return nil, err
	}
	switch c := control[0]; {
	case c == 0: // the last; the block is padded
		f.pass(-f.size & 3)
		f.body += f.check
		return xzBlock, nil
	case c == 1 || c == 2: // not compressed
		h, err := f.take(2)
		if err != nil {
			return nil, err
		}
		f.pass(int64(binary.BigEndian.Uint16(h)) + 1)
	case c >= 0x80:
		h, err := f.take(4)
		if err != nil {
			return nil, err
		}
		f.pass(int64(binary.BigEndian.Uint16(h[2:])) + 1)
		if c >= 0xc0 { // new properties
			f.pass(1)
		}
	default:
		return nil, errors.New("xz: a broken block")
	}
	return xzChunk, nil
}

// xzIndex reads the index (4) and passes on the stream's footer.
func xzIndex(f *framed) (frameState, error) {
	records, err := f.varint()
	if err != nil {
		return nil, err
	}
	return func(f *framed) (frameState, error) { return xzRecords(f, records) }, nil
}

func xzRecords(f *framed, left uint64) (frameState, error) {
	if left == 0 {
		f.pass(-f.size & 3)
		f.pass(4 + 12) // the index's checksum, the footer
		return nil, nil
	}
	for range 2 { // the sizes of a block
		if _, err := f.varint(); err != nil {
			return nil, err
		}
	}
	return func(f *framed) (frameState, error) { return xzRecords(f, left-1) }, nil
}

// varint reads a number of up to nine bytes, seven bits in each.
func (f *framed) varint() (v uint64, err error) {
	for i := range 9 {
		b, err := f.take(1)
		if err != nil {
			return 0, err
		}
		if v |= uint64(b[0]&0x7f) << (7 * i); b[0] < 0x80 {
			return v, nil
		}
	}
	return 0, errors.New("xz: a broken number in its index")
}

// lz4Blocks unpacks lz4's old format: blocks of up to 8 MiB, each after its
// size. It ends with a block of size zero, for padding follows (Linux,
// lib/decompress_unlz4.c), or with the file.
type lz4Blocks struct {
	in            *bufio.Reader
	packed, block []byte
	out           []byte // of block, not yet read
}

const lz4Magic, lz4Block = 0x184c2102, 8 << 20

func (z *lz4Blocks) Read(p []byte) (int, error) {
	for len(z.out) == 0 {
		size := make([]byte, 4)
		if _, err := io.ReadFull(z.in, size); err != nil {
			return 0, err
		}
		n := binary.LittleEndian.Uint32(size)
		if n == lz4Magic {
			continue
		}
		if n == 0 {
			z.in = bufio.NewReader(new(body)) // stays at its end
			return 0, io.EOF
		}
		if err := z.unpack(n); err != nil {
			return 0, err
		}
	}
	n := copy(p, z.out)
	z.out = z.out[n:]
	return n, nil
}

func (z *lz4Blocks) unpack(size uint32) error {
	if z.block == nil {
		z.block, z.packed = make([]byte, lz4Block), make([]byte, lz4.CompressBlockBound(lz4Block))
	}
	if int64(size) > int64(len(z.packed)) {
		return errors.New("lz4: a block of more than 8 MiB (something follows it without four NUL bytes between?)")
	}
	if _, err := io.ReadFull(z.in, z.packed[:size]); err != nil {
		return cutShort(err)
	}
	n, err := lz4.UncompressBlock(z.packed[:size], z.block)
	if err != nil {
		return err
	}
	z.out = z.block[:n]
	return nil
}

// bzip2Stream ends after one stream. Its decoder reads one byte more, to see
// whether it is the B that another stream starts with.
type bzip2Stream struct {
	in *bufio.Reader
	z  io.Reader
}

func (b *bzip2Stream) Read(p []byte) (int, error) {
	n, err := b.z.Read(p)
	if errors.Is(err, bzip2.StructuralError("bad magic value in continuation file")) {
		if err = b.in.UnreadByte(); err == nil {
			err = io.EOF
		}
		b.z = new(body) // stays at its end
	}
	return n, err
}
