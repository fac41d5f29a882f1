package hosts

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterr "go.etcd.io/bbolt/errors"
)

// Errors that callers match.
var (
	ErrNotFound = errors.New("not found")
	ErrConflict = errors.New("changed meanwhile")
	ErrRefused  = errors.New("not allowed now")
)

// Store keeps small records under string keys. It is as small as it is so
// that etcd can stand behind it one day.
type Store interface {
	// Get returns the record, or ErrNotFound.
	Get(key string) (Record, error)
	// List returns the records whose key starts with prefix and comes after
	// the key `after` (which need not exist), in key order.
	List(prefix, after string) ([]Record, error)
	// Commit makes all writes or none. Each expected version must still hold
	// (version 0: the key is absent), else the error is ErrConflict.
	Commit(expect []Version, writes []Write) error
	// Watch sends the keys under prefix that are written, each at least once
	// after its last write, until ctx ends. A slow reader sees a key once for
	// several writes; nothing is lost.
	Watch(ctx context.Context, prefix string) <-chan string
}

// Record is a key, its value and the version of its last write.
type Record struct {
	Key     string
	Value   []byte
	Version uint64
}

// Version is an expectation of Commit.
type Version struct {
	Key     string
	Version uint64
}

// Write sets a key, or deletes it if Value is nil.
type Write struct {
	Key   string
	Value []byte
}

// Bolt is the Store in one file of one machine (go.etcd.io/bbolt). A commit
// is on the disk before it returns.
type Bolt struct {
	db      *bbolt.DB
	writing sync.Mutex // held by the one who writes to the disk

	mu       sync.Mutex
	waiting  []*commit // for the next transaction
	watchers map[*watcher]struct{}
}

var bucket = []byte("provision")

// OpenBolt opens or makes the file. A second server on the same file is
// refused at once.
func OpenBolt(path string) (*Bolt, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 100 * time.Millisecond})
	switch {
	case errors.Is(err, bolterr.ErrTimeout):
		return nil, fmt.Errorf("open %s: another `provision serve` uses this state folder; stop it or choose another --state-dir", path)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("open %w; run as root or choose another --state-dir", err)
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucket)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, errors.Join(err, db.Close()))
	}
	return &Bolt{db: db, watchers: make(map[*watcher]struct{})}, nil
}

// Close releases the file.
func (b *Bolt) Close() error { return b.db.Close() }

// Get implements Store.
func (b *Bolt) Get(key string) (rec Record, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucket).Get([]byte(key))
		if v == nil {
			return ErrNotFound
		}
		rec = record(key, v)
		return nil
	})
	return rec, err
}

// List implements Store.
func (b *Bolt) List(prefix, after string) (recs []Record, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucket).Cursor()
		start := max(prefix, after)
		for k, v := c.Seek([]byte(start)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
			if string(k) != after {
				recs = append(recs, record(string(k), v))
			}
		}
		return nil
	})
	return recs, err
}

// Values carry their version in front, eight bytes, big endian.
func record(key string, v []byte) Record {
	return Record{Key: key, Version: binary.BigEndian.Uint64(v), Value: bytes.Clone(v[8:])}
}

// A commit is what one call of Commit wants.
type commit struct {
	expect []Version
	writes []Write
	done   bool
	err    error
}

// Commit implements Store. To wait for the disk takes by far the longest of
// it, and whole fleets are switched on at once: so while it writes one group
// of commits, the next gathers, and one of those who wait writes for all.
func (b *Bolt) Commit(expect []Version, writes []Write) error {
	c := &commit{expect: expect, writes: writes}
	b.mu.Lock()
	b.waiting = append(b.waiting, c)
	b.mu.Unlock()

	b.writing.Lock()
	defer b.writing.Unlock()
	if c.done {
		return c.err
	}
	b.mu.Lock()
	group := b.waiting
	b.waiting = nil
	b.mu.Unlock()
	err := b.db.Update(func(tx *bbolt.Tx) error {
		for _, c := range group {
			if err := c.apply(tx.Bucket(bucket)); err != nil {
				return err
			}
		}
		return nil
	})
	for _, c := range group {
		if c.done = true; err != nil {
			c.err = err
		}
	}
	b.tell(group)
	return c.err
}

// apply makes the writes, if what is expected holds. Else c.err says so, and
// nothing is written. What it returns ends the transaction for all.
func (c *commit) apply(bk *bbolt.Bucket) error {
	for _, want := range c.expect {
		var have uint64
		if v := bk.Get([]byte(want.Key)); v != nil {
			have = binary.BigEndian.Uint64(v)
		}
		if have != want.Version {
			c.err = fmt.Errorf("%s: %w", want.Key, ErrConflict)
			return nil
		}
	}
	version, err := bk.NextSequence()
	if err != nil {
		return err
	}
	for _, w := range c.writes {
		if w.Value == nil {
			err = bk.Delete([]byte(w.Key))
		} else {
			err = bk.Put([]byte(w.Key), append(binary.BigEndian.AppendUint64(nil, version), w.Value...))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tell tells the watchers what was written.
func (b *Bolt) tell(group []*commit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for w := range b.watchers {
		for _, c := range group {
			if c.err != nil {
				continue
			}
			for _, wr := range c.writes {
				w.add(wr.Key)
			}
		}
	}
}

// watcher holds the keys that its reader has not taken yet.
type watcher struct {
	prefix string
	wake   chan struct{} // capacity 1

	mu      sync.Mutex
	pending []string
}

func (w *watcher) add(key string) {
	if !strings.HasPrefix(key, w.prefix) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.pending {
		if k == key {
			return
		}
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

// Watch implements Store.
func (b *Bolt) Watch(ctx context.Context, prefix string) <-chan string {
	w := &watcher{prefix: prefix, wake: make(chan struct{}, 1)}
	b.mu.Lock()
	b.watchers[w] = struct{}{}
	b.mu.Unlock()
	out := make(chan string)
	go func() {
		defer close(out)
		defer func() {
			b.mu.Lock()
			delete(b.watchers, w)
			b.mu.Unlock()
		}()
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
