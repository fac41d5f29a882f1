package sshlogin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	connectLimit = 10 * time.Second
	helloLimit   = 20 * time.Second // from the connection until the machine has sent its host key
)

// connection is a login to one machine: the one that was asked for, or a jump host on the way to it.
type connection struct {
	*Login
	settings  *settings
	primary   bool      // it is the machine that was asked for
	passwords bool      // passwords may be asked for
	way       []jumpHop // jump hosts; the connection goes through the last one
}

// connect logs in, and tries one type of host key after the other.
func (c *connection) connect(ctx context.Context) (*Machine, error) {
	auth, err := c.auth(ctx)
	if err != nil {
		return nil, err
	}
	defer auth.close()
	var first error
	for _, algorithms := range c.algorithms() {
		m, err := c.try(ctx, algorithms, auth)
		if err == nil || !errors.Is(err, errOtherKey) {
			return m, err
		}
		if first == nil {
			first = err
		}
	}

	return nil, first
}

// dial connects, through the last jump host if there is one.
func (c *connection) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()

	if len(c.way) > 0 {
		conn, err := c.way[len(c.way)-1].DialContext(ctx, "tcp", c.settings.address())
		if err != nil {
			return nil, fmt.Errorf("connect to %s through %s: %w", c.settings.name(), c.jump(), err)
		}
		return conn, nil
	}

	conn, err := new(net.Dialer).DialContext(ctx, "tcp", c.settings.address())
	var timeout net.Error
	name := c.settings.name()
	switch {
	case err == nil || errors.Is(ctx.Err(), context.Canceled):
		return conn, err
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("connect to %s: nothing listens there (connection refused): start sshd on the "+
			"machine, or name its port with --ssh ADDRESS:PORT", name)
	case errors.As(err, &timeout) && timeout.Timeout():
		return nil, fmt.Errorf("connect to %s: no answer within %s: is the address right, the machine on, and its "+
			"firewall open for SSH?", name, connectLimit)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return nil, fmt.Errorf("connect to %s: there is no way to it from here (%w): is the address right, and the "+
			"machine on?", name, err)
	}

	return nil, fmt.Errorf("connect to %s: %w", name, err)
}

// jump returns the last jump host, for people; empty if there is none.
func (c *connection) jump() string {
	if len(c.way) == 0 {
		return ""
	}
	return c.way[len(c.way)-1].name
}

// try connects once, and accepts only host keys of the given algorithms.
func (c *connection) try(ctx context.Context, algorithms []string, auth *authFlow) (*Machine, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}

	s := c.settings
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	m := &Machine{Host: s.host, Port: s.port, User: s.user, Jump: c.jump()}
	if remote, err := netip.ParseAddrPort(conn.RemoteAddr().String()); err == nil && m.Jump == "" {
		m.Address = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	}

	var refused error

	// The machine has limited time to answer, but a person may take time to confirm the key.
	hello := time.AfterFunc(helloLimit, func() { conn.Close() })
	defer hello.Stop()

	client, chans, reqs, err := ssh.NewClientConn(conn, s.address(), &ssh.ClientConfig{
		User: s.user, Auth: auth.methods, HostKeyAlgorithms: algorithms,
		HostKeyCallback: func(_ string, remote net.Addr, key ssh.PublicKey) error {
			hello.Stop()
			m.How, refused = c.judge(ctx, remote, key)
			m.HostKey = key
			if cert, is := key.(*ssh.Certificate); is {
				m.HostKey = cert.Key // the key that the machine shows to clients that do not ask for certificates
			}
			return refused
		}})
	if err != nil {
		conn.Close()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case refused != nil:
			return nil, refused
		case m.HostKey != nil:
			return nil, &Refused{*m, fmt.Errorf("log in as %s on %s: %w; tried: %s; give another key with -i FILE, "+
				"another user with "+
				"--ssh USER@ADDRESS, or let one in with `ssh-copy-id %s@%s`", s.user, s.name(), err, auth, s.user, s.host)}
		case c.given() != "" && noneInCommon(err):
			return nil, fmt.Errorf("connect to %s: it has no host key of the type of --ssh-host-key (%w): %w", s.name(), errOtherKey, err)
		}

		return nil, fmt.Errorf("speak SSH with %s: %w", s.name(), err)
	}

	if !stop() {
		client.Close()
		return nil, ctx.Err()
	}
	m.Client = ssh.NewClient(client, chans, reqs)
	return m, nil
}

// noneInCommon reports whether the two sides have no algorithm in common.
func noneInCommon(err error) bool {
	var none *ssh.AlgorithmNegotiationError
	return errors.As(err, &none)
}
