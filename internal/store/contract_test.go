package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// implementations are all kinds of Store; each makes an empty one.
var implementations = map[string]func(t *testing.T) Store{
	"bolt":   func(t *testing.T) Store { return openStore(t, filepath.Join(t.TempDir(), "state.db")) },
	"memory": func(*testing.T) Store { return new(Memory) },
}

// TestContract asserts what Store promises of every implementation.
func TestContract(t *testing.T) {
	for name, open := range implementations {
		for what, test := range map[string]func(t *testing.T, s Store){
			"compares and sets": comparesAndSets,
			"lists in order":    listsInOrder,
			"deletes a prefix":  deletesPrefix,
			"in their order":    writesInOrder,
			"values are copied": valuesAreCopied,
			"one wins":          oneWins,
			"watch":             watchMissesNothing,
			"watch ends":        watchEnds,
			"lease":             leaseTakesItsKeys,
			"context":           contextEnds,
		} {
			t.Run(name+"/"+what, func(t *testing.T) { test(t, open(t)) })
		}
	}
}

func commitOK(t *testing.T, s Store, expect []Version, writes ...Write) {
	t.Helper()
	if err := s.Commit(t.Context(), expect, writes); err != nil {
		t.Fatal(err)
	}
}

// keys are those under prefix, in their order.
func keys(t *testing.T, s Store, prefix, after string) string {
	t.Helper()
	recs, err := s.List(t.Context(), prefix, after)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, rec := range recs {
		all = append(all, rec.Key)
	}
	return strings.Join(all, " ")
}

func comparesAndSets(t *testing.T, s Store) {
	commitOK(t, s, []Version{Absent("a")}, Put("a", []byte("1")), Put("b", []byte("1")))
	err := s.Commit(t.Context(), []Version{Absent("a")}, []Write{Put("c", []byte("1"))})
	if !errors.Is(err, ErrConflict) {
		t.Errorf("absent expected, present: %v", err)
	}
	first, err := s.Get(t.Context(), "a")
	if err != nil || first.Key != "a" || string(first.Value) != "1" || first.Version == 0 {
		t.Errorf("%+v, %v", first, err)
	}

	commitOK(t, s, []Version{At("a", first.Version)}, Put("a", []byte("2")), Delete("b"))
	err = s.Commit(t.Context(), []Version{At("a", first.Version)}, []Write{Put("a", []byte("3"))})
	if !errors.Is(err, ErrConflict) {
		t.Errorf("an old version: %v", err)
	}
	err = s.Commit(t.Context(), []Version{At("b", first.Version)}, []Write{Put("b", []byte("3"))})
	if !errors.Is(err, ErrConflict) {
		t.Errorf("the version of a key that is gone: %v", err)
	}
	if _, err := s.Get(t.Context(), "b"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a deleted key: %v", err)
	}
	if _, err := s.Get(t.Context(), "c"); !errors.Is(err, ErrNotFound) {
		t.Errorf("half of a refused commit was made: %v", err)
	}

	// A key that comes back has a version that it never had.
	commitOK(t, s, nil, Delete("a"))
	commitOK(t, s, nil, Put("a", []byte("1")))
	again, err := s.Get(t.Context(), "a")
	if err != nil || again.Version <= first.Version {
		t.Errorf("version %d after %d, %v", again.Version, first.Version, err)
	}

	commitOK(t, s, nil, Put("empty", []byte{}))
	if rec, err := s.Get(t.Context(), "empty"); err != nil || len(rec.Value) != 0 {
		t.Errorf("an empty value: %+v, %v", rec, err)
	}
}

func listsInOrder(t *testing.T, s Store) {
	for _, key := range []string{"b/2", "a/1", "b/10", "b/1", "b", "c"} {
		commitOK(t, s, nil, Put(key, []byte(key)))
	}
	for _, test := range []struct{ prefix, after, want string }{
		{"", "", "a/1 b b/1 b/10 b/2 c"},
		{"b/", "", "b/1 b/10 b/2"},
		{"b/", "b/1", "b/10 b/2"},
		{"b/", "b/15", "b/2"}, // which is not there
		{"b/", "a", "b/1 b/10 b/2"},
		{"b/", "b/2", ""},
		{"d", "", ""},
	} {
		if got := keys(t, s, test.prefix, test.after); got != test.want {
			t.Errorf("%q after %q: %s, want %s", test.prefix, test.after, got, test.want)
		}
	}
}

func deletesPrefix(t *testing.T, s Store) {
	for i := range 300 { // more than a transaction of etcd takes
		commitOK(t, s, nil, Put(fmt.Sprintf("event/a/%03d", i), []byte("x")))
	}
	commitOK(t, s, nil, Put("event/ab", []byte("x")), Put("event/b/1", []byte("x")))
	commitOK(t, s, nil, DeletePrefix("event/a/"), DeletePrefix("nothing/"), Put("done", []byte("x")))
	if got := keys(t, s, "", ""); got != "done event/ab event/b/1" {
		t.Error(got)
	}
}

func writesInOrder(t *testing.T, s Store) {
	commitOK(t, s, nil, Put("a", []byte("1")), Delete("a"), Put("a", []byte("2")))
	if rec, err := s.Get(t.Context(), "a"); err != nil || string(rec.Value) != "2" {
		t.Errorf("%+v, %v", rec, err)
	}
	commitOK(t, s, nil, DeletePrefix(""), Put("b/1", []byte("1")), Put("b/2", []byte("1")), Delete("b/1"))
	if got := keys(t, s, "", ""); got != "b/2" {
		t.Error(got)
	}
}

func valuesAreCopied(t *testing.T, s Store) {
	value := []byte("before")
	commitOK(t, s, nil, Put("a", value))
	copy(value, "later!")
	for range 2 {
		rec, err := s.Get(t.Context(), "a")
		if err != nil || string(rec.Value) != "before" {
			t.Fatalf("%s, %v", rec.Value, err)
		}
		copy(rec.Value, "spoilt")
	}
}

func oneWins(t *testing.T, s Store) {
	const n = 40
	var all sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		all.Go(func() {
			own := fmt.Sprintf("own/%d", i)
			errs[i] = s.Commit(t.Context(), []Version{Absent("one")}, []Write{Put("one", []byte(own)), Put(own, []byte("x"))})
		})
	}
	all.Wait()
	one, err := s.Get(t.Context(), "one")
	if err != nil || keys(t, s, "own/", "") != string(one.Value) {
		t.Errorf("%s won, and there is %s, %v", one.Value, keys(t, s, "own/", ""), err)
	}
	for i, err := range errs {
		won := string(one.Value) == fmt.Sprintf("own/%d", i)
		if won != (err == nil) || !won && !errors.Is(err, ErrConflict) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

// watchMissesNothing: each key is named after its last change, whoever made it.
func watchMissesNothing(t *testing.T, s Store) {
	commitOK(t, s, nil, Put("host/gone", []byte("1")), Put("host/many/1", []byte("1")), Put("host/many/2", []byte("1")))
	changed := s.Watch(t.Context(), "host/")
	const writers = 8
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			for n := range 50 {
				commitOK(t, s, nil, Put(fmt.Sprintf("host/%d", i), fmt.Append(nil, n)), Put("other", []byte("x")))
			}
		})
	}
	go func() {
		all.Wait()
		_ = s.Commit(context.Background(), nil, []Write{Delete("host/gone"), DeletePrefix("host/many/")})
		_ = s.Commit(context.Background(), nil, []Write{Put("host/last", []byte("1"))})
	}()
	seen := make(map[string]string)
	for key := range changed {
		rec, err := s.Get(t.Context(), key)
		if err != nil && !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		seen[key] = string(rec.Value)
		if key == "host/last" {
			break
		}
	}
	for i := range writers {
		if got := seen[fmt.Sprintf("host/%d", i)]; got != "49" {
			t.Errorf("the last that was seen of host/%d is %q", i, got)
		}
	}
	for _, gone := range []string{"host/gone", "host/many/1", "host/many/2"} {
		if value, ok := seen[gone]; !ok || value != "" {
			t.Errorf("of %s was seen %q, %v", gone, value, ok)
		}
	}
	for key := range maps.Keys(seen) {
		if !strings.HasPrefix(key, "host/") {
			t.Errorf("it named %s", key)
		}
	}
}

func watchEnds(t *testing.T, s Store) {
	ctx, cancel := context.WithCancel(t.Context())
	changed := s.Watch(ctx, "")
	for i := range 10 {
		commitOK(t, s, nil, Put(fmt.Sprint(i), []byte("x")))
	}
	cancel()
	for range changed { // until it is closed
	}
}

func leaseTakesItsKeys(t *testing.T, s Store) {
	ctx, end := context.WithCancel(t.Context())
	lease, err := s.Lease(ctx, time.Minute)
	if err != nil || lease.ID == 0 {
		t.Fatalf("%+v, %v", lease, err)
	}
	other, err := s.Lease(t.Context(), time.Minute)
	if err != nil || other.ID == lease.ID {
		t.Fatalf("%+v, %v", other, err)
	}
	under := func(lease Lease, key string) Write {
		w := Put(key, []byte("x"))
		w.Lease = lease.ID
		return w
	}
	commitOK(t, s, nil, under(lease, "a"), under(lease, "b"), under(lease, "c"), under(other, "d"), Put("e", []byte("x")))
	commitOK(t, s, nil, Put("b", []byte("free again")))
	commitOK(t, s, nil, Delete("c"))
	commitOK(t, s, nil, Put("c", []byte("free as well")))

	changed := s.Watch(t.Context(), "")
	end()
	<-lease.Done
	if got := keys(t, s, "", ""); got != "b c d e" {
		t.Errorf("after its end there are %s", got)
	}
	if key := <-changed; key != "a" {
		t.Errorf("the watch named %s", key)
	}
	err = s.Commit(t.Context(), nil, []Write{Put("f", []byte("x")), under(lease, "g")})
	if !errors.Is(err, ErrLeaseEnded) || keys(t, s, "f", "") != "" {
		t.Errorf("under a lease that has ended: %v", err)
	}
	select {
	case <-other.Done:
		t.Error("the other lease ended")
	default:
	}
}

func contextEnds(t *testing.T, s Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, getErr := s.Get(ctx, "a")
	_, listErr := s.List(ctx, "", "")
	_, leaseErr := s.Lease(ctx, time.Minute)
	commitErr := s.Commit(ctx, nil, []Write{Put("a", []byte("x"))})
	errs := []error{getErr, listErr, leaseErr, commitErr}
	if slices.ContainsFunc(errs, func(err error) bool { return !errors.Is(err, context.Canceled) }) {
		t.Error(errs)
	}
	if got := keys(t, s, "", ""); got != "" {
		t.Errorf("%s was written", got)
	}
}

// TestLeaseOutlived: keys under a lease do not outlive a process that was killed, nor one that closed the file.
func TestLeaseOutlived(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	b := openStore(t, path)
	lease, err := b.Lease(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	w := Put("a", []byte("x"))
	w.Lease = lease.ID
	commitOK(t, b, nil, w, Put("b", []byte("x")))
	if err := b.db.Close(); err != nil { // as if it was killed
		t.Fatal(err)
	}
	found, err := CheckFile(path)
	if err != nil || found.Records != 2 || len(found.Damaged) > 0 {
		t.Errorf("%+v, %v", found, err)
	}
	b = openStore(t, path)
	if got := keys(t, b, "", ""); got != "b" {
		t.Errorf("after a kill there are %s", got)
	}

	lease, err = b.Lease(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	w.Lease = lease.ID
	commitOK(t, b, nil, w)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	<-lease.Done
	if got := keys(t, openStore(t, path), "", ""); got != "b" {
		t.Errorf("after Close there are %s", got)
	}
}

// TestOneServerPerFile: who comes second is refused at once.
func TestOneServerPerFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	openStore(t, path)
	_, err := OpenBolt(path)
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "another `provision serve`") {
		t.Errorf("a second server: %v", err)
	}
}
