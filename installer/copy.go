package installer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh/agent"

	"provision/hosts"
	"provision/internal/nix"
)

// How the closure is copied: a copy that moves nothing for stallLimit is
// ended, and tried again; paths that have arrived are not sent again.
const (
	stallLimit = 3 * time.Minute
	copyTries  = 3
	syncEvery  = 10 * time.Second // about what a power cut costs
)

// transfer is a closure on its way to the machine.
type transfer struct {
	closure
	phase hosts.Phase
	offer *offer   // out of our cache, if it is open already
	root  string   // where the store is, of the new file systems; empty: the installer's own
	what  []string // arguments of nix copy; nil: the closure's path
}

// copySystem puts the host's system and all it needs into /mnt.
func (i *install) copySystem(ctx context.Context, o *offer) error {
	start := i.Now()
	if i.build.drv.Path != "" {
		return i.buildThere(ctx, i.build.drv)
	}
	sent, err := i.copies(ctx, transfer{closure: i.build.system, phase: hosts.PhaseCopy, offer: o, root: "/mnt"})
	if err != nil {
		return err
	}
	there := ""
	if sent.Bytes < i.build.system.size {
		there = fmt.Sprintf("; %s were there already", megabytes(i.build.system.size-sent.Bytes))
	}
	i.copied(sent, "%s, in %s%s", i.build.system, elapsed(i.Now(), start), there)
	return nil
}

// copied ends the phase that something was copied in.
func (f *reconciler) copied(sent hosts.Work, format string, args ...any) {
	f.apply(hosts.Event{
		Kind:    hosts.EventFinished,
		Phase:   hosts.PhaseCopy,
		Message: fmt.Sprintf(format, args...),
		Work:    &sent,
	})
}

// again tries a copy several times, and adds up how many bytes of it the machine did not have.
func (f *reconciler) again(ctx context.Context, try func() (int64, error)) (sent int64, err error) {
	for n := range copyTries {
		if n > 0 {
			f.note("copy, try %d of %d: %v", n+1, copyTries, err)
			select {
			case <-ctx.Done():
				return sent, err
			case <-time.After(time.Duration(n) * 5 * time.Second): // for what is overloaded to recover
			}
		}

		var more int64
		more, err = try()
		sent += more
		if err == nil || ctx.Err() != nil || errors.Is(err, errLost) {
			break
		}
	}

	return sent, err
}

// nixCopy is `nix copy` over ssh:// without compression, which is three times
// faster than with. It uses OpenSSH with the boot's host key pinned, and our
// key by an agent, so that the key is in no file.
func (f *reconciler) nixCopy(ctx context.Context, h hosts.Host, addr string, t transfer) (sent int64, err error) {
	known := filepath.Join(f.run, h.Name+".known_hosts")
	if err := os.WriteFile(known, []byte("installer "+h.Boot.HostKey+"\n"), 0o600); err != nil {
		return 0, fmt.Errorf("pin the installer's key: %w", err)
	}

	to := "ssh://root@" + addr + "?compress=false"
	if t.root != "" { // past the installer's own store
		to += "&remote-store=local%3Froot=" + url.QueryEscape(t.root)
	}
	args := []string{"copy", "--log-format", "internal-json", "-v", "--to", to}
	if h.TargetSubstitutes {
		args = append(args, "--substitute-on-destination")
	}
	if t.what == nil {
		t.what = []string{t.path}
	}
	env := append(f.Nix.Env(), "SSH_AUTH_SOCK="+f.agentSocket(), "NIX_SSHOPTS="+strings.Join([]string{
		"-F", "/dev/null",
		"-o", "UserKnownHostsFile=" + known, "-o", "GlobalKnownHostsFile=/dev/null",
		"-o", "StrictHostKeyChecking=yes", "-o", "HostKeyAlgorithms=" + strings.Join(algorithms(typeOfKey(h.Boot.HostKey)), ","),
		"-o", "HostKeyAlias=installer", "-o", "Port=" + strconv.Itoa(cmp.Or(h.Boot.Port, 22)),
		"-o", "PreferredAuthentications=publickey", "-o", "Compression=no",
		"-o", "Ciphers=aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com",
		"-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3",
	}, " "))
	sent, err = f.watchCopy(ctx, t, &copyProgress{sizes: t.paths}, func(ctx context.Context, line func(string)) error {
		cmd := exec.CommandContext(ctx, "nix", slices.Concat(nix.Features, args, t.what)...)
		cmd.Env = env
		cmd.WaitDelay = 5 * time.Second
		return nix.Logged(cmd, line)
	})
	if err != nil {
		err = fmt.Errorf("copy %s to %s: %w", t.path, addr, err)
	}

	return sent, err
}

// typeOfKey is that of a key in authorized_keys form.
func typeOfKey(key string) string {
	t, _, _ := strings.Cut(key, " ")
	return t
}

// checkStore forgets what a power cut spoiled in the store below root: nix notes
// a path as there before its files are on the disk. What is whole is not sent
// again.
func checkStore(ctx context.Context, s *session, root string) error {
	// The paths that refer to a spoiled one go with it. Failing that, all are sent again.
	const script = `test -e "$0/nix/var/nix/db" || exit 0
check() { nix-store --store "$0" --verify --check-contents 2>&1; }
said=$(check) && exit
spoiled=$(printf '%s\n' "$said" | sed -nE "s/.*path '(\/nix\/store\/[^']*)' (was modified|disappeared, but).*/\1/p")
if [ -n "$spoiled" ]; then
	spoiled=$(nix-store --store "$0" --query --referrers-closure $spoiled)
	nix-store --store "$0" --delete --ignore-liveness $spoiled
fi
check || rm -rf -- "$0/nix/var/nix/db"`
	if _, err := s.run(ctx, nil, exclusiveLock("sh", "-c", script, root)...); err != nil {
		return fmt.Errorf("check what was copied before the interruption: %w", err)
	}
	return nil
}

// copyProgress reads nix's --log-format internal-json (numbers from nix's
// src/libutil/logging.hh). Old versions tell only which path starts and ends,
// newer ones also how far it is.
type copyProgress struct {
	sizes   map[string]int64 // of store paths, bytes
	done    int64            // bytes of paths that are over
	running map[int64]copied // by activity
}

type copied struct{ done, size int64 }

const (
	actCopyPath = 100
	resProgress = 105
)

func (p *copyProgress) read(line string, said *lastLines) {
	body, ok := strings.CutPrefix(line, "@nix ")
	if !ok {
		said.add(line)
		return
	}
	var m struct {
		Action string            `json:"action"`
		ID     int64             `json:"id"`
		Type   int               `json:"type"`
		Level  int               `json:"level"`
		Msg    string            `json:"msg"`
		Fields []json.RawMessage `json:"fields"`
	}
	if json.Unmarshal([]byte(body), &m) != nil {
		return
	}
	switch {
	case m.Action == "msg" && m.Level <= 1: // errors and warnings
		said.add(m.Msg)
	case m.Action == "start" && m.Type == actCopyPath && len(m.Fields) > 0:
		var path string
		if json.Unmarshal(m.Fields[0], &path) != nil {
			return
		}
		if p.running == nil {
			p.running = make(map[int64]copied)
		}
		p.running[m.ID] = copied{size: p.sizes[path]}
	case m.Action == "stop":
		p.done += p.running[m.ID].size
		delete(p.running, m.ID)
	case m.Action == "result" && m.Type == resProgress && len(m.Fields) > 0:
		if c, ours := p.running[m.ID]; ours && json.Unmarshal(m.Fields[0], &c.done) == nil {
			p.running[m.ID] = c
		}
	}
}

func (p *copyProgress) largest() (n int64) {
	for _, c := range p.running {
		n = max(n, c.size)
	}
	return n
}

func (p *copyProgress) bytes() int64 {
	n := p.done
	for _, c := range p.running {
		n += c.done
	}
	return n
}

func (in *Installer) agentSocket() string { return filepath.Join(in.run, "agent") }

// serveAgent offers our key to the ssh that nix starts, on a socket that only
// we can open. The channel closes when it has ended.
func (in *Installer) serveAgent(ctx context.Context) (<-chan struct{}, error) {
	keys := agent.NewKeyring()
	if err := keys.Add(agent.AddedKey{PrivateKey: in.Key, Comment: "provision"}); err != nil {
		return nil, fmt.Errorf("start the SSH agent: %w", err)
	}

	l, err := new(net.ListenConfig).Listen(ctx, "unix", in.agentSocket())
	if err != nil {
		return nil, fmt.Errorf("start the SSH agent: %w", err)
	}

	done := make(chan struct{})
	context.AfterFunc(ctx, func() { l.Close() })
	go func() {
		defer close(done)
		var open sync.WaitGroup
		defer open.Wait()

		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				stop := context.AfterFunc(ctx, func() { conn.Close() })
				defer stop()
				defer conn.Close()
				in.Log.Debug("SSH agent", "end", agent.ServeAgent(keys, conn)) // io.EOF: ssh is done
			})
		}
	}()
	return done, nil
}
