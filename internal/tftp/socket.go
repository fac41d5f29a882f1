package tftp

import (
	"errors"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// dial opens the port of one transfer (RFC 1350, section 4). What is sent from it may be fragmented on its way:
// firmware asks for blocks as large as its own network carries, and a network between may carry less.
func dial(client netip.AddrPort) (*net.UDPConn, error) {
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(client))
	if err != nil {
		return nil, err
	}
	err = setOptions(conn, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
	})
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// growReceiveBuffer lets so many packets wait in a socket's buffer. The default is some 270, and machines may well be
// switched on by the hundred.
func growReceiveBuffer(conn *net.UDPConn, packets int) error {
	size := packets * 1152 // the kernel doubles it; a packet costs it 768 to 2304 bytes
	return setOptions(conn, func(fd int) error {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
			// Without CAP_NET_ADMIN: as much as net.core.rmem_max allows.
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, size)
		}
		return nil
	})
}

// setOptions calls set with the file descriptor of a socket.
func setOptions(conn *net.UDPConn, set func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var optErr error
	ctlErr := raw.Control(func(fd uintptr) { optErr = set(int(fd)) })
	return errors.Join(ctlErr, optErr)
}
