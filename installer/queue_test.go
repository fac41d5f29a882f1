package installer

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"provision/hosts"
)

// TestQueue: no more than the slots go at once, who came first goes first, who is in a hurry before
// them, and who gives up takes no turn.
func TestQueue(t *testing.T) {
	q := NewQueue(1)
	leave, err := q.enter(t.Context(), waiter{waits: func(int) { t.Error("the first waits") }})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var order, ahead []string
	var hurry atomic.Bool
	var all sync.WaitGroup
	giveUp, cancel := context.WithCancel(t.Context())
	for i := range 5 {
		ctx, name := t.Context(), strconv.Itoa(i)
		if i == 1 {
			ctx = giveUp
		}
		queued := make(chan struct{})
		w := waiter{waits: func(n int) { ahead = append(ahead, strconv.Itoa(n)); close(queued) }}
		if i == 3 { // only after it came
			w.hurry = hurry.Load
		}
		all.Go(func() {
			leave, err := q.enter(ctx, w)
			if i == 1 {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("who gave up got %v", err)
				}
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			order = append(order, name)
			mu.Unlock()
			leave()
		})
		<-queued
	}
	cancel()
	hurry.Store(true)
	leave()
	all.Wait()
	order = slices.DeleteFunc(order, func(s string) bool { return s == "1" })
	if got := strings.Join(order, " "); got != "3 0 2 4" {
		t.Errorf("they went as %s", got)
	}
	if got := strings.Join(ahead, " "); got != "0 1 2 3 4" {
		t.Errorf("they were told that so many go first: %s", got)
	}
	if q.free != 1 || len(q.waiting) != 0 {
		t.Errorf("%d slots are free, %d wait", q.free, len(q.waiting))
	}
}

// TestQueueBound: many at once never go past the slots.
func TestQueueBound(t *testing.T) {
	q := NewQueue(3)
	var now, most atomic.Int64
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() {
			leave, err := q.enter(t.Context(), waiter{})
			if err != nil {
				t.Error(err)
				return
			}
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			now.Add(-1)
			leave()
		})
	}
	all.Wait()
	if most.Load() > 3 {
		t.Errorf("%d went at once", most.Load())
	}
}

func TestSlots(t *testing.T) {
	for _, tt := range []struct {
		cores  int
		memory uint64
		want   int
	}{{1, 512 << 20, 1}, {2, 24 << 30, 2}, {16, 8 << 30, 4}, {64, 256 << 30, 64}} {
		if got := slots(tt.cores, tt.memory); got != tt.want {
			t.Errorf("%d cores and %d bytes take %d, want %d", tt.cores, tt.memory, got, tt.want)
		}
	}
	if QueueSlots() < 1 {
		t.Error("nothing would go")
	}
}

// TestWaitsForTurn: a host that waits for its evaluation says so, and goes on when its turn comes.
func TestWaitsForTurn(t *testing.T) {
	nix, dir := flake(t, fleet)
	nix.Evaluations = NewQueue(1)
	f, h := following(t, nix, dir, hosts.Choices{})
	leave, err := f.Nix.Evaluations.enter(t.Context(), waiter{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes := f.Hosts.Watch(ctx)
	until := func(what string, is func(hosts.Host) bool) {
		t.Helper()
		for {
			now, err := f.Hosts.Get("a")
			if err != nil {
				t.Fatal(err)
			}
			if is(now) {
				return
			}
			select {
			case <-changes:
			case <-f.builds["a"].done:
				if now, err = f.Hosts.Get("a"); err != nil || !is(now) {
					t.Fatalf("the build ended before %s: %v", what, err)
				}
				return
			}
		}
	}
	f.startBuild(t.Context(), h, "")
	until("it said that it waits", func(h hosts.Host) bool { return strings.Contains(h.Progress.Now, "waits for its turn to be evaluated") })
	if now, _ := f.Hosts.Get("a"); now.Phase != hosts.PhaseNetboot || now.State != hosts.Ready {
		t.Errorf("while it waits it is %s, %s", now.State, now.Phase)
	}
	leave()
	until("it had its turn", func(h hosts.Host) bool { return h.Progress.Now == "" })
	<-f.builds["a"].done // the flake has no host a, which nix says
	if err := f.builds["a"].err; err == nil || !strings.Contains(err.Error(), "has no nixosConfigurations.a") {
		t.Errorf("it was not evaluated: %v", err)
	}
	if f.Nix.Evaluations.free != 1 {
		t.Error("its turn was not given back")
	}
}

// TestAtTheDoor: a host is in a hurry once its machine is there.
func TestAtTheDoor(t *testing.T) {
	f, _ := following(t, Nix{}, t.TempDir(), hosts.Choices{})
	nix := f.queued(&build{})
	if nix.evaluates.hurry() || nix.builds.hurry() {
		t.Error("it is in a hurry before its machine asked")
	}
	if _, err := f.Hosts.Apply("a", hosts.Event{Kind: hosts.Netboot, Machine: "m", Boot: &hosts.Boot{Token: "t", Expires: f.Now().Add(time.Hour)}}); err != nil {
		t.Fatal(err)
	}
	if !nix.evaluates.hurry() || !nix.builds.hurry() {
		t.Error("it is in no hurry with its machine at the door")
	}
	if !(Nix{}).AtOnce().evaluates.hurry() {
		t.Error("who waits for an answer is in no hurry")
	}
}

// TestLooksWait: a thousand machines at once do not have a thousand programs look at the flake.
func TestLooksWait(t *testing.T) {
	nix, dir := flake(t, fleet)
	nix.Looks = NewQueue(1)
	leave, err := nix.Looks.enter(t.Context(), waiter{})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := false
		go func() { nix.source(ctx, dir); ended = true }()
		synctest.Wait()
		if ended || len(nix.Looks.waiting) != 1 {
			t.Error("it did not wait for its turn")
		}
		cancel()
	})
	leave()
	if nix.source(t.Context(), dir) == "" || nix.Looks.free != 1 {
		t.Error("it did not have its turn, or did not give it back")
	}
}

// TestUnchanged: a machine that boots waits for no evaluation if the flake is as it was, and for one if
// it is not, or if what was built is gone.
func TestUnchanged(t *testing.T) {
	text := strings.Replace(slowFleet, "TOPLEVEL", `derivation { name = "top"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo WORD > $out" ]; }`, 1)
	write := func(dir, word string) {
		if err := os.WriteFile(filepath.Join(dir, "flake.nix"), []byte(strings.Replace(text, "WORD", word, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	word := filepath.Base(t.TempDir()) + strconv.Itoa(os.Getpid()) // nothing that an earlier run built
	nix, dir := flake(t, "")
	write(dir, word)
	nix.Roots, nix.Evaluations = t.TempDir(), NewQueue(1) // the roots are not in the flake
	f, h := following(t, nix, dir, hosts.Choices{})
	build := func(token string) *build {
		h.Boot.Token, h.Boot.Client = token, "10.0.0.2"
		f.startBuild(t.Context(), h, "")
		b := f.builds["a"]
		<-b.done
		if b.err != nil {
			t.Fatal(b.err)
		}
		return b
	}
	first := build("")
	leave, err := nix.Evaluations.enter(t.Context(), waiter{}) // from now on an evaluation has to wait
	if err != nil {
		t.Fatal(err)
	}
	if b := build("1"); b == first || b.system.path != first.system.path || b.digest != first.digest || b.layout == nil {
		t.Errorf("it is %s now, it was %s", b.system, first.system)
	}
	leave()
	write(dir, word+"2")
	second := build("2")
	if second.system.path == first.system.path {
		t.Error("a flake that changed was not evaluated")
	}
	if err := os.RemoveAll(nix.Roots); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("nix-store", "--delete", second.system.path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if b := build("3"); b.system.path != second.system.path {
		t.Errorf("%s", b.system.path)
	} else if _, err := os.Stat(b.system.path); err != nil {
		t.Errorf("what was gone was not built again: %v", err)
	}
}
