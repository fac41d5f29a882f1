package store

import "sync"

// groups has what comes while the disk is waited for written together, by one of those who wait.
type groups[T any] struct {
	writing sync.Mutex // held by the one who writes

	mu      sync.Mutex
	waiting []*waiter[T] // for the next write
}

type waiter[T any] struct {
	item T
	done bool
}

// write returns once the item was written: by the caller, with all that has come meanwhile, or by another one. Groups
// are written one after the other, in the order in which their items came.
func (g *groups[T]) write(item T, all func(items []T)) {
	w := &waiter[T]{item: item}
	g.mu.Lock()
	g.waiting = append(g.waiting, w)
	g.mu.Unlock()

	g.writing.Lock()
	defer g.writing.Unlock()

	if w.done {
		return
	}
	g.mu.Lock()
	group := g.waiting
	g.waiting = nil
	g.mu.Unlock()

	items := make([]T, len(group))
	for i, w := range group {
		items[i] = w.item
		w.done = true
	}

	all(items)
}
