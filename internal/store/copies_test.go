package store

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCopies(t *testing.T) {
	at := func(s string) Copy {
		when, err := time.Parse("02T15:04", s)
		if err != nil {
			t.Fatal(err)
		}
		return Copy{s, when, 0}
	}
	for _, test := range []struct{ have, keep string }{
		{"", ""},
		{"03T10:00", "03T10:00"},
		{"03T10:02 03T10:01 03T10:00", "03T10:02 03T10:00"}, // started again and again
		{"03T10:00 03T00:01 02T23:59 02T08:00 02T07:00", "03T10:00 03T00:01 02T07:00"},
		{"09T10:00 08T10:00 06T10:00 04T10:00 02T10:00", "09T10:00 08T10:00 06T10:00"},
		{"09T11:00 09T10:00 08T10:00 06T10:00 04T10:00", "09T11:00 09T10:00 08T10:00 06T10:00"},
	} {
		var copies []Copy
		for _, s := range strings.Fields(test.have) {
			copies = append(copies, at(s))
		}
		gone := tooMany(copies)
		kept := slices.DeleteFunc(copies, func(c Copy) bool { return slices.Contains(gone, c) })
		var names []string
		for _, c := range kept {
			names = append(names, c.Path)
		}
		if got := strings.Join(names, " "); got != test.keep {
			t.Errorf("of %s are kept %s, want %s", test.have, got, test.keep)
		}
	}

	path := filepath.Join(t.TempDir(), "state.db")
	fill(t, path)
	b := openStore(t, path)
	for range 5 {
		if _, err := b.Keep(); err != nil {
			t.Fatal(err)
		}
	}
	copies, err := Copies(path)
	if err != nil || len(copies) > 3 { // of two days at most
		t.Errorf("%v, %v", copies, err)
	}
	if err := os.WriteFile(copies[0].Path, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, ok := NewestGood(path); !ok || c != copies[1] {
		t.Errorf("the newest good one is %v of %v", c, copies)
	}
	if _, err := Restore(path, copies[1].Path); !errors.Is(err, ErrInUse) {
		t.Errorf("restored under a server: %v", err)
	}
	b.Close()
	if _, err := Restore(path, copies[0].Path); err == nil {
		t.Error("nonsense was restored")
	}
	openStore(t, path).Close()
}
