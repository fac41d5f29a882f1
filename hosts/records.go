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

// records is the store as the inventory uses it. No caller's context goes into it: what has happened to a host is
// recorded also when the request that told of it, or the install that it ended, was broken off. It waits for
// storePatience at most instead.
type records struct{ db store.Store }

func (r records) Get(key string) (store.Record, error) {
	ctx, cancel := context.WithTimeout(context.Background(), storePatience)
	defer cancel()
	return r.db.Get(ctx, key)
}

func (r records) List(prefix, after string) ([]store.Record, error) {
	ctx, cancel := context.WithTimeout(context.Background(), storePatience)
	defer cancel()
	return r.db.List(ctx, prefix, after)
}

func (r records) Commit(expect []store.Version, writes []store.Write) error {
	ctx, cancel := context.WithTimeout(context.Background(), storePatience)
	defer cancel()
	return r.db.Commit(ctx, expect, writes)
}

// Stale is [store.Stale].
func (r records) Stale() (why string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), storePatience)
	defer cancel()
	return store.Stale(ctx, r.db)
}
