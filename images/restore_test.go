package images

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"provision/internal/initrd"
)

// TestTail: only the image that needs it gets the unit, and nothing takes the place of the symlink it crosses.
func TestTail(t *testing.T) {
	contract := Contract{Login: "ssh-ed25519 AAAA", HostKey: []byte("key"), HostKeyPublic: "ssh-ed25519 BBBB", MachineID: "m", Network: map[string][]byte{"a.json": []byte("{}")}}
	tail := func(l *Inspection) (names string) {
		img := Image{Initrd: File{Size: 7}, Look: l}
		whole := append(make([]byte, 7), contract.Tail(img)...)
		must(t, initrd.Walk(bytes.NewReader(whole), func(name string, _ initrd.Header, _ io.Reader) error {
			names += " " + name
			return nil
		}))
		return names
	}
	const plain = " ssh ssh/authorized_keys ssh/ssh_host_ed25519_key ssh/ssh_host_ed25519_key.pub machine-id a.json"
	for _, l := range []*Inspection{nil, {Stage1: "systemd", Contract: Yes}, {Stage1: "script", Contract: No}, {Contract: Unknown}} {
		if got := tail(l); got != plain {
			t.Errorf("%+v: got %s", l, got)
		}
	}
	want := plain + " provision-restore etc/systemd/system/provision-restore.service" +
		" etc/systemd/system/initrd.target.wants etc/systemd/system/initrd.target.wants/provision-restore.service"
	if got := tail(&Inspection{Stage1: "systemd", Contract: No}); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestRestoreScript runs the script as stage 1 would, on an initrd's root of its own.
func TestRestoreScript(t *testing.T) {
	dir := t.TempDir()
	for name, data := range map[string]string{"ssh/authorized_keys": "login", "ssh/ssh_host_ed25519_key": "secret", "ssh/ssh_host_ed25519_key.pub": "public",
		"machine-id": "m", "provision.json": "{}", "sysroot/etc/os-release": "ID=nixos"} {
		write(t, filepath.Join(dir, name), data)
	}
	script := strings.NewReplacer("cd /\n", "cd "+dir+"\n", "root=/sysroot", "root="+dir+"/sysroot").Replace(string(restoreScript))
	run := func() (string, error) {
		out, err := exec.Command("sh", "-c", script).CombinedOutput()
		return string(out), err
	}
	for range 2 { // again is no harm
		if out, err := run(); err != nil || out != "" {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for name, want := range map[string]string{"root/.ssh/authorized_keys": "0600 login", "etc/ssh/authorized_keys.d/root": "0644 login",
		"etc/ssh/ssh_host_ed25519_key": "0600 secret", "etc/ssh/ssh_host_ed25519_key.pub": "0644 public", "etc/machine-id": "0644 m", "root/network/provision.json": "0644 {}"} {
		file := filepath.Join(dir, "sysroot", name)
		info, err := os.Stat(file)
		must(t, err)
		data, err := os.ReadFile(file)
		must(t, err)
		if got := strings.Replace(info.Mode().String(), "-rw-------", "0600", 1); strings.Replace(got, "-rw-r--r--", "0644", 1)+" "+string(data) != want {
			t.Errorf("%s: %s %s, want %s", name, got, data, want)
		}
	}
	for _, name := range []string{"root", "root/.ssh"} {
		if info, err := os.Stat(filepath.Join(dir, "sysroot", name)); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	must(t, os.Remove(filepath.Join(dir, "ssh/authorized_keys")))
	if _, err := run(); err == nil {
		t.Error("no keys, and no error")
	}
}
