package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// TestCommitsGoTogether: commits that wait for the disk share a transaction,
// in which each is still made whole or not at all.
func TestCommitsGoTogether(t *testing.T) {
	b, err := OpenBolt(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	watched := b.Watch(t.Context(), "own/")
	transactions := func() (id int) {
		b.db.View(func(tx *bbolt.Tx) error { id = tx.ID(); return nil })
		return id
	}
	before := transactions()

	const n = 50
	errs := make([]error, n)
	var commits sync.WaitGroup
	b.commits.writing.Lock() // the disk is busy
	for i := range n {
		commits.Go(func() { // all want the key "one", which only one can have
			errs[i] = b.Commit(t.Context(), []Version{Absent("one")}, []Write{Put("one", fmt.Append(nil, i)), Put(fmt.Sprintf("own/%d", i), []byte("x"))})
		})
	}
	for waiting := 0; waiting < n; time.Sleep(time.Millisecond) {
		b.commits.mu.Lock()
		waiting = len(b.commits.waiting)
		b.commits.mu.Unlock()
	}
	b.commits.writing.Unlock()
	commits.Wait()

	if took := transactions() - before; took != 1 {
		t.Errorf("%d transactions", took)
	}
	one, err := b.Get(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	own, err := b.List(t.Context(), "own/", "")
	if err != nil || len(own) != 1 || own[0].Key != "own/"+string(one.Value) || own[0].Version != one.Version {
		t.Errorf("%s won, and there is %v, %v", one.Value, own, err)
	}
	for i, err := range errs {
		if won := string(one.Value) == fmt.Sprint(i); won != (err == nil) || !won && !errors.Is(err, ErrConflict) {
			t.Errorf("%d: %v", i, err)
		}
	}
	if key := <-watched; key != own[0].Key {
		t.Errorf("%s was told, and %s was written", key, own[0].Key)
	}
	// Two that change the same key follow each other, in one transaction too.
	if err := b.Commit(t.Context(), []Version{At("one", one.Version)}, []Write{Delete("one")}); err != nil {
		t.Error(err)
	}
}
