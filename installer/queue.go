package installer

import (
	"context"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Queue lets a few at a time do what takes much memory or many cores, as nix's evaluations and
// builds do. Who came first goes first; but who is in a hurry goes before those who are not. A nil
// Queue lets all go at once.
type Queue struct {
	mu      sync.Mutex
	free    int
	waiting []*ticket // in the order in which they came
}

// ticket is a place in a queue.
type ticket struct {
	waiter
	turn chan struct{} // closed when it may go
}

// waiter is who waits in a queue. Its functions may be nil.
type waiter struct {
	hurry func() bool     // is asked whenever somebody may go; it must not use the queue
	waits func(ahead int) // is told how many go first, if it has to wait at all
	goes  func()          // is told when it goes after it waited
}

// NewQueue is a queue of which so many go at a time.
func NewQueue(slots int) *Queue { return &Queue{free: max(1, slots)} }

// QueueSlots is how many evaluations of nix, and again how many builds, this machine takes at a
// time: one for each core, as long as half of the memory has a GiB for each, which is what an
// evaluation with nixpkgs takes. (A build holds on to what its evaluation took.)
func QueueSlots() int {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil { // it has no reason to fail
		return 1
	}
	return slots(runtime.NumCPU(), uint64(info.Totalram)*uint64(info.Unit))
}

func slots(cores int, memory uint64) int { return max(1, min(cores, int(memory/2>>30))) }

// enter waits for its turn. Who went calls leave, once.
func (q *Queue) enter(ctx context.Context, w waiter) (leave func(), err error) {
	if q == nil {
		return func() {}, nil
	}
	q.mu.Lock()
	if q.free > 0 { // nobody waits
		q.free--
		q.mu.Unlock()
		return q.leave, nil
	}
	t := &ticket{waiter: w, turn: make(chan struct{})}
	ahead := len(q.waiting)
	q.waiting = append(q.waiting, t)
	q.mu.Unlock()
	if w.waits != nil {
		w.waits(ahead)
	}
	select {
	case <-t.turn:
	case <-ctx.Done():
		q.mu.Lock()
		i := slices.Index(q.waiting, t)
		if i >= 0 {
			q.waiting = slices.Delete(q.waiting, i, i+1)
		}
		q.mu.Unlock()
		if i < 0 { // its turn came just now
			q.leave()
		}
		return nil, context.Cause(ctx)
	}
	if w.goes != nil {
		w.goes()
	}
	return q.leave, nil
}

// leave lets the next go.
func (q *Queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.free++
		return
	}
	i := max(0, slices.IndexFunc(q.waiting, func(t *ticket) bool { return t.hurry != nil && t.hurry() }))
	close(q.waiting[i].turn)
	q.waiting = slices.Delete(q.waiting, i, i+1)
}
