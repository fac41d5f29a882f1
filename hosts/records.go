package hosts

import (
	"context"
	"errors"
	"time"

	"provision/internal/store"
)

// Errors that callers match.
var (
	ErrNotFound = store.ErrNotFound
	ErrRefused  = errors.New("not allowed now")
)

// storePatience bounds how long a write to the store may take.
const storePatience = 30 * time.Second

// Fault is a failure of the server itself, such as of its disk. Nothing is wrong with the request.
type Fault struct{ Err error }

// Error returns the text of the failure.
func (f *Fault) Error() string { return f.Err.Error() }

// Unwrap returns the failure.
func (f *Fault) Unwrap() error { return f.Err }

// records is the store as the inventory uses it. Callers cannot pass a context: what has happened to a host must be
// recorded even if the request that reported it, or the install that it ended, was cancelled. A write waits at most
// storePatience instead. Reads have no deadline: a store on this machine does not wait for anything, and a timer for
// each would cost DHCP some of its speed. A store elsewhere has to bound its own requests. Errors other than
// ErrNotFound and ErrConflict are returned as a [Fault].
type records struct{ db store.Store }

func (r records) Get(key string) (store.Record, error) {
	rec, err := r.db.Get(context.Background(), key)
	return rec, fault(err)
}

func (r records) List(prefix, after string) ([]store.Record, error) {
	recs, err := r.db.List(context.Background(), prefix, after)
	return recs, fault(err)
}

func (r records) Commit(expect []store.Version, writes []store.Write) error {
	ctx, cancel := context.WithTimeout(context.Background(), storePatience)
	defer cancel()
	return fault(r.db.Commit(ctx, expect, writes))
}

// Stale is [store.Stale].
func (r records) Stale() (why string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), storePatience)
	defer cancel()
	return store.Stale(ctx, r.db)
}

// fault wraps an error of the store in a [Fault], except those that callers match.
func fault(err error) error {
	if err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) {
		return err
	}
	return &Fault{err}
}
