// Package initrd reads and writes initrds, which the Linux kernel unpacks into memory before it starts the first
// program.
//
// An initrd is a sequence of cpio archives in the "newc" format. Each archive is uncompressed, or is in a compressed
// frame (gzip, zstd, xz, lz4, lzma, bzip2) that may hold several; NUL bytes may be in between. A file in a later
// archive replaces a file of the same name in an earlier one. In this way, a server adds the keys of one boot to an
// image without unpacking it:
//
//	image's initrd | 4 to 7 NUL bytes | archive of this boot
//	                 Padding            Overlay
//
// For writing, there are [Overlay] and [Archive], which return the bytes of an uncompressed archive. For reading, there
// is [Walk], which calls a function with each file of an initrd. It is strict: anything that the kernel could not read
// is an error. [Check] does the same for the first bytes only.
//
// The first stage (internal/firststage) unpacks an initrd in place of the kernel. As it must be as lenient as the
// kernel, it walks the archives itself, with the same parts: [Stream], [OpenFrame] and [ParseHeader].
//
// [Compression] and [Decompress] are for the other files that the kernel knows in these formats: the kernel itself, and
// its modules.
//
// The formats are described in Linux, init/initramfs.c, lib/decompress*.c and
// Documentation/driver-api/early-userspace/buffer-format.rst.
//
// This package imports no other package of this module. Its imports become part of the first stage, which every machine
// downloads, so they must stay small ("make firststage" shows the size).
package initrd

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
)

// HeaderSize is the size of a newc header in bytes: a magic number of 6 digits, and 13 fields of 8 hexadecimal digits.
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
	typeSymlink = 0o120000 // its content is the target
	typeSocket  = 0o140000
)

// Header is what an archive says about a file before its name and content.
type Header struct {
	Inode   uint32
	Mode    uint32 // type and permission bits, as in stat(2)
	UID     uint32
	GID     uint32
	Links   uint32 // how many names in this archive share Inode; usually only the last one has the content
	ModTime uint32 // seconds since 1970
	Size    int64  // size of the content in bytes, less than 4 GiB

	// DevMajor and DevMinor are the device of the file system that the file came from. Together with Inode they identify
	// the file.
	DevMajor uint32
	DevMinor uint32

	// RdevMajor and RdevMinor are the device number of a device file.
	RdevMajor uint32
	RdevMinor uint32

	NameSize uint32 // in bytes, including the NUL at the end

	// Checksum is the sum of the content's bytes if HasChecksum is set (magic number 070702).
	Checksum    uint32
	HasChecksum bool
}

// ParseHeader parses a header. raw must have at least [HeaderSize] bytes.
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

// Type returns the type of the file as in package io/fs; 0 is a regular file. Types that Linux does not have are
// fs.ModeIrregular.
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

// Align returns n, rounded up to a multiple of four. Headers and contents begin at such offsets, and are preceded by
// NUL bytes as padding.
func Align(n int64) int64 { return (n + 3) &^ 3 }

// Stream is an initrd, or the content of a compressed frame, that is being read. It knows its offset.
type Stream struct {
	*bufio.Reader
	under *counter
}

// NewStream returns a stream of r that reads up to buffer bytes ahead.
func NewStream(r io.Reader, buffer int) *Stream {
	under := &counter{r: r}
	return &Stream{Reader: bufio.NewReaderSize(under, buffer), under: under}
}

// Offset returns the number of bytes that have been read from the stream.
func (s *Stream) Offset() int64 { return s.under.n - int64(s.Buffered()) }

// Skip reads n bytes and discards them. If there are fewer, it returns io.ErrUnexpectedEOF.
func (s *Stream) Skip(n int64) error {
	_, err := io.CopyN(io.Discard, s, n)
	return noEOF(err)
}

// counter counts the bytes that are read from r.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// noEOF returns err, but io.ErrUnexpectedEOF instead of io.EOF, for places where more data must follow.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
