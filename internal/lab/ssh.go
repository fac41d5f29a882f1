package lab

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/crypto/ssh"
)

// A Key is an ed25519 key in the forms that OpenSSH has them in: a login key or a host key.
type Key struct {
	Signer  ssh.Signer
	Private []byte // PEM, as in ssh_host_ed25519_key
	Public  []byte // one line, as in ssh_host_ed25519_key.pub and authorized_keys
}

// NewKey makes a key.
func NewKey(comment string) (Key, error) {
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return Key{}, fmt.Errorf("make SSH key: %w", err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return Key{}, fmt.Errorf("make SSH key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return Key{}, fmt.Errorf("encode SSH key: %w", err)
	}
	public := bytes.TrimSpace(ssh.MarshalAuthorizedKey(signer.PublicKey()))
	return Key{signer, pem.EncodeToMemory(block), append(public, " "+comment+"\n"...)}, nil
}

// A Shell is an SSH connection to a machine, as root.
type Shell struct{ client *ssh.Client }

// Dial connects to the sshd at port 22 of address, once, and insists on its host key.
func Dial(ctx context.Context, address netip.Addr, host ssh.PublicKey, login ssh.Signer) (*Shell, error) {
	return DialPort(ctx, netip.AddrPortFrom(address, 22), host, login)
}

// DialPort is Dial at any port.
func DialPort(ctx context.Context, at netip.AddrPort, host ssh.PublicKey, login ssh.Signer) (*Shell, error) {
	target := at.String()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", target)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends the handshake
	c, channels, requests, err := ssh.NewClientConn(conn, target, &ssh.ClientConfig{
		User:              "root",
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(login)},
		HostKeyCallback:   ssh.FixedHostKey(host),
		HostKeyAlgorithms: []string{host.Type()},
	})
	if !stop() || err != nil {
		return nil, errors.Join(fmt.Errorf("log in at %s: %w", target, errors.Join(err, ctx.Err())), conn.Close())
	}
	return &Shell{ssh.NewClient(c, channels, requests)}, nil
}

// Run runs a command and returns its stdout, trimmed; an error holds the end of its stderr.
func (s *Shell) Run(ctx context.Context, command string) (string, error) {
	return s.Feed(ctx, nil, command)
}

// Feed is Run with something on the command's stdin.
func (s *Shell) Feed(ctx context.Context, stdin io.Reader, command string) (string, error) {
	session, err := s.client.NewSession()
	if err != nil {
		return "", fmt.Errorf("open a session for %q: %w", command, err)
	}
	defer func() { _ = session.Close() }()
	defer context.AfterFunc(ctx, func() { _ = session.Close() })()
	var stdout, stderr bytes.Buffer
	session.Stdin, session.Stdout, session.Stderr = stdin, &stdout, &stderr
	if err := session.Run(command); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", command, errors.Join(err, ctx.Err()), tail(stderr.String(), 2000))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// Client returns the connection, for what speaks SSH itself.
func (s *Shell) Client() *ssh.Client { return s.client }

// Close hangs up.
func (s *Shell) Close() error { return s.client.Close() }
