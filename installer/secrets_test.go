package installer

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"provision/hosts"
)

// look says what is at a path: mode, owner and content.
func look(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err.Error()
	}
	said := fmt.Sprintf("%o %d:%d", st.Mode&0o7777, st.Uid, st.Gid)
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		said += " " + string(data)
	}
	return said
}

// TestDeliver: a secret stands where it is to be, as it is to be, and is never
// written outside of the new system, whatever links that has.
func TestDeliver(t *testing.T) {
	s, dir := connect(t), t.TempDir()
	root, outside := filepath.Join(dir, "mnt"), filepath.Join(dir, "outside")
	if err := errors.Join(os.MkdirAll(root+"/var/kept", 0o700), os.Mkdir(outside, 0o755), os.MkdirAll(root+"/real", 0o755),
		os.Symlink(outside, root+"/abs"), os.Symlink("../outside", root+"/up"), os.Symlink("real", root+"/within"),
		os.WriteFile(outside+"/file", []byte("untouched"), 0o644),
		os.Symlink(outside+"/file", root+"/var/link"), os.Symlink(outside+"/file", root+"/var/half.part")); err != nil {
		t.Fatal(err)
	}
	send := func(path, mode string) error {
		return deliver(t.Context(), s, root, path, mode, strings.NewReader("s3cret"))
	}
	for path, mode := range map[string]string{"/var/lib/it's/key": "0400", "/var/kept/key": "640", "/within/key": "0400", "/var/link": "0400", "/var/half": "0400"} {
		if err := send(path, mode); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	for path, want := range map[string]string{
		"/var/lib/it's/key": "400 0:0 s3cret", "/var/lib/it's": "755 0:0", "/var/kept": "700 0:0", "/var/kept/key": "640 0:0 s3cret",
		"/real/key": "400 0:0 s3cret", "/var/link": "400 0:0 s3cret", "/var/half": "400 0:0 s3cret",
	} {
		if got := look(t, root+path); got != want {
			t.Errorf("%s: %s; want %s", path, got, want)
		}
	}
	for _, path := range []string{"/abs/key", "/up/key", "/up/new/key"} {
		if err := send(path, "0400"); err == nil || !strings.Contains(err.Error(), "leads out of the new system") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := send("/var/kept", "0400"); err == nil {
		t.Error("a folder was replaced")
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 1 || look(t, outside+"/file") != "644 0:0 untouched" {
		t.Errorf("outside: %v, %s, %v", left, look(t, outside+"/file"), err)
	}
}

func TestChown(t *testing.T) {
	s, dir := connect(t), t.TempDir()
	root, outside := filepath.Join(dir, "mnt"), filepath.Join(dir, "outside")
	if err := errors.Join(os.MkdirAll(root+"/home/ada/deep", 0o755), os.MkdirAll(outside+"/deep", 0o755), os.WriteFile(root+"/home/ada/deep/f", nil, 0o644),
		os.Symlink(outside, root+"/home/ada/link"), os.Symlink(outside, root+"/out")); err != nil {
		t.Fatal(err)
	}
	if err := chown(t.Context(), s, root, hosts.Chown{Path: "/home/ada", UID: 1000, GID: 100}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/home/ada", "/home/ada/deep", "/home/ada/deep/f", "/home/ada/link"} {
		if got := look(t, root+p); !strings.Contains(got, " 1000:100") {
			t.Errorf("%s: %s", p, got)
		}
	}
	for path, want := range map[string]string{"/out/deep": "leads out of the new system", "/nowhere": "is not on the new system"} {
		if err := chown(t.Context(), s, root, hosts.Chown{Path: path, UID: 1, GID: 1}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, p := range []string{root + "/home", outside, outside + "/deep"} {
		if got := look(t, p); got != "755 0:0" {
			t.Errorf("%s: %s", p, got)
		}
	}
}

// TestSendTree: modes and owners come along, folders that are there keep
// theirs, and a link in the way is replaced, not followed.
func TestSendTree(t *testing.T) {
	s, dir := connect(t), t.TempDir()
	tree, root, outside := filepath.Join(dir, "tree"), filepath.Join(dir, "mnt"), filepath.Join(dir, "outside")
	if out, err := exec.Command("sh", "-ec", `mkdir -p "$0/tree/etc/own" "$0/tree/led" "$0/mnt/etc" "$0/outside"
echo a >"$0/tree/etc/a"; echo b >"$0/tree/etc/own/b"; echo c >"$0/tree/led/c"; ln -s ../outside "$0/mnt/led"
chmod 710 "$0/mnt/etc"; chown 7:8 "$0/mnt/etc"; chmod 4711 "$0/tree/etc/own/b"; chmod 2750 "$0/tree/etc/own"
chown -R 1000:1000 "$0/tree"; chown 33:1000 "$0/tree/etc/own"; chmod 4711 "$0/tree/etc/own/b"; chmod 2750 "$0/tree/etc/own"`, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for range 2 { // an install that was interrupted does it again
		if err := sendTree(t.Context(), s, root, tree); err != nil {
			t.Fatal(err)
		}
		for path, want := range map[string]string{
			"/etc": "710 7:8", "/etc/a": "644 0:0 a\n", "/etc/own": "2750 33:0", "/etc/own/b": "4711 0:0 b\n", "/led": "755 0:0", "/led/c": "644 0:0 c\n",
		} {
			if got := look(t, root+path); got != want {
				t.Errorf("%s: %s; want %s", path, got, want)
			}
		}
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
		t.Errorf("outside: %v, %v", left, err)
	}
}
