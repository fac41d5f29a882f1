package model

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// sshd is a machine's SSH server from a boot until its power is cut.
type sshd struct {
	m        *machine
	mood     mood
	patience atomic.Int64 // commands until the mood shows, where it does not at once
	listener net.Listener
	config   *ssh.ServerConfig
	restart  chan struct{} // closed when it is told to
	told     func()
	tasks    sync.WaitGroup

	commands atomic.Int64
	down     chan struct{}

	mu    sync.Mutex // also of the machine's disk
	conns []net.Conn
}

func (m *machine) serve(addr string, key ssh.Signer, mood mood) (*sshd, error) {
	s := &sshd{m: m, mood: mood, restart: make(chan struct{}), down: make(chan struct{})}
	s.patience.Store(m.rand.Int64N(25))
	s.told = sync.OnceFunc(func() { close(s.restart) })
	if mood == wrongKey {
		_, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			return nil, err
		}
		if key, err = ssh.NewSignerFromKey(private); err != nil {
			return nil, err
		}
	}
	anybody := func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }
	s.config = &ssh.ServerConfig{PublicKeyCallback: anybody}
	s.config.AddHostKey(key)
	err := m.port.Do(func() (err error) {
		s.listener, err = new(net.ListenConfig).Listen(context.Background(), "tcp4", net.JoinHostPort(addr, "22"))
		return err
	})
	if err != nil {
		return nil, err
	}
	s.tasks.Go(s.accept)
	return s, nil
}

// close cuts the power.
func (s *sshd) close() {
	close(s.down)
	s.listener.Close()
	s.drop()
	s.tasks.Wait()
}

// drop breaks all connections.
func (s *sshd) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
	s.conns = nil
}

func (s *sshd) accept() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns = append(s.conns, c)
		s.mu.Unlock()
		select {
		case <-s.down:
			c.Close()
			return
		default:
		}
		s.tasks.Go(func() { s.talk(c, time.Now()) })
	}
}

func (s *sshd) talk(c net.Conn, since time.Time) {
	defer c.Close()
	_, chans, reqs, err := ssh.NewServerConn(c, s.config)
	if err != nil {
		return
	}
	s.tasks.Go(func() { ssh.DiscardRequests(reqs) })
	for nc := range chans {
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		s.tasks.Go(func() { s.session(ch, reqs, since) })
	}
}

func (s *sshd) session(ch ssh.Channel, reqs <-chan *ssh.Request, since time.Time) {
	defer ch.Close()
	for r := range reqs {
		var exe struct{ Command string }
		if r.Type != "exec" || ssh.Unmarshal(r.Payload, &exe) != nil {
			r.Reply(false, nil)
			continue
		}
		r.Reply(true, nil)
		s.tasks.Go(func() { ssh.DiscardRequests(reqs) })
		code := s.command(ch, unquote(exe.Command), since)
		ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{code}))
		return
	}
}

// command runs one, in the machine's mood.
func (s *sshd) command(ch ssh.Channel, argv []string, since time.Time) (status uint32) {
	n := s.commands.Add(1)
	switch {
	case s.mood == endless:
		for block := bytes.Repeat([]byte("A"), 32<<10); ; {
			if _, err := ch.Write(block); err != nil {
				return 1
			}
		}
	case s.mood == babbling:
		block := bytes.Repeat([]byte("E\x1b[2J"), 32<<10)
		for range 100 {
			if _, err := ch.Stderr().Write(block); err != nil {
				return 1
			}
		}
		return 1
	case n < s.patience.Load():
	case s.mood == broken:
		s.patience.Add(n) // the next connection lasts longer
		s.drop()
		return 1
	case s.mood == hanging:
		<-s.down
		return 1
	case s.mood == failing && n == s.patience.Load():
		io.WriteString(ch.Stderr(), "No space left on device\n\x1b]0;all is well\x07\n"+strings.Repeat("L", 100_000)+"\n")
		return 1
	}
	mark := ""
	if len(argv) > 4 && argv[0] == "sh" && strings.HasPrefix(argv[2], "export LC_ALL=C; printf") {
		mark, argv = argv[3], argv[4:]
	}
	if argv[0] == "flock" {
		argv = argv[slices.IndexFunc(argv, func(a string) bool { return strings.HasPrefix(a, "/") })+1:]
	}
	io.WriteString(ch, mark)
	status = s.run(ch, argv, since)
	io.WriteString(ch, mark)
	return status
}

// run does what the commands of an install come to on such a machine.
func (s *sshd) run(ch ssh.Channel, argv []string, since time.Time) (status uint32) {
	stdin, err := io.ReadAll(ch)
	if err != nil {
		return 1
	}
	words := strings.Join(argv, " ")
	s.mu.Lock()
	defer s.mu.Unlock()
	d := &s.m.disk
	switch {
	case len(argv) > 4 && argv[3] == "batch":
		return s.batch(ch, argv[4], string(stdin), since)
	case len(argv) > 3 && argv[3] == "probe":
		out := d.probe()
		if s.mood == crowded {
			out = d.crowd([]int{3000, 100_000}[s.patience.Load()%2]) // beyond what is kept; beyond what is read
		}
		ch.Write(out)
	case strings.Contains(words, "/sys/firmware/efi; then"):
		mac := s.m.mac.String()
		if s.mood == another {
			mac = "52:54:99:99:99:99"
		}
		fmt.Fprintf(ch, "UEFI\nMemTotal: 4000000 kB\n%s\n", mac)
	case strings.Contains(words, "/mnt /etc/ssh/ssh_host_ed25519_key "):
		d.key = stdin
	case argv[0] == "nixos-install":
		d.system = argv[slices.Index(argv, "--system")+1]
	case strings.Contains(words, "/run/current-system"):
		fmt.Fprintln(ch, d.system)
	case argv[0] == "reboot":
		s.told()
	}
	return 0
}

// batch carries out steps as batch.sh does: words that NUL ends; their number, then for each step its bound, what is
// fed to it, the number of its arguments and these, then "end".
func (s *sshd) batch(ch ssh.Channel, mark, stdin string, since time.Time) (status uint32) {
	words := strings.Split(strings.TrimSuffix(stdin, "\x00"), "\x00")
	if len(words) < 2 || words[0] != fmt.Sprint(len(words)) || words[len(words)-1] != "end" {
		return 1
	}
	erased := false
	step := 0
	for rest := words[1 : len(words)-1]; len(rest) > 0; step++ {
		var n int
		if _, err := fmt.Sscan(rest[2], &n); err != nil {
			return 1
		}
		argv := rest[3 : 3+n]
		rest = rest[3+n:]
		if erases(argv) && !erased {
			erased = true
			s.m.journal.erased(erasure{host: s.m.name, at: time.Now(), since: since, argv: argv})
		}
		s.m.disk.do(argv)
		io.WriteString(ch.Stderr(), "\x00\n")
		fmt.Fprintf(ch, "%s started %d\n%s ended %d 0\n", mark, step, mark, step)
	}
	fmt.Fprintf(ch, "%s done\n", mark)
	return 0
}
