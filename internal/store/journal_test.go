package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func openJournal(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func put(t *testing.T, j *Journal, key, value string) {
	t.Helper()
	w := Write{Key: key}
	if value != "" {
		w.Value = []byte(value)
	}
	if err := j.Commit(t.Context(), nil, []Write{w}); err != nil {
		t.Fatal(err)
	}
}

// has is what a journal holds, in order.
func has(t *testing.T, j *Journal) string {
	t.Helper()
	recs, err := j.List(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range recs {
		all = append(all, r.Key+"="+string(r.Value))
	}
	return strings.Join(all, " ")
}

// TestJournalTorn cuts the file, and spoils it, at every byte: what is whole before and behind is there, and what is written
// then, too. What was not read is said, and kept.
func TestJournalTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path)
	writes := [][2]string{{"a", "1"}, {"b", "two"}, {"a", "3"}, {"b", ""}, {"c", "a longer one"}}
	sizes := []int64{0}
	for _, w := range writes {
		put(t, j, w[0], w[1])
		sizes = append(sizes, j.size)
	}
	// without returns what a journal has to which one of the writes was lost, or all from there on.
	without := func(lost int, andAll bool) string {
		j := openJournal(t, filepath.Join(t.TempDir(), "journal"))
		for i, w := range writes {
			if i < lost || i > lost && !andAll {
				put(t, j, w[0], w[1])
			}
		}
		return has(t, j)
	}
	whole, err := os.ReadFile(path)
	if err != nil || int64(len(whole)) < j.size {
		t.Fatal(len(whole), j.size, err)
	}
	whole = whole[:j.size]
	for n := range len(whole) {
		for name, data := range map[string][]byte{"cut": whole[:n], "spoiled": spoil(whole, n)} {
			last := 0
			for i, size := range sizes {
				if size <= int64(n) {
					last = i
				}
			}
			want := without(last, name == "cut")
			p := filepath.Join(t.TempDir(), "journal")
			if err := os.WriteFile(p, data, 0o600); err != nil {
				t.Fatal(err)
			}
			j := openJournal(t, p)
			if got := has(t, j); got != want {
				t.Fatalf("%s at %d: %q, want %q", name, n, got, want)
			}
			whole := int64(n) == sizes[last] && name == "cut"
			kept, _ := os.ReadFile(p + ".damaged")
			if whole != (j.Damage == "") || whole != (kept == nil) || !whole && !bytes.Equal(kept, data) {
				t.Fatalf("%s at %d: it says %q, and %d bytes are kept", name, n, j.Damage, len(kept))
			}
			put(t, j, "z", "after")
			j.Close()
			again := openJournal(t, p)
			if again.Damage != "" {
				t.Fatalf("%s at %d: opened again, it says %s", name, n, again.Damage)
			}
			if got, want := has(t, again), strings.TrimSpace(want+" z=after"); got != want {
				t.Fatalf("%s at %d, then written: %q, want %q", name, n, got, want)
			}
		}
	}
}

func spoil(data []byte, at int) []byte {
	data = bytes.Clone(data)
	data[at] ^= 0x40
	return data
}

// TestJournalMany: commits at the same time are all there afterwards, and the file does not grow for ever.
func TestJournalMany(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path)
	value := strings.Repeat("x", 10_000)
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			for k := range 100 {
				if err := j.Commit(t.Context(), nil, []Write{{Key: fmt.Sprintf("%02d", i), Value: fmt.Appendf(nil, "%d%s", k, value)}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	want := has(t, j)
	if n := strings.Count(want, "=99x"); n != 16 {
		t.Errorf("%d of 16 have their last value", n)
	}
	if info, err := os.Stat(path); err != nil || info.Size() > journalRoom+16*20_000+journalStep || j.size > journalRoom { // 16 MB were written
		t.Errorf("%d bytes, %d counted: %v", info.Size(), j.size, err)
	}
	j.Close()
	if has(t, openJournal(t, path)) != want {
		t.Error("after it was opened again, it is another")
	}
}

// TestJournalFull: what could not be written was not, and does not keep anything after it from being read.
func TestJournalFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := openJournal(t, path)
	put(t, j, "a", "1")
	file := j.file
	readOnly, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	j.file = readOnly
	if err := j.Commit(t.Context(), nil, []Write{{Key: "b", Value: []byte("2")}}); err == nil {
		t.Fatal("written to a file that is only read")
	}
	j.file = file
	if err := j.Commit(t.Context(), nil, []Write{{Key: "b", Value: []byte("2")}}); err == nil || !strings.Contains(err.Error(), "restart the server") {
		t.Errorf("it could not be taken back: %v", err)
	}
	if got := has(t, j); got != "a=1" {
		t.Errorf("has %s", got)
	}
	if err := j.Commit(t.Context(), []Version{At("a", 1)}, nil); err == nil {
		t.Error("an expectation is taken")
	}
}

func TestJournalAdopt(t *testing.T) {
	dir := t.TempDir()
	b, err := OpenBolt(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	j := openJournal(t, filepath.Join(dir, "journal"))
	put(t, j, "lease/b", "newer")
	if err := b.Commit(t.Context(), nil, []Write{Put("lease/a", []byte("1")), Put("lease/b", []byte("2")), Put("other", []byte("3"))}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // once more is no harm
		if err := j.Adopt(t.Context(), b, "lease/"); err != nil {
			t.Fatal(err)
		}
	}
	if got := has(t, j); got != "lease/a=1 lease/b=newer" {
		t.Error(got)
	}
	if recs, err := b.List(t.Context(), "", ""); err != nil || len(recs) != 1 || recs[0].Key != "other" {
		t.Error(recs, err)
	}
}

// FuzzJournal: whatever is in the file, what is whole is read, and the next time the same.
func FuzzJournal(f *testing.F) {
	whole := appendEntry(appendEntry(nil, "a", []byte("1")), "b", bytes.Repeat([]byte("b\x00"), 100))
	f.Add(whole, []byte(nil), []byte(nil))
	f.Add(whole, spoil(whole, 3), make([]byte, 50))
	f.Add([]byte{0}, whole[:40], whole)
	f.Fuzz(func(t *testing.T, before, middle, after []byte) {
		path := filepath.Join(t.TempDir(), "journal")
		data := slices.Concat(before, middle, appendEntry(nil, "surely", []byte("there")), after)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		j := openJournal(t, path)
		read := has(t, j)
		if len(before)+len(middle) == 0 && j.records["surely"] == nil && !bytes.Contains(after, []byte("surely")) {
			t.Error("the first record is not there")
		}
		if (j.Damage == "") != (skippedIn(t, path+".damaged") == 0) {
			t.Errorf("it says %q", j.Damage)
		}
		j.Close()
		j = openJournal(t, path)
		if again := has(t, j); again != read || j.Damage != "" {
			t.Errorf("%q, then %q, and it says %q", read, again, j.Damage)
		}
	})
}

// skippedIn is CheckJournal, 0 for no file.
func skippedIn(t *testing.T, path string) int {
	t.Helper()
	n, err := CheckJournal(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return n
}
