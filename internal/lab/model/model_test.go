package model

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"provision/hosts"
)

const (
	operators = 3
	steps     = 45 // of each
	kills     = 3
	killEvery = 28 // steps, about: the last server lives longer than the others, to show what it collects

	// limit is what the server's memory must stay under, in bytes. It was 41 to 81 MB in the first runs.
	limit = 150 << 20
)

// TestModel: whatever operators, machines, strangers and kill -9 do at the same time, no disk is erased without a
// permit, nothing that was acknowledged is lost, no host is stuck, and the server stays small and keeps its secrets.
//
// PROVISION_SEED chooses what everybody does, but not when each gets to it: a number, or FIRST-LAST, for many by hand.
func TestModel(t *testing.T) {
	first, last, err := seeds(os.Getenv("PROVISION_SEED"))
	if err != nil {
		t.Fatal(err)
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { run(t, seed) })
	}
}

func seeds(text string) (first, last uint64, err error) {
	if text == "" {
		seed := rand.Uint64N(1e6)
		return seed, seed, nil
	}
	from, to, many := strings.Cut(text, "-")
	first, err = strconv.ParseUint(from, 10, 64)
	last = first
	if many && err == nil {
		last, err = strconv.ParseUint(to, 10, 64)
	}
	if err != nil {
		err = fmt.Errorf("PROVISION_SEED=%s: write a number, or two with a dash between them", text)
	}
	return first, last, err
}

func run(t *testing.T, seed uint64) {
	w := newWorld(t, seed, "alpha", "bravo", "charlie", "delta")
	w.image()
	w.must(w.server.start())
	watching, end := context.WithCancel(w.ctx)
	var watcher sync.WaitGroup
	watcher.Go(func() { w.server.watch(watching) })
	t.Cleanup(func() { end(); watcher.Wait() })

	w.riot()
	w.must(errors.Join(w.server.quiet(), w.check()))
	w.must(w.server.start())
	w.peace()
	w.must(errors.Join(w.server.quiet(), w.check(), w.secrets()))
	for _, line := range mishaps(w.server.text()) {
		w.Errorf("the server's log has: %s", line)
	}

	if w.server.peak > limit {
		w.Errorf("the server had %d MB", w.server.peak>>20)
	}
	j := &w.journal
	w.Logf("%d changes acknowledged or lost, refused: %v; %d installers; %d erasures; %d times kill -9; at most %d MB",
		len(j.calls), j.refusals, w.moods.given, len(j.erasures), w.server.killed, w.server.peak>>20)
	if w.server.killed == 0 || w.moods.given == 0 {
		w.Error("the server was not killed, or no machine booted an installer: the test shows nothing")
	}
}

// riot is everybody at once, until the operators have made all their steps.
func (w *world) riot() {
	ctx, stop := context.WithCancel(w.ctx)
	var others, all sync.WaitGroup
	for _, m := range w.machines {
		others.Go(func() { m.live(ctx) })
	}
	others.Go(func() { w.stranger.annoy(ctx) })
	others.Go(func() {
		if err := w.kill(ctx); err != nil {
			w.Errorf("kill -9: %v", err)
			stop()
		}
	})
	for i := range operators {
		all.Go(func() { w.operate(ctx, uint64(i), steps) })
	}
	all.Wait()
	stop()
	others.Wait()
	w.must(w.ctx.Err())
}

// kill kills the server now and then, looks at what it left, and starts the next.
func (w *world) kill(ctx context.Context) error {
	random := w.rand(60)
	for range kills {
		select {
		case <-w.steps.after(killEvery/2 + random.IntN(killEvery)):
		case <-ctx.Done():
			return nil
		}
		if err := w.server.end(unix.SIGKILL); err != nil {
			return err
		}
		if err := errors.Join(w.check(), w.server.start()); err != nil {
			return err
		}
	}
	return nil
}

// peace is what comes after: each machine is honest, and no host is stuck. All that the stranger still does is to say
// once that it is a machine that was permitted, whose power is then cut once when it has its initrd.
func (w *world) peace() {
	var all sync.WaitGroup
	for i, m := range w.machines {
		all.Go(func() {
			if err := m.settle(w.ctx); err != nil {
				w.Errorf("%s is stuck: %v\n%s", m.name, err, m.log(w.ctx))
			}
			if err := m.anew(w.ctx, i%2 == 0); err != nil {
				w.Errorf("%s cannot be installed anew: %v\n%s", m.name, err, m.log(w.ctx))
			}
		})
	}
	all.Wait()
}

// settle has the machine come to where its permit leads, or nowhere without one.
func (m *machine) settle(ctx context.Context) error {
	before, err := m.status(ctx)
	var no refusal
	unknown := errors.As(err, &no) && no.status == http.StatusNotFound
	if err != nil && !unknown {
		return err
	}
	erased := m.journal.count(m.name)
	if before.Permit.Live(time.Now()) || before.State == hosts.StateRebooting {
		_, err := m.install(ctx, 5)
		return err
	}
	b, err := m.netboot(ctx, 0.5)
	if err != nil {
		return err
	}
	after, err := m.status(ctx)
	m.off()
	switch {
	case b.key != nil:
		return fmt.Errorf("it has no permit, and its machine was given an installer")
	case m.journal.count(m.name) != erased:
		return fmt.Errorf("it has no permit, and was erased")
	case !unknown && (err != nil || after.State != before.State && !settled(after)): // it may have expired only now
		return fmt.Errorf("it has no permit, was %s, and is %s: %v", before.State, after.State, err)
	}
	return nil
}

// anew enrolls a host for good.
func (m *machine) anew(ctx context.Context, forget bool) error {
	o := operator{m.world, m.rand}
	o.cancel(ctx, m)
	if forget {
		o.forget(ctx, m)
	}
	before := m.journal.count(m.name)
	permit := "/v1/hosts"
	if now, err := m.status(ctx); err == nil && now.State == hosts.StateInstalled {
		permit += "/" + m.name + "/reinstall"
	}
	if !o.change(ctx, call{host: m.name, kind: hosts.EventEnrolled, permits: true}, http.MethodPost, permit, o.request(m)) {
		_, err := m.server.request(ctx, http.MethodPost, permit, o.request(m))
		return fmt.Errorf("no permit is given: %w", err)
	}
	if err := m.stranger.impersonate(ctx, m); err != nil {
		return err
	}
	if _, err := m.netboot(ctx, 1); err != nil {
		return err
	}
	m.off()
	now, err := m.install(ctx, 5)
	switch {
	case err != nil:
		return err
	case now.State != hosts.StateInstalled:
		return fmt.Errorf("it is %s in phase %s: %s", now.State, now.Phase, now.Error)
	case m.journal.count(m.name) != before+1:
		return fmt.Errorf("it was erased %d times, not once", m.journal.count(m.name)-before)
	}
	return nil
}

// count is how often a host's machine was erased.
func (j *journal) count(host string) (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range j.erasures {
		if e.host == host {
			n++
		}
	}
	return n
}
