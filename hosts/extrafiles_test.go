package hosts

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestCheckExtraFiles(t *testing.T) {
	dir, err := os.MkdirTemp("", "extra") // a socket's path has 108 characters at most
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tree := filepath.Join(dir, "tree")
	must(os.MkdirAll(filepath.Join(tree, "etc/ssh"), 0o755))
	must(os.WriteFile(filepath.Join(tree, "etc/file"), nil, 0o600))
	must(os.Symlink("/nowhere", filepath.Join(tree, "etc/link")))
	must(os.Symlink(tree, filepath.Join(dir, "link")))
	for _, good := range []string{tree, filepath.Join(dir, "link")} {
		if err := CheckExtraFiles(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	odd := filepath.Join(tree, "etc/ssh/odd")
	for want, make := range map[string]func() error{
		"etc/ssh/odd is a socket": func() error {
			l, err := net.Listen("unix", odd)
			if err == nil {
				l.(*net.UnixListener).SetUnlinkOnClose(false)
				err = l.Close()
			}
			return err
		},
		"etc/ssh/odd is a pipe":   func() error { return syscall.Mkfifo(odd, 0o600) },
		"etc/ssh/odd is a device": func() error { return syscall.Mknod(odd, syscall.S_IFCHR|0o600, 0) },
	} {
		if err := make(); err != nil {
			t.Logf("not tried, for want of rights: %s: %v", want, err)
			continue
		}
		for _, top := range []string{tree, filepath.Join(dir, "link")} {
			if err := CheckExtraFiles(top); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %s", top, err, want)
			}
		}
		must(os.Remove(odd))
	}
	for bad, want := range map[string]string{"tree": "absolute path", filepath.Join(dir, "nosuch"): "no such file", filepath.Join(tree, "etc/file"): "not a folder"} {
		if err := CheckExtraFiles(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", bad, err, want)
		}
	}
}
