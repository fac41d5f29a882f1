package installer

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"provision/disko"
	"provision/hosts"
	"provision/internal/store"
)

// inventory is an empty one, with its files in dir.
func inventory(t testing.TB, dir string) *hosts.Inventory {
	t.Helper()
	db, err := store.OpenBolt(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	vault, err := hosts.OpenVault(filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	inv, err := hosts.New(db, vault, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// TestDiskKeysComeAndGo: a disk key stands where the layout reads it, for root
// alone, and is gone before the machine restarts.
func TestDiskKeysComeAndGo(t *testing.T) {
	dir := t.TempDir()
	inv := inventory(t, dir)
	path := filepath.Join(dir, "keys/disk.key")
	plan := luksPlan(t, path)
	f, s := &reconciler{Installer: &Installer{Hosts: inv}}, connect(t)
	disks := func(h hosts.Host) *Disks {
		d := (&install{reconciler: f, host: h, session: s, build: &hostBuild{}}).newDisks()
		d.plan = plan
		return d
	}

	bare, err := inv.Enroll(hosts.Host{Name: "bare", MACs: []string{"52:54:00:00:00:01"}}, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := disks(bare).sendKeys(t.Context()); err == nil || !strings.Contains(err.Error(), "--disk-encryption-key "+path+"=FILE") {
		t.Errorf("without a key: %v", err)
	}
	h, err := inv.Enroll(hosts.Host{Name: "bravo", MACs: []string{"52:54:00:00:00:02"}}, time.Hour,
		map[string][]byte{hosts.SecretDisk(path): []byte("s3cret\n")})
	if err != nil {
		t.Fatal(err)
	}
	if err := disks(h).sendKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	info, statErr := os.Stat(path)
	if err != nil || statErr != nil || string(got) != "s3cret\n" || info.Mode().Perm() != 0o400 {
		t.Errorf("%q, %v, %v, %v", got, info, err, statErr)
	}
	if err := disks(h).removeKeys(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the key is left on the installer: %v", err)
	}
}

// luksPlan is of a layout of disko's tests, with the passphrase in a file.
func luksPlan(t *testing.T, passwordFile string) *disko.Plan {
	t.Helper()
	data, err := os.ReadFile("../disko/testdata/layouts/luks.json")
	if err != nil {
		t.Fatal(err)
	}
	data = bytes.ReplaceAll(data, []byte("/tmp/secret.key"), []byte(passwordFile))
	layout, err := disko.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := disko.NewPlan(layout, nil, disko.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.KeyFiles()) != 1 {
		t.Fatal(plan.KeyFiles())
	}
	return plan
}
