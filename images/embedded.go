package images

import (
	"bytes"

	_ "embed"
)

// ipxedust's programs bring a script of their own, which waits more than it must:
// two seconds for a key, and, because it says `dhcp` and `autoboot`, twice for an IPv6
// router, on LANs that have none. It lies in the EFI programs as it is;
// undionly.kpxe is packed, and keeps it.

// Where that script begins and ends.
var (
	embeddedHead = []byte("#!ipxe\n\nset user-class Tinkerbell\n")
	embeddedTail = []byte("echo Failed to find the vlan interface\nshell\n")
)

// quickScript is ours, which takes its place.
//
//go:embed embedded.ipxe
var quickScript []byte

// quickened is a program of ipxedust's with our script in it; as it was if there is
// none to be found, or no room. The length stays the same: what is over is filled up with
// empty lines.
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
