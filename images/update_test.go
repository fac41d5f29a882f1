package images

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestUpdate(t *testing.T) {
	m := &mirror{files: release(t, "/", "x86_64", "one")}
	s := httptest.NewTLSServer(m)
	defer s.Close()
	c := catalogFor(t, s)
	first, err := c.From(t.Context(), Request{Name: "a", From: s.URL}, nil)
	must(t, err)
	first.Added = first.Added.Add(-time.Hour) // so that a new Added would show
	must(t, c.publish(first, nil))

	same, changed, err := c.Update(t.Context(), "a", nil, nil)
	must(t, err)
	if changed || !reflect.DeepEqual(same, first) {
		t.Errorf("changed: %v, %+v, was %+v", changed, same, first)
	}
	m.mu.Lock()
	m.files = release(t, "/", "x86_64", "two")
	m.mu.Unlock()
	newer, changed, err := c.Update(t.Context(), "a", nil, nil)
	must(t, err)
	if !changed || newer.Initrd == first.Initrd || newer.Kernel != first.Kernel || newer.From != s.URL || newer.Added.Before(first.Added.Add(time.Minute)) {
		t.Errorf("changed: %v, %+v, was %+v", changed, newer, first)
	}

	// What breaks leaves all as it was.
	m.before = func(w http.ResponseWriter, r *http.Request, n int) bool {
		w.WriteHeader(http.StatusForbidden)
		return true
	}
	if _, _, err = c.Update(t.Context(), "a", nil, nil); err == nil {
		t.Error("no error")
	}
	must(t, c.Verify(t.Context(), "a"))
	m.before = nil

	initrd := func() map[string]string {
		return map[string]string{"initrd-x86_64-linux": sum(m.files["/initrd-x86_64-linux"])}
	}
	pinned, err := c.From(t.Context(), Request{Name: "pinned", From: s.URL, SHA256: initrd()}, nil)
	must(t, err)
	_, _, err = c.Update(t.Context(), "pinned", nil, nil)
	checkErr(t, err, "it is pinned by the digests")
	m.files = release(t, "/", "x86_64", "three")
	_, _, err = c.Update(t.Context(), "pinned", pinned.SHA256, nil)
	checkErr(t, err, "and the digest given is")
	got, changed, err := c.Update(t.Context(), "pinned", initrd(), nil)
	must(t, err)
	if !changed || !reflect.DeepEqual(got.SHA256, initrd()) {
		t.Errorf("got %+v", got)
	}

	add(t, c, "files", files(t, "one"))
	_, _, err = c.Update(t.Context(), "files", nil, nil)
	checkErr(t, err, "from single files")
	_, _, err = c.Update(t.Context(), "nosuch", nil, nil)
	checkErr(t, err, "no such image")
}

func TestGC(t *testing.T) {
	m := &mirror{files: release(t, "/", "x86_64", strings.Repeat("one", 1<<20))}
	s := httptest.NewTLSServer(m)
	defer s.Close()
	c := catalogFor(t, s)
	img := add(t, c, "a", files(t, "one"))
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.From(ctx, Request{Name: "b", From: s.URL}, func(p Progress) {
		if strings.Contains(p.Doing, "initrd") && p.Done > p.Total/2 {
			if freed, err := c.GC(); freed.Files > 0 || err != nil { // nothing that is at work
				t.Errorf("freed %+v, %v", freed, err)
			}
			cancel()
		}
	})
	if err == nil || !strings.Contains(content(t, c), partialPrefix) {
		t.Fatalf("%v:\n%s", err, content(t, c))
	}
	write(t, filepath.Join(c.dir, strings.Repeat("ab", 32)), "orphan")
	freed, err := c.GC()
	must(t, err)
	if freed.Files != 1+2*3 || freed.Bytes < 1<<20 || strings.Count(content(t, c), "\n") != 3 {
		t.Errorf("freed %+v, left:\n%s", freed, content(t, c))
	}
	must(t, c.Verify(t.Context(), img.Name))
	if freed, err = c.GC(); freed != (Freed{}) || err != nil {
		t.Errorf("again: %+v, %v", freed, err)
	}
}
