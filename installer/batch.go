package installer

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"provision/disko"
	"provision/internal/text"
)

// batchScript runs on the machine. It is constant; what the steps are comes to it as data.
//
//go:embed batch.sh
var batchScript string

const (
	// stopLimit is how long a step that did not end in time, or what a step left running in
	// the background, is waited for. batch.sh kills the former after 10 s.
	stopLimit = 15 * time.Second
	// tellEvery is the shortest time between two tellings of a batch's progress.
	tellEvery = 300 * time.Millisecond
)

// batch is steps that run one after the other in one session, under the machine's lock. The
// first that fails ends it.
type batch struct {
	steps  []disko.Step
	anyway bool          // go on after a step that failed
	shared bool          // other batches run at the same time
	limit  time.Duration // of each step; commandLimit if 0
	log    *slog.Logger
	tell   func(step int) // which step runs now, if that has changed since it was last told

	said    []lastLines // by the steps, in their order
	current atomic.Int64
}

// run runs the steps on the machine. Of a step that fails, the error holds its name, its
// command and its last lines. When the session breaks, the machine ends the step that runs,
// and at most that one: it holds the lock until then.
func (b *batch) run(ctx context.Context, s *session) error {
	if len(b.steps) == 0 {
		return nil
	}
	if b.limit == 0 {
		b.limit = commandLimit
	}
	b.said = make([]lastLines, len(b.steps)+1) // the first is for what is said before the first step
	sess, err := s.client.NewSession()
	if err != nil {
		return fmt.Errorf("%w: %s: %w", errLost, b.steps[0].Name, err)
	}
	defer sess.Close()

	ctx, cancel := context.WithCancelCause(ctx)
	defer context.AfterFunc(ctx, func() { sess.Close() })()

	sess.Stdin = bytes.NewReader(b.encode())
	stdout, outErr := sess.StdoutPipe()
	stderr, errErr := sess.StderrPipe()
	lock := exclusiveLock
	if b.shared {
		lock = sharedLock
	}
	mark := rand.Text()
	argv := lock("bash", "-c", batchScript, "batch", mark, map[bool]string{true: "anyway"}[b.anyway])
	if err := errors.Join(outErr, errErr, sess.Start(quote(argv))); err != nil {
		cancel(nil)
		return fmt.Errorf("%w: %s: %w", errLost, b.steps[0].Name, err)
	}

	var others sync.WaitGroup
	heard := make(chan struct{})
	go func() { defer close(heard); b.listen(stderr, cancel) }()
	if b.tell != nil {
		others.Go(func() { b.report(ctx) })
	}
	answer := io.TeeReader(stdout, &text.Limit{To: io.Discard, Most: maxAnswer, Full: cancel})
	failed, over := b.follow(answer, mark, cancel)
	cause := context.Cause(ctx)

	// A daemon that a step started may keep stderr open.
	wait := stopLimit
	if over && len(failed) == 0 {
		wait = time.Second
	}
	defer time.AfterFunc(wait, func() { sess.Close() }).Stop()

	<-heard
	cancel(nil)
	others.Wait()
	if over {
		return b.errors(failed)
	}
	return b.broken(sess, cause)
}

// encode is what batch.sh reads.
func (b *batch) encode() []byte {
	var fields []string
	for _, step := range b.steps {
		bound := max(1, int(b.limit.Seconds()))
		fields = append(fields, strconv.Itoa(bound), step.Stdin, strconv.Itoa(len(step.Argv)))
		fields = append(fields, step.Argv...)
	}
	fields = slices.Concat([]string{strconv.Itoa(len(fields) + 2)}, fields, []string{"end"})
	return []byte(strings.Join(fields, "\x00") + "\x00")
}

// follow reads how the steps fare, in the lines that begin with the mark: which failed, and whether
// it came to an end.
func (b *batch) follow(stdout io.Reader, mark string, cancel context.CancelCauseFunc,
) (failed map[int]string, over bool) {
	bound := func(what string) *time.Timer {
		return time.AfterFunc(b.limit+stopLimit, func() { cancel(fmt.Errorf("%s did not end within %s", what, b.limit)) })
	}
	overdue := bound("the commands of an earlier try, which hold " + lockFile + ",")
	defer func() { overdue.Stop() }()

	failed = map[int]string{}
	var start time.Time
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		_, line, marked := strings.Cut(lines.Text(), mark+" ")
		if !marked {
			continue
		}
		var step, status int
		switch {
		case line == "done":
			return failed, true
		case scan(line, "started %d", &step):
			b.current.Store(int64(step))
			overdue.Stop()
			overdue = bound("it")
			start = time.Now()
		case scan(line, "ended %d %d", &step, &status) && status != 0:
			failed[step] = fmt.Sprintf("exit status %d", status)
			if time.Since(start) >= b.limit { // timeout(1) says so by its status, but so may others
				failed[step] = fmt.Sprintf("did not end within %s, and was stopped", b.limit)
			}
			if !b.anyway {
				return failed, true
			}
		}
	}

	return failed, false
}

func scan(line, format string, to ...any) bool {
	n, err := fmt.Sscanf(line, format, to...)
	return err == nil && n == len(to)
}

// listen keeps the last lines of each step.
func (b *batch) listen(stderr io.Reader, end context.CancelCauseFunc) {
	step := 0
	debug := b.log.Enabled(context.Background(), slog.LevelDebug)
	lines := text.Lines{To: func(line string) {
		if line == "\x00" {
			step = min(step+1, len(b.steps))
			return
		}
		b.said[step].add(line)
		if debug {
			b.log.Debug("disks", "line", line)
		}
	}}
	_, _ = io.Copy(&text.Limit{To: &lines, Most: maxMessages, Full: end}, stderr) // follow hears why it ends
	lines.End()
}

// report tells which step runs, not more often than tellEvery.
func (b *batch) report(ctx context.Context) {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for told := int64(-1); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := b.current.Load(); now != told {
			told = now
			b.tell(int(now))
		}
	}
}

// errors is the steps that failed.
func (b *batch) errors(failed map[int]string) error {
	var errs []error
	for i, step := range b.steps {
		if why, ok := failed[i]; ok {
			errs = append(errs, fmt.Errorf("%s: %s: %s%s", step.Name, brief(step.Argv), why, b.said[i+1]))
		}
	}
	return errors.Join(errs...)
}

// broken is why a batch did not come to its end.
func (b *batch) broken(sess *ssh.Session, cause error) error {
	step := b.steps[b.current.Load()].Name
	if cause != nil {
		return fmt.Errorf("%s: %w", step, cause)
	}
	var exit *ssh.ExitError
	if err := sess.Wait(); !errors.As(err, &exit) {
		return fmt.Errorf("%w during %s: %w", errLost, step, cmp.Or(err, io.ErrUnexpectedEOF))
	}
	return fmt.Errorf("the installer could not run the steps: exit status %d%s", exit.ExitStatus(), b.said[0])
}
