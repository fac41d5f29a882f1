package wire

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// The clients are as cheap as can be, because they run on the server's cores: plain blocking sockets.

const blksize = 1468

// tftpGet downloads a file lock-step, or in windows (RFC 7440) if window is more than 1, and returns its length.
func tftpGet(server netip.AddrPort, name string, window int) (size int64, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return 0, err
	}
	request := fmt.Sprintf("\x00\x01%s\x00octet\x00blksize\x00%d\x00tsize\x000\x00", name, blksize)
	if window > 1 {
		request += fmt.Sprintf("windowsize\x00%d\x00", window)
	}
	p := make([]byte, 2048)
	var n int
	var from unix.Sockaddr
	for tries := 0; tries == 0 || err == unix.EAGAIN && tries < 8; tries++ {
		if err := unix.Sendto(fd, []byte(request), 0, &unix.SockaddrInet4{Port: int(server.Port()), Addr: server.Addr().As4()}); err != nil {
			return 0, err
		}
		n, err = again(func() (n int, err error) { n, from, err = unix.Recvfrom(fd, p, 0); return n, err })
	}
	if err != nil {
		return 0, fmt.Errorf("wait for the answer: %w", err)
	}
	if p[1] != 6 || window > 1 && !bytes.Contains(p[:n], []byte("windowsize")) {
		return 0, fmt.Errorf("the answer is %q", p[:n])
	}
	if err := unix.Connect(fd, from); err != nil {
		return 0, err
	}
	return tftpBlocks(fd, p, window)
}

func tftpBlocks(fd int, p []byte, window int) (size int64, err error) {
	ack := []byte{0, 4, 0, 0}
	send := func(block uint16) error {
		binary.BigEndian.PutUint16(ack[2:], block)
		_, err := unix.Write(fd, ack)
		return err
	}
	last, unacked := uint16(0), 0
	if err := send(0); err != nil {
		return 0, err
	}
	for tries := 0; ; {
		n, err := again(func() (int, error) { return unix.Read(fd, p) })
		if err == unix.EAGAIN && tries < 8 {
			tries++
			err = send(last)
			n = 0
		}
		if err != nil {
			return size, fmt.Errorf("after block %d: %w", last, err)
		}
		if n < 4 || p[1] != 3 {
			if n >= 4 && p[1] == 5 {
				return size, fmt.Errorf("the server says %q", p[4:n])
			}
			continue
		}
		if binary.BigEndian.Uint16(p[2:]) != last+1 {
			if unacked > 0 { // one was lost
				unacked = 0
				if err := send(last); err != nil {
					return size, err
				}
			}
			continue
		}
		last, tries, unacked = last+1, 0, unacked+1
		size += int64(n - 4)
		if n < blksize+4 {
			return size, send(last)
		}
		if unacked >= window {
			unacked = 0
			if err := send(last); err != nil {
				return size, err
			}
		}
	}
}

// httpGet downloads a file and returns its length. The kernel drops the bytes (MSG_TRUNC of tcp(7)): what is compared
// is the servers, not how fast this machine copies.
func httpGet(server netip.AddrPort, path string) (size int64, err error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(server.Port()), Addr: server.Addr().As4()}); err != nil {
		return 0, err
	}
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, server)
	if _, err := unix.Write(fd, []byte(request)); err != nil {
		return 0, err
	}
	p := make([]byte, 1<<20)
	header := 0
	for end := -1; end < 0; {
		n, err := again(func() (int, error) { return unix.Read(fd, p[header:4096]) })
		if err != nil || n == 0 {
			return 0, fmt.Errorf("read the header: %d bytes, %w", n, err)
		}
		header += n
		if end = bytes.Index(p[:header], []byte("\r\n\r\n")); end >= 0 {
			size = int64(header - end - 4)
		}
	}
	if !bytes.HasPrefix(p, []byte("HTTP/1.1 200 ")) {
		return 0, fmt.Errorf("the answer is %q", p[:min(header, 40)])
	}
	for {
		n, err := again(func() (n int, err error) { n, _, err = unix.Recvfrom(fd, p, unix.MSG_TRUNC); return n, err })
		if err != nil || n == 0 {
			return size, err
		}
		size += int64(n)
	}
}

// again calls f until no signal (Go's scheduler sends them) comes in between.
func again(f func() (int, error)) (n int, err error) {
	for err = unix.EINTR; err == unix.EINTR; {
		n, err = f()
	}
	return n, err
}
