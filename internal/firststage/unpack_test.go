package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// An item is an entry of a test's archive.
type item struct {
	name  string
	mode  uint32
	data  string
	inode uint32
	links uint32
	mtime uint32
	dev   uint32
	magic string
	sum   uint32
}

func archive(items ...item) []byte {
	var b bytes.Buffer
	for i, e := range append(items, item{name: "TRAILER!!!"}) {
		if e.inode == 0 {
			e.inode = uint32(1000 + i)
		}
		if e.magic == "" {
			e.magic = "070701"
		}
		fmt.Fprintf(&b, "%s%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00", e.magic,
			e.inode, e.mode, 0, 0, max(e.links, 1), e.mtime, len(e.data), 0, 0, unix.Major(uint64(e.dev)), unix.Minor(uint64(e.dev)), len(e.name)+1, e.sum, e.name)
		b.Write(make([]byte, -b.Len()&3))
		b.WriteString(e.data)
		b.Write(make([]byte, -b.Len()&3))
	}
	return b.Bytes()
}

func file(name, data string) item { return item{name: name, mode: 0o100644, data: data} }
func dir(name string) item        { return item{name: name, mode: 0o040755} }
func symlink(name, to string) item {
	return item{name: name, mode: 0o120777, data: to}
}

// packed compresses by a command.
func packed(t testing.TB, data []byte, command ...string) []byte {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", command, err)
	}
	return out
}

// unpackTo unpacks an initrd into a folder and lists what is there then.
func unpackTo(t testing.TB, initrd []byte) (string, error) {
	t.Helper()
	root := t.TempDir()
	err := inRoot(root, func() error { return new(unpacker).unpack(bytes.NewReader(initrd)) })
	return list(t, root), err
}

// list describes all that is in a folder: type and permissions, links, content.
func list(t testing.TB, root string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		var s unix.Stat_t
		if err := unix.Lstat(path, &s); err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %o", strings.TrimPrefix(path, root+"/"), s.Mode)
		switch s.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %d %q", s.Nlink, data)
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " -> %s", to)
		case unix.S_IFCHR, unix.S_IFBLK:
			fmt.Fprintf(&b, " %d:%d", unix.Major(s.Rdev), unix.Minor(s.Rdev))
		}
		b.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestUnpack(t *testing.T) {
	hello := archive(dir("d"), file("d/f", "hello"))
	again := archive(file("d/f", "later"))
	both := "d 40755\nd/f 100644 1 \"later\"\n"
	zeros := make([]byte, 4)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for _, test := range []struct {
		name   string
		initrd []byte
		want   string
		err    string
	}{
		{"plain", hello, "d 40755\nd/f 100644 1 \"hello\"\n", ""},
		{"later archive wins", join(hello, zeros, again), both, ""},
		{"gzip, then plain", join(aligned(packed(t, hello, "gzip")), again), both, ""},
		{"plain, then gzip", join(hello, packed(t, again, "gzip")), both, ""},
		{"gzip, then gzip at any byte", join(packed(t, hello, "gzip"), packed(t, again, "gzip")), both, ""},
		{"zstd, then zstd", join(packed(t, hello, "zstd", "-19"), packed(t, again, "zstd", "--no-check")), both, ""},
		{"zstd, then plain", join(aligned(packed(t, hello, "zstd")), again), both, ""},
		{"xz, then xz", join(packed(t, hello, "xz", "--check=crc32"), packed(t, again, "xz", "--check=none")), both, ""},
		{"xz, then plain", join(aligned(packed(t, hello, "xz", "--check=crc32", "--lzma2=dict=512KiB")), again), both, ""},
		{"bzip2, then gzip", join(packed(t, hello, "bzip2"), packed(t, again, "gzip")), both, ""},
		{"lzma, then plain", join(aligned(packed(t, hello, "lzma")), again), both, ""},
		{"lz4, zeros, then plain", join(aligned(append(packed(t, hello, "lz4", "-l"), zeros...)), again), both, ""},
		{"lz4, zeros, then gzip", join(packed(t, hello, "lz4", "-l"), zeros, packed(t, again, "gzip")), both, ""},
		{"two archives in one gzip", packed(t, join(hello, zeros, again), "gzip"), both, ""},
		{"nothing", nil, "", ""},
		{"zeros", make([]byte, 512), "", ""},
		{"no padding at the end", archive(file("f", "x"))[:110+2+1], "f 100644 1 \"x\"\n", ""},

		{"modes", archive(item{name: "f", mode: 0o104755, data: "x"}, item{name: "d", mode: 0o041777}), "d 41777\nf 104755 1 \"x\"\n", ""},
		{"no folder: left out", archive(file("no/f", "x"), file("g", "y")), "g 100644 1 \"y\"\n", ""},
		{"symlink that leads out", archive(symlink("l", "/"), dir("l/d"), file("l/d/f", "x")), "d 40755\nd/f 100644 1 \"x\"\nl 120777 -> /\n", ""},
		{"dots", archive(file("../../f", "x"), file("./g", "y")), "f 100644 1 \"x\"\ng 100644 1 \"y\"\n", ""},
		{"a file over a symlink", archive(file("f", "old"), symlink("l", "f"), file("l", "new")), "f 100644 1 \"old\"\nl 100644 1 \"new\"\n", ""},
		{"a folder over a symlink", archive(dir("d"), symlink("l", "d"), dir("l"), file("l/f", "x")), "d 40755\nl 40755\nl/f 100644 1 \"x\"\n", ""},
		{"a file through a symlink to a folder", archive(dir("d"), symlink("l", "d"), file("l/f", "x")), "d 40755\nd/f 100644 1 \"x\"\nl 120777 -> d\n", ""},
		{"a symlink over a symlink", archive(symlink("l", "a"), symlink("l", "b")), "l 120777 -> b\n", ""},
		{"a file over a full folder: left out", archive(dir("d"), file("d/f", "x"), file("d", "y")), "d 40755\nd/f 100644 1 \"x\"\n", ""},
		{"a file over an empty folder", archive(dir("d"), file("d", "y")), "d 100644 1 \"y\"\n", ""},
		{"a shorter file", archive(file("f", "longer"), file("f", "x")), "f 100644 1 \"x\"\n", ""},
		{"content in the first name", archive(item{name: "a", mode: 0o100644, data: "x", inode: 7, links: 2}, item{name: "b", mode: 0o100644, inode: 7, links: 2}),
			"a 100644 2 \"x\"\nb 100644 2 \"x\"\n", ""},
		{"content in the last name", archive(item{name: "a", mode: 0o100644, inode: 7, links: 2}, item{name: "b", mode: 0o100644, data: "x", inode: 7, links: 2}),
			"a 100644 2 \"x\"\nb 100644 2 \"x\"\n", ""},
		{"the same inode in another archive", join(archive(item{name: "a", mode: 0o100644, data: "x", inode: 7, links: 2}), archive(item{name: "b", mode: 0o100644, data: "y", inode: 7, links: 2})),
			"a 100644 1 \"x\"\nb 100644 1 \"y\"\n", ""},
		{"devices", archive(item{name: "c", mode: 0o020600, dev: uint32(unix.Mkdev(5, 1))}, item{name: "p", mode: 0o010644}), "c 20600 5:1\np 10644\n", ""},
		{"sum", archive(item{name: "f", mode: 0o100644, data: "ab", magic: "070702", sum: 'a' + 'b'}), "f 100644 1 \"ab\"\n", ""},

		{"wrong sum", archive(item{name: "f", mode: 0o100644, data: "ab", magic: "070702", sum: 1}), "f 100644 1 \"ab\"\n", "checksum"},
		{"plain at an odd byte", join(hello, []byte{0}, again), "d 40755\nd/f 100644 1 \"hello\"\n", "not known here"},
		{"old format", []byte("070707" + strings.Repeat("0", 200)), "", "070701"},
		{"web page", []byte("<!DOCTYPE html>"), "", "not known here"},
		{"header cut short", hello[:50], "", "unexpected EOF"},
		{"content cut short", hello[:230], "d 40755\nd/f 100644 1 \"he\"\n", "unexpected EOF"},
		{"gzip cut short", packed(t, hello, "gzip")[:60], "d 40755\n", "unexpected EOF"},
		{"gzip of something else", packed(t, []byte("hello"), "gzip"), "", "followed by what is no archive"},
		{"name without end", bytes.Replace(archive(file("f", "x")), []byte("f\x00"), []byte("ff"), 1), "", "has no end"},
		{"a header that is no number", bytes.Replace(archive(file("f", "x")), []byte("070701000003e8"), []byte("070701zzzzzzzz"), 1), "", "its header"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := unpackTo(t, test.initrd)
			if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("error %v, want %q", err, test.err)
			}
			if !strings.HasPrefix(test.name, "gzip cut") && got != test.want {
				t.Errorf("got\n%swant\n%s", got, test.want)
			}
		})
	}
}

// aligned pads with zeros to a multiple of four, as one must before a plain archive.
func aligned(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }

// TestUnpackBesideCpio unpacks a tree that cpio packed, and compares with what cpio unpacks.
func TestUnpackBesideCpio(t *testing.T) {
	tree, theirs := t.TempDir(), t.TempDir()
	script := `umask 022; mkdir -p a/b dev; echo one >a/one; echo two >a/b/two; ln a/one a/hard; ln a/one a/b/hard; chmod 4711 a/b/two
		ln -s b/two a/soft; ln -s /a/one abs; ln -s nowhere dangling; mkfifo pipe; mknod dev/null c 1 3; mknod dev/loop b 7 0
		head -c 300000 /dev/urandom >big; : >empty; touch -d 2001-02-03 a/one a/b; find . | cpio -o -H newc --quiet >"$0"`
	out := filepath.Join(t.TempDir(), "cpio")
	run(t, tree, "sh", "-c", script, out)
	run(t, theirs, "sh", "-c", `cpio -idmu --quiet <"$0"`, out)
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, compress := range [][]string{{"cat"}, {"zstd", "-3"}, {"xz", "--check=crc32"}, {"gzip"}, {"lz4", "-l"}} {
		got, err := unpackTo(t, packed(t, data, compress...))
		if err != nil {
			t.Errorf("%v: %v", compress, err)
		}
		if want := list(t, theirs); got != want {
			t.Errorf("%v: ours\n%.3000s\ncpio's\n%.3000s", compress, got, want)
		}
	}
}

// TestTimes: a folder's time is its own, though files came into it later.
func TestTimes(t *testing.T) {
	root := t.TempDir()
	initrd := archive(item{name: "d", mode: 0o040755, mtime: 1000}, item{name: "d/f", mode: 0o100644, data: "x", mtime: 2000},
		item{name: "d/l", mode: 0o120777, data: "f", mtime: 3000})
	if err := inRoot(root, func() error { return new(unpacker).unpack(bytes.NewReader(initrd)) }); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int64{"d": 1000, "d/f": 2000, "d/l": 3000} {
		info, err := os.Lstat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.ModTime().Unix(); got != want {
			t.Errorf("%s has the time %d, want %d", name, got, want)
		}
	}
}

// TestFull: a file system that is full is an error, unlike other failures.
func TestFull(t *testing.T) {
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(root, unix.MNT_DETACH)
	u := new(unpacker)
	err := inRoot(root, func() error {
		return u.unpack(bytes.NewReader(archive(file("big", strings.Repeat("x", 1<<20)))))
	})
	if err == nil || onlyFull(err) == nil {
		t.Errorf("the error is %v", err)
	}
	if n := u.unpacked.Load(); n < 32<<10 || n > 1<<20 {
		t.Errorf("%d bytes were unpacked", n)
	}
}

func run(t testing.TB, dir string, command ...string) {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", command, err, out)
	}
}

// FuzzUnpack: nothing that a server may send makes the unpacker panic, hang, or leave its folder.
func FuzzUnpack(f *testing.F) {
	plain := archive(dir("d"), file("d/f", "hello"), symlink("l", "/d"), item{name: "h", mode: 0o100644, inode: 1, links: 2})
	f.Add(plain)
	f.Add(archive(symlink("x", "../../.."), file("x/outside", "y")))
	for _, compress := range [][]string{{"gzip"}, {"zstd"}, {"xz", "--check=crc32"}, {"lz4", "-l"}, {"lzma"}} {
		f.Add(append(packed(f, plain, compress...), plain...))
	}
	outside := f.TempDir()
	f.Fuzz(func(t *testing.T, initrd []byte) {
		root := filepath.Join(outside, "root")
		if err := os.RemoveAll(root); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		err := inRoot(root, func() error { return new(unpacker).unpack(io.LimitReader(bytes.NewReader(initrd), 1<<20)) })
		if err != nil && strings.Contains(err.Error(), "a mistake in this program") {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(outside)
		if err != nil || len(entries) != 1 {
			t.Fatalf("outside of its folder: %v, %v", entries, err)
		}
	})
}

// TestGzipHeader: Go's own gzip goes through too.
func TestGzipHeader(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Name = "initrd"
	if _, err := z.Write(archive(file("f", "x"))); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := unpackTo(t, b.Bytes()); err != nil || got != "f 100644 1 \"x\"\n" {
		t.Errorf("%q, %v", got, err)
	}
}
