package initrd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// walked lists an initrd: "name:content " for each file.
func walked(initrd []byte) (string, error) {
	var b strings.Builder
	err := Walk(bytes.NewReader(initrd), func(name string, h Header, r io.Reader) error {
		data, err := io.ReadAll(io.LimitReader(r, 5))
		fmt.Fprintf(&b, "%s:%s ", name, data)
		return err
	})
	return b.String(), err
}

func TestWalk(t *testing.T) {
	noise := make([]byte, 300<<10)
	rand.NewChaCha8([32]byte{}).Read(noise)
	files := func(big int) []byte {
		return Overlay([]File{{"one", 0o755, []byte("1")}, {"big", 0o644, bytes.Repeat([]byte("big"), big)}, {"noise", 0o600, noise}})
	}
	one := files(3 << 20)
	two := Overlay([]File{{"two", 0o644, []byte("22")}})
	odd := append(bytes.Clone(two), 0, 0, 0, 0) // and one archive more in the same frame
	odd = append(odd, Overlay([]File{{"/a/../three", 0o644, []byte("333")}})...)
	first, err := walked(one)
	must(t, err)
	if !strings.HasPrefix(first, "one:1 big:bigbi noise:") {
		t.Fatalf("got %q", first)
	}
	for _, argv := range [][]string{
		{"cat"}, {"gzip", "-9"}, {"gzip", "-1"}, {"zstd", "-19"}, {"zstd", "-1", "--no-check"}, {"zstd", "-3", "-T2"},
		{"zstd", "--ultra", "-22", "--long=27"},
		{"xz", "--check=crc32", "-2"}, {"xz", "--check=crc32", "-0", "--block-size=500KiB", "-T2"}, {"xz", "--check=none", "-0"},
		{"lz4", "-l"}, {"bzip2"}, {"lzma", "-1"},
	} {
		t.Run(strings.Join(argv, " "), func(t *testing.T) {
			one := one
			if slices.Contains([]string{"xz", "bzip2", "lzma"}, argv[0]) { // these are slow
				one = files(300 << 10)
			}
			initrd := packed(t, one, argv...)
			if argv[0] == "lz4" {
				initrd = append(initrd, 0, 0, 0, 0)
			}
			// A compressed frame may start anywhere after a compressed one, a plain archive only at a multiple of four.
			if argv[0] != "cat" {
				initrd = append(initrd, packed(t, odd, argv...)...)
			} else {
				initrd = append(initrd, odd...)
			}
			initrd = append(initrd, make([]byte, Padding(int64(len(initrd))))...)
			initrd = append(initrd, two...)
			got, err := walked(initrd)
			must(t, err)
			if want := first + "two:22 three:333 two:22 "; got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			for _, cut := range []int{len(initrd) - 20, len(initrd) / 2, 300, 12} {
				if _, err := walked(initrd[:cut]); err == nil {
					t.Errorf("cut to %d of %d bytes: no error", cut, len(initrd))
				}
			}
		})
	}
}

func TestWalkByCpio(t *testing.T) {
	dir := t.TempDir()
	for _, sh := range []string{"mkdir -p a/b && echo hi >a/b/c && ln -s b/c a/link && ln a/b/c a/d && chmod 751 a/b/c"} {
		cmd := exec.Command("sh", "-c", sh+" && find . | LC_ALL=C sort | cpio -o -H newc --quiet")
		cmd.Dir = dir
		initrd, err := cmd.Output()
		must(t, err)
		got := map[string]string{}
		must(t, Walk(bytes.NewReader(initrd), func(name string, h Header, r io.Reader) error {
			data, err := io.ReadAll(r)
			got[name] = fmt.Sprintf("%o %d %s", h.Mode, h.Links, data)
			return err
		}))
		want := map[string]string{"": "40755", "a": "40755", "a/b": "40755", "a/b/c": "100751 2 ", "a/d": "100751 2 hi\n", "a/link": "120777 1 b/c"}
		for name, w := range want {
			if !strings.HasPrefix(got[name], w) && name != "" {
				t.Errorf("%s: got %q, want %q", name, got[name], w)
			}
		}
	}
}

func TestWalkRefuses(t *testing.T) {
	one := Overlay([]File{{"one", 0o755, []byte("1")}})
	edit := func(at int, with string) []byte {
		b := bytes.Clone(one)
		copy(b[at:], with)
		return b
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	zeros := bytes.Repeat([]byte{0}, 1<<20)
	for _, test := range []struct {
		name   string
		initrd []byte
		err    string
	}{
		{"nothing", nil, "it is empty"},
		{"zeros", zeros, "it is empty"},
		{"junk", []byte("hello"), "not a cpio archive"},
		{"junk behind", join(one, []byte("....")), fmt.Sprintf("archive at byte %d: it is not a cpio archive", len(one))},
		{"plain, not aligned", join(gzipped(one), make([]byte, 4+(1-len(gzipped(one)))&3), one), "multiple of four"},
		{"gzip behind plain, not aligned", join(one, make([]byte, 5), gzipped(one)), "multiple of four"},
		{"not aligned in gzip", gzipped(join(one, make([]byte, 5), one)), "multiple of four"},
		{"lz4 without padding", join(packed(t, one, "lz4", "-l"), one), "something follows it"},
		{"junk in gzip", gzipped(join(one, []byte("junk"))), "EOF"},
		{"damaged gzip", join(gzipped(one)[:len(gzipped(one))-6], []byte("123456")), "checksum"},
		{"size beyond the end", edit(54, "fffffff0"), "one: unexpected EOF"},
		{"name beyond the end", edit(94, "00000fff"), "unexpected EOF"},
		{"name too long", edit(94, "0000ffff"), "too long"},
		{"no name", edit(94, "00000000"), "too long"},
		{"no digits", edit(54, "-0000001"), "broken entry"},
		{"symlink too long", edit(14, "0000a1ff")[:50:50], "EOF"},
		{"no trailer", one[:len(one)-124], "EOF"},
		{"lzo", []byte("\x89LZO\x00\r\n\x1a\n"), "no decoder for lzo"},
		{"xz with a filter", packed(t, one, "xz", "--check=crc32", "--x86", "--lzma2"), "further filters"},
		{"xz, a later block wants 4 GiB", laterBlock(t), "128 MiB"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := walked(test.initrd)
			checkErr(t, err, test.err)
		})
	}

	bomb := packed(t, Overlay([]File{{"zeros", 0o644, zeros}, {"more", 0o644, zeros}}), "zstd", "-19")
	if len(bomb) > 1000 {
		t.Fatalf("%d bytes", len(bomb))
	}
	checkErr(t, walkUpTo(3<<20, bytes.NewReader(bomb), func(string, Header, io.Reader) error { return nil }), "")
	for _, initrd := range [][]byte{bomb, join(bomb[:0], packed(t, one, "zstd"), bomb)} {
		checkErr(t, walkUpTo(1<<20, bytes.NewReader(initrd), func(string, Header, io.Reader) error { return nil }), "more than fits")
	}

	stop := errors.New("stop")
	for _, want := range []error{stop, fs.SkipAll} {
		n := 0
		err := Walk(bytes.NewReader(join(one, gzipped(one))), func(string, Header, io.Reader) error {
			if n++; n == 2 {
				return want
			}
			return nil
		})
		if n != 2 || want == stop && !errors.Is(err, stop) || want != stop && err != nil {
			t.Errorf("%v after %d files: %v", want, n, err)
		}
	}
}

// laterBlock is an xz stream whose second block asks for a dictionary of 4 GiB.
func laterBlock(t *testing.T) []byte {
	big := Overlay([]File{{"big", 0o644, bytes.Repeat([]byte("x"), 3<<20)}})
	b := packed(t, big, "xz", "--check=crc32", "-0", "--block-size=1MiB")
	at := bytes.LastIndex(b, []byte{0x21, 0x01})
	b[at+2] = 40
	return b
}

func FuzzWalk(f *testing.F) {
	one := Overlay([]File{{"one", 0o755, []byte("1")}, {"a/b", 0o644, bytes.Repeat([]byte("b"), 200)}})
	two := append(append(bytes.Clone(one), 0, 0, 0, 0), one...)
	for _, argv := range [][]string{{"cat"}, {"gzip"}, {"zstd"}, {"xz", "--check=crc32"}, {"lz4", "-l"}, {"bzip2"}, {"lzma"}} {
		z := packed(f, two, argv...)
		f.Add(append(append(bytes.Clone(z), make([]byte, Padding(int64(len(z))))...), one...))
		f.Add(append(bytes.Clone(z), z...))
	}
	f.Fuzz(func(t *testing.T, initrd []byte) {
		walkUpTo(1<<20, bytes.NewReader(initrd), func(name string, h Header, r io.Reader) error {
			n, err := io.Copy(io.Discard, r)
			if n > h.Size || err == nil && n < h.Size || strings.HasPrefix(name, "/") || strings.HasPrefix(name, "../") || name == ".." {
				t.Errorf("%q has %d of %d bytes, %v", name, n, h.Size, err)
			}
			return err
		})
	})
}
