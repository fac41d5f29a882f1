// Package store keeps small records under string keys, with transactions that compare and set. It knows nothing of what
// the records mean, and imports nothing else of provision.
//
// [Store] is what its users see. [Bolt] keeps the records in one file of one machine, [Memory] in memory alone.
// [Journal] is for records that are written very often and need no versions: it has List and Commit of a Store.
//
// The rest is for that file: what of it is damaged ([CheckFile]), and its copies ([Copies], [Backup], [Restore]).
package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Errors that callers match.
var (
	// ErrNotFound means that there is no record under the key.
	ErrNotFound = errors.New("not found")
	// ErrConflict means that a record has another version than was expected: read it again and decide anew.
	ErrConflict = errors.New("changed meanwhile")
	// ErrUnknown means that it is not known whether a commit was made, for instance because the connection broke while
	// it was waited for: read what it was to write.
	ErrUnknown = errors.New("not known whether it was written")
	// ErrLeaseEnded means that the lease of a write has ended. Nothing was written.
	ErrLeaseEnded = errors.New("the lease has ended")
)

// Store keeps records. All its methods may be called at the same time. When ctx ends, they return its error; of
// Commit that means what ErrUnknown does.
type Store interface {
	// Get returns the record, or ErrNotFound. If the record is damaged, it returns what is left of it with a *Damaged.
	Get(ctx context.Context, key string) (Record, error)
	// List returns the records whose key starts with prefix and comes after the key `after` (which need not exist), in
	// key order. If some are damaged, it returns the others with a *Damaged.
	List(ctx context.Context, prefix, after string) ([]Record, error)
	// Commit makes all writes, in their order, or none. Each expected version must still hold, else the error is
	// ErrConflict.
	Commit(ctx context.Context, expect []Version, writes []Write) error
	// Watch sends the keys under prefix that are written or deleted, each at least once after its last change, until
	// ctx ends; then the channel is closed. A slow reader gets a key once for several changes. After a gap, such as a
	// lost connection, it sends every key that may have changed meanwhile, whether it still exists or not.
	Watch(ctx context.Context, prefix string) <-chan string
	// Lease makes a lease that lives until ctx ends or the store is closed or lost. Its keys are deleted at once then,
	// or, if this process is killed, before they are twice ttl old.
	Lease(ctx context.Context, ttl time.Duration) (Lease, error)
}

// Record is a key, its value and the version of its last write.
type Record struct {
	Key     string
	Value   []byte
	Version uint64
}

// Version is what Commit expects of a record: that its last write has this version, or if it is 0, that there is none.
type Version struct {
	Key     string
	Version uint64
}

// At expects that the last write of key has this version; 0: that there is no such key.
func At(key string, version uint64) Version { return Version{Key: key, Version: version} }

// Absent expects that there is no such key.
func Absent(key string) Version { return Version{Key: key} }

// Write changes records. [Put], [Delete] and [DeletePrefix] make one.
type Write struct {
	Key    string
	Value  []byte // nil: the key is deleted
	Prefix bool   // all keys that start with Key are deleted
	Lease  int64  // the key is deleted when the lease of this ID ends; 0: none
}

// Put sets a key. value must not be nil.
func Put(key string, value []byte) Write { return Write{Key: key, Value: value} }

// Delete deletes a key, which need not exist.
func Delete(key string) Write { return Write{Key: key} }

// DeletePrefix deletes all keys that start with prefix.
func DeletePrefix(prefix string) Write { return Write{Key: prefix, Prefix: true} }

// Lease is what keys can be tied to.
type Lease struct {
	ID   int64           // for [Write], never 0
	Done <-chan struct{} // closed when the lease has ended
}

// StaleKey is the record that marks a store that does not know all that has happened, such as a copy. Its value says
// why, for people. Who opens the store takes back what it grants, and deletes the record then.
const StaleKey = "stale"

// Stale says why a store does not know all that has happened; empty: it does.
func Stale(ctx context.Context, s Store) (why string, err error) {
	rec, err := s.Get(ctx, StaleKey)
	switch {
	case errors.Is(err, ErrNotFound):
		return "", nil
	case errors.As(err, new(*Damaged)):
		return "the store is a copy", nil
	}
	return string(rec.Value), err
}

// Damaged is the error for records whose checksum says that they are not what was written.
type Damaged struct{ Keys []string }

// Error names the records and the command that puts one of them aside.
func (d *Damaged) Error() string {
	return fmt.Sprintf("damaged in the store: %s; `provision state set-aside %s` puts it aside",
		strings.Join(d.Keys, ", "), d.Keys[0])
}
