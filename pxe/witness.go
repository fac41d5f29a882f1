package pxe

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"provision/hosts"
)

// A boot's token goes out by broadcast, so the whole link knows it. Whoever fetches with it must be the host's machine
// by a second witness: on the link by the MAC that the kernel has resolved for its address, behind a router by the
// address that DHCP has seen the machine take. Somebody who forges ARP answers, or has the machine's MAC, passes.

// vouch returns a hosts.ErrRefused unless the client at an address, whose MAC is this one, or "" if that is not known,
// is the host's machine.
func (s *Server) vouch(l *servedLink, h hosts.Host, at netip.Addr, mac string) error {
	switch {
	case slices.Contains(h.MACs, mac):
		return nil
	case mac != "":
		return fmt.Errorf("%w: %s has the MAC %s, which is not one of %s's; if it is another network card of that "+
			"machine, "+
			"run `provision cancel %s` and `provision set %s --mac=+%s`, and enroll it again",
			hosts.ErrRefused, at, mac, h.Name, h.Name, h.Name, mac)
	case l.net.Contains(at):
		return fmt.Errorf("%w: %s does not answer ARP, so its MAC is not known", hosts.ErrRefused, at)
	case h.Address == at.String() || s.Mode == Off && s.serves(at):
		return nil
	}

	return fmt.Errorf("%w: %s is on no link of ours, and DHCP has not seen %s take it; if a relay is between, "+
		"serve with --relay NETWORK", hosts.ErrRefused, at, h.Name)
}

// vouchSoon is vouch for somebody who waits for an answer: the kernel asks for a MAC that it has forgotten, and a
// DHCPREQUEST that came just now may still be on its way to the disk.
func (s *Server) vouchSoon(ctx context.Context, l *servedLink, h hosts.Host, at netip.Addr) error {
	mac := l.resolve(ctx, at)
	err := s.vouch(l, h, at, mac)
	if err == nil || mac != "" || l.net.Contains(at) {
		return err
	}

	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()

	changed := s.Hosts.Watch(ctx)
	for more := true; more; _, more = <-changed {
		now, getErr := s.Hosts.Get(h.Name)
		if getErr != nil {
			return getErr
		}
		if err = s.vouch(l, now, at, mac); err == nil {
			return nil
		}
	}

	return err
}

// resolve is neighbour, and has the kernel ask for an address on the link that it has forgotten.
func (l *servedLink) resolve(ctx context.Context, addr netip.Addr) string {
	mac := l.neighbour(addr)
	if mac != "" || !l.net.Contains(addr) {
		return mac
	}
	changes, err := openRTNetlink(unix.RTMGRP_NEIGH)
	if err != nil {
		return ""
	}
	defer changes.Close()

	// The kernel asks three times, a second apart.
	if changes.SetReadDeadline(time.Now().Add(4*time.Second)) != nil || l.ask(addr) != nil {
		return ""
	}
	defer context.AfterFunc(ctx, func() { changes.SetReadDeadline(time.Unix(1, 0)) })()

	message := make([]byte, 8192)
	for err == nil && mac == "" {
		_, err = changes.Read(message) // of whatever neighbour
		mac = l.neighbour(addr)
	}

	return mac
}

// ask has the kernel ask for an address by ARP, by sending it a datagram to the port that discards them (RFC 863).
func (l *servedLink) ask(addr netip.Addr) error {
	d := net.Dialer{Control: withOptions(func(fd int) error { return unix.BindToDevice(fd, l.name) })}
	conn, err := d.Dial("udp4", netip.AddrPortFrom(addr, 9).String())
	if err != nil {
		return fmt.Errorf("ask for the MAC of %s: %w", addr, err)
	}
	defer conn.Close()
	_, err = conn.Write([]byte{0})
	return err
}
