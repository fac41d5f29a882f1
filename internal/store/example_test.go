package store_test

import (
	"context"
	"errors"
	"fmt"

	"provision/internal/store"
)

// A permit is burned once: whoever comes second expects a version that is gone.
func Example() {
	ctx := context.Background()
	db := new(store.Memory)
	err := db.Commit(ctx, []store.Version{store.Absent("permit/bravo")}, []store.Write{
		store.Put("permit/bravo", []byte("live")),
	})
	if err != nil {
		fmt.Println(err)
	}

	permit, err := db.Get(ctx, "permit/bravo")
	if err != nil {
		fmt.Println(err)
	}
	for range 2 {
		err := db.Commit(ctx, []store.Version{store.At(permit.Key, permit.Version)}, []store.Write{
			store.Put(permit.Key, []byte("burned")),
		})
		fmt.Println(err, errors.Is(err, store.ErrConflict))
	}
	// Output:
	// <nil> false
	// permit/bravo: changed meanwhile true
}
