package tftp

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inWindows is a client that asked for a file in windows of 4 blocks of 512 bytes, and has got the OACK.
func inWindows(t *testing.T, size int, ackTimeout time.Duration) (s *shelf, f *bootROM, stop func()) {
	t.Helper()
	s = &shelf{files: map[string][]byte{"file": noise(size)}, ackTimeout: ackTimeout}
	addr, stop := s.serve(t, 1500)
	f = newROM(t, addr)
	f.window = 4
	f.ask(readRequest("file", "blksize", "512", "windowsize", "4"))
	if got := f.options(); got["windowsize"] != "4" || got["blksize"] != "512" {
		t.Fatalf("options %v", got)
	}
	return s, f, stop
}

// blocks takes the next n packets and returns the numbers of the blocks.
func (f *bootROM) blocks(n int) (numbers []byte) {
	f.Helper()
	for range n {
		p := f.next()
		if len(p) < 4 || p[1] != opDATA || p[2] != 0 {
			f.Fatalf("not a block below 256: %.20q", p)
		}
		numbers = append(numbers, p[3])
	}
	return numbers
}

// TestWindow: after a loss, the server goes on with the block that was lost, and once.
func TestWindow(t *testing.T) {
	s, f, stop := inWindows(t, 9*512+100, time.Hour) // 10 blocks
	f.ack(0)
	for _, step := range []struct {
		want []byte
		ack  uint16
	}{
		{[]byte{1, 2, 3, 4}, 2}, // 3 was lost
		{[]byte{3, 4, 5, 6}, 2}, // and once more
		{[]byte{3, 4, 5, 6}, 6},
		{[]byte{7, 8, 9, 10}, 9}, // the last one was
		{[]byte{10}, 10},
	} {
		if got := f.blocks(len(step.want)); !bytes.Equal(got, step.want) {
			t.Fatalf("blocks %v, want %v", got, step.want)
		}
		f.ack(step.ack)
	}
	if !s.whole(t) {
		t.Error("not whole")
	}
	stop()
}

// TestWindowSorcerer: of ACKs that acknowledge nothing new, only the first has the window sent again. Those for another
// window do not.
func TestWindowSorcerer(t *testing.T) {
	s, f, stop := inWindows(t, 20*512, time.Hour)
	f.ack(0)
	f.blocks(4)
	f.ack(4)
	f.blocks(4)
	for _, ack := range []uint16{4, 4, 4, 1, 9, 0, 65535} {
		f.ack(ack)
	}
	f.blocks(4)
	f.ack(8)
	if got := f.blocks(4); !bytes.Equal(got, []byte{9, 10, 11, 12}) {
		t.Fatalf("blocks %v", got)
	}
	f.quit()
	if s.whole(t) {
		t.Error("whole, though the client quit")
	}
	stop()
}

// TestWindowSilence: a window is sent again when there is no answer.
func TestWindowSilence(t *testing.T) {
	s, f, stop := inWindows(t, 3*512, time.Second/10)
	f.ack(0)
	for range 2 {
		if got := f.blocks(4); !bytes.Equal(got, []byte{1, 2, 3, 4}) {
			t.Fatalf("blocks %v", got)
		}
	}
	f.ack(4)
	if !s.whole(t) {
		t.Error("not whole")
	}
	stop()
}

// TestWindowStop: a server that stops does not wait for a client's answers.
func TestWindowStop(t *testing.T) {
	s, f, stop := inWindows(t, 100*512, time.Hour)
	f.ack(0)
	f.blocks(4)
	stop()
	if s.whole(t) {
		t.Error("whole")
	}
}

// TestWindowWraps: block numbers begin again at 0 after 65535.
func TestWindowWraps(t *testing.T) {
	s, f, stop := inWindows(t, 65540*512+7, time.Second)
	f.ack(0)
	var got bytes.Buffer
	f.download(&got, f.next(), 512)
	if !s.whole(t) || !bytes.Equal(got.Bytes(), s.files["file"]) {
		t.Error("not the file")
	}
	stop()
}

// TestTemporaryErrors: an error of the kernel's about one packet does not end a transfer, since the cause may be over
// in a moment. Here nobody listens on the client's port. And the packets may be fragmented.
func TestTemporaryErrors(t *testing.T) {
	gone := newROM(t, netip.AddrPort{})
	gone.conn.Close()
	conn, err := dial(gone.conn.LocalAddr().(*net.UDPAddr).AddrPort())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w := &sender{transfer: &transfer{}, conn: conn}
	for range 2 {
		if err := w.writePacket([]byte("block")); err != nil {
			t.Fatal(err)
		}
	}
	if !errors.Is(w.writeErr, unix.ECONNREFUSED) {
		t.Fatalf("the kernel says %v: this test sees nothing", w.writeErr)
	}
	if err := w.writePacket([]byte("block")); err != nil || w.writeErr != nil {
		t.Errorf("%v, %v: an error is told once", err, w.writeErr)
	}
	if err := conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.readPacket(make([]byte, 4)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		got, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER)
		if err != nil || got != unix.IP_PMTUDISC_DONT {
			t.Errorf("IP_MTU_DISCOVER is %d, %v", got, err)
		}
	})
}

// TestReduceBlksize: a client that acknowledged none of its first blocks gets smaller ones when it asks again, down to
// 512 bytes.
func TestReduceBlksize(t *testing.T) {
	for _, window := range []string{"1", "4"} {
		s := &shelf{files: map[string][]byte{"file": noise(10_000)}, ackTimeout: 100 * time.Millisecond}
		addr, _ := s.serve(t, 1500)
		f := newROM(t, addr)
		for _, want := range []string{"1200", "600", "512"} {
			conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: f.conn.LocalAddr().(*net.UDPAddr).IP})
			if err != nil {
				t.Fatal(err)
			}
			f.conn.Close()
			f.conn = conn
			f.ask(readRequest("file", "blksize", "1200", "windowsize", window))
			if got := f.options()["blksize"]; got != want {
				t.Fatalf("blksize %s, want %s", got, want)
			}
			f.ack(0)
			if s.whole(t) {
				t.Fatal("whole")
			}
		}
		f.conn.Close()
		if !s.said("no answer from the client after 1200 bytes") && !s.said("after 4800 bytes") {
			t.Errorf("%q", s.texts)
		}
	}
}
