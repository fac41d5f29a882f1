package hosts

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"provision/internal/store"
)

// TestCopyHasNoPermit: a store that is started from a copy revives nothing: neither a permit that was burned since, nor
// one that was not, nor a boot. What is installed stays so, and new permits are as good as ever.
func TestCopyHasNoPermit(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	inv, db, _ := open(t, dir)
	enroll(t, inv, "waiting", mac1)
	booting := enroll(t, inv, "booting", mac2)
	booting, err := inv.BeginBoot("booting", Boot{Expires: noon.Add(time.Hour)}, "")
	if err != nil {
		t.Fatal(err)
	}
	enroll(t, inv, "done", mac3)
	install(t, inv, "done")
	live(t, inv, "burned", "52:54:00:00:00:04")
	if err := burnFor(inv, "burned", Disk{Device: "/dev/sda", Serial: "1", Size: 1}); err != nil {
		t.Fatal(err)
	}
	kept, err := db.Keep()
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	if _, err := store.Restore(path, kept); err != nil {
		t.Fatal(err)
	}

	inv, db, _ = open(t, dir)
	for name, state := range map[string]State{"waiting": StateFailed, "booting": StateFailed, "burned": StateFailed, "done": StateInstalled} {
		h, err := inv.Get(name)
		if err != nil {
			t.Fatal(err)
		}
		if ok, _ := h.MayBoot(noon); ok || h.Permit.Live(noon) || h.Boot.Serves(noon) || h.State != state {
			t.Errorf("%s is %s: permit %+v, boot %+v", name, h.State, h.Permit, h.Boot)
		}
		if state == StateFailed && !strings.HasPrefix(h.Error, "the permit was withdrawn: the store is a copy of 20") {
			t.Errorf("%s: %s", name, h.Error)
		}
		events, err := inv.Events(name, 0)
		if last := events[len(events)-1]; err != nil || (last.Kind == EventCancelled) != (state == StateFailed) {
			t.Errorf("%s: %+v, %v", name, last, err)
		}
	}
	if _, err := inv.UseBoot(booting.Boot.Token, Fetch{Client: "10.0.0.1", File: "kernel"}); !errors.Is(err, ErrRefused) {
		t.Errorf("its boot: %v", err)
	}
	_, err = inv.Apply("waiting", Event{Kind: EventRetried})
	if err == nil || !strings.Contains(err.Error(), "the permit of waiting was withdrawn") {
		t.Errorf("retried: %v", err)
	}
	enroll(t, inv, "waiting", mac1)
	db.Close()
	inv, _, _ = open(t, dir)
	if h, err := inv.Get("waiting"); err != nil || h.State != StateReady || !h.Permit.Live(noon) {
		t.Errorf("after the next start: %s, %+v, %v", h.State, h.Permit, err)
	}
}

// spoilRecords flips a bit of each record's value in a store's file, which nobody has open.
func spoilRecords(t *testing.T, path string, keys ...string) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		records := tx.Bucket([]byte("records"))
		for _, key := range keys {
			value := bytes.Clone(records.Get([]byte(key)))
			value[len(value)-1] ^= 4
			if err := records.Put([]byte(key), value); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestSetAside: one damaged host keeps the others from nothing, is listed as such, and goes without a restart.
func TestSetAside(t *testing.T) {
	dir := t.TempDir()
	inv, db, _ := open(t, dir)
	key := enroll(t, inv, "alpha", mac1).HostKey
	enroll(t, inv, "bravo", mac2)
	inv.See(Discovered{MAC: mac3})
	if err := inv.saveSeen(); err != nil {
		t.Fatal(err)
	}
	db.Close()
	spoilRecords(t, filepath.Join(dir, "state.db"), hostKey("alpha"), discoveredKey)

	inv, db, _ = open(t, dir)
	if want := []string{discoveredKey, "host/alpha"}; !slices.Equal(db.Found.Damaged, want) {
		t.Errorf("found %v", db.Found.Damaged)
	}
	if n := len(inv.Discovered()); n != 0 {
		t.Errorf("%d are discovered", n)
	}
	all, err := inv.List()
	if err != nil || len(all) != 2 || all[0].State != StateFailed || all[0].Permit.Live(noon) || all[1].State != StateReady ||
		!strings.Contains(all[0].Error, "`provision state set-aside host/alpha`") {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := inv.ByMAC(mac1); err == nil {
		t.Error("its machine is answered")
	}
	if kept, err := db.Keep(); err == nil {
		t.Errorf("%s is kept, and would push out a good copy", kept)
	}
	if _, err := inv.BeginBoot("bravo", Boot{Expires: noon.Add(time.Hour)}, ""); err != nil {
		t.Errorf("the other: %v", err)
	}
	if err := inv.SetAside("host/bravo", "ada"); !errors.Is(err, ErrRefused) {
		t.Errorf("a whole record: %v", err)
	}
	if err := inv.SetAside("host/nosuch", "ada"); !errors.Is(err, ErrNotFound) {
		t.Errorf("no record: %v", err)
	}
	if err := inv.SetAside("host/alpha", "ada"); err != nil {
		t.Fatal(err)
	}
	if _, err := inv.ByMAC(mac1); !errors.Is(err, ErrNotFound) {
		t.Errorf("its MAC: %v", err)
	}
	if _, err := inv.Restore("alpha", time.Time{}, "ada"); err != nil {
		t.Error(err)
	}
	if h := enroll(t, inv, "alpha", mac1); h.HostKey != key {
		t.Errorf("enrolled again, its key is %s", h.HostKey)
	}
}

// TestClock: the time never goes back, nor over a restart.
func TestClock(t *testing.T) {
	dir := t.TempDir()
	inv, db, _ := open(t, dir)
	wall := &clock{now: noon}
	told, err := NewClock(db, wall.Now)
	if err != nil {
		t.Fatal(err)
	}
	now := func(want time.Time) {
		t.Helper()
		if got := told.Now(); !got.Equal(want) {
			t.Errorf("it is %s, want %s", got, want)
		}
	}
	now(noon)
	wall.add(time.Minute)
	now(noon.Add(time.Minute))
	wall.add(-time.Hour)
	now(noon.Add(time.Minute))
	wall.add(time.Minute)
	now(noon.Add(2 * time.Minute))
	wall.add(2 * time.Hour)
	latest := noon.Add(2*time.Hour + 2*time.Minute)
	now(latest)

	inv.now = told.Now
	if err := inv.saveClock(); err != nil {
		t.Fatal(err)
	}
	for back, behind := range map[time.Duration]bool{0: false, -time.Minute: false, -time.Hour: true, time.Hour: false} {
		wall := &clock{now: latest.Add(back)}
		if told, err = NewClock(db, wall.Now); err != nil {
			t.Fatal(err)
		}
		if _, _, is := told.Behind(); is != behind {
			t.Errorf("%s: behind is %t", back, is)
		}
		now(latest.Add(max(0, back)))
	}
	// In a copy nothing lives: the way out of a time that was wrong.
	kept, err := db.Keep()
	if err != nil {
		t.Fatal(err)
	}
	told, err = NewClock(openStore(t, kept), wall.Now)
	if _, _, is := told.Behind(); err != nil || is {
		t.Errorf("a copy: %t, %v", is, err)
	}
	// A clock that starts with 1970, and nothing was seen yet.
	told, err = NewClock(openStore(t, filepath.Join(t.TempDir(), "state.db")), func() time.Time { return time.Unix(0, 0) })
	if _, _, is := told.Behind(); err != nil || !is {
		t.Errorf("1970: %t, %v", is, err)
	}
}

// TestExpiredStaysSo: what has expired does not live again when the clock goes back, nor after a restart.
func TestExpiredStaysSo(t *testing.T) {
	dir := t.TempDir()
	inv, db, _ := open(t, dir)
	wall := &clock{now: noon}
	start := func() {
		t.Helper()
		c, err := NewClock(db, wall.Now)
		if err != nil {
			t.Fatal(err)
		}
		if inv, err = New(db, inv.vault, c.Now); err != nil {
			t.Fatal(err)
		}
	}
	start()
	enroll(t, inv, "alpha", mac1)
	if _, err := inv.BeginBoot("alpha", Boot{Expires: noon.Add(10 * time.Minute)}, ""); err != nil {
		t.Fatal(err)
	}
	wall.add(time.Hour)
	inv.now() // seen
	wall.add(-time.Hour)
	for range 2 {
		h, err := inv.Get("alpha")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := inv.UseBoot(h.Boot.Token, Fetch{Client: "10.0.0.1"}); !errors.Is(err, ErrRefused) {
			t.Errorf("an expired boot: %v", err)
		}
		if _, err := inv.BeginBoot("alpha", Boot{Expires: inv.now().Add(time.Minute)}, ""); !errors.Is(err, ErrRefused) {
			t.Errorf("an expired permit: %v", err)
		}
		if err := inv.saveClock(); err != nil {
			t.Fatal(err)
		}
		start()
	}
}

// TestLostKey: a store whose key is lost is not used with another; what is lost is said, and can be dropped.
func TestLostKey(t *testing.T) {
	dir := t.TempDir()
	key := filepath.Join(dir, "secrets.key")
	inv, db, _ := open(t, dir)
	if _, err := VaultOf(db, key); err != nil {
		t.Fatal(err)
	}
	if _, err := inv.ServerKey(); err != nil {
		t.Fatal(err)
	}
	h := Host{Name: "alpha", MACs: []string{mac1}, DiskKeys: []string{"/tmp/disk.key"}}
	if _, err := inv.Enroll(h, time.Hour, map[string][]byte{SecretDisk("/tmp/disk.key"): []byte("x")}); err != nil {
		t.Fatal(err)
	}
	enroll(t, inv, "bravo", mac2)
	if err := inv.Forget("bravo", "ada"); err != nil {
		t.Fatal(err)
	}
	if _, err := VaultOf(db, key); err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func() error{
		"it is not there":           func() error { return os.Remove(key) },
		"it is another key":         func() error { _, err := OpenVault(key); return err },
		"it is not an age identity": func() error { return os.WriteFile(key, []byte("nonsense"), 0o600) },
	} {
		os.Remove(key)
		if err := spoil(); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		_, err := VaultOf(db, key)
		for _, want := range []string{
			what,
			"the SSH keys of hosts (alpha), disk keys (alpha), the server's own SSH key",
			"`provision state drop-secrets --state-dir " + dir,
		} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	os.Remove(key)
	if n, err := DropSecrets(db); err != nil || n != 4 {
		t.Errorf("%d are dropped, %v", n, err)
	}
	vault, err := VaultOf(db, key)
	if err != nil {
		t.Fatal(err)
	}
	if inv, err = New(db, vault, func() time.Time { return noon }); err != nil {
		t.Fatal(err)
	}
	now, err := inv.Get("alpha")
	why := "the permit was withdrawn: the secrets of the store were dropped"
	if err != nil || now.Permit.Live(noon) || now.Error != why {
		t.Errorf("%+v, %v", now, err)
	}
	if _, err := inv.Restore("bravo", time.Time{}, "ada"); err != nil {
		t.Error(err)
	}
	if now := enroll(t, inv, "alpha", mac1); now.State != StateReady {
		t.Error(now.State)
	}
}
