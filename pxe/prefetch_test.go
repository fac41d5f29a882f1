package pxe

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"provision/images"
)

// cached is how many of a file's pages are in the page cache (mincore(2)), of
// how many.
func cached(t testing.TB, name string) (in, all int) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(data)
	pages := make([]byte, (len(data)+os.Getpagesize()-1)/os.Getpagesize())
	if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&data[0])), uintptr(len(data)), uintptr(unsafe.Pointer(&pages[0]))); errno != 0 {
		t.Fatal(errno)
	}
	for _, p := range pages {
		in += int(p & 1)
	}
	return in, len(pages)
}

// chill drops a file from the page cache.
func chill(t testing.TB, name string) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil { // only what is written can be dropped
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
}

// onDisk is a folder on a file system that has a disk under it: what is in a
// tmpfs is nowhere but in the page cache.
func onDisk(t testing.TB) string {
	t.Helper()
	for _, at := range []string{os.TempDir(), ".", "/var/tmp"} {
		dir, err := os.MkdirTemp(at, "warm-")
		if err != nil {
			continue
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		probe := filepath.Join(dir, "probe")
		if err := os.WriteFile(probe, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		chill(t, probe)
		if in, _ := cached(t, probe); in == 0 {
			return dir
		}
	}
	t.Fatal("none of the folders for temporary files is on a disk: set TMPDIR to one that is")
	return ""
}

// coldImage is a server with an image of which nothing is in the page cache,
// and its files.
func coldImage(t *testing.T) (s *Server, files []string) {
	t.Helper()
	s = server(t, Full)
	var err error
	dir := onDisk(t)
	if s.Images, err = images.Open(filepath.Join(dir, "images")); err != nil {
		t.Fatal(err)
	}
	s.withImage(t, 8<<20)
	img, err := s.Images.Get("lab")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []images.File{img.Kernel, img.Initrd} {
		name := filepath.Join(dir, "images", f.SHA256)
		chill(t, name)
		if in, all := cached(t, name); in > 0 {
			t.Fatalf("%d of %d pages are in the page cache already", in, all)
		}
		files = append(files, name)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); s.prefetcher.work.Wait() })
	s.prefetcher.run(ctx)
	return s, files
}

// mustBeWarm waits for the files to be in the page cache: the kernel tells
// nobody when they are.
func mustBeWarm(t *testing.T, files []string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for _, name := range files {
		for in, all := cached(t, name); in < all; in, all = cached(t, name) {
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d pages are in the page cache", in, all)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// TestWarmByDiscover: when a machine asks for the first time, the image that it
// will load is read.
func TestWarmByDiscover(t *testing.T) {
	s, files := coldImage(t)
	s.mustEnroll(t, "bravo", mac)
	s.prefetcher.turn.Lock() // a slow disk does not hold up the answer
	m := packet(t, "ovmf-x64-discover")
	if r := s.dhcp(m); r == nil || r.BootFileName == "" {
		t.Fatalf("no answer to boot: %v", r)
	}
	for _, name := range files {
		if in, _ := cached(t, name); in > 0 {
			t.Error("read before its turn")
		}
	}
	s.prefetcher.turn.Unlock()
	s.prefetcher.work.Wait()
	mustBeWarm(t, files)
}

// TestWarmByEnroll: the image is read while the machine is still off.
func TestWarmByEnroll(t *testing.T) {
	s, files := coldImage(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	watching := s.Hosts.Watch(ctx)
	go func() { done <- s.prefetchEach(watching) }()
	s.mustEnroll(t, "bravo", mac)
	mustBeWarm(t, files)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestWarmOnce: machines that are switched on together are one reading, and the
// one that asks for a part of the initrd (as after a lost link) gets it.
func TestWarmOnce(t *testing.T) {
	s, files := coldImage(t)
	img, err := s.Images.Get("lab")
	if err != nil {
		t.Fatal(err)
	}
	s.prefetch(img)
	s.prefetcher.work.Wait()
	mustBeWarm(t, files)
	for _, name := range files {
		chill(t, name)
	}
	s.prefetch(img)
	s.prefetcher.work.Wait()
	if in, _ := cached(t, files[1]); in > 0 {
		t.Error("read again at once")
	}
	h := s.begin(t)
	srv := httptest.NewServer(s.routes(s.links[0]))
	defer srv.Close()
	resp, part, err := get(t, srv, http.MethodGet, "/boot/"+h.Boot.Token+"/initrd", "bytes=4000000-")
	if err != nil || resp.StatusCode != http.StatusPartialContent || int64(len(part)) != resp.ContentLength {
		t.Errorf("%v, %d bytes, %v", resp, len(part), err)
	}
}
