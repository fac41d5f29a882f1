// Package sshlogin is how an operator gets into a machine: with their own keys, which the server has not, by a host
// key that they know, and by what their ~/.ssh/config says of the machine.
//
// It reads ssh_config(5) itself. `ssh -G` would run the commands of Match exec, for root if the caller used sudo; and
// the library that is there for it, kevinburke/ssh_config, refuses a file that has any Match but host and all. What
// runs commands is never run here, and what weakens the check of the host key is not honoured.
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

// A Target is a machine as it was typed, or as ProxyJump names it.
type Target struct {
	User string // "": not said
	Host string
	Port int // 0: not said
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

// A Person is somebody at a terminal who can be asked.
type Person interface {
	Line(ctx context.Context, prompt string) (string, error)
	// Secret is Line for what is not to be shown.
	Secret(ctx context.Context, prompt string) (string, error)
}

// A Login is what is known of a machine and of who wants to get into it.
type Login struct {
	Target     Target
	Identities []string   // key files that were named; each must be there
	HostKey    string     // authorized_keys form or SHA256:…; "": known, or asked for
	Operators  []Operator // whose settings and keys count; what the first says wins
	System     string     // folder of ssh_config and ssh_known_hosts; "": there is none
	Ask        Person     // nil: nobody is there

	confirmed map[string]bool // fingerprints of host keys that the person has confirmed
}

// CheckHostKey refuses what a given host key cannot mean.
func CheckHostKey(key string) error {
	if key == "" || fingerprintPattern(key) {
		return nil
	}
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key)); err != nil {
		return fmt.Errorf("%s: write a public key (ssh-ed25519 AAAA…) or its fingerprint (SHA256:…), as `ssh-keygen -lf` prints it", key)
	}
	return nil
}

// fingerprintPattern: SHA256: and 32 bytes in unpadded base64.
func fingerprintPattern(s string) bool {
	hash, ok := strings.CutPrefix(s, "SHA256:")
	return ok && len(hash) == 43
}

// A Machine is one whose host key was believed.
type Machine struct {
	Client  *ssh.Client // nil: it let nobody in
	HostKey ssh.PublicKey
	How     string         // why the host key is believed
	Host    string         // what it is called, or its address
	Port    int            // of its sshd, as it was connected to
	User    string         // who was to be logged in
	Address netip.AddrPort // what was connected to; not valid if that was not from here
	Jump    string         // the last machine on the way, host and port; "": reached from here
	Notes   []string       // what in the settings was not honoured, for people

	way []jumpHop
}

// jumpHop is a machine on the way.
type jumpHop struct {
	*ssh.Client
	name string
}

// Name is the machine for people: its host and its port.
func (m *Machine) Name() string { return net.JoinHostPort(m.Host, strconv.Itoa(m.Port)) }

// Close ends the connection.
func (m *Machine) Close() {
	if m.Client != nil {
		m.Client.Close()
	}
	for _, h := range slices.Backward(m.way) {
		h.Close()
	}
}

// Refused is the error of a machine that has the right host key, and lets nobody in by what there is.
type Refused struct {
	Machine Machine // without a client
	err     error
}

// Error is what SSH said.
func (r *Refused) Error() string { return r.err.Error() }

// Unwrap returns what SSH said.
func (r *Refused) Unwrap() error { return r.err }

// maxHops bounds the jumps: each may have jumps of its own.
const maxHops = 8

// Connect logs in, by keys and, if somebody can be asked and passwords are wanted, by password. The error is a *Refused
// if only the login failed.
func (l *Login) Connect(ctx context.Context, passwords bool) (*Machine, error) {
	return l.connect(ctx, l.Target, passwords, 0)
}

func (l *Login) connect(ctx context.Context, to Target, passwords bool, depth int) (*Machine, error) {
	if depth > maxHops {
		return nil, fmt.Errorf("the way to %s leads through more than %d machines: does ProxyJump in ~/.ssh/config go in a circle?",
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

// jumps logs in to the machines on the way, one through the other.
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

// connectThrough logs in to a further machine on the way. Its own ProxyJump does not count, as with ssh.
func (l *Login) connectThrough(ctx context.Context, to Target, way []jumpHop) (*Machine, error) {
	s, err := l.resolve(to, false)
	if err != nil {
		return nil, err
	}
	c := &connection{Login: l, settings: s, passwords: true, way: way}
	return c.connect(ctx)
}
