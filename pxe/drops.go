package pxe

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// drops counts what was left unanswered because there was too much of it, for the operator. Of a flood, one line a
// minute is told.
type drops struct {
	mu   sync.Mutex
	what map[string]dropped // by what was dropped, in words
}

type dropped struct {
	count uint64
	last  string // whose was the last; "": not known
}

// add counts one more.
func (d *drops) add(what, whose string) { d.addMany(what, whose, 1) }

func (d *drops) addMany(what, whose string, count uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.what == nil {
		d.what = make(map[string]dropped)
	}
	d.what[what] = dropped{d.what[what].count + count, whose}
}

// take returns what was counted, and counts anew.
func (d *drops) take() map[string]dropped {
	d.mu.Lock()
	defer d.mu.Unlock()
	taken := d.what
	d.what = nil
	return taken
}

// tellDrops tells each minute what was dropped in it, if anything was, until ctx ends; then it does so once more.
func (s *Server) tellDrops(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		s.tellDropped()
	}
	return nil
}

func (s *Server) tellDropped() {
	all := s.drops.take()
	if len(all) == 0 {
		return
	}
	var attrs []any
	for _, what := range slices.Sorted(maps.Keys(all)) {
		text := fmt.Sprint(all[what].count)
		if all[what].last != "" {
			text += ", the last from " + all[what].last
		}
		attrs = append(attrs, what, text)
	}

	s.Log.Warn("in the last minute more was asked than is answered, by one machine or by all, and the rest was "+
		"dropped; look at what sends so much", attrs...)
}
