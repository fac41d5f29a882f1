package pxe

import (
	"io"
	"net/netip"
	"testing"
	"time"
)

// TestTFTPBlockTime: what a block takes is told of a transfer that was whole,
// and not of one that was not.
func TestTFTPBlockTime(t *testing.T) {
	type told struct {
		blocks, blksize int64
		took            time.Duration
	}
	ch := make(chan told, 2)
	s := &shelf{files: map[string][]byte{"file": noise(100 * 1468)}, took: func(_ netip.AddrPort, blocks, blksize int64, took time.Duration) {
		ch <- told{blocks, blksize, took}
	}}
	addr, stop := s.serve(t, 1500)
	broken := newROM(t, addr)
	broken.ask(request("file", "blksize", "1468"))
	broken.next()
	broken.send([]byte{0, 5, 0, 0, 'n', 'o', 0})
	if s.whole(t) {
		t.Fatal("whole")
	}
	f := newROM(t, addr)
	began := time.Now()
	f.ask(request("file", "blksize", "1468"))
	f.next()
	f.ack(0)
	f.download(io.Discard, f.next(), 1468)
	if !s.whole(t) {
		t.Fatal("not whole")
	}
	longest := time.Since(began)
	stop()
	if got := <-ch; got.blocks != 101 || got.blksize != 1468 || got.took <= 0 || got.took > longest+time.Second {
		t.Errorf("%+v", got)
	}
	if len(ch) > 0 {
		t.Errorf("told of the broken one, too: %+v", <-ch)
	}
}

// TestTraceBlocks: only transfers that are long enough tell it.
func TestTraceBlocks(t *testing.T) {
	s := server(t, Full)
	s.dhcp(packet(t, "ovmf-x64-discover"))
	for _, tt := range []struct {
		blocks int64
		took   time.Duration
		want   time.Duration
	}{{10, time.Second, 0}, {1000, time.Second, time.Millisecond}, {63, time.Hour, time.Millisecond}} {
		s.traceBlocks(mac, tt.blocks, 1468, tt.took)
		tr, err := s.Traces.Get(mac)
		if err != nil || tr.Block != tt.want {
			t.Errorf("%d blocks in %s: %s, want %s, %v", tt.blocks, tt.took, tr.Block, tt.want, err)
		}
	}
}
