package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"provision/internal/initrd"
	"provision/internal/nix"
)

// fit is what an initrd holds in which nothing is missing.
func fit(content string) []initrd.File {
	return []initrd.File{
		{Path: "init", Mode: 0o755, Data: []byte("#!/bin/sh\n[ -e /ssh/authorized_keys ] && install -D /ssh/authorized_keys /root/.ssh/authorized_keys\n# " + content)},
		{Path: "bin/sshd", Mode: 0o755, Data: nil},
		{Path: "lib/modules/6.12.30/kernel/drivers/net/ethernet/intel/e1000e/e1000e.ko.xz", Mode: 0o644, Data: nil},
	}
}

// files writes a kernel and an initrd that holds content.
func files(t *testing.T, content string) Source {
	t.Helper()
	dir := t.TempDir()
	return Source{
		Kernel:  write(t, filepath.Join(dir, "bzImage"), string(x86Kernel())),
		Initrd:  write(t, filepath.Join(dir, "initrd"), string(initrd.Overlay(fit(content)))),
		Cmdline: "init=/nix/store/i/init initrd=initrd quiet",
	}
}

func open(t *testing.T, dir string) *Catalog {
	t.Helper()
	c, err := Open(dir)
	must(t, err)
	c.Build = nix.Settings{}.Build
	return c
}

func add(t *testing.T, c *Catalog, name string, src Source) Image {
	t.Helper()
	img, err := c.Add(t.Context(), name, X86_64, src, nil)
	must(t, err)
	return img
}

// content lists the catalog's folder.
func content(t *testing.T, c *Catalog) string {
	t.Helper()
	entries, err := os.ReadDir(c.dir)
	must(t, err)
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintln(&b, e.Name())
	}
	return b.String()
}

func TestAddAndServe(t *testing.T) {
	c := open(t, filepath.Join(t.TempDir(), "state", "images"))
	src := files(t, "one")
	var calls, last, total int64
	img, err := c.Add(t.Context(), "nixos-25.11", "", src, func(d, tot int64) {
		if d < last || d > tot {
			t.Errorf("progress went from %d to %d of %d", last, d, tot)
		}
		calls, last, total = calls+1, d, tot
	})
	must(t, err)
	if img.Arch != X86_64 || img.Cmdline != "init=/nix/store/i/init quiet" || len(img.Warnings()) > 0 {
		t.Errorf("got %+v, warnings %q", img, img.Warnings())
	}
	if last != total || total != img.Kernel.Size+2*img.Initrd.Size || calls < 4 {
		t.Errorf("progress ended at %d of %d after %d calls", last, total, calls)
	}
	must(t, c.Verify(t.Context(), "nixos-25.11"))

	again := open(t, c.dir) // as after a restart
	got, err := again.Get("nixos-25.11")
	if err != nil || !reflect.DeepEqual(got, img) {
		t.Errorf("got %+v, %v, want %+v", got, err, img)
	}
	f, err := again.OpenFile(got.Initrd)
	must(t, err)
	defer f.Close()
	want, _ := os.ReadFile(src.Initrd)
	have, _ := os.ReadFile(f.Name())
	if !bytes.Equal(want, have) {
		t.Error("the initrd served is not the one added")
	}
}

func TestSharedContent(t *testing.T) {
	c := open(t, t.TempDir())
	one, two := files(t, "one"), files(t, "two")
	a, b := add(t, c, "a", one), add(t, c, "b", two)
	if a.Kernel != b.Kernel || a.Initrd == b.Initrd || strings.Count(content(t, c), "\n") != 5 {
		t.Errorf("want one kernel, two initrds, two records:\n%s", content(t, c))
	}

	a.Added = a.Added.Add(-time.Hour) // so that a new Added would show
	must(t, c.publish(a, nil))
	before := content(t, c)
	if again := add(t, c, "a", one); !reflect.DeepEqual(again, a) || content(t, c) != before {
		t.Errorf("the same content again: %+v, was %+v", again, a)
	}

	held, err := c.OpenFile(a.Initrd)
	must(t, err)
	defer held.Close()
	if replaced := add(t, c, "a", two); replaced.Initrd != b.Initrd || strings.Count(content(t, c), "\n") != 4 {
		t.Errorf("want one kernel, one initrd, two records:\n%s", content(t, c))
	}
	if n, err := held.Read(make([]byte, 10)); n != 10 || err != nil {
		t.Errorf("a file being served was cut off: %d, %v", n, err)
	}
	if _, err := c.OpenFile(a.Initrd); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the replaced initrd: %v", err)
	}

	checkErr(t, c.Remove("a", []string{"alpha", "bravo"}), "used by alpha, bravo;")
	must(t, c.Remove("a", nil))
	must(t, c.Verify(t.Context(), "b"))
	must(t, c.Remove("b", nil))
	if left := content(t, c); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

func TestNotFound(t *testing.T) {
	c := open(t, t.TempDir())
	_, err := c.Get("debian")
	checkErr(t, err, "there are none yet")
	add(t, c, "nixos", files(t, "one"))
	add(t, c, "nixos-arm", files(t, "two"))
	for name, want := range map[string]string{
		"nixso": `did you mean "nixos"?`, "debian": "there are nixos, nixos-arm", "../nixos": "there are", "": "there are"} {
		_, err := c.Get(name)
		checkErr(t, err, want)
		if !errors.Is(err, ErrNotFound) || !errors.Is(c.Remove(name, nil), ErrNotFound) || !errors.Is(c.Verify(t.Context(), name), ErrNotFound) {
			t.Errorf("%q: %v is not ErrNotFound", name, err)
		}
	}
	for _, digest := range []string{"", "../../etc/passwd", "nixos.json", strings.Repeat("0", 64), strings.Repeat("A", 64)} {
		if _, err := c.OpenFile(File{SHA256: digest}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("open %q: %v", digest, err)
		}
	}
}

func TestVerify(t *testing.T) {
	c := open(t, t.TempDir())
	src := files(t, "one")
	img := add(t, c, "a", src)
	kernel, initrdFile := filepath.Join(c.dir, img.Kernel.SHA256), filepath.Join(c.dir, img.Initrd.SHA256)

	data, err := os.ReadFile(initrdFile)
	must(t, err)
	data[len(data)/2] ^= 1
	must(t, os.WriteFile(initrdFile, data, 0o644))
	err = c.Verify(t.Context(), "a")
	checkErr(t, err, "its initrd: "+initrdFile+" is damaged")
	if strings.Contains(err.Error(), "kernel") {
		t.Errorf("the kernel is blamed: %v", err)
	}
	must(t, os.Truncate(kernel, 5))
	checkErr(t, c.Verify(t.Context(), "a"), "it has 5 bytes, not 3145728")
	must(t, os.Remove(kernel))
	checkErr(t, c.Verify(t.Context(), "a"), "no such file")

	add(t, c, "a", src)
	must(t, c.Verify(t.Context(), "a"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Verify(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(c.dir, "a.json"), []byte("{"), 0o644))
	_, err = Open(c.dir)
	checkErr(t, err, "a.json: unexpected end of JSON input (delete that file")
}

func TestAddRefuses(t *testing.T) {
	good := files(t, "one")
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	must(t, syscall.Mkfifo(fifo, 0o600))
	empty := write(t, filepath.Join(dir, "empty"), "")
	text := write(t, filepath.Join(dir, "text"), "hello")
	arm := write(t, filepath.Join(dir, "Image"), string(arm64Kernel()))
	for _, test := range []struct {
		name string
		arch Arch
		edit func(*Source)
		err  string
	}{
		{"Upper", X86_64, nil, `image name "Upper": use 1 to 64 of`},
		{"a/b", X86_64, nil, "image name"},
		{"../a", X86_64, nil, "image name"},
		{strings.Repeat("a", 65), X86_64, nil, "image name"},
		{"a", "mips", nil, "it is for x86_64, the image is to be for mips"},
		{"a", AArch64, nil, "add image a: kernel " + good.Kernel + ": it is for x86_64, the image is to be for aarch64"},
		{"a", X86_64, func(s *Source) { s.Kernel = arm }, "it is for aarch64, the image is to be for x86_64"},
		{"a", X86_64, func(s *Source) { s.Kernel = "" }, "no kernel given: name it with --kernel"},
		{"a", X86_64, func(s *Source) { s.Kernel = dir + "/none" }, "open kernel: open " + dir + "/none: no such file"},
		{"a", X86_64, func(s *Source) { s.Kernel = dir }, "is not a regular file"},
		{"a", X86_64, func(s *Source) { s.Kernel = fifo }, "is not a regular file"},
		{"a", X86_64, func(s *Source) { s.Kernel = text }, "not a Linux kernel"},
		{"a", X86_64, func(s *Source) { s.Initrd = "" }, "no initrd given"},
		{"a", X86_64, func(s *Source) { s.Initrd = empty }, "initrd " + empty + " is empty"},
		{"a", X86_64, func(s *Source) { s.Initrd = text }, "initrd " + text + ": it is not a cpio archive"},
		{"a", X86_64, func(s *Source) { s.Cmdline = "a || b" }, "iPXE"},
	} {
		c := open(t, t.TempDir())
		src := good
		if test.edit != nil {
			test.edit(&src)
		}
		_, err := c.Add(t.Context(), test.name, test.arch, src, nil)
		checkErr(t, err, test.err)
		if left := content(t, c); left != "" {
			t.Errorf("%s: left behind:\n%s", test.err, left)
		}
	}
}

func TestAddInterrupted(t *testing.T) {
	c := open(t, t.TempDir())
	src := files(t, "one")
	_, err := c.Add(t.Context(), "a", X86_64, src, func(done, total int64) {
		f, err := os.OpenFile(src.Initrd, os.O_APPEND|os.O_WRONLY, 0)
		must(t, err)
		f.WriteString("more")
		f.Close()
	})
	checkErr(t, err, "changed while it was read")

	ctx, cancel := context.WithCancel(t.Context())
	_, err = c.Add(ctx, "a", X86_64, src, func(done, total int64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if left := content(t, c); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
	img := Image{Name: "bare"}
	if w := img.Warnings(); len(w) != 1 || !strings.Contains(w[0], "emergency shell") {
		t.Errorf("warnings without init=: %q", w)
	}
}

func TestConcurrentAdds(t *testing.T) {
	c := open(t, t.TempDir())
	sources := []Source{files(t, "one"), files(t, "two"), files(t, "three")}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			if _, err := c.Add(t.Context(), fmt.Sprint("image", i%4), X86_64, sources[i%3], nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	all, err := c.List()
	must(t, err)
	if len(all) != 4 {
		t.Errorf("%d images, want 4", len(all))
	}
	for _, img := range all {
		must(t, c.Verify(t.Context(), img.Name))
	}
	if left := content(t, c); strings.Contains(left, tmpPrefix) {
		t.Errorf("left behind:\n%s", left)
	}
}

// TestKilledAdd kills a process of its own that adds an image, at moments that
// differ: the image is there and whole, or not at all, and nothing else is.
func TestKilledAdd(t *testing.T) {
	if dir := os.Getenv("IMAGES_TEST_ADD"); dir != "" {
		addForever(dir)
	}
	src := files(t, strings.Repeat("one", 1<<18))
	tarball := kexecTarball(t, "gzip", src)
	seen := map[int]int{}
	for try := range 20 {
		dir := t.TempDir()
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledAdd$")
		cmd.Env = append(os.Environ(), "IMAGES_TEST_ADD="+dir, "KERNEL="+src.Kernel, "INITRD="+src.Initrd, "TARBALL="+tarball)
		must(t, cmd.Start())
		for entries := 0; entries == 0 && t.Context().Err() == nil; { // until it is at work
			time.Sleep(time.Millisecond)
			names, _ := os.ReadDir(dir)
			entries = len(names)
		}
		time.Sleep(rand.N(400 * time.Millisecond))
		must(t, cmd.Process.Kill())
		cmd.Wait()

		c := open(t, dir)
		all, err := c.List()
		must(t, err)
		for _, img := range all {
			must(t, c.Verify(t.Context(), img.Name))
		}
		// The images share their files.
		if n := strings.Count(content(t, c), "\n"); n != 0 && n != len(all)+2 || n == 0 && len(all) > 0 || strings.Contains(content(t, c), tmpPrefix) {
			t.Fatalf("try %d: %d images and\n%s", try, len(all), content(t, c))
		}
		seen[len(all)]++
	}
	t.Logf("kills by number of images that were there: %v", seen)
}

func addForever(dir string) {
	c, err := Open(dir)
	for i := 0; err == nil; i++ {
		src := Source{Kernel: os.Getenv("KERNEL"), Initrd: os.Getenv("INITRD"), Cmdline: "init=/nix/store/i-nixos-system-nixos/init console=tty0"}
		if i%2 == 0 {
			_, err = c.From(context.Background(), Request{Name: fmt.Sprint("image", i), From: os.Getenv("TARBALL")}, nil)
		} else {
			_, err = c.Add(context.Background(), fmt.Sprint("image", i), X86_64, src, nil)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// A kill between the files and the record leaves files that no image has.
func TestOpenRemovesUnusedContent(t *testing.T) {
	c := open(t, t.TempDir())
	img := add(t, c, "a", files(t, "one"))
	write(t, filepath.Join(c.dir, strings.Repeat("ab", 32)), "orphan")
	write(t, filepath.Join(c.dir, tmpPrefix+"folder", "kexec", "initrd"), "half")
	write(t, filepath.Join(c.dir, "README"), "not ours")
	for name, days := range map[string]int{"old": 8, "new": 6} { // a download goes on within a week
		partial := filepath.Join(c.dir, partialPrefix+name)
		write(t, partial, "half")
		must(t, os.Chtimes(partial, time.Time{}, time.Now().AddDate(0, 0, -days)))
	}
	open(t, c.dir)
	if got, want := content(t, c), "README"; strings.Count(got, "\n") != 5 || !strings.Contains(got, partialPrefix+"new") || !strings.Contains(got, want) {
		t.Errorf("got\n%s", got)
	}
	must(t, c.Verify(t.Context(), img.Name))
}
