// Package sshlogin logs an operator in to a machine: with the operator's own keys, which the server does not have, by a
// host key that the operator knows, and by the settings for the machine in ~/.ssh/config.
//
// It reads ssh_config(5) itself. `ssh -G` would run the commands of Match exec, as root if the caller used sudo; and
// the existing library, kevinburke/ssh_config, refuses files with any Match other than host and all. This package never
// runs commands, and does not honour settings that weaken the check of the host key.
package sshlogin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Target is a machine as it was typed, or as ProxyJump names it.
type Target struct {
	User string // "": not given
	Host string
	Port int // 0: not given
}

// ParseTarget reads [USER@]ADDRESS[:PORT].
func ParseTarget(s string) (Target, error) {
	t := Target{Host: s}
	wrong := fmt.Errorf("%s: write [USER@]ADDRESS[:PORT], such as root@192.168.1.20", s)
	if at := strings.LastIndex(s, "@"); at >= 0 {
		t.User, t.Host = s[:at], s[at+1:]
		if t.User == "" || strings.HasPrefix(t.User, "-") {
			return Target{}, wrong
		}
	}

	ip, err := netip.ParseAddr(strings.Trim(t.Host, "[]"))
	if err == nil {
		t.Host = ip.String()
		return t, nil
	}

	if colon := strings.LastIndex(t.Host, ":"); colon >= 0 {
		port, err := strconv.ParseUint(t.Host[colon+1:], 10, 16)
		if err != nil || port == 0 {
			return Target{}, fmt.Errorf("%s: ports go from 1 to 65535", s)
		}
		t.Host, t.Port = t.Host[:colon], int(port)
	}

	if bare, ok := strings.CutPrefix(t.Host, "["); ok {
		ip, err := netip.ParseAddr(strings.TrimSuffix(bare, "]"))
		if err != nil {
			return Target{}, wrong
		}
		t.Host = ip.String()
		return t, nil
	}

	if t.Host == "" || strings.ContainsAny(t.Host, " \t:/[]") || strings.HasPrefix(t.Host, "-") {
		return Target{}, wrong
	}
	return t, nil
}

// Person is somebody at a terminal who can be asked. Line returns what was typed, without the newline.
type Person interface {
	Line(ctx context.Context, prompt string) (string, error)
	// Secret is Line without showing what is typed.
	Secret(ctx context.Context, prompt string) (string, error)
}

// Login is what is known about a machine and about who logs in to it.
type Login struct {
	Target     Target
	Identities []string   // key files that were named; each must exist
	HostKey    string     // authorized_keys form or SHA256:…; "": known, or asked for
	Operators  []Operator // whose settings and keys are used; the first has precedence
	System     string     // folder of ssh_config and ssh_known_hosts; "": none
	Ask        Person     // nil: nobody can be asked

	confirmed map[string]bool // fingerprints of host keys that the person confirmed
}

// CheckHostKey returns an error if key is neither empty, nor a public key, nor a fingerprint.
func CheckHostKey(key string) error {
	if key == "" || fingerprintPattern(key) {
		return nil
	}
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key)); err != nil {
		return fmt.Errorf("%s: write a public key (ssh-ed25519 AAAA…) or its fingerprint (SHA256:…), as "+
			"`ssh-keygen -lf` prints it", key)
	}
	return nil
}

// fingerprintPattern reports whether s has the form of a fingerprint: SHA256: and 32 bytes in unpadded base64.
func fingerprintPattern(s string) bool {
	hash, ok := strings.CutPrefix(s, "SHA256:")
	return ok && len(hash) == 43
}

// Machine is a machine whose host key was accepted.
type Machine struct {
	Client  *ssh.Client // nil: the login failed
	HostKey ssh.PublicKey
	How     string         // why the host key was accepted, for people
	Host    string         // its name or address
	Port    int            // of its sshd, as connected to
	User    string         // the user to log in as
	Address netip.AddrPort // the address of the connection; invalid if that was through a jump host
	Jump    string         // the last jump host, HOST:PORT; "": none
	Notes   []string       // settings that were not honoured, for people

	way []jumpHop
}

// jumpHop is a connection to a jump host.
type jumpHop struct {
	*ssh.Client
	name string
}

// Name returns HOST:PORT, for people.
func (m *Machine) Name() string { return net.JoinHostPort(m.Host, strconv.Itoa(m.Port)) }

// Close ends the connection, and those to jump hosts.
func (m *Machine) Close() {
	if m.Client != nil {
		m.Client.Close()
	}
	for _, h := range slices.Backward(m.way) {
		h.Close()
	}
}

// Refused is the error of a machine that has an accepted host key, but where no login succeeded.
type Refused struct {
	Machine Machine // without a Client
	err     error
}

// Error returns the text of SSH's error.
func (r *Refused) Error() string { return r.err.Error() }

// Unwrap returns SSH's error.
func (r *Refused) Unwrap() error { return r.err }

// maxHops bounds the depth of jumps: each jump host may need further ones.
const maxHops = 8

// Connect logs in: by keys and, if passwords is set and somebody can be asked, by password. The error is a *Refused if
// only the login failed.
func (l *Login) Connect(ctx context.Context, passwords bool) (*Machine, error) {
	return l.connect(ctx, l.Target, passwords, 0)
}

// connect logs in to a machine. depth is 0 for the machine that was asked for, and counts up for jump hosts.
func (l *Login) connect(ctx context.Context, to Target, passwords bool, depth int) (*Machine, error) {
	if depth > maxHops {
		return nil, fmt.Errorf("the way to %s leads through more than %d machines: does ProxyJump in ~/.ssh/config "+
			"go in a circle?",
			l.Target.Host, maxHops)
	}
	s, err := l.resolve(to, depth == 0)
	if err != nil {
		return nil, err
	}

	way, err := l.jumps(ctx, s, depth)
	if err != nil {
		return nil, err
	}

	c := &connection{Login: l, settings: s, primary: depth == 0, passwords: passwords, way: way}
	m, err := c.connect(ctx)
	var refused *Refused
	if errors.As(err, &refused) {
		refused.Machine.Notes = s.notes
	}
	if err != nil {
		(&Machine{way: way}).Close()
		return nil, err
	}

	m.Notes, m.way = s.notes, way
	return m, nil
}

// jumps logs in to the jump hosts, each through the one before.
func (l *Login) jumps(ctx context.Context, s *settings, depth int) (way []jumpHop, err error) {
	for i, next := range s.jumps {
		var m *Machine
		if i == 0 {
			m, err = l.connect(ctx, next, true, depth+1)
		} else {
			m, err = l.connectThrough(ctx, next, way)
		}
		if err != nil {
			(&Machine{way: way}).Close()
			return nil, fmt.Errorf("on the way to %s (ProxyJump, %s): %w", s.name(), s.jumpsAt, err)
		}
		way = append(append(way, m.way...), jumpHop{m.Client, m.Name()})
	}

	return way, nil
}

// connectThrough logs in to a further jump host. As in ssh, its own ProxyJump is ignored.
func (l *Login) connectThrough(ctx context.Context, to Target, way []jumpHop) (*Machine, error) {
	s, err := l.resolve(to, false)
	if err != nil {
		return nil, err
	}
	c := &connection{Login: l, settings: s, passwords: true, way: way}
	return c.connect(ctx)
}
