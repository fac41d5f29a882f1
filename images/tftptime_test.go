package images

import (
	"testing"
	"time"
)

func TestTFTPTime(t *testing.T) {
	for _, tt := range []struct {
		size    int64
		blksize int
		round   time.Duration
		want    time.Duration
	}{
		{0, 1468, time.Millisecond, time.Millisecond},        // an empty block
		{1468, 1468, time.Millisecond, 2 * time.Millisecond}, // and one at the end
		{24e6, 1468, time.Millisecond, 16553 * time.Millisecond},
		{24e6, 512, time.Millisecond, 47080 * time.Millisecond},
		{24e6, 1468, 0, 204 * time.Millisecond}, // the wire's own time
	} {
		if got := TFTPTime(tt.size, tt.blksize, tt.round).Round(time.Millisecond); got != tt.want {
			t.Errorf("%d bytes in blocks of %d at %s: %s, want %s", tt.size, tt.blksize, tt.round, got, tt.want)
		}
	}
}

func TestSlow(t *testing.T) {
	kernel := TFTPLoad{"the kernel", 24e6}
	for _, tt := range []struct {
		load    TFTPLoad
		blksize int
		block   time.Duration
		want    string
	}{
		{kernel, 1468, time.Millisecond, "the kernel (24 MB) takes about 17 s over TFTP at 1.0 ms a block, as measured with this machine; HTTP boot would take 0.2 s"},
		{kernel, 1468, 0, "the kernel (24 MB) takes about 5 to 17 s over TFTP at 0.3 to 1 ms a block (assumed: none was measured yet); HTTP boot would take 0.2 s"},
		{kernel, 1024, 0, "the kernel (24 MB) takes about 7 to 24 s over TFTP at 0.3 to 1 ms a block (assumed: none was measured yet); HTTP boot would take 0.2 s"},
		{kernel, 1468, 100 * time.Microsecond, ""},
		{TFTPLoad{"the first stage", 3.6e6}, 1468, 0, ""},
		{TFTPLoad{"iPXE", 1e6}, 1468, 0, ""},
		{TFTPLoad{"iPXE", 1e6}, 1468, 30 * time.Millisecond, "iPXE (1 MB) takes about 20 s over TFTP at 30.0 ms a block, as measured with this machine; HTTP boot would take 0.0 s"},
		{TFTPLoad{"the kernel", 0}, 1468, 0, ""},
	} {
		if got := tt.load.Slow(tt.blksize, tt.block); got != tt.want {
			t.Errorf("%v, %d, %s:\n%s, want\n%s", tt.load, tt.blksize, tt.block, got, tt.want)
		}
	}
}
