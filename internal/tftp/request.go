package tftp

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"strings"
)

// Opcodes (RFC 1350 section 5, RFC 2347).
const (
	opRRQ   = 1
	opWRQ   = 2
	opDATA  = 3
	opACK   = 4
	opERROR = 5
	opOACK  = 6
)

// Error codes (RFC 1350, appendix).
const (
	codeUndefined = 0 // the text says it
	codeNotFound  = 1
	codeAccess    = 2
)

// maxRequest is how many bytes a request has at most (RFC 2347).
const maxRequest = 512

// Request is a read or write request, with the options that the server knows.
type Request struct {
	// Write means a write request (WRQ). Otherwise it is a read request (RRQ).
	Write bool

	// Octet is the mode. Otherwise it is netascii or mail.
	Octet bool

	// Name is the file's name, without leading and repeated slashes: a Raspberry Pi 5 asks for SERIAL//cmdline.txt.
	Name string

	// Blksize is the size of a block in bytes, 8 to 65464 (RFC 2348). Zero: not asked for.
	Blksize int

	// Tsize means that the client asks for the size of the file (RFC 2349).
	Tsize bool

	// Window is how many blocks are acknowledged together, 2 to 16 (RFC 7440). Zero: one.
	Window int
}

// ParseRequest parses a packet that a client sent to the server's port. It returns false if the packet is not a
// request. An option that is not known, and a value out of range, are left out.
func ParseRequest(packet []byte) (Request, bool) {
	if len(packet) < 4 || len(packet) > maxRequest {
		return Request{}, false
	}
	op := binary.BigEndian.Uint16(packet)
	if op != opRRQ && op != opWRQ {
		return Request{}, false
	}
	fields := bytes.Split(packet[2:], []byte{0})
	fields = fields[:len(fields)-1] // what follows the last NUL is not a field
	if len(fields) < 2 {
		return Request{}, false
	}

	r := Request{
		Write: op == opWRQ,
		Name:  cleanName(string(fields[0])),
		Octet: strings.EqualFold(string(fields[1]), "octet"),
	}
	for options := fields[2:]; len(options) >= 2; options = options[2:] {
		r.setOption(string(options[0]), string(options[1]))
	}
	return r, true
}

// setOption takes one option over, if it is known and its value makes sense.
func (r *Request) setOption(option, value string) {
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 {
		return
	}
	switch strings.ToLower(option) {
	case "blksize":
		if minBlksize <= n && n <= maxBlksize {
			r.Blksize = n
		}
	case "tsize":
		r.Tsize = true
	case "windowsize":
		if 2 <= n && n <= 65535 {
			r.Window = min(n, maxWindow)
		}
	}
}

// blockBytes is the size of a block, in bytes.
func (r Request) blockBytes() int64 {
	if r.Blksize == 0 {
		return defaultBlksize
	}
	return int64(r.Blksize)
}

// oack accepts the options of a request for a file of so many bytes (RFC 2347). It is nil if the client asked for none.
func (r Request) oack(size int64) []byte {
	var options []byte
	accept := func(option string, value int64) {
		options = append(options, option+"\x00"+strconv.FormatInt(value, 10)+"\x00"...)
	}
	if r.Blksize != 0 {
		accept("blksize", int64(r.Blksize))
	}
	if r.Tsize {
		accept("tsize", size)
	}
	if r.Window != 0 {
		accept("windowsize", int64(r.Window))
	}
	if options == nil {
		return nil
	}
	return append([]byte{0, opOACK}, options...)
}

// errorPacket is an ERROR packet.
func errorPacket(code byte, text string) []byte {
	return append([]byte{0, opERROR, 0, code}, text+"\x00"...)
}

// cleanName removes the leading slash of a name, and repeated ones.
func cleanName(name string) string {
	for strings.Contains(name, "//") {
		name = strings.ReplaceAll(name, "//", "/")
	}
	return strings.TrimPrefix(name, "/")
}

// printable is a text of a client's as it may be logged: at most 96 characters, all of them printable ASCII.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	return s[:min(len(s), 96)]
}
