package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

// fill makes a store of several pages, with an event whose value takes more than one, and returns its file.
func fill(t testing.TB, path string) []byte {
	t.Helper()
	b := openStore(t, path)
	for i := range 60 {
		value := bytes.Repeat([]byte{byte(i)}, 100)
		if i == 30 {
			value = bytes.Repeat(value, 100)
		}
		if err := b.Commit(t.Context(), nil, []Write{Put(fmt.Sprintf("event/%02d", i), value)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func openStore(t testing.TB, path string) *Bolt {
	t.Helper()
	b, err := OpenBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// contents is what a store has; of damaged records only their keys are known.
func contents(t testing.TB, b *Bolt) (whole map[string]string, damaged []string) {
	t.Helper()
	recs, err := b.List(t.Context(), "", "")
	var d *Damaged
	if errors.As(err, &d) {
		damaged = d.Keys
	} else if err != nil {
		t.Fatal(err)
	}
	whole = make(map[string]string)
	for _, rec := range recs {
		whole[rec.Key] = string(rec.Value)
	}
	return whole, damaged
}

// TestStoreSpoiled flips bits all over the file. It is opened with all that was in it, or what is damaged is named, or
// it is not opened; and bbolt finds nothing wrong with what is opened.
func TestStoreSpoiled(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	data := fill(t, path)
	before, _ := contents(t, openStore(t, path))
	refused, named, reverted := 0, 0, 0
	for at := 0; at < len(data); at += 211 {
		p := filepath.Join(dir, "spoiled.db")
		if err := os.WriteFile(p, spoil(data, at), 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := OpenBolt(p)
		if err != nil {
			refused++
			if !strings.Contains(err.Error(), p+" is damaged: ") || !strings.Contains(err.Error(), "there is no good copy") {
				t.Fatalf("at %d: %v", at, err)
			}
			continue
		}
		for _, err := range checks(t, b) {
			t.Errorf("at %d: bbolt says %v", at, err)
		}
		now, damaged := contents(t, b)
		if !slices.Equal(b.Found.Damaged, damaged) {
			t.Fatalf("at %d: found %v, and %v are damaged", at, b.Found.Damaged, damaged)
		}
		named += len(damaged)
		if why, err := Stale(t.Context(), b); err != nil || b.Found.Reverted != (why != "") {
			t.Fatalf("at %d: stale: %q, %v", at, why, err)
		}
		if b.Found.Reverted { // the last transaction may be lost
			reverted++
			delete(now, StaleKey)
			now["event/59"] = before["event/59"]
		}
		for key, value := range before {
			if now[key] != value && len(damaged) == 0 {
				t.Errorf("at %d: %s is lost, and nobody says so", at, key)
			}
		}
		for key, value := range now {
			if before[key] != value {
				t.Errorf("at %d: %s is %q", at, key, value)
			}
		}
		b.Close()
	}
	if refused == 0 || named == 0 || reverted == 0 {
		t.Errorf("%d refused, %d records named, %d reverted", refused, named, reverted)
	}
}

// checks is what bbolt finds, after the pages of the last two transactions were written anew.
func checks(t testing.TB, b *Bolt) (found []error) {
	t.Helper()
	for range 2 {
		if err := b.Commit(t.Context(), nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	b.db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			found = append(found, err)
		}
		return nil
	})
	return found
}

// TestStoreCut: a file that is cut short is not opened, but for an empty one, of a first start that was killed.
func TestStoreCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	data := fill(t, path)
	cut := func(n int) error {
		if err := os.WriteFile(path, data[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := OpenBolt(path)
		if err == nil {
			b.Close()
		}
		return err
	}
	used := int(binary.LittleEndian.Uint64(data[pageHead+40:])) * os.Getpagesize()
	for n := 1; n < used; n += 1000 {
		if err := cut(n); err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Errorf("%d of %d bytes: %v", n, used, err)
		}
	}
	if err := cut(0); err != nil {
		t.Errorf("an empty file: %v", err)
	}
	os.Remove(path)
	db, err := bbolt.Open(path, 0o600, nil) // killed before it wrote anything of its own
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	b := openStore(t, path)
	kept, err := b.Keep()
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	for name, err := range map[string]error{"an empty file": cut(0), "no file": func() error {
		os.Remove(path)
		_, err := OpenBolt(path)
		return err
	}()} {
		if err == nil || !strings.Contains(err.Error(), "the newest good copy is "+kept) {
			t.Errorf("%s, and a copy: %v", name, err)
		}
	}
}

// TestFormats: the store of an older version is brought to today's format, and kept as it was; older versions do not
// take what this one wrote for theirs, and this one does not that of a newer one.
func TestFormats(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	old := map[string]string{"host/a": "one", "host/b": "two", "mac/x": "a"}
	err = db.Update(func(tx *bbolt.Tx) error {
		first, err := tx.CreateBucket(firstBucket)
		for key, value := range old {
			err = errors.Join(err, first.Put([]byte(key), append(binary.BigEndian.AppendUint64(nil, 7), value...)))
		}
		return errors.Join(err, first.SetSequence(8))
	})
	if err = errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}

	b := openStore(t, path)
	if now, _ := contents(t, b); !maps.Equal(now, old) {
		t.Errorf("there is %v", now)
	}
	rec, err := b.Get(t.Context(), "host/a")
	if err != nil || rec.Version != 7 {
		t.Errorf("%+v, %v", rec, err)
	}
	if err := b.Commit(t.Context(), []Version{At("host/a", 7)}, []Write{Put("host/a", []byte("three"))}); err != nil {
		t.Error(err)
	}
	if rec, _ := b.Get(t.Context(), "host/a"); rec.Version != 9 {
		t.Errorf("the next version is %d", rec.Version)
	}
	b.db.View(func(tx *bbolt.Tx) error {
		value := tx.Bucket(firstBucket).Get([]byte("discovered"))
		if json.Unmarshal(value[8:], new([]struct{})) == nil {
			t.Error("an older version takes it for its own")
		}
		return nil
	})
	kept, err := CheckFile(filepath.Join(copiesOf(path), "before-format-3.db"))
	if err != nil || kept.Format != 1 || kept.Kinds["host"] != 2 {
		t.Errorf("kept: %+v, %v", kept, err)
	}

	err = b.db.Update(func(tx *bbolt.Tx) error {
		return putRecord(tx.Bucket(formatBucket), formatKey, 0, []byte("4"))
	})
	if err = errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = OpenBolt(path)
	want := "is of a newer version of provision (format 4; this one knows 3): start that version"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("a newer format: %v", err)
	}
	if _, err := Restore(path, filepath.Join(copiesOf(path), "before-format-3.db")); err != nil {
		t.Fatal(err)
	}
	b = openStore(t, path)
	if why, err := Stale(t.Context(), b); err != nil || !strings.HasPrefix(why, "the store is a copy of ") {
		t.Errorf("restored: %q, %v", why, err)
	}
}

// TestFormat2: a store of format 2 keeps its records and their versions, and is kept as it was.
func TestFormat2(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	b := openStore(t, path)
	commitOK(t, b, nil, Put("host/a", []byte("one")))
	err := b.db.Update(func(tx *bbolt.Tx) error {
		return putRecord(tx.Bucket(formatBucket), formatKey, 0, []byte("2"))
	})
	before, _ := contents(t, b)
	if err = errors.Join(err, b.Close()); err != nil {
		t.Fatal(err)
	}

	b = openStore(t, path)
	if after, damaged := contents(t, b); !maps.Equal(after, before) || len(damaged) > 0 {
		t.Errorf("there is %v, damaged %v", after, damaged)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	for file, format := range map[string]int{path: 3, filepath.Join(copiesOf(path), "before-format-3.db"): 2} {
		if found, err := CheckFile(file); err != nil || found.Format != format || found.Kinds["host"] != 1 {
			t.Errorf("%s: %+v, %v", file, found, err)
		}
	}
}

// FuzzStoreCheck: what the check lets pass, bbolt can use.
func FuzzStoreCheck(f *testing.F) {
	path := filepath.Join(f.TempDir(), "state.db")
	data := fill(f, path)
	for at := 0; at < len(data); at += 509 {
		f.Add(at, uint64(1), at/7, uint64(3))
	}
	f.Fuzz(func(t *testing.T, at int, one uint64, also int, two uint64) {
		spoiled := bytes.Clone(data)
		for at, mask := range map[int]uint64{at: one, also: two} {
			if at < 0 || at+8 > len(data) {
				return
			}
			word := spoiled[at:]
			binary.LittleEndian.PutUint64(word, binary.LittleEndian.Uint64(word)^mask)
		}
		p := filepath.Join(t.TempDir(), "state.db")
		if err := os.WriteFile(p, spoiled, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := OpenBolt(p)
		if err != nil {
			return
		}
		defer b.Close()
		for _, err := range checks(t, b) {
			t.Error(err)
		}
		contents(t, b)
		if err := b.Commit(t.Context(), nil, []Write{Put("event/new", []byte("x")), Delete("event/40")}); err != nil {
			t.Error(err)
		}
	})
}
