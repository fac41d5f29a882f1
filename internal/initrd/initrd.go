// Package initrd reads and writes initrds: what the Linux kernel unpacks into
// memory before it starts the first program.
//
// An initrd is a sequence of cpio archives in the "newc" format. Each of them
// stands there plain, or inside a compressed frame (gzip, zstd, xz, lz4, lzma,
// bzip2) that may hold several; NUL bytes may lie between. A file in a later
// archive replaces one of the same name in an earlier archive. That is how a
// server adds the keys of one boot to an image that it does not unpack:
//
//	image's initrd | 4 to 7 NUL bytes | archive of this boot
//	                 Padding            Overlay
//
// Writing is [Overlay] and [Archive], which return the bytes of one plain
// archive. Reading is [Walk], which calls a function with each file of an
// initrd, and is strict: anything that the kernel would stumble over is an
// error. [Check] does so for the first bytes only.
//
// The first stage (internal/firststage) unpacks an initrd in the kernel's place.
// It has to be as lenient as the kernel, and so walks by itself, from the same
// parts: [Stream], [OpenFrame] and [ParseHeader].
//
// [Compression] and [Decompress] are for the other files that the kernel knows
// in these formats: itself, and its modules.
//
// The formats are described in Linux, init/initramfs.c, lib/decompress*.c and
// Documentation/driver-api/early-userspace/buffer-format.rst.
//
// This package imports nothing of ours. What it imports is part of the first
// stage, which every machine downloads: keep that small ("make firststage"
// shows the size).
package initrd

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
)

// HeaderSize is the size of a newc header in bytes: a magic number of 6 digits,
// and 13 fields of 8 hexadecimal digits.
const HeaderSize = 6 + 13*8

// trailer is the name of the entry that ends an archive.
const trailer = "TRAILER!!!"

// The types of a file in [Header.Mode], as in stat(2).
const (
	typeMask    = 0o170000
	typeFIFO    = 0o010000
	typeChar    = 0o020000
	typeFolder  = 0o040000
	typeBlock   = 0o060000
	typeRegular = 0o100000
	typeSymlink = 0o120000 // its content is where it leads
	typeSocket  = 0o140000
)

// A Header is what an archive says about a file before its name and content.
type Header struct {
	Inode   uint32
	Mode    uint32 // type and permission bits, as in stat(2)
	UID     uint32
	GID     uint32
	Links   uint32 // how many names of this archive share Inode: usually only the last has the content
	ModTime uint32 // seconds since 1970
	Size    int64  // bytes of content, less than 4 GiB

	// The file system that the file was on, which belongs to Inode.
	DevMajor uint32
	DevMinor uint32

	// What a device file stands for.
	RdevMajor uint32
	RdevMinor uint32

	NameSize uint32 // bytes, with the NUL at its end

	// Checksum is the sum of the content's bytes, where HasChecksum says so (magic
	// number 070702).
	Checksum    uint32
	HasChecksum bool
}

// ParseHeader reads a header from the first [HeaderSize] bytes of raw, of which
// there must be so many.
func ParseHeader(raw []byte) (Header, error) {
	magic := string(raw[:6])
	if magic != "070701" && magic != "070702" {
		return Header{}, fmt.Errorf("it begins with %q, where the kernel knows 070701 and 070702 only", magic)
	}

	var fields [13]uint32
	for i := range fields {
		v, err := strconv.ParseUint(string(raw[6+8*i:14+8*i]), 16, 32)
		if err != nil {
			return Header{}, fmt.Errorf("its header: %w", err)
		}
		fields[i] = uint32(v)
	}

	return Header{
		Inode:       fields[0],
		Mode:        fields[1],
		UID:         fields[2],
		GID:         fields[3],
		Links:       fields[4],
		ModTime:     fields[5],
		Size:        int64(fields[6]),
		DevMajor:    fields[7],
		DevMinor:    fields[8],
		RdevMajor:   fields[9],
		RdevMinor:   fields[10],
		NameSize:    fields[11],
		Checksum:    fields[12],
		HasChecksum: magic == "070702",
	}, nil
}

// Type returns the type bits of the file, in Go's terms: 0 is a regular file.
// Types that Linux does not have are fs.ModeIrregular.
func (h Header) Type() fs.FileMode {
	switch h.Mode & typeMask {
	case typeRegular:
		return 0
	case typeFolder:
		return fs.ModeDir
	case typeSymlink:
		return fs.ModeSymlink
	case typeChar:
		return fs.ModeDevice | fs.ModeCharDevice
	case typeBlock:
		return fs.ModeDevice
	case typeFIFO:
		return fs.ModeNamedPipe
	case typeSocket:
		return fs.ModeSocket
	}

	return fs.ModeIrregular
}

// Align returns the first multiple of four from n on. Headers and contents begin
// at such an offset, and NUL bytes fill the room before them.
func Align(n int64) int64 { return (n + 3) &^ 3 }

// A Stream is an initrd, or the content of a compressed frame, that is being
// read. It knows how far.
type Stream struct {
	*bufio.Reader
	under *counter
}

// NewStream returns a stream of r that reads up to buffer bytes ahead.
func NewStream(r io.Reader, buffer int) *Stream {
	under := &counter{r: r}
	return &Stream{Reader: bufio.NewReaderSize(under, buffer), under: under}
}

// Offset returns the number of bytes that were read.
func (s *Stream) Offset() int64 { return s.under.n - int64(s.Buffered()) }

// Skip reads n bytes and drops them. If there are fewer, it returns
// io.ErrUnexpectedEOF.
func (s *Stream) Skip(n int64) error {
	_, err := io.CopyN(io.Discard, s, n)
	return noEOF(err)
}

// A counter counts the bytes that are read from r.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// noEOF returns err, or io.ErrUnexpectedEOF in the place of io.EOF, for where
// there has to be more.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
