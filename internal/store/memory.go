package store

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Memory is a [Store] that forgets everything with its process. The zero value is empty and ready.
type Memory struct {
	watchers watchers

	mu        sync.Mutex
	version   uint64 // of the last commit
	lastLease int64
	records   map[string]leasedRecord
	leases    map[int64]bool // the live ones
}

type leasedRecord struct {
	Record
	lease int64
}

// Get implements [Store].
func (m *Memory) Get(ctx context.Context, key string) (Record, error) {
	if err := ctx.Err(); err != nil {
		return Record{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	rec, ok := m.records[key]
	if !ok {
		return Record{}, ErrNotFound
	}
	return rec.clone(), nil
}

func (r leasedRecord) clone() Record {
	rec := r.Record
	rec.Value = bytes.Clone(rec.Value)
	return rec
}

// List implements [Store].
func (m *Memory) List(ctx context.Context, prefix, after string) (recs []Record, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, rec := range m.records {
		if strings.HasPrefix(key, prefix) && key > after {
			recs = append(recs, rec.clone())
		}
	}
	slices.SortFunc(recs, func(a, b Record) int { return cmp.Compare(a.Key, b.Key) })
	return recs, nil
}

// Commit implements [Store].
func (m *Memory) Commit(ctx context.Context, expect []Version, writes []Write) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()

	for _, want := range expect {
		if m.records[want.Key].Version != want.Version {
			return fmt.Errorf("%s: %w", want.Key, ErrConflict)
		}
	}

	for _, w := range writes {
		if w.Lease != 0 && !m.leases[w.Lease] {
			return fmt.Errorf("%s: %w", w.Key, ErrLeaseEnded)
		}
	}

	m.version++
	var changed []string
	for _, w := range writes {
		changed = append(changed, m.write(w)...)
	}
	m.watchers.notify(changed)
	return nil
}

// write returns the keys that it changed.
func (m *Memory) write(w Write) (changed []string) {
	switch {
	case w.Prefix:
		return m.drop(func(key string, _ leasedRecord) bool { return strings.HasPrefix(key, w.Key) })
	case w.Value == nil:
		delete(m.records, w.Key)
	default:
		if m.records == nil {
			m.records = make(map[string]leasedRecord)
		}
		value := bytes.Clone(w.Value)
		m.records[w.Key] = leasedRecord{Record{Key: w.Key, Value: value, Version: m.version}, w.Lease}
	}

	return []string{w.Key}
}

// drop deletes those records and returns their keys.
func (m *Memory) drop(gone func(key string, rec leasedRecord) bool) (keys []string) {
	for key, rec := range m.records {
		if gone(key, rec) {
			keys = append(keys, key)
			delete(m.records, key)
		}
	}
	return keys
}

// Watch implements [Store].
func (m *Memory) Watch(ctx context.Context, prefix string) <-chan string {
	return m.watchers.watch(ctx, prefix)
}

// Lease implements [Store]. ttl is not needed: what could outlive the process is gone with it.
func (m *Memory) Lease(ctx context.Context, ttl time.Duration) (Lease, error) {
	if err := ctx.Err(); err != nil {
		return Lease{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()

	if m.leases == nil {
		m.leases = make(map[int64]bool)
	}
	m.lastLease++
	id := m.lastLease
	m.leases[id] = true

	done := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(done)
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.leases, id)
		m.watchers.notify(m.drop(func(_ string, rec leasedRecord) bool { return rec.lease == id }))
	})
	return Lease{ID: id, Done: done}, nil
}
