package tftp

import (
	"strings"
	"testing"
)

// FuzzParseRequest: whatever a packet says, the options are in range, and the name has neither a leading slash nor
// repeated ones.
func FuzzParseRequest(f *testing.F) {
	for _, captured := range capturedRequests(f) {
		f.Add(captured)
	}
	f.Add([]byte("\x00\x01a\x00octet\x00tsize\x000\x00blksize\x001468\x00"))
	f.Add([]byte("\x00\x01//a//b\x00netascii\x00tsize\x00x\x00blksize\x000\x00timeout\x000\x00"))
	f.Add([]byte("\x00\x02a\x00octet\x00windowsize\x0065535\x00"))
	f.Fuzz(func(t *testing.T, packet []byte) {
		r, ok := ParseRequest(packet)
		if !ok {
			return
		}
		if r.Blksize != 0 && (r.Blksize < minBlksize || r.Blksize > maxBlksize) {
			t.Errorf("blksize %d", r.Blksize)
		}
		if r.Window != 0 && (r.Window < 2 || r.Window > maxWindow) {
			t.Errorf("window %d", r.Window)
		}
		if strings.HasPrefix(r.Name, "/") || strings.Contains(r.Name, "//") {
			t.Errorf("name %q", r.Name)
		}
		for _, c := range printable(r.Name) {
			if c < ' ' || c > '~' {
				t.Errorf("%q is not printable", printable(r.Name))
			}
		}
	})
}
