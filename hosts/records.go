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

// storePatience is how long the store is waited for.
const storePatience = 30 * time.Second

// Fault is a failure of the server's own, such as of its disk: nothing that was asked for is wrong.
type Fault struct{ Err error }

// Error is that of the failure.
func (f *Fault) Error() string { return f.Err.Error() }

// Unwrap returns the failure.
func (f *Fault) Unwrap() error { return f.Err }

// records is the store as the inventory uses it. No caller's context goes into it: what has happened to a host is
// recorded also when the request that told of it, or the install that it ended, was broken off. It waits for
// storePatience at most instead. What fails but for the decisions that the inventory makes is a [Fault].
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

func fault(err error) error {
	if err == nil || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrConflict) {
		return err
	}
	return &Fault{err}
}
