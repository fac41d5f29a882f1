package installer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"provision/hosts"
)

// askLimit bounds a question to what came up: the login shell of stage 1 may ask for the passphrase instead.
const askLimit = 15 * time.Second

// who is who answers SSH where a restarted machine may be. The later, the more it says.
type who int

const (
	nobody      who = iota
	stranger        // it has not the host's key, or none that we can talk about
	unclear         // it has the host's key, and is the system or its stage 1
	inStage1        // the host's stage 1
	theHost         // its system
	installerUp     // the installer, which did not restart
)

// sshAnswer is what came of one look at a port.
type sshAnswer struct {
	who    who
	addr   string
	port   int
	system string // what theHost runs; empty: it was not compared, for a reason
	why    error
	mute   bool // it does not say what it runs, as it may soon
	in     bool // it lets us in
}

// at is the place for people: ssh's own port is not told.
func (a sshAnswer) at() string {
	if a.port == 22 {
		return a.addr
	}
	return fmt.Sprintf("%s port %d", a.addr, a.port)
}

// ask looks who answers.
func (f *reconciler) ask(ctx context.Context, h hosts.Host, addr string, port int) sshAnswer {
	a := sshAnswer{addr: addr, port: port}
	stage1 := h.Expected.Stage1.Port == port
	s, proved, other, err := dial(ctx, addr, port, h.HostKey, f.signer)
	var noCommon *ssh.AlgorithmNegotiationError
	switch {
	case errors.Is(err, errWrongKey) && other == h.Boot.HostKey && port == cmp.Or(h.Boot.Port, 22):
		a.who = installerUp
	case stage1 && (errors.Is(err, errWrongKey) || errors.As(err, &noCommon)):
		a.who = inStage1
	case errors.Is(err, errWrongKey), errors.As(err, &noCommon):
		if slices.Contains(h.SSHPorts(), port) { // elsewhere it may be any program's
			a.who = stranger
		}
	case !proved:
		f.Log.Debug("not up yet", "host", h.Name, "addr", addr, "port", port, "err", err)
	case s == nil && letsNotIn(err):
		a.who, a.why = theHost, errors.New("it lets this server not log in")
	case s == nil: // so busy that the time was over, or still starting
		a.who, a.why = theHost, fmt.Errorf("its login breaks off (%w)", err)
		a.mute = true
	default:
		a.who, a.in = theHost, true
		a.read(ctx, s)
		s.client.Close()
	}

	if stage1 && (a.who == theHost && a.system == "" || a.who == unclear) {
		a.who = f.tellApart(ctx, h, a)
	}
	return a
}

// question prints the system that runs, and what tells systemd's stage 1. In that of busybox, readlink may fail.
const question = `readlink -f /run/current-system || echo none; [ ! -e /etc/initrd-release ] || echo initrd`

// read asks what runs. In stage 1 there is no system yet.
func (a *sshAnswer) read(ctx context.Context, s *session) {
	out, err := s.runWithin(ctx, askLimit, nil, nil, "sh", "-c", question)
	said := strings.Fields(string(out))
	switch {
	case err != nil:
		a.mute, a.why = true, fmt.Errorf("it does not say what it runs (%w)", err)
	case len(said) == 1 && strings.HasPrefix(said[0], "/nix/store/"):
		a.system = said[0]
	case len(said) > 0 && said[len(said)-1] == "initrd":
		a.who = inStage1
	default:
		a.who, a.why = unclear, errors.New("it has no /run/current-system")
	}
}

// tellApart decides whether the host's key was shown by its system or by its stage 1, at the port of stage 1.
func (f *reconciler) tellApart(ctx context.Context, h hosts.Host, a sshAnswer) who {
	stage1 := h.Expected.Stage1
	switch {
	case a.who == unclear, !slices.Contains(h.SSHPorts(), stage1.Port):
		return inStage1
	case !stage1.OwnKey, h.Restart.Seen != "":
		return theHost
	case stage1.SystemKey != "" && offers(ctx, a.addr, a.port, stage1.SystemKey):
		return theHost
	case stage1.SystemKey != "", a.mute && a.in:
		return inStage1
	}
	return unclear
}

// offers reports whether an SSH server has a host key of a type.
func offers(ctx context.Context, addr string, port int, keyType string) bool {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()

	conn, err := (&net.Dialer{Timeout: connectLimit}).DialContext(ctx, "tcp", net.JoinHostPort(addr, strconv.Itoa(port)))
	if err != nil {
		return false
	}
	defer conn.Close()

	defer context.AfterFunc(ctx, func() { conn.Close() })()

	shown := false
	config := &ssh.ClientConfig{
		User:              "root",
		HostKeyAlgorithms: algorithms(keyType),
		HostKeyCallback: func(string, net.Addr, ssh.PublicKey) error {
			shown = true
			return errWrongKey // which ends it
		},
	}
	_, _, _, err = ssh.NewClientConn(conn, addr, config)
	return shown && err != nil
}

// onMachine reports whether an address is the machine's still, by our neighbour table; an address that was leased anew
// is not. What is behind a router is in no table.
func (a sshAnswer) onMachine(h hosts.Host) bool {
	mac := neighbour(a.addr)
	if mac == "" {
		return a.addr == h.Address
	}
	return slices.Contains(h.MACs, mac)
}
