package tftp

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

// TestTransfersAreShared: one client, or all that ask for files of one group, take their share of the slots, and
// another client still gets one.
func TestTransfersAreShared(t *testing.T) {
	dropped := make(chan netip.Addr, 2*maxShare)
	s := &shelf{
		dropped: func(client netip.Addr) { dropped <- client },
		files:   map[string][]byte{"file": noise(3000), "secret/kernel": noise(3000)},
		group: func(name string) string {
			group, _, _ := strings.Cut(name, "/")
			if group == "file" {
				return ""
			}
			return group
		},
	}
	addr, _ := s.serve(t, 1500)
	at := net.IPv4(127, 0, 0, 66)
	open := 0
	for range maxShare {
		f := newROMAt(t, addr, at)
		f.ask(readRequest("file"))
		f.next()
		open++
	}
	greedy := newROMAt(t, addr, at)
	greedy.ask(readRequest("file"))

	for range maxShare { // each from another address
		f := newROM(t, addr)
		f.ask(readRequest("secret/kernel"))
		f.next()
		open++
	}
	late := newROM(t, addr)
	late.ask(readRequest("secret/kernel"))

	other := newROM(t, addr) // its request is looked at after theirs
	other.ask(readRequest("file"))
	other.next()
	if open+1 != s.count() {
		t.Errorf("%d files opened, for %d transfers", s.count(), open+1)
	}
	// Requests are looked at one after another: what was dropped has been told of by now.
	if n := len(dropped); n != 2 {
		t.Fatalf("%d dropped requests are told of", n)
	}
	if client := <-dropped; client != netip.MustParseAddr("127.0.0.66") {
		t.Errorf("dropped of %s", client)
	}
}
