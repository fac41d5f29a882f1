package installer

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"provision/disko"
)

// pretend puts programs before those of the target's PATH. $0's folder is theirs.
func pretend(t *testing.T, programs map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, script := range programs {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\ncd \"${0%/*}\"\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return dir
}

// TestCloseDisks: what is mounted is unmounted, with as many tries as it takes, or the error
// says what is left; the keys are removed in any case.
func TestCloseDisks(t *testing.T) {
	const (
		mounted = `{"blockdevices":[{"name":"vdb","path":"/dev/vdb","type":"disk","size":8589934592,"children":[{"name":"vdb2","path":"/dev/vdb2","type":"part","size":1073741824,"mountpoints":["/mnt"]}]}]}`
		closed  = `{"blockdevices":[{"name":"vdb","path":"/dev/vdb","type":"disk","size":8589934592}]}`
	)
	programs := map[string]string{
		"lsblk":   "cat lsblk.json",
		"findmnt": `echo '{"filesystems":[]}'`,
		"swapoff": "exit 0",
		"umount":  "echo >>tries; [ \"$(wc -l <tries)\" -ge \"$(cat needed)\" ] && cp closed.json lsblk.json && exit; echo umount: target is busy >&2; exit 32",
	}
	for name, want := range map[string]string{"1": "", "2": "", "9": "still in use: /dev/vdb2 is mounted at /mnt: unmount /mnt: umount --recursive /mnt: exit status 32:\n  umount: target is busy"} {
		t.Run(name+" tries", func(t *testing.T) {
			dir := pretend(t, programs)
			key := filepath.Join(dir, "disk.key")
			for file, text := range map[string]string{"lsblk.json": mounted, "closed.json": closed, "needed": name, "disk.key": "secret"} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			d := &Disks{Client: connect(t).client, Log: slog.New(slog.DiscardHandler), plan: luksPlan(t, key)}
			err := d.Close(t.Context())
			if (err == nil) != (want == "") || err != nil && err.Error() != want {
				t.Errorf("%v", err)
			}
			if _, err := os.Stat(key); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the key is left: %v", err)
			}
		})
	}
	if err := new(Disks).Close(t.Context()); err != nil {
		t.Errorf("nothing was made: %v", err)
	}
}

// TestReadBack: steps that ran and did nothing are found out.
func TestReadBack(t *testing.T) {
	data, err := os.ReadFile("../disko/testdata/layouts/efi.json")
	if err != nil {
		t.Fatal(err)
	}
	layout, err := disko.Parse([]byte(strings.ReplaceAll(string(data), "/dev/disk/by-id/the-disk", "/dev/vdb")))
	if err != nil {
		t.Fatal(err)
	}
	pretend(t, map[string]string{
		"lsblk":   `echo '{"blockdevices":[{"name":"vdb","path":"/dev/vdb","type":"disk","size":8589934592}]}'`,
		"findmnt": `echo '{"filesystems":[]}'`,
		"made":    "exit 0",
		"dd":      "head -c 1000000 /dev/zero",
	})
	d := &Disks{Client: connect(t).client, Layout: layout, Log: slog.New(slog.DiscardHandler), Options: disko.Options{Script: "made"}}
	if _, err := d.Make(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "read back the partition table of /dev/vdb: ") {
		t.Errorf("%v", err)
	}
	d.Options.Mode = disko.Mount
	if _, err := d.Make(t.Context()); err == nil || !strings.Contains(err.Error(), "/dev/vdb is empty, and the layout has gpt there") {
		t.Errorf("%v", err)
	}
}
