package installer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"provision/internal/text"
)

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func authorizedKey(s ssh.Signer) string { return string(ssh.MarshalAuthorizedKey(s.PublicKey())) }

var targets atomic.Int32

// sshServer is an SSH server on an address of loopback of its own, port 22. It
// runs commands with the real sh.
func sshServer(t *testing.T, host ssh.Signer, admit bool) (addr string, conns func() []net.Conn) {
	t.Helper()
	addr = loopback()
	conns, _ = listenSSH(t, addr, 22, admit, host)
	return addr, conns
}

// loopback is an address of its own: a child that is just being forked may hold the last test's listener for a moment.
func loopback() string { return fmt.Sprintf("127.0.99.%d", targets.Add(1)) }

// listenSSH is sshServer with these host keys at this place, until it is stopped.
func listenSSH(t *testing.T, addr string, port int, admit bool, keys ...ssh.Signer) (conns func() []net.Conn, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("%s:%d", addr, port))
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
		if !admit {
			return nil, errors.New("nobody")
		}
		return nil, nil
	}}
	for _, key := range keys {
		config.AddHostKey(key)
	}
	var mu sync.Mutex
	var all []net.Conn
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			all = append(all, c)
			mu.Unlock()
			wg.Go(func() { serveConn(c, config) })
		}
	})
	stop = sync.OnceFunc(func() {
		l.Close()
		mu.Lock()
		for _, c := range all {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	t.Cleanup(stop)
	return func() []net.Conn { mu.Lock(); defer mu.Unlock(); return all }, stop
}

func serveConn(c net.Conn, config *ssh.ServerConfig) {
	_, chans, reqs, err := ssh.NewServerConn(c, config)
	if err != nil {
		c.Close()
		return
	}
	go ssh.DiscardRequests(reqs)
	for nc := range chans {
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range reqs {
				var exe struct{ Command string }
				if r.Type != "exec" || ssh.Unmarshal(r.Payload, &exe) != nil {
					r.Reply(false, nil)
					continue
				}
				r.Reply(true, nil)
				cmd := exec.Command("sh", "-c", exe.Command)
				gone := make(chan struct{})
				go func() { ssh.DiscardRequests(reqs); close(gone) }()
				err := runFor(gone, ch, cmd)
				var exit *exec.ExitError
				code := uint32(0)
				if errors.As(err, &exit) {
					code = uint32(exit.ExitCode())
				}
				ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{code}))
				ch.Close()
				return
			}
		}()
	}
}

// runFor runs a command for a channel. As sshd does, it lets the command run on when the
// channel is gone, as when the connection breaks, and hears no more of it.
func runFor(gone <-chan struct{}, ch ssh.Channel, cmd *exec.Cmd) error {
	stdin, inErr := cmd.StdinPipe()
	stdout, outErr := cmd.StdoutPipe()
	stderr, errErr := cmd.StderrPipe()
	if err := errors.Join(inErr, outErr, errErr, cmd.Start()); err != nil {
		return err
	}
	go func() {
		<-gone
		stdin.Close()
		stdout.Close()
		stderr.Close()
	}()
	go func() { io.Copy(stdin, ch); stdin.Close() }()
	var out sync.WaitGroup
	out.Go(func() { io.Copy(ch, stdout) })
	out.Go(func() { io.Copy(ch.Stderr(), stderr) })
	out.Wait()
	return cmd.Wait()
}

func connect(t *testing.T) *session {
	t.Helper()
	host := newSigner(t)
	addr, _ := sshServer(t, host, true)
	s, _, _, err := dial(t.Context(), addr, 0, authorizedKey(host), newSigner(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.client.Close() })
	return s
}

func TestDialPinsTheKey(t *testing.T) {
	host, stranger := newSigner(t), newSigner(t)
	addr, _ := sshServer(t, stranger, true)
	s, proved, other, err := dial(t.Context(), addr, 0, authorizedKey(host), newSigner(t))
	if s != nil || proved || !errors.Is(err, errWrongKey) || other != strings.TrimSpace(authorizedKey(stranger)) {
		t.Errorf("%v, proved %v, other %q, %v", s, proved, other, err)
	}
}

func TestDialProvesWithoutLogin(t *testing.T) {
	host := newSigner(t)
	addr, _ := sshServer(t, host, false)
	s, proved, other, err := dial(t.Context(), addr, 0, authorizedKey(host), newSigner(t))
	if s != nil || !proved || other != "" || err == nil || errors.Is(err, errWrongKey) {
		t.Errorf("%v, proved %v, other %q, %v", s, proved, other, err)
	}
}

func TestRun(t *testing.T) {
	s := connect(t)
	nasty := []string{"a b", "it's", `"$HOME"`, "`id`", "$(id)", "\\", "a\nb", "", "*", "-n", ";exit 3", "ünï"}
	out, err := s.run(t.Context(), nil, append([]string{"printf", `%s\0`}, nasty...)...)
	if want := strings.Join(nasty, "\x00") + "\x00"; err != nil || string(out) != want {
		t.Errorf("arguments did not arrive as they are: %q, %v", out, err)
	}
	_, err = s.run(t.Context(), nil, "sh", "-c", "echo one; echo two >&2; printf '\\033[31mthree\\033[0m\\n' >&2; exit 7")
	if err == nil || errors.Is(err, errLost) {
		t.Fatal(err)
	}
	for _, want := range []string{"exit status 7", "one", "two", "  three"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q lacks %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "\x1b") {
		t.Errorf("terminal control characters in an error: %q", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errUnwanted)
	if _, err := s.run(ctx, nil, "sleep", "60"); !errors.Is(err, errUnwanted) {
		t.Errorf("cancelled: %v", err)
	}
	s.client.Close()
	if _, err := s.run(t.Context(), nil, "true"); !errors.Is(err, errLost) {
		t.Errorf("after the connection broke: %v", err)
	}
}

func TestWriteFiles(t *testing.T) {
	s := connect(t)
	path := filepath.Join(t.TempDir(), "a dir", "it's a key")
	const secret = "s3cret\n"
	if err := s.write(t.Context(), path, "0400", strings.NewReader(secret)); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	info, statErr := os.Stat(path)
	if err != nil || statErr != nil || string(got) != secret || info.Mode().Perm() != 0o400 {
		t.Errorf("%q, %v, %v, %v", got, info.Mode(), err, statErr)
	}
	err = s.write(t.Context(), "/proc/nowhere/x", "0400", strings.NewReader(secret))
	if err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("%v", err)
	}
}

// TestWatchNoticesSilence: the machine is gone without a word, as after a
// power cut; nothing closes the connection.
func TestWatchNoticesSilence(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	host := newSigner(t)
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(host)
	mute := &muted{Conn: far, gone: make(chan struct{})}
	go serveConn(mute, config)
	c, chans, reqs, err := ssh.NewClientConn(near, "x", &ssh.ClientConfig{HostKeyCallback: ssh.FixedHostKey(host.PublicKey())})
	if err != nil {
		t.Fatal(err)
	}
	s := &session{client: ssh.NewClient(c, chans, reqs), addr: "x"}
	start := time.Now()
	close(mute.gone)
	if err := s.watch(t.Context()); !errors.Is(err, errLost) {
		t.Error(err)
	}
	if took := time.Since(start); took > keepAliveEvery+keepAliveLimit+5*time.Second {
		t.Errorf("it took %s", took)
	}
	far.Close()
}

// muted swallows everything once gone.
type muted struct {
	net.Conn
	gone chan struct{}
}

func (m *muted) Write(p []byte) (int, error) {
	select {
	case <-m.gone:
		return len(p), nil
	default:
		return m.Conn.Write(p)
	}
}

func TestWriteTree(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"etc/secret": 0o600, "etc/ssh/run": 0o755} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, []byte(name), mode), os.Chown(path, 1234, 1234)); err != nil {
			t.Fatal(err)
		}
	}
	// The folder's owner is who wrote its files; the other is meant.
	if err := errors.Join(os.Chown(dir, 1234, 100), os.Chown(filepath.Join(dir, "etc"), 5, 1234)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("secret", filepath.Join(dir, "etc/link")); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := writeTree(&out, dir); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]*tar.Header)
	for r := tar.NewReader(&out); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = h
	}
	for name, want := range map[string]string{"etc/": "5:1234", "etc/secret": "0:1234", "etc/ssh/run": "0:1234", "etc/link": "0:0"} {
		if h := got[name]; fmt.Sprintf("%d:%d", h.Uid, h.Gid) != want || h.Uname != "" {
			t.Errorf("%s is owned by %d:%d %s, want %s", name, h.Uid, h.Gid, h.Uname, want)
		}
	}
	if len(got) != 5 || got["etc/secret"].Mode != 0o600 || got["etc/ssh/run"].Mode != 0o755 || got["etc/"].Mode != 0o750 || got["etc/link"].Linkname != "secret" {
		t.Errorf("%v", got)
	}
}

// TestRunIsBounded: a machine that does not stop talking ends the command, and of a line without an end no more than its
// start is kept.
func TestRunIsBounded(t *testing.T) {
	s := connect(t)
	out, err := s.run(t.Context(), nil, "yes")
	if err == nil || !strings.Contains(err.Error(), "yes: printed more than 8 MiB") || len(out) > maxAnswer {
		t.Errorf("%d bytes, %v", len(out), err)
	}
	_, err = s.run(t.Context(), nil, "sh", "-c", `head -c 3000000 /dev/zero | tr '\0' x >&2; exit 1`)
	if err == nil || !strings.Contains(err.Error(), "exit status 1") || len(err.Error()) > 2*text.MaxLine {
		t.Errorf("an error of %d bytes: %.100v", len(err.Error()), err)
	}
	pretend(t, map[string]string{"bash": "exec yes"})
	err = batchOf(step("format", "mkfs")).run(t.Context(), s)
	if err == nil || !strings.Contains(err.Error(), "format: printed more than 8 MiB") {
		t.Errorf("steps: %v", err)
	}
}
