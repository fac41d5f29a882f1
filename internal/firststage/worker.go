package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	newRoot = "/newroot"
	reserve = 64 << 20 // bytes of memory that are kept free while the image is unpacked
)

// Exit statuses of the worker.
const (
	statusReady   = 0 // the image is unpacked in newRoot
	statusFailed  = 1
	statusRestart = 2 // the machine has to be restarted
)

// work does everything except the last step: drivers, network, download, verification, unpacking. It returns an exit
// status.
func work(con *console) int {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		con.say("%v", err)
		return statusFailed
	}

	o, err := parseOrder(string(cmdline))
	if err != nil {
		con.say("%v", err)
		return statusFailed
	}

	ctx, cancel := context.WithCancel(context.Background())
	net := newNetwork(o, con.say)
	var wg sync.WaitGroup
	tend := func(f func() error) {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := guarded(f); err != nil {
					con.say("%v", err)
				}
				sleep(ctx, time.Second)
			}
		})
	}
	m, err := readModules(modulesDir, string(cmdline))
	if err != nil {
		con.say("there are no drivers in this initrd: %v", err)
	} else {
		tend(func() error { return m.forDevices(ctx, con.say) })
	}

	tend(func() error { return net.run(ctx) })
	net.wait(ctx, slowest) // until a card has an address; otherwise the first attempt would fail

	status := fetchAll(ctx, o, con, net)
	cancel()
	wg.Wait()
	net.down()
	return status
}

// fetchAll tries until the image has been unpacked and verified, or the boot is over. It returns an exit status.
func fetchAll(ctx context.Context, o order, con *console, net *network) int {
	for pause := 5 * time.Second; ; pause = min(2*pause, time.Minute) {
		f := newFetcher(o, con, net.dial, net.wait)
		f.unanswered = net.unanswered
		begin := time.Now()
		err := guarded(func() error { return attempt(ctx, o, f) })
		if err == nil {
			con.say("the image is here and is the right one (%s in %.1f s)", megabytes(f.total()), time.Since(begin).Seconds())
			return statusReady
		}
		_ = unix.Unmount(newRoot, unix.MNT_DETACH)
		if errors.Is(err, errRestart) {
			return statusRestart
		}
		con.say("%v. Trying again in %.0f s.", err, pause.Seconds())
		sleep(ctx, pause)
	}
}

// attempt downloads and unpacks the image once. Nothing of the image is run before it is complete and its digests are
// correct.
func attempt(ctx context.Context, o order, f *fetcher) error {
	room, err := mountRoot(f.total())
	if err != nil {
		return err
	}

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	in, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := guarded(func() error { return f.run(ctx, out) })
		out.CloseWithError(err) // io.EOF if err is nil
		done <- err
	}()
	u := &unpacker{}
	bad := inRoot(newRoot, func() error {
		if err := prepareRoot(); err != nil {
			return err
		}
		return u.unpack(in)
	})
	if errors.Is(bad, syscall.ENOSPC) || errors.Is(bad, syscall.ENOMEM) {
		in.CloseWithError(bad)
		cancel()
		<-done
		need := int64(float64(u.unpacked.Load()) * float64(f.total()) / float64(max(f.at, 1)))
		return fmt.Errorf("not enough memory: the image needs about %s, and this machine has %s for it: "+
			"give it more memory, or take a smaller image", megabytes(need+reserve), megabytes(room))
	}

	if bad != nil { // reads the rest, to find out whether the download or the image is bad
		_, _ = io.Copy(io.Discard, in)
	}
	if err := <-done; err != nil {
		return err
	}

	if bad != nil {
		return fmt.Errorf("the image's initrd is as it should be, and cannot be unpacked: %w", bad)
	}
	return inRoot(newRoot, func() error {
		if err := unix.Access(o.init, unix.X_OK); err != nil {
			return fmt.Errorf("the image's initrd has no %s that can be started: %w", o.init, err)
		}
		return nil
	})
}

// mountRoot mounts an empty file system in memory, as large as possible, and returns its size in bytes. It is an error
// if not even the compressed initrd, of size bytes, would fit.
func mountRoot(size int64) (room int64, err error) {
	free, err := memory("MemAvailable")
	if err != nil {
		return 0, err
	}
	if room = free - reserve; room < size {
		return 0, fmt.Errorf("not enough memory: the image is %s compressed, and this machine has %s for it: "+
			"give it more memory, or take a smaller image", megabytes(size), megabytes(room))
	}
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return 0, err
	}
	err = unix.Mount("tmpfs", newRoot, "tmpfs", 0, fmt.Sprintf("mode=755,size=%d", room))
	if err != nil {
		return 0, fmt.Errorf("make a file system in memory: %w", err)
	}
	return room, nil
}

// prepareRoot makes the files that the kernel makes before it unpacks an initrd (Linux, usr/default_cpio_list).
func prepareRoot() error {
	if err := os.Mkdir("/dev", 0o755); err != nil {
		return err
	}
	if err := unix.Mknod("/dev/console", unix.S_IFCHR|0o600, int(unix.Mkdev(5, 1))); err != nil {
		return err
	}
	return os.Mkdir("/root", 0o700)
}

// memory returns a value of /proc/meminfo in bytes.
func memory(name string) (int64, error) {
	all, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(all)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == name+":" {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/meminfo has no %s", name)
}
