package store

import (
	"context"
	"slices"
	"strings"
	"sync"
)

// watchers are those who wait for changes. The zero value has none.
type watchers struct {
	mu  sync.Mutex
	all map[*watcher]struct{}
}

// watcher holds the keys that its reader has not taken yet.
type watcher struct {
	prefix string
	wake   chan struct{} // capacity 1

	mu      sync.Mutex
	pending []string
}

// notify tells the watchers which keys were changed.
func (ws *watchers) notify(keys []string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for w := range ws.all {
		for _, key := range keys {
			w.add(key)
		}
	}
}

// watch is that of [Store].
func (ws *watchers) watch(ctx context.Context, prefix string) <-chan string {
	w := &watcher{prefix: prefix, wake: make(chan struct{}, 1)}
	ws.mu.Lock()
	if ws.all == nil {
		ws.all = make(map[*watcher]struct{})
	}
	ws.all[w] = struct{}{}
	ws.mu.Unlock()

	out := make(chan string)
	go func() {
		defer close(out)
		defer ws.remove(w)

		for {
			select {
			case <-ctx.Done():
				return
			case <-w.wake:
			}

			for _, key := range w.take() {
				select {
				case <-ctx.Done():
					return
				case out <- key:
				}
			}
		}
	}()
	return out
}

func (ws *watchers) remove(w *watcher) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.all, w)
}

func (w *watcher) add(key string) {
	if !strings.HasPrefix(key, w.prefix) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.Contains(w.pending, key) {
		return
	}
	w.pending = append(w.pending, key)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	keys := w.pending
	w.pending = nil
	return keys
}
