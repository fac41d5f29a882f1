package initrd

import (
	"bytes"
	"strings"
	"testing"
)

// TestFrameEnd: no byte of what follows a frame is lost.
func TestFrameEnd(t *testing.T) {
	one := Archive([]File{{Path: "one", Mode: 0o755, Data: []byte("1")}})
	two := Archive([]File{{Path: "two", Mode: 0o755, Data: []byte("2")}})
	for _, argv := range [][]string{{"gzip"}, {"zstd"}, {"zstd", "--no-check"}, {"xz", "--check=crc32"}, {"bzip2"}, {"lzma"}} {
		for _, behind := range [][]byte{gzipped(two), packed(t, two, "bzip2"), packed(t, two, "xz", "--check=crc32")} {
			frames := append(packed(t, one, argv...), behind...)
			got, err := walked(frames)
			if err != nil || got != "one:1 two:2 " {
				t.Errorf("%s: %q, %v", strings.Join(argv, " "), got, err)
			}
		}
	}
}

// TestLZ4End: as the kernel does, the frame ends where there is no room for the size of a block.
func TestLZ4End(t *testing.T) {
	lz4Frame := packed(t, Archive(nil), "lz4", "-l")
	for n := range 4 {
		if _, err := walked(append(bytes.Clone(lz4Frame), "abc"[:n]...)); err != nil {
			t.Errorf("%d bytes behind it: %v", n, err)
		}
	}
}
