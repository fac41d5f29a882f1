package pxe

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// linkChanges tells, until ctx ends, that the machine's interfaces or their IPv4 addresses have changed. What
// has changed is for its reader to look up: several changes may be one.
func linkChanges(ctx context.Context) (<-chan struct{}, error) {
	socket, err := openRTNetlink(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR)
	if err != nil {
		return nil, fmt.Errorf("follow the network interfaces: %w", err)
	}

	changed := make(chan struct{}, 1)
	context.AfterFunc(ctx, func() { socket.Close() })
	go func() {
		buf := make([]byte, 8192)
		for {
			// An error may be that messages were lost, for there were too many: ENOBUFS.
			if _, err := socket.Read(buf); err != nil && ctx.Err() != nil {
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	return changed, nil
}

// openRTNetlink opens the kernel's messages of these groups (rtnetlink(7)).
func openRTNetlink(groups uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "rtnetlink"), nil
}
