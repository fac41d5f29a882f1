package pxe

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenUDP opens a port on one interface, with leave to broadcast. It does
// not share the port: two servers that both answer would be worse than an
// error.
func listenUDP(ctx context.Context, ifname string, port int) (*net.UDPConn, error) {
	lc := net.ListenConfig{Control: withOptions(func(fd int) error {
		return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1), unix.BindToDevice(fd, ifname))
	})}
	conn, err := lc.ListenPacket(ctx, "udp4", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, portError("udp", port, err)
	}
	return conn.(*net.UDPConn), nil
}

// withOptions sets a socket's options before it is bound or connected.
func withOptions(set func(fd int) error) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		ctl := c.Control(func(fd uintptr) { err = set(int(fd)) })
		return errors.Join(ctl, err)
	}
}

// roomFor lets so many packets wait in a socket's buffer. By default it is some
// 270 of them, and machines may well be switched on by the hundred.
func roomFor(conn *net.UDPConn, packets int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	size := packets * 1152 // the kernel doubles it; a packet costs it 768 to 2304 bytes
	return raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1) // see overflow
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
			// Without CAP_NET_ADMIN: as much as net.core.rmem_max allows.
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, size)
		}
	})
}

// overflow is how many packets the kernel has dropped because a socket had no room for them, since it was opened, as it
// tells with the packets that come after them (SO_RXQ_OVFL, socket(7)); 0: none, or it does not tell.
func overflow(control []byte) uint32 {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		isCount := m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_RXQ_OVFL && len(m.Data) >= 4
		if isCount {
			return binary.NativeEndian.Uint32(m.Data)
		}
	}
	return 0
}

// portError says who has the port, if that can be found out.
func portError(proto string, port int, err error) error {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		by := ""
		if owner := PortOwner(proto, port); owner != "" {
			by = " by " + owner
		}
		return fmt.Errorf("listen on %s port %d: it is taken%s; stop that, or see `provision serve --help` for "+
			"other modes and ports", proto, port, by)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("listen on %s port %d: not permitted; run as root or with CAP_NET_BIND_SERVICE and "+
			"CAP_NET_RAW", proto, port)
	}
	return fmt.Errorf("listen on %s port %d: %w", proto, port, err)
}

// PortOwner names the process that listens on a port of udp or tcp, as "dnsmasq (pid 42)".
// It is empty if that process is not ours to see.
func PortOwner(proto string, port int) string {
	inodes := socketInodes("/proc/thread-self/net/"+proto, port)
	maps.Copy(inodes, socketInodes("/proc/thread-self/net/"+proto+"6", port)) // who listens on [::] has IPv4's port, too
	if len(inodes) == 0 {
		return ""
	}
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		link, err := os.Readlink(fd)
		if err != nil || !inodes[link] {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		name, _ := os.ReadFile("/proc/" + pid + "/comm")
		return fmt.Sprintf("%s (pid %s)", strings.TrimSpace(string(name)), pid)
	}

	return ""
}

// socketInodes reads proc_net(5): the sockets bound to a local port, as the
// links under /proc/PID/fd name them.
func socketInodes(file string, port int) map[string]bool {
	inodes := make(map[string]bool)
	f, err := os.Open(file)
	if err != nil {
		return inodes
	}
	defer f.Close()
	want := fmt.Sprintf(":%04X", port)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 9 && strings.HasSuffix(fields[1], want) {
			inodes["socket:["+fields[9]+"]"] = true
		}
	}

	return inodes
}
