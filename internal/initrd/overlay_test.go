package initrd

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestOverlayGolden(t *testing.T) {
	got := Overlay([]File{{"ssh/authorized_keys", 0o600, []byte("key\n!")}})
	field := func(s string) string { return "00000000"[len(s):] + s }
	header := func(fields ...string) string {
		s := "070701"
		for _, f := range fields {
			s += field(f)
		}
		return s
	}
	want := header("1", "41ed", "0", "0", "2", "0", "0", "0", "0", "0", "0", "4", "0") + "ssh\x00" + "\x00\x00" +
		header("2", "8180", "0", "0", "1", "0", "5", "0", "0", "0", "0", "14", "0") + "ssh/authorized_keys\x00" + "\x00\x00" + "key\n!" + "\x00\x00\x00" +
		header("3", "0", "0", "0", "1", "0", "0", "0", "0", "0", "0", "b", "0") + "TRAILER!!!\x00" + "\x00\x00\x00"
	if string(got) != want {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
	if len(got)%4 != 0 {
		t.Errorf("%d bytes are not a multiple of 4", len(got))
	}
}

func TestOverlayUnpackedByCpio(t *testing.T) {
	files := []File{
		{"ssh/authorized_keys", 0o644, []byte("ssh-ed25519 AAAA\n")},
		{"ssh/ssh_host_ed25519_key", 0o600, bytes.Repeat([]byte("k"), 411)},
		{"/provision.json", 0o640, []byte("{}")},
		{"a/b/../c/d/e", 0o755, nil},
		{"../../outside", 0o600, []byte("stays in")},
		{"machine-id", 0o444, []byte("0123456789abcdef0123456789abcdef\n")},
	}
	if a, b := Overlay(files), Overlay(files); !bytes.Equal(a, b) {
		t.Error("the same files give different bytes")
	}
	dir := filepath.Join(t.TempDir(), "root")
	must(t, os.Mkdir(dir, 0o755))
	cmd := exec.Command("cpio", "-idm", "--quiet")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(Overlay(files))
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("cpio: %v: %s (apt install cpio)", err, out)
	}
	want := map[string]File{".": {}, "ssh": {}, "a": {}, "a/c": {}, "a/c/d": {}, "outside": files[4],
		"ssh/authorized_keys": files[0], "ssh/ssh_host_ed25519_key": files[1], "provision.json": files[2], "a/c/d/e": files[3], "machine-id": files[5]}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		must(t, err)
		info, err := d.Info()
		must(t, err)
		name, _ := filepath.Rel(dir, path)
		f, ok := want[name]
		delete(want, name)
		switch {
		case !ok:
			t.Errorf("unexpected %s", name)
		case f.Path == "":
			if !d.IsDir() || info.Mode().Perm() != 0o755 {
				t.Errorf("%s is %v, want a folder with 0755", name, info.Mode())
			}
		default:
			data, err := os.ReadFile(path)
			must(t, err)
			if info.Mode() != f.Mode || !bytes.Equal(data, f.Data) || info.ModTime().Unix() != 0 {
				t.Errorf("%s: mode %v, time %v, %q", name, info.Mode(), info.ModTime(), data)
			}
		}
		return nil
	}))
	for name := range want {
		t.Errorf("%s is missing", name)
	}
}

func TestPadding(t *testing.T) {
	for size := range int64(9) {
		if p := Padding(size); p < 4 || p > 7 || (size+p)%4 != 0 {
			t.Errorf("Padding(%d) = %d", size, p)
		}
	}
}

func TestOverlaySymlink(t *testing.T) {
	initrd := Overlay([]File{{"sbin/modprobe", fs.ModeSymlink, []byte("/init")}})
	got := map[string]string{}
	must(t, Walk(bytes.NewReader(initrd), func(name string, h Header, content io.Reader) error {
		data, err := io.ReadAll(content)
		got[name] = fmt.Sprintf("%o %s", h.Mode, data)
		return err
	}))
	if got["sbin/modprobe"] != "120777 /init" {
		t.Errorf("%v", got)
	}
}
