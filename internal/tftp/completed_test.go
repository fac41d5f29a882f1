package tftp

import (
	"io"
	"net"
	"testing"
	"time"
)

// TestCompleted: how long the blocks took is told of a transfer that was whole, and not of one that failed.
func TestCompleted(t *testing.T) {
	completed := make(chan Completed, 2)
	s := &shelf{
		files:     map[string][]byte{"file": noise(100 * 1468)},
		completed: func(c Completed) { completed <- c },
	}
	addr, stop := s.serve(t, 1500)
	broken := newROM(t, addr)
	broken.ask(readRequest("file", "blksize", "1468"))
	broken.next()
	broken.send([]byte{0, 5, 0, 0, 'n', 'o', 0})
	if s.whole(t) {
		t.Fatal("whole")
	}
	f := newROM(t, addr)
	began := time.Now()
	f.ask(readRequest("file", "blksize", "1468"))
	f.next()
	f.ack(0)
	f.download(io.Discard, f.next(), 1468)
	if !s.whole(t) {
		t.Fatal("not whole")
	}
	longest := time.Since(began)
	stop()
	got := <-completed
	if got.Client.Addr() != f.conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr() {
		t.Errorf("client %s", got.Client)
	}
	if got.Blocks != 101 || got.Blksize != 1468 || got.Took <= 0 || got.Took > longest+time.Second {
		t.Errorf("%+v", got)
	}
	if len(completed) > 0 {
		t.Errorf("told of the broken one, too: %+v", <-completed)
	}
}
