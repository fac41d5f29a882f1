package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"provision/internal/lab"
)

// leaks searches for the secrets of a run where none of them may be.
type leaks struct {
	w       *world
	needles map[string]string // what to look for, and what it is

	mu   sync.Mutex
	seen map[string]string // command lines and environments of processes, and whose
}

// add names a secret. Each of its lines is looked for, as it is and as JSON has
// bytes.
func (l *leaks) add(what string, secret []byte) {
	if l.needles == nil {
		l.needles = make(map[string]string)
	}
	for i, line := range strings.Split(strings.TrimSpace(string(secret)), "\n") {
		// The first two lines of an OpenSSH key hold its public half, and what is alike in all.
		if strings.HasPrefix(line, "-----") || strings.Contains(string(secret), "OPENSSH") && i < 3 || len(line) < 8 {
			continue
		}
		l.needles[line] = what
	}
	coded := strings.TrimRight(base64.StdEncoding.EncodeToString(secret), "=")
	l.needles[coded[:len(coded)-1]] = what + ", in base64" // the last letter depends on what follows
}

// patterns is for grep -f.
func (l *leaks) patterns() *strings.Reader {
	return strings.NewReader(strings.Join(slices.Sorted(maps.Keys(l.needles)), "\n") + "\n")
}

// in looks into a text.
func (l *leaks) in(where string, text []byte) {
	l.w.t.Helper()
	for needle, what := range l.needles {
		if bytes.Contains(text, []byte(needle)) {
			l.w.t.Errorf("%s is in %s", what, where)
		}
	}
}

// server looks at what the server wrote, and what it says of the host.
func (l *leaks) server(host string) {
	l.w.t.Helper()
	store, err := os.ReadFile(filepath.Join(l.w.dir, "state/state.db"))
	l.w.must(err)
	for where, text := range map[string]string{"the server's log": l.w.log.String(), "the host's log": l.w.provision("logs", host, "--json"),
		"status": l.w.provision("status", host, "--json"), "the store": string(store)} {
		l.in(where, []byte(text))
		if strings.Contains(text, "PRIVATE KEY") || strings.Contains(text, "AGE-SECRET-KEY-") {
			l.w.t.Errorf("a private key is in %s", where)
		}
	}
	if found := l.files("/nix/store"); len(found) > 0 {
		l.w.t.Errorf("a secret is in the server's nix store: %s", found)
	}
}

// files are those below a folder that hold a secret. One that vanishes meanwhile is no failure: other tests build.
func (l *leaks) files(dir string) []string {
	l.w.t.Helper()
	cmd := exec.CommandContext(l.w.ctx, "env", "LC_ALL=C", "grep", "-rlaF", "-D", "skip", "-f", "-", dir)
	cmd.Stdin = l.patterns()
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	for line := range strings.Lines(said.String()) {
		if !strings.HasSuffix(line, ": No such file or directory\n") {
			l.w.t.Fatalf("search %s: %v: %s", dir, err, line)
		}
	}
	if err != nil && cmd.ProcessState.ExitCode() != 1 && said.Len() == 0 { // 1: none
		l.w.t.Fatalf("search %s: %v", dir, err)
	}
	return strings.Fields(string(out))
}

// remote are the files on a machine that hold a secret, in its memory's file
// systems, its nix store and where else services write. A file that vanishes
// meanwhile is no failure.
func (l *leaks) remote(sh *lab.Shell, places string) string {
	l.w.t.Helper()
	found, err := sh.Feed(l.w.ctx, l.patterns(), "grep -rlaF -D skip -f - "+places+" 2>/dev/null | sort; true")
	l.w.must(err)
	return strings.Join(strings.Fields(found), " ")
}

// watchProcesses collects what the command lines and environments of all
// processes are, until the function that it returns is called. It looks often, for
// nothing tells of a process that begins.
func (l *leaks) watchProcesses() (stop func()) {
	ctx, cancel := context.WithCancel(l.w.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
				l.sample()
			}
		}
	}()
	return func() { cancel(); <-done }
}

func (l *leaks) sample() {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = make(map[string]string)
	}
	for _, file := range files {
		argv, err := os.ReadFile(file)
		if err != nil || len(argv) == 0 {
			continue
		}
		words := string(bytes.ReplaceAll(argv, []byte{0}, []byte(" ")))
		l.seen[words] = "the command line of " + words
		if environ, err := os.ReadFile(filepath.Join(filepath.Dir(file), "environ")); err == nil {
			l.seen[string(environ)] = "the environment of " + words
		}
	}
}

// processes looks at those that were seen. Among them must be the ones that are
// named, or the search shows nothing.
func (l *leaks) processes(want ...string) {
	l.w.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range want {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(l.seen)), func(s string) bool { return strings.Contains(s, name) }) {
			l.w.t.Errorf("of %d command lines and environments seen, none has %q", len(l.seen), name)
		}
	}
	for text, where := range l.seen {
		l.in(where, []byte(text))
	}
}
