package pxe

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"strings"
)

// TFTP opcodes (RFC 1350 section 5, RFC 2347).
const (
	opRRQ   = 1
	opWRQ   = 2
	opDATA  = 3
	opACK   = 4
	opError = 5
	opOACK  = 6
)

// TFTP error codes (RFC 1350, appendix).
const (
	codeOther    = 0 // see the text
	codeNotFound = 1
	codeAccess   = 2
)

// tftpRequest is a read or write request, with the options that we keep. Any
// other option, and any value that makes no sense is left out
// of the answer, which is how a server declines (RFC 2347).
type tftpRequest struct {
	write   bool
	octet   bool   // mode; else netascii, or mail
	name    string // without leading or doubled slashes: a Pi 5 asks for SERIAL//cmdline.txt
	blksize int    // RFC 2348, 8 to 65464; 0: not asked for
	tsize   bool   // RFC 2349: wants to be told the size
	window  int    // RFC 7440, blocks before an answer; 0: one, lock-step
}

// parseTFTP reads a request of at most 512 bytes (RFC 2347).
func parseTFTP(p []byte) (r tftpRequest, ok bool) {
	if len(p) < 4 || len(p) > 512 {
		return r, false
	}
	op := binary.BigEndian.Uint16(p)
	fields := bytes.Split(p[2:], []byte{0})
	if op != opRRQ && op != opWRQ || len(fields) < 3 {
		return r, false
	}
	r.write = op == opWRQ
	r.octet = strings.EqualFold(string(fields[1]), "octet")
	r.name = collapse(string(fields[0]))
	for options := fields[2 : len(fields)-1]; len(options) >= 2; options = options[2:] { // what follows the last NUL is no field
		n, err := strconv.Atoi(string(options[1]))
		if err != nil || n < 0 {
			continue
		}
		switch strings.ToLower(string(options[0])) {
		case "blksize":
			if 8 <= n && n <= 65464 {
				r.blksize = n
			}
		case "tsize":
			r.tsize = true
		case "windowsize":
			if 2 <= n && n <= 65535 {
				r.window = min(n, maxWindow)
			}
		}
	}
	return r, true
}

func collapse(name string) string {
	for strings.Contains(name, "//") {
		name = strings.ReplaceAll(name, "//", "/")
	}
	return strings.TrimPrefix(name, "/")
}

func tftpError(code byte, text string) []byte {
	return append([]byte{0, opError, 0, code}, text+"\x00"...)
}
