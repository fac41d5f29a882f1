package hosts

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime/debug"
	"strings"
	"sync"

	"go.etcd.io/bbolt"
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
	Found StoreCheck // when the file was opened

	db      *bbolt.DB
	writing sync.Mutex // held by the one who writes to the disk

	mu       sync.Mutex
	waiting  []*commit // for the next transaction
	watchers map[*watcher]struct{}
}

// Get implements Store. Of a record that is damaged it returns what there is, with a [*Damaged].
func (b *Bolt) Get(key string) (rec Record, err error) {
	err = b.view(func(records *bbolt.Bucket) error {
		v := records.Get([]byte(key))
		if v == nil {
			return ErrNotFound
		}
		var whole bool
		if rec, whole = readRecord([]byte(key), v); !whole {
			return &Damaged{[]string{key}}
		}
		return nil
	})
	return rec, err
}

// List implements Store. If records are damaged, it returns the others with a [*Damaged].
func (b *Bolt) List(prefix, after string) (recs []Record, err error) {
	var damaged []string
	err = b.view(func(records *bbolt.Bucket) error {
		c := records.Cursor()
		start := max(prefix, after)
		for k, v := c.Seek([]byte(start)); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
			if string(k) == after {
				continue
			}
			rec, whole := readRecord(k, v)
			if !whole {
				damaged = append(damaged, rec.Key)
				continue
			}
			recs = append(recs, rec)
		}
		return nil
	})
	if err == nil && len(damaged) > 0 {
		err = &Damaged{damaged}
	}
	return recs, err
}

// view reads. What the disk does not give, or what was damaged since the file was opened, is an error: bbolt panics, or
// touches memory that there is not.
func (b *Bolt) view(read func(records *bbolt.Bucket) error) error {
	return guard(func() error {
		return b.db.View(func(tx *bbolt.Tx) error { return read(tx.Bucket(recordsBucket)) })
	})
}

func guard(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("use the store: its file or its disk is damaged; restart the server, which looks at all of it (%v)", r)
		}
	}()
	return do()
}

// A value in the file is the CRC-32C of the key and of what follows, the version of its last write in eight bytes, both
// big endian, and the record's own value.
const valueHead = 12

func readRecord(key, v []byte) (rec Record, whole bool) {
	if len(v) < valueHead {
		return Record{Key: string(key)}, false
	}
	rec = Record{
		Key:     string(key),
		Version: binary.BigEndian.Uint64(v[4:]),
		Value:   bytes.Clone(v[valueHead:]),
	}
	return rec, wholeRecord(key, v)
}

func wholeRecord(key, v []byte) bool {
	return len(v) >= valueHead && binary.BigEndian.Uint32(v) == recordSum(key, v[4:])
}

func recordSum(key, rest []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, rest)
}

func putRecord(records *bbolt.Bucket, key []byte, version uint64, value []byte) error {
	v := binary.BigEndian.AppendUint64(make([]byte, 4, valueHead+len(value)), version)
	v = append(v, value...)
	binary.BigEndian.PutUint32(v, recordSum(key, v[4:]))
	return records.Put(key, v)
}

// Damaged is the error for records whose checksum says that they are not what was written.
type Damaged struct{ Keys []string }

func (d *Damaged) Error() string {
	return fmt.Sprintf("damaged in the store: %s; `provision state set-aside %s` puts it aside", strings.Join(d.Keys, ", "), d.Keys[0])
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
	err := guard(func() error {
		return b.db.Update(func(tx *bbolt.Tx) error {
			for _, c := range group {
				if err := c.apply(tx.Bucket(recordsBucket)); err != nil {
					return err
				}
			}
			return nil
		})
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
			rec, _ := readRecord([]byte(want.Key), v)
			have = rec.Version
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
			err = putRecord(bk, []byte(w.Key), version, w.Value)
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
