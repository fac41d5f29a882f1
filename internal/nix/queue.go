package nix

import (
	"context"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Queue lets a few at a time do what takes much memory or many cores, as nix's evaluations and builds do.
//
// Who came first goes first, but who is in a hurry goes before all who are not. A nil Queue lets all go at once.
type Queue struct {
	mu      sync.Mutex
	free    int
	waiting []*ticket // in the order in which they came
}

// ticket is a place in a queue.
type ticket struct {
	Waiter
	turn chan struct{} // closed when it may go
}

// Waiter is who waits in a queue. Its functions may be nil.
type Waiter struct {
	// Hurry is asked whenever somebody may go. It must not use the queue.
	Hurry func() bool
	// Waits is told how many go first, if it has to wait at all.
	Waits func(ahead int)
	// Goes is told when it goes after it waited.
	Goes func()
}

// NewQueue is a queue of which n go at a time, at least one.
func NewQueue(n int) *Queue { return &Queue{free: max(1, n)} }

// QueueSlots is how many evaluations of nix, and as many builds beside them, this machine takes at a time: one for
// each core, as long as half of the memory has a GiB for each, which is what an evaluation with nixpkgs takes. (A
// build holds on to what its evaluation took.)
func QueueSlots() int {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil { // it has no reason to fail
		return 1
	}
	return slots(runtime.NumCPU(), uint64(info.Totalram)*uint64(info.Unit))
}

// slots is [QueueSlots] for a machine with so many cores and bytes of memory.
func slots(cores int, memory uint64) int { return max(1, min(cores, int(memory/2>>30))) }

// Enter waits for the turn of w. Who got it calls leave, once. If ctx ends before, its cause is the error.
func (q *Queue) Enter(ctx context.Context, w Waiter) (leave func(), err error) {
	if q == nil {
		return func() {}, nil
	}

	q.mu.Lock()
	if q.free > 0 { // nobody waits
		q.free--
		q.mu.Unlock()
		return q.leave, nil
	}
	t := &ticket{Waiter: w, turn: make(chan struct{})}
	ahead := len(q.waiting)
	q.waiting = append(q.waiting, t)
	q.mu.Unlock()

	if w.Waits != nil {
		w.Waits(ahead)
	}
	select {
	case <-t.turn:
	case <-ctx.Done():
		q.giveUp(t)
		return nil, context.Cause(ctx)
	}
	if w.Goes != nil {
		w.Goes()
	}
	return q.leave, nil
}

// giveUp takes who waits out of the queue.
func (q *Queue) giveUp(t *ticket) {
	q.mu.Lock()
	i := slices.Index(q.waiting, t)
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	q.mu.Unlock()

	if i < 0 { // its turn came just now
		q.leave()
	}
}

// leave lets the next go.
func (q *Queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.free++
		return
	}

	hurries := func(t *ticket) bool { return t.Hurry != nil && t.Hurry() }
	next := max(0, slices.IndexFunc(q.waiting, hurries))
	close(q.waiting[next].turn)
	q.waiting = slices.Delete(q.waiting, next, next+1)
}
