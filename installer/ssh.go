package installer

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"provision/internal/text"
)

// errWrongKey: something answered, and it is not the pinned machine.
var errWrongKey = errors.New("another SSH host key than the pinned one")

// errLost: the session to the installer broke; the work may go on when it is
// back.
var errLost = errors.New("lost the installer")

// How soon a machine that was switched off is noticed. Firmware asks for a
// boot for about a minute before it gives up, and is refused while its
// installer still seems to answer.
const (
	keepAliveEvery = 3 * time.Second
	keepAliveLimit = 9 * time.Second
	dialLimit      = 10 * time.Second
	connectLimit   = 2 * time.Second // of it: a machine that starts answers nothing; the next try may be in time
)

// commandLimit bounds one command on the machine. Formatting a large disk
// takes minutes; a tool that hangs takes for ever.
const commandLimit = 30 * time.Minute

// How much a command on the machine may print, in bytes. The longest answers are those of lsblk about hundreds of disks
// and of nixos-facter, a few MiB; the longest messages are those of a build.
const (
	maxAnswer   = 8 << 20
	maxMessages = 1 << 30
)

// session is an SSH connection to a machine whose host key was pinned.
type session struct {
	client *ssh.Client
	addr   string
	port   int
}

// local is our own address, as the machine sees it.
func (s *session) local() string {
	host, _, err := net.SplitHostPort(s.client.LocalAddr().String())
	if err != nil {
		return ""
	}
	return host
}

// algorithms are those by which a host proves that it has a key of this type.
func algorithms(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA { // SHA-1, which is not asked for
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}

// dial connects as root to addr (port 22 if port is 0), which must have the pinned host key
// (authorized_keys form). With a wrong key the error is errWrongKey and
// `other` the key that was shown. proved is true as soon as the machine has
// shown that it holds the pinned key, even if it then lets nobody in.
func dial(ctx context.Context, addr string, port int, pinned string,
	login ssh.Signer) (s *session, proved bool, other string, err error) {
	want, _, _, _, err := ssh.ParseAuthorizedKey([]byte(pinned))
	if err != nil {
		return nil, false, "", fmt.Errorf("read the pinned key of %s: %w", addr, err)
	}

	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()

	port = cmp.Or(port, 22)
	conn, err := (&net.Dialer{Timeout: connectLimit}).DialContext(ctx, "tcp", net.JoinHostPort(addr, strconv.Itoa(port)))
	if err != nil {
		return nil, false, "", err
	}

	stop := context.AfterFunc(ctx, func() { conn.Close() })
	config := &ssh.ClientConfig{
		User:              "root",
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(login)},
		HostKeyAlgorithms: algorithms(want.Type()),
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if !bytes.Equal(key.Marshal(), want.Marshal()) {
				other = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
				return errWrongKey
			}
			// The key exchange was signed with this key before the callback.
			proved = true
			return nil
		},
	}
	c, chans, reqs, err := ssh.NewClientConn(conn, addr, config)
	if err != nil {
		conn.Close()
		if other != "" {
			err = errWrongKey
		}
		return nil, proved, other, fmt.Errorf("connect to %s: %w", addr, err)
	}

	if !stop() {
		conn.Close()
		return nil, proved, other, ctx.Err()
	}
	return &session{client: ssh.NewClient(c, chans, reqs), addr: addr, port: port}, true, "", nil
}

// letsNotIn reports whether dial's error is that the machine took none of the keys. The library has only its text.
func letsNotIn(err error) bool { return strings.Contains(err.Error(), "ssh: unable to authenticate") }

// watch ends the session when the machine stops answering, and returns when
// the session is over.
func (s *session) watch(ctx context.Context) error {
	defer s.client.Close()
	ended := make(chan error, 1)
	go func() { ended <- s.client.Wait() }()
	for {
		select {
		case <-ctx.Done():
			s.client.Close()
			<-ended
			return ctx.Err()
		case <-ended:
			return errLost
		case <-time.After(keepAliveEvery):
		}

		timer := time.AfterFunc(keepAliveLimit, func() { s.client.Close() })
		_, _, err := s.client.SendRequest("keepalive@openssh.com", true, nil)
		timer.Stop()
		if err != nil {
			s.client.Close()
			<-ended
			return errLost
		}
	}
}

// run runs a command, fed with stdin if that is not nil, and returns what it printed, and
// nothing of what the start-up files of root's shell print. The last lines are in the error.
func (s *session) run(ctx context.Context, stdin io.Reader, argv ...string) ([]byte, error) {
	return s.runWithin(ctx, commandLimit, stdin, nil, argv...)
}

// runWithin is run with another limit. Each line of the command's stderr goes to line, if given.
func (s *session) runWithin(ctx context.Context, limit time.Duration, stdin io.Reader, line func(string),
	argv ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("did not end within %s", limit))
	defer cancel()

	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)

	sess, err := s.client.NewSession()
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errLost, argv[0], err)
	}
	defer sess.Close()

	stop := context.AfterFunc(ctx, func() { sess.Close() })
	defer stop()

	var said lastLines
	lines := text.Lines{To: func(l string) {
		said.add(l)
		if line != nil {
			line(l)
		}
	}}
	var out bytes.Buffer
	sess.Stdin = stdin
	sess.Stdout = &text.Limit{To: &out, Most: maxAnswer, Full: end}
	sess.Stderr = &text.Limit{To: &lines, Most: maxMessages, Full: end}
	mark := rand.Text()
	err = sess.Run(quote(framed(mark, argv)))
	lines.End()
	answer, whole := between(out.Bytes(), mark)
	if err == nil && whole {
		return answer, nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s: %w", brief(argv), context.Cause(ctx))
	}

	var exit *ssh.ExitError
	if err != nil && !errors.As(err, &exit) {
		return nil, fmt.Errorf("%w during %s: %w", errLost, argv[0], err)
	}

	var last lastLines
	printed := text.Lines{To: last.add}
	_, _ = printed.Write(answer) // it cannot fail
	printed.End()
	for _, l := range said {
		last.add(l)
	}
	if err == nil {
		return nil, fmt.Errorf("%s: the end of what it printed is missing%s", brief(argv), last)
	}

	return answer, fmt.Errorf("%s: exit status %d%s", brief(argv), exit.ExitStatus(), last)
}

// framed is a command that prints a mark before and after what it prints itself: the start-up files of root's shell may
// print anything before it, and what they left running at any time.
func framed(mark string, argv []string) []string {
	const script = `export LC_ALL=C; printf %s "$0"; "$@"; status=$?; printf %s "$0"; exit "$status"`
	return append([]string{"sh", "-c", script, mark}, argv...)
}

// between returns what is between two marks. If the second is missing, it is all that came after the first; if both
// are, all of it.
func between(out []byte, mark string) (answer []byte, whole bool) {
	_, answer, begun := bytes.Cut(out, []byte(mark))
	if !begun {
		return out, false
	}
	answer, _, whole = bytes.Cut(answer, []byte(mark))
	return answer, whole
}

// brief is a command for people: of a script, its first line.
func brief(argv []string) string {
	const most = 500
	quoted := make([]string, len(argv))
	for i, a := range argv {
		line, _, more := strings.Cut(a, "\n")
		quoted[i] = line
		if more {
			quoted[i] += " …"
		}
	}

	all := strings.Join(quoted, " ")
	if len(all) > most {
		all = strings.ToValidUTF8(all[:most], "") + " …"
	}
	return all
}

// quote makes one shell word of each argument: the SSH protocol carries a
// command line, not arguments.
func quote(argv []string) string {
	quoted := make([]string, len(argv))
	for i, a := range argv {
		quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}
