package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setFlags sets and clears flags of a network card (netdevice(7)).
func setFlags(name string, on, off uint16) error {
	return ioctl(name, func(fd int, ifr *unix.Ifreq) error {
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
			return err
		}
		ifr.SetUint16(ifr.Uint16()&^off | on)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
	})
}

// setAddress sets the only IPv4 address of a network card; 0.0.0.0 removes it.
func setAddress(name string, addr netip.Prefix) error {
	err := ioctl(name, func(fd int, ifr *unix.Ifreq) error {
		if err := ifr.SetInet4Addr(addr.Addr().AsSlice()); err != nil {
			return err
		}
		return unix.IoctlIfreq(fd, unix.SIOCSIFADDR, ifr)
	})
	if err != nil || addr.Addr().IsUnspecified() {
		return err
	}
	return ioctl(name, func(fd int, ifr *unix.Ifreq) error {
		if err := ifr.SetInet4Addr(net.CIDRMask(addr.Bits(), 32)); err != nil {
			return err
		}
		return unix.IoctlIfreq(fd, unix.SIOCSIFNETMASK, ifr)
	})
}

// ioctl calls f with a socket and a request for a network card.
func ioctl(name string, f func(fd int, ifr *unix.Ifreq) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	return f(fd, ifr)
}

// addRoute adds a default route through a gateway on a card, in addition to those on other cards (rtnetlink(7)). The
// gateway need not be in the card's network.
func addRoute(name string, gateway netip.Addr) error {
	card, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}

	le := binary.NativeEndian
	var b []byte
	b = append(b, make([]byte, unix.NLMSG_HDRLEN)...)
	b = append(b, unix.AF_INET, 0, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RT_SCOPE_UNIVERSE, unix.RTN_UNICAST)
	b = le.AppendUint32(b, unix.RTNH_F_ONLINK)
	attr := func(kind uint16, data []byte) {
		b = le.AppendUint16(b, uint16(unix.SizeofRtAttr+len(data)))
		b = le.AppendUint16(b, kind)
		b = append(b, data...)
	}
	attr(unix.RTA_GATEWAY, gateway.AsSlice())
	attr(unix.RTA_OIF, le.AppendUint32(nil, uint32(card.Index)))
	attr(unix.RTA_PRIORITY, le.AppendUint32(nil, uint32(1000+card.Index)))
	le.PutUint32(b[0:], uint32(len(b)))
	le.PutUint16(b[4:], unix.RTM_NEWROUTE)
	le.PutUint16(b[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	return askKernel(b)
}

// askKernel sends an rtnetlink message and waits for its acknowledgement.
func askKernel(message []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)

	if err := unix.Sendto(fd, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}

	buf := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return err
	}

	answers, err := syscall.ParseNetlinkMessage(buf[:n])
	if err != nil {
		return err
	}

	for _, a := range answers {
		if a.Header.Type == unix.NLMSG_ERROR && len(a.Data) >= 4 {
			if code := int32(binary.NativeEndian.Uint32(a.Data)); code != 0 {
				return syscall.Errno(-code)
			}
			return nil
		}
	}

	return fmt.Errorf("the kernel gave no answer to a change of routes")
}

// onCard returns a Control function for net that binds a socket to a network card, and then calls more, if not nil.
func onCard(name string, more func(fd int) error) func(_, _ string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		control := c.Control(func(fd uintptr) {
			if err = unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, name); err == nil && more != nil {
				err = more(int(fd))
			}
		})
		if control != nil {
			return control
		}
		return os.NewSyscallError("setsockopt", err)
	}
}

// dialFrom connects to the server through a card.
func dialFrom(ctx context.Context, card string, server netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Timeout: 10 * time.Second, Control: onCard(card, nil)}
	conn, err := d.DialContext(ctx, "tcp", server.String())
	if err != nil {
		return nil, err
	}
	return &patient{conn}, nil
}

// patient is a connection whose reads fail when nothing has arrived for the time patience: a server whose power was cut
// does not close its connections.
type patient struct{ net.Conn }

const patience = 30 * time.Second

func (p *patient) Read(b []byte) (int, error) {
	if err := p.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return 0, err
	}
	return p.Conn.Read(b)
}
