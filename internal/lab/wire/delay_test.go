package wire

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// delay makes what the host sends late: by netem where the kernel has it, else by a relay between two tap devices,
// which takes the place of the cable.
func (w *world) delay(s *side, by time.Duration) {
	w.Helper()
	if _, err := s.host.Run(w.ctx, "tc", "qdisc", "add", "dev", s.host.Interface, "root", "netem", "delay", fmt.Sprintf("%dus", by.Microseconds()), "limit", "10000"); err == nil {
		w.delayed = " (netem)"
		return
	}
	w.delayed = " (relay)" // in this process, for want of netem in the kernel
	port := "d-" + s.lan.Interface
	outer, err := openTap(port)
	w.must(err)
	w.must(s.lan.Tap(w.ctx, port))
	var inner int
	w.must(s.host.Do(func() (err error) { inner, err = openTap("eth1"); return err }))
	for _, args := range [][]string{
		{"address", "delete", s.self.String(), "dev", s.host.Interface},
		{"address", "add", s.self.String(), "dev", "eth1"},
		{"link", "set", "eth1", "up"},
	} {
		_, err := s.host.Run(w.ctx, "ip", args...)
		w.must(err)
	}
	s.host.Interface = "eth1"
	go relay(inner, outer, by)
	go relay(outer, inner, 0)
	w.Cleanup(func() { unix.Close(outer); unix.Close(inner) })
}

// openTap makes a tap device in the thread's network namespace. It blocks, as netpoll would cost more than it delays.
func openTap(name string) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("open /dev/net/tun", err)
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	return fd, os.NewSyscallError("TUNSETIFF", unix.IoctlIfreq(fd, unix.TUNSETIFF, req))
}

// relay passes frames on, each so long after it came.
func relay(from, to int, by time.Duration) {
	type frame struct {
		due  time.Time
		data []byte
	}
	frames := make(chan frame, 4096)
	if by > 0 {
		go func() {
			for f := range frames {
				time.Sleep(time.Until(f.due))
				unix.Write(to, f.data)
			}
		}()
	}
	defer close(frames)
	p := make([]byte, 2048)
	for {
		n, err := unix.Read(from, p)
		if err != nil {
			return // closed
		}
		if by == 0 {
			unix.Write(to, p[:n])
			continue
		}
		frames <- frame{time.Now().Add(by), append([]byte(nil), p[:n]...)}
	}
}
