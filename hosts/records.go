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

// storePatience bounds how long an operation on the store may take.
const storePatience = 30 * time.Second

// Fault is a failure of the server itself, such as of its disk. Nothing is wrong with the request.
type Fault struct{ Err error }

// Error returns the text of the failure.
func (f *Fault) Error() string { return f.Err.Error() }

// Unwrap returns the failure.
func (f *Fault) Unwrap() error { return f.Err }

// records is the store as the inventory uses it. Callers cannot pass a context: what has happened to a host must be
// recorded even if the request that reported it, or the install that it ended, was cancelled. Each operation waits at
// most storePatience instead. Errors other than ErrNotFound and ErrConflict are returned as a [Fault].
type records struct{ db store.Store }

func (r records) Get(key string) (store.Record, error) {
	ctx, cancel := context.WithTimeout(context.Background(), storePatience)
	defer cancel()
	rec, err := r.db.Get(ctx, key)
	return rec, fault(err)
}

func (r records) List(prefix, after string) ([]store.Record, error) {
	ctx, cancel := context.WithTimeout(context.Background(), storePatience)
	defer cancel()
	recs, err := r.db.List(ctx, prefix, after)
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
