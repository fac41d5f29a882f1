package nix

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestQueue: no more than the slots go at once, who came first goes first, who is in a hurry before
// them, and who gives up takes no turn.
func TestQueue(t *testing.T) {
	q := NewQueue(1)
	leave, err := q.Enter(t.Context(), Waiter{Waits: func(int) { t.Error("the first waits") }})
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
		w := Waiter{Waits: func(n int) { ahead = append(ahead, strconv.Itoa(n)); close(queued) }}
		if i == 3 { // only after it came
			w.Hurry = hurry.Load
		}
		all.Go(func() {
			leave, err := q.Enter(ctx, w)
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
			leave, err := q.Enter(t.Context(), Waiter{})
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
