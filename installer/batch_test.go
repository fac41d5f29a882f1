package installer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"provision/disko"
	"provision/internal/text"
)

func step(name string, argv ...string) disko.Step { return disko.Step{Name: name, Argv: argv} }

func batchOf(steps ...disko.Step) *batch {
	return &batch{steps: steps, log: slog.New(slog.DiscardHandler)}
}

// TestBatchArguments: every byte but NUL, which no argument can have, arrives as it is.
func TestBatchArguments(t *testing.T) {
	s := connect(t)
	var all strings.Builder
	for b := 1; b < 256; b++ {
		all.WriteByte(byte(b))
	}
	file := filepath.Join(t.TempDir(), "got")
	hostile := []string{all.String(), "", "a b", "it's", `"$HOME"`, "`id`", "$(id)", `\`, "a\nb", "\n", "*", "-n", "--", ";exit 3", "end", "\xff\xfe", "$'\\x00'"}
	var steps []disko.Step
	var want string
	for _, arg := range hostile {
		steps = append(steps, step("say", "sh", "-c", `printf '%s\0' "$@" >>"$0"`, file, arg, arg))
		want += arg + "\x00" + arg + "\x00"
	}
	steps = append(steps, step("all at once", append([]string{"sh", "-c", `printf '%s\0' "$@" >>"$0"`, file}, hostile...)...))
	want += strings.Join(hostile, "\x00") + "\x00"
	if err := batchOf(steps...).run(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != want {
		t.Errorf("%q\n%q, %v", got, want, err)
	}
	if err := batchOf().run(t.Context(), s); err != nil {
		t.Errorf("no steps: %v", err)
	}
}

// TestBatchSecrets: a file comes to a step without the newlines at its end, and is neither in
// what other processes see nor in an error.
func TestBatchSecrets(t *testing.T) {
	s := connect(t)
	dir := t.TempDir()
	key := filepath.Join(dir, "the key")
	if err := os.WriteFile(key, []byte(" correct\\horse\n$(id)\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	seen := filepath.Join(dir, "seen")
	fed := step("open", "sh", "-c", `cat >"$0"; cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\0' '\n' >"$0.others"; exit 3`, seen)
	fed.Stdin = key
	err := batchOf(fed, step("never", "touch", filepath.Join(dir, "never"))).run(t.Context(), s)
	if err == nil || !strings.HasPrefix(err.Error(), "open: sh -c cat >") || !strings.Contains(err.Error(), "exit status 3") || strings.Contains(err.Error(), "horse") {
		t.Errorf("%v", err)
	}
	if got, err := os.ReadFile(seen); err != nil || string(got) != " correct\\horse\n$(id)" {
		t.Errorf("%q, %v", got, err)
	}
	others, err := os.ReadFile(seen + ".others")
	if err != nil || len(others) == 0 || strings.Contains(string(others), "correct"+`\horse`) {
		t.Errorf("the secret is in an argument or an environment, or nothing was seen: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "never")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a step ran after one that failed")
	}
	fed.Stdin = filepath.Join(dir, "nowhere")
	if err := batchOf(fed).run(t.Context(), s); err == nil || !strings.Contains(err.Error(), "nowhere: No such file") {
		t.Errorf("%v", err)
	}
}

// TestBatchFailures: the error is of the step that failed, with its own last lines.
func TestBatchFailures(t *testing.T) {
	s := connect(t)
	fails := step("format root", "sh", "-c", "echo out; echo err >&2; exit 32")
	err := batchOf(step("quiet", "sh", "-c", "echo nothing to see"), fails, step("after", "true")).run(t.Context(), s)
	if err == nil || err.Error() != "format root: sh -c echo out; echo err >&2; exit 32: exit status 32:\n  out\n  err" {
		t.Errorf("%v", err)
	}
	b := batchOf(fails, step("quiet", "true"), step("nothing", "/no/such/program"))
	b.anyway = true
	err = b.run(t.Context(), s)
	if err == nil || !strings.Contains(err.Error(), "format root") || !strings.Contains(err.Error(), "nothing: /no/such/program: exit status 127:\n  timeout: ") || strings.Contains(err.Error(), "quiet") {
		t.Errorf("%v", err)
	}
}

// TestBatchHang: a step that hangs is ended, whatever it started, and the error says so.
func TestBatchHang(t *testing.T) {
	s := connect(t)
	mark := filepath.Join(t.TempDir(), "mark")
	b := batchOf(step("hang", "sh", "-c", `echo waiting; tail -f /dev/null; touch "$0"`, mark))
	b.limit = time.Second
	start := time.Now()
	err := b.run(t.Context(), s)
	if err == nil || !strings.HasPrefix(err.Error(), "hang: sh -c") || !strings.HasSuffix(err.Error(), "did not end within 1s, and was stopped:\n  waiting") {
		t.Errorf("%v", err)
	}
	if took := time.Since(start); took > 8*time.Second {
		t.Errorf("it took %s", took)
	}
	// The machine's lock is free again, and a daemon that stays holds up nothing.
	b = batchOf(step("daemon", "sh", "-c", "sleep 3 & echo started"))
	b.limit = time.Second
	if err := b.run(t.Context(), s); err != nil {
		t.Errorf("%v", err)
	}
}

// TestBatchFlood: what a step says is not kept in memory, however much it is.
func TestBatchFlood(t *testing.T) {
	s := connect(t)
	b := batchOf(step("lines", "sh", "-c", "yes a line of a log | head -c 50000000"), step("one line", "sh", "-c", "head -c 50000000 /dev/zero | tr '\\0' x; echo; echo last; false"))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	err := b.run(t.Context(), s)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if err == nil || !strings.HasSuffix(err.Error(), "xx\n  last") || len(err.Error()) > 2*text.MaxLine {
		t.Errorf("an error of %d bytes", len(fmt.Sprint(err)))
	}
	if grown := int64(after.Sys) - int64(before.Sys); grown > 32<<20 {
		t.Errorf("memory grew by %d bytes", grown)
	}
}

// TestBatchLost: the connection breaks, and whoever comes next waits for the step that runs.
func TestBatchLost(t *testing.T) {
	host := newSigner(t)
	addr, conns := sshServer(t, host, true)
	s, _, _, err := dial(t.Context(), addr, 0, authorizedKey(host), newSigner(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.client.Close()
	dir := t.TempDir()
	pipe, done, never := filepath.Join(dir, "pipe"), filepath.Join(dir, "done"), filepath.Join(dir, "never")
	if err := batchOf(step("pipe", "mkfifo", pipe)).run(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	b := batchOf(step("make the disk", "sh", "-c", `echo >"$0"; cat "$0"; echo >"$1"`, pipe, done), step("never", "touch", never))
	result := make(chan error)
	go func() { result <- b.run(t.Context(), s) }()
	if _, err := os.ReadFile(pipe); err != nil { // the step runs
		t.Fatal(err)
	}
	for _, c := range conns() {
		c.Close()
	}
	if err := <-result; !errors.Is(err, errLost) || !strings.Contains(err.Error(), "make the disk") {
		t.Errorf("%v", err)
	}
	again, _, _, err := dial(t.Context(), addr, 0, authorizedKey(host), newSigner(t))
	if err != nil {
		t.Fatal(err)
	}
	defer again.client.Close()
	waits := batchOf(step("second", "cat", done))
	go func() { result <- waits.run(t.Context(), again) }()
	if err := os.WriteFile(pipe, nil, 0); err != nil { // the first step ends
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Errorf("the second did not wait for the first: %v", err)
	}
	if _, err := os.Stat(never); !errors.Is(err, os.ErrNotExist) {
		t.Error("a step was begun with nobody to hear of it")
	}
}

// TestBatchCut: what a broken connection left of a batch is not run.
func TestBatchCut(t *testing.T) {
	s := connect(t)
	mark := filepath.Join(t.TempDir(), "mark")
	words := batchOf(step("a", "touch", mark), step("b", "touch", mark+"end")).encode()
	for n := range len(words) - 1 {
		_, err := s.run(t.Context(), strings.NewReader(string(words[:n])), "bash", "-c", batchScript)
		if _, there := os.Stat(mark); err == nil || there == nil {
			t.Fatalf("the first %d bytes of %q were run: %v", n, words, err)
		}
	}
}

func TestBatchProgress(t *testing.T) {
	s := connect(t)
	dir := t.TempDir()
	slow := func(name string) disko.Step { return step(name, "sleep", "0.5") }
	steps := []disko.Step{slow("first")}
	for i := range 100 {
		steps = append(steps, step("quick", "touch", filepath.Join(dir, fmt.Sprint(i))))
	}
	b := batchOf(append(steps, slow("last"))...)
	var told []int
	b.tell = func(i int) { told = append(told, i) }
	start := time.Now()
	if err := b.run(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(told, 0) || !slices.Contains(told, 101) || !slices.IsSorted(told) || len(told) > int(time.Since(start)/tellEvery)+1 {
		t.Errorf("%v in %s", told, time.Since(start))
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	b = batchOf(slow("cancelled"))
	b.tell = func(int) { cancel(errUnwanted) }
	if err := b.run(ctx, s); !errors.Is(err, errUnwanted) {
		t.Errorf("%v", err)
	}
}

func TestBatchWithoutBash(t *testing.T) {
	s := connect(t)
	bin := t.TempDir()
	for _, name := range []string{"sh", "flock"} {
		path, err := exec.LookPath(name)
		if err == nil {
			err = os.Symlink(path, filepath.Join(bin, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin) // of the target's sh, too
	if err := batchOf(step("a", "true")).run(t.Context(), s); err == nil || !strings.Contains(err.Error(), "could not run the steps: exit status 69:\n  flock: ") {
		t.Errorf("%v", err)
	}
}
