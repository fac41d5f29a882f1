package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// warmShare is the fraction (one in warmShare) of the memory available for the page cache that an image may take. What
// it displaces would have to be read again.
const warmShare = 2

// Warm reads an image's files, so that they are in the page cache when machines ask for them, and returns how many
// bytes it read. What is cached already only costs a copy in memory. If there is not enough memory for the image, Warm
// returns 0, nil.
func (c *Catalog) Warm(ctx context.Context, img Image) (int64, error) {
	room, err := memoryFree()
	if err != nil {
		return 0, fmt.Errorf("read image %s ahead: %w", img.Name, err)
	}
	if img.Kernel.Size+img.Initrd.Size > room/warmShare {
		return 0, nil
	}
	var read int64
	for _, f := range []File{img.Kernel, img.Initrd} {
		n, err := c.prefetch(ctx, f)
		read += n
		if err != nil {
			return read, fmt.Errorf("read image %s ahead: %w", img.Name, err)
		}
	}

	return read, nil
}

// prefetch reads a file, and returns how many bytes that were.
func (c *Catalog) prefetch(ctx context.Context, f File) (int64, error) {
	in, err := c.OpenFile(f)
	if err != nil {
		return 0, err
	}
	defer in.Close()

	// FADV_WILLNEED would stop after a few hundred kilobytes: Linux does not read more than one request to the disk holds.
	// FADV_SEQUENTIAL doubles the readahead. If it is not supported, reading only takes longer.
	_ = unix.Fadvise(int(in.Fd()), 0, 0, unix.FADV_SEQUENTIAL)
	return io.CopyBuffer(struct{ io.Writer }{io.Discard}, &meter{ctx: ctx, r: in}, make([]byte, 256<<10))
}

// memoryFree returns how many bytes the page cache can take without swapping (MemAvailable in proc_meminfo(5)).
func memoryFree() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "MemAvailable:" {
			kb, err := strconv.ParseInt(fields[1], 10, 64)
			return kb << 10, err
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}
