package images

import (
	"bytes"

	_ "embed"
)

// The iPXE programs of ipxedust contain a script that waits longer than necessary: two seconds for a key and, because
// it calls both `dhcp` and `autoboot`, twice for an IPv6 router, even on LANs that have none. In the EFI programs the
// script is plain text, and can be replaced; undionly.kpxe is compressed, and keeps it.

// embeddedHead and embeddedTail are the beginning and the end of that script.
var (
	embeddedHead = []byte("#!ipxe\n\nset user-class Tinkerbell\n")
	embeddedTail = []byte("echo Failed to find the vlan interface\nshell\n")
)

// quickScript replaces it.
//
//go:embed embedded.ipxe
var quickScript []byte

// quickened returns a program of ipxedust in which the script is replaced, padded with empty lines to keep the length.
// If the script is not found, or is shorter than ours, the program is returned as it is.
func quickened(program []byte) []byte {
	from := bytes.Index(program, embeddedHead)
	if from < 0 {
		return program
	}
	tail := bytes.Index(program[from:], embeddedTail)
	length := tail + len(embeddedTail)
	if tail < 0 || length < len(quickScript) {
		return program
	}
	out := bytes.Clone(program)
	at := out[from : from+length]
	for i := copy(at, quickScript); i < len(at); i++ {
		at[i] = '\n'
	}
	return out
}
