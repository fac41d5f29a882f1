package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime/debug"
	"sync"
	"time"

	"go.etcd.io/bbolt"
)

// Bolt is the [Store] in one file of one machine (go.etcd.io/bbolt), made by [OpenBolt]. A commit is on the disk before
// it returns.
type Bolt struct {
	Found Check // when the file was opened

	db       *bbolt.DB
	watchers watchers

	closing context.Context // until Close
	cancel  context.CancelFunc
	ending  sync.WaitGroup // of leases

	commits groups[*commit] // each a transaction

	mu        sync.Mutex
	lastLease int64
	leases    map[int64]bool // the live ones
}

// Get implements [Store].
func (b *Bolt) Get(ctx context.Context, key string) (rec Record, err error) {
	err = b.view(ctx, func(records *bbolt.Bucket) error {
		v := records.Get([]byte(key))
		if v == nil {
			return ErrNotFound
		}
		var whole bool
		rec, whole = readRecord([]byte(key), v)
		if !whole {
			return &Damaged{[]string{key}}
		}
		return nil
	})
	return rec, err
}

// List implements [Store].
func (b *Bolt) List(ctx context.Context, prefix, after string) (recs []Record, err error) {
	var damaged []string
	err = b.view(ctx, func(records *bbolt.Bucket) error {
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
// touches memory that is not there.
func (b *Bolt) view(ctx context.Context, read func(records *bbolt.Bucket) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return guard(func() error {
		return b.db.View(func(tx *bbolt.Tx) error { return read(tx.Bucket(recordsBucket)) })
	})
}

func guard(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("use the store: its file or its disk is damaged; "+
				"restart the server, which looks at all of it (%v)", r)
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

// A commit is what one call of Commit wants.
type commit struct {
	expect  []Version
	writes  []Write
	changed []string // the keys that were written or deleted
	err     error
}

// Commit implements [Store]. Most of its time is spent waiting for the disk, and whole fleets are switched on at once.
// So while one group of commits is being written, the next one gathers, and one of those who wait writes for all.
func (b *Bolt) Commit(ctx context.Context, expect []Version, writes []Write) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c := &commit{expect: expect, writes: writes}
	b.commits.write(c, b.commit)
	return c.err
}

// commit writes a group of commits in one transaction.
func (b *Bolt) commit(group []*commit) {
	err := b.update(func(tx *bbolt.Tx) error {
		for _, c := range group {
			if err := b.apply(tx, c); err != nil {
				return err
			}
		}
		return nil
	})
	for _, c := range group {
		if err != nil {
			c.err = err
		}
		if c.err == nil {
			b.watchers.notify(c.changed)
		}
	}
}

func (b *Bolt) update(write func(tx *bbolt.Tx) error) error {
	return guard(func() error { return b.db.Update(write) })
}

// apply makes the writes, if what is expected holds. Else c.err says so, and nothing is written. What it returns ends
// the transaction for the whole group.
func (b *Bolt) apply(tx *bbolt.Tx, c *commit) error {
	records := tx.Bucket(recordsBucket)
	for _, want := range c.expect {
		var have uint64
		if v := records.Get([]byte(want.Key)); v != nil {
			rec, _ := readRecord([]byte(want.Key), v)
			have = rec.Version
		}
		if have != want.Version {
			c.err = fmt.Errorf("%s: %w", want.Key, ErrConflict)
			return nil
		}
	}

	for _, w := range c.writes {
		if w.Lease != 0 && !b.alive(w.Lease) {
			c.err = fmt.Errorf("%s: %w", w.Key, ErrLeaseEnded)
			return nil
		}
	}

	version, err := records.NextSequence()
	if err != nil {
		return err
	}

	for _, w := range c.writes {
		changed, err := writeTo(tx, w, version)
		if err != nil {
			return err
		}
		c.changed = append(c.changed, changed...)
	}

	return nil
}

// writeTo returns the keys that it changed.
func writeTo(tx *bbolt.Tx, w Write, version uint64) (changed []string, err error) {
	records := tx.Bucket(recordsBucket)
	switch {
	case w.Prefix:
		c := records.Cursor()
		for k, _ := c.Seek([]byte(w.Key)); k != nil && bytes.HasPrefix(k, []byte(w.Key)); k, _ = c.Next() {
			changed = append(changed, string(k))
		}
	case w.Value == nil:
		changed = []string{w.Key}
	default:
		err := putRecord(records, []byte(w.Key), version, w.Value)
		if err != nil {
			return nil, err
		}
		return []string{w.Key}, tie(tx, w.Key, w.Lease)
	}

	for _, key := range changed {
		err := records.Delete([]byte(key))
		if err != nil {
			return nil, err
		}
		if err := tie(tx, key, 0); err != nil {
			return nil, err
		}
	}

	return changed, nil
}

// tie notes in the file that a key goes with a lease, so that it does not outlive a process that was killed; with 0
// that it does not.
func tie(tx *bbolt.Tx, key string, lease int64) error {
	if lease != 0 {
		leased, err := tx.CreateBucketIfNotExists(leasedBucket)
		if err != nil {
			return err
		}
		return leased.Put([]byte(key), binary.BigEndian.AppendUint64(nil, uint64(lease)))
	}
	if leased := tx.Bucket(leasedBucket); leased != nil {
		return leased.Delete([]byte(key))
	}
	return nil
}

// untie deletes the keys that go with a lease, or with any.
func untie(tx *bbolt.Tx, which func(lease int64) bool) (changed []string, err error) {
	leased := tx.Bucket(leasedBucket)
	if leased == nil {
		return nil, nil
	}
	err = leased.ForEach(func(key, value []byte) error {
		if len(value) == 8 && which(int64(binary.BigEndian.Uint64(value))) {
			changed = append(changed, string(key))
		}
		return nil
	})
	for _, key := range changed {
		if err == nil {
			_, err = writeTo(tx, Delete(key), 0)
		}
	}

	return changed, err
}

func (b *Bolt) alive(lease int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.leases[lease]
}

// Watch implements [Store].
func (b *Bolt) Watch(ctx context.Context, prefix string) <-chan string {
	return b.watchers.watch(ctx, prefix)
}

// Lease implements [Store]. ttl is not needed: who opens the file next knows that its last user is dead, and deletes
// the keys.
func (b *Bolt) Lease(ctx context.Context, ttl time.Duration) (Lease, error) {
	if err := ctx.Err(); err != nil {
		return Lease{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closing.Err() != nil {
		return Lease{}, errors.New("the store is closed")
	}

	b.lastLease++
	id := b.lastLease
	b.leases[id] = true

	done := make(chan struct{})
	b.ending.Go(func() {
		defer close(done)
		select {
		case <-ctx.Done():
		case <-b.closing.Done():
		}
		b.endLease(id)
	})
	return Lease{ID: id, Done: done}, nil
}

// endLease deletes the keys of a lease. If the disk fails, they stay until the file is opened again.
func (b *Bolt) endLease(id int64) {
	b.mu.Lock()
	delete(b.leases, id)
	b.mu.Unlock()

	b.commits.writing.Lock()
	defer b.commits.writing.Unlock()
	var changed []string
	err := b.update(func(tx *bbolt.Tx) (err error) {
		changed, err = untie(tx, func(lease int64) bool { return lease == id })
		return err
	})
	if err == nil {
		b.watchers.notify(changed)
	}
}

// Close ends all leases and releases the file.
func (b *Bolt) Close() error {
	b.mu.Lock() // no lease begins while they are waited for
	b.cancel()
	b.mu.Unlock()
	b.ending.Wait()
	return b.db.Close()
}
