package nix

import (
	"context"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Queue limits how many operations that need much memory or many cores, such as evaluations and builds, run at a time.
//
// They go in the order in which they came, but those in a hurry go before all others. A nil Queue has no limit.
type Queue struct {
	mu      sync.Mutex
	free    int       // how many may go at once now
	waiting []*ticket // in the order in which they came
}

// ticket is a place in a queue.
type ticket struct {
	Waiter
	turn chan struct{} // closed when it may go
}

// Waiter is somebody who waits in a queue. Its functions may be nil.
type Waiter struct {
	// Hurry is asked whenever somebody may go. It must not use the queue.
	Hurry func() bool
	// Waits is called if it has to wait, with the number of those before it.
	Waits func(ahead int)
	// Goes is called when it may go after it had to wait.
	Goes func()
}

// NewQueue returns a queue that lets n go at a time, but at least one.
func NewQueue(n int) *Queue { return &Queue{free: max(1, n)} }

// QueueSlots returns how many evaluations of nix, and as many builds at the same time, this machine can run: one for
// each core, but at most one for each GiB in half of the memory. An evaluation with nixpkgs takes about 1 GiB. (A build
// keeps the memory that its evaluation took.)
func QueueSlots() int {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil { // sysinfo(2) has no reason to fail
		return 1
	}
	return slots(runtime.NumCPU(), uint64(info.Totalram)*uint64(info.Unit))
}

// slots is [QueueSlots] for a machine with this number of cores and bytes of memory.
func slots(cores int, memory uint64) int { return max(1, min(cores, int(memory/2>>30))) }

// Enter waits until w may go. The caller then calls leave, once, when it is done. If ctx ends before, the error is its
// cause.
func (q *Queue) Enter(ctx context.Context, w Waiter) (leave func(), err error) {
	if q == nil {
		return func() {}, nil
	}

	q.mu.Lock()
	if q.free > 0 { // if there is a free slot, nobody waits
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

// giveUp removes a ticket from the queue.
func (q *Queue) giveUp(t *ticket) {
	q.mu.Lock()
	i := slices.Index(q.waiting, t)
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	q.mu.Unlock()

	if i < 0 { // its turn has just come
		q.leave()
	}
}

// leave lets the next one go.
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
