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

// warmShare is the part of the memory that is free for the page cache which an
// image may take: what is pushed out for it would be read again.
const warmShare = 2

// Warm reads an image's files, so that they are in the page cache when machines
// ask for them; it returns the bytes read. What is there already costs a copy
// in memory. An image for which there is no room is left alone: 0, nil.
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

func (c *Catalog) prefetch(ctx context.Context, f File) (int64, error) {
	in, err := c.OpenFile(f)
	if err != nil {
		return 0, err
	}
	defer in.Close()

	// WILLNEED would be done with a few hundred kilobytes (read(2) of Linux
	// takes no more of it than one request to the disk holds). SEQUENTIAL
	// doubles what is read ahead of us; where it is not known, it only takes
	// longer.
	_ = unix.Fadvise(int(in.Fd()), 0, 0, unix.FADV_SEQUENTIAL)
	return io.CopyBuffer(struct{ io.Writer }{io.Discard}, &meter{ctx: ctx, r: in}, make([]byte, 256<<10))
}

// memoryFree is how many bytes may go into the page cache without swapping
// (MemAvailable of proc_meminfo(5)).
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
