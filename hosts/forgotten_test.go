package hosts

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"provision/internal/store"
)

const day = 24 * time.Hour

// everything is all that the store holds, but for the discovered machines.
func everything(t *testing.T, db store.Store) []store.Record {
	t.Helper()
	recs, err := db.List(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(recs, func(r store.Record) bool { return r.Key == discoveredKey || r.Key == clockKey })
}

// boot hands a host a boot, on a Raspberry Pi that tells this serial number.
func boot(t *testing.T, inv *Inventory, name, serial string) Host {
	t.Helper()
	h, err := inv.BeginBoot(name, Boot{Expires: noon.Add(time.Hour), Serial: serial}, "")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// keyed is a host that was installed once, with secrets of each kind and a disk of its own.
func keyed(t *testing.T, inv *Inventory) Host {
	t.Helper()
	operator, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	h := Host{
		Name:      "bravo",
		MACs:      []string{mac1, mac2},
		Arch:      "x86_64",
		DiskKeys:  []string{"/tmp/disk.key"},
		Generated: []string{"/tmp/disk.key"},
		Choices: Choices{
			EscrowTo:    []string{operator.Recipient().String()},
			Secrets:     []SecretFile{{"/var/lib/a", "0400"}},
			KeepSecrets: true,
		},
	}
	if _, err := inv.Enroll(h, time.Hour, map[string][]byte{SecretContent("/var/lib/a"): []byte("A")}); err != nil {
		t.Fatal(err)
	}
	if err := inv.SetFacts("bravo", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	h = boot(t, inv, "bravo", "e5ef6e9d")
	for _, ev := range []Event{
		{Kind: EventContacted, Boot: &h.Boot}, {Kind: EventBurned, Disks: []Disk{{Device: "/dev/sda", Model: "M", Serial: "S3Z9NB0K", Size: 5}}},
		{Kind: EventRebooted}, {Kind: EventProved, Message: "it answers"},
	} {
		h = apply(t, inv, "bravo", ev)
	}
	return h
}

// TestRestore: what is forgotten comes back as it was, with its log, its identity and its secrets, and its
// disks are nobody else's in between.
func TestRestore(t *testing.T) {
	inv, db, c := open(t, t.TempDir())
	was := keyed(t, inv)
	disk := was.Owned[0]
	key, err := inv.Secret("bravo", SecretHostKey)
	if err != nil {
		t.Fatal(err)
	}
	loss, err := inv.Loss("bravo")
	if err != nil || !loss.Precious() || loss.HostKey != was.HostKey || loss.Events == 0 || len(loss.Disks) != 1 ||
		!slices.Equal(loss.Escrow, []string{"/tmp/disk.key"}) || !slices.Equal(loss.Secrets, []string{"/var/lib/a"}) {
		t.Errorf("what is lost: %+v, %v", loss, err)
	}
	if err := inv.Forget("bravo", "ada"); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"host/", "mac/", "event/", "secret/bravo", "escrow/", "boot/", "facts/", "serial/"} {
		if recs, err := db.List(t.Context(), prefix, ""); err != nil || len(recs) > 0 {
			t.Errorf("%s is there under a forgotten host's name, %v", recs[0].Key, err)
		}
	}
	live(t, inv, "alpha", mac3)
	if owner(t, inv, "alpha", disk) != "bravo" {
		t.Error("the disk of a forgotten host is free before it is purged")
	}
	if err := burnFor(inv, "alpha", disk); !errors.Is(err, ErrRefused) {
		t.Errorf("burned for the disk of a forgotten host: %v", err)
	}
	all, err := inv.Forgotten()
	if err != nil || len(all) != 1 || all[0].By != "ada" || !all[0].Until.Equal(noon.Add(30*day)) {
		t.Fatalf("forgotten are %+v, %v", all, err)
	}
	if kept, err := inv.LossOf(all[0]); err != nil || kept.HostKey != loss.HostKey || kept.Events != loss.Events ||
		!slices.Equal(kept.Escrow, loss.Escrow) || len(kept.Disks) != 1 {
		t.Errorf("what is kept: %+v, %v", kept, err)
	}

	c.add(30*day - time.Second)
	if err := inv.PurgeForgotten(c.Now()); err != nil {
		t.Fatal(err)
	}
	h, err := inv.Restore("bravo", time.Time{}, "eve")
	if err != nil {
		t.Fatal(err)
	}
	if h.State != StateInstalled || h.HostKey != was.HostKey || h.Installed != was.Installed || h.Permit.Live(c.Now()) || len(h.Tokens) > 0 {
		t.Errorf("restored: %+v", h)
	}
	if ok, _ := h.MayBoot(c.Now()); ok {
		t.Error("a restored host has a permit")
	}
	again, err := inv.Secret("bravo", SecretHostKey)
	if err != nil || !bytes.Equal(again, key) {
		t.Errorf("its identity: %v", err)
	}
	if all, err := inv.Reveal("bravo", "ada"); err != nil || len(all) != 1 {
		t.Errorf("its escrow: %v, %v", all, err)
	}
	for _, mac := range was.MACs {
		if h, err := inv.ByMAC(mac); err != nil || h.Name != "bravo" {
			t.Errorf("%s leads to %q, %v", mac, h.Name, err)
		}
	}
	if h, err := inv.BySerial("e5ef6e9d"); err != nil || h.Name != "bravo" {
		t.Errorf("the serial number leads to %q, %v", h.Name, err)
	}
	events, err := inv.Events("bravo", 0)
	if err != nil || len(events) != loss.Events+2 { // restored, revealed
		t.Fatalf("%d events, %v", len(events), err)
	}
	if ev := events[loss.Events]; ev.Kind != EventRestored || !strings.Contains(ev.Message, "restored by eve; ada forgot it on 2") {
		t.Errorf("its log: %+v", ev)
	}
	if recs, _ := db.List(t.Context(), "aside/", ""); len(recs) > 0 {
		t.Errorf("%s is left", recs[0].Key)
	}
	if _, err := inv.Restore("bravo", time.Time{}, "eve"); !errors.Is(err, ErrNotFound) {
		t.Errorf("restored twice: %v", err)
	}
}

// TestForgetWithdraws: a host that waits for its install comes back without its permit, and one whose
// reinstall was only prepared as the one that stands.
func TestForgetWithdraws(t *testing.T) {
	inv, _, c := open(t, t.TempDir())
	enroll(t, inv, "alpha", mac3)
	was := keyed(t, inv)
	next := was
	next.Permit = Permit{Via: ViaManual}
	if h, err := inv.Reinstall(next, time.Hour, nil, true); err != nil || h.HostKey == was.HostKey {
		t.Fatalf("reinstall: %v", err)
	}
	for name, want := range map[string]State{"alpha": StateFailed, "bravo": StateInstalled} {
		if err := inv.Forget(name, "ada"); err != nil {
			t.Fatal(err)
		}
		h, err := inv.Restore(name, time.Time{}, "ada")
		if ok, _ := h.MayBoot(c.Now()); err != nil || h.State != want || ok {
			t.Errorf("%s is %s, may boot: %t, %v", name, h.State, ok, err)
		}
	}
	if h, err := inv.Get("bravo"); err != nil || h.HostKey != was.HostKey {
		t.Errorf("its identity is the one that was prepared: %v", err)
	}
	private, err := inv.Secret("bravo", SecretHostKey)
	if err != nil || publicOf(t, private) != was.HostKey {
		t.Errorf("its key is the one that was prepared: %v", err)
	}
	live(t, inv, "charlie", "52:54:00:00:00:09")
	if err := inv.Forget("charlie", "ada"); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "provision cancel charlie") {
		t.Errorf("forgot a host that is being installed: %v", err)
	}
}

// TestRestoreRefused: nothing of another host is taken for it.
func TestRestoreRefused(t *testing.T) {
	tests := map[string]struct {
		meanwhile func(*testing.T, *Inventory)
		want      string
	}{
		"name": {func(t *testing.T, inv *Inventory) { enroll(t, inv, "bravo", mac3) }, "another host with this name was enrolled meanwhile (MAC " + mac3},
		"MAC": {func(t *testing.T, inv *Inventory) { enroll(t, inv, "alpha", mac2) },
			"its MAC " + mac2 + " is alpha's now; `provision set alpha --mac=-" + mac2 + "`"},
		"key": {func(t *testing.T, inv *Inventory) {
			if _, err := inv.MakeIdentity("bravo"); err != nil {
				t.Fatal(err)
			}
		}, "another SSH key was made for this name"},
	}
	for name, test := range tests {
		inv, db, _ := open(t, t.TempDir())
		keyed(t, inv)
		if err := inv.Forget("bravo", "ada"); err != nil {
			t.Fatal(err)
		}
		test.meanwhile(t, inv)
		before := everything(t, db)
		_, err := inv.Restore("bravo", time.Time{}, "ada")
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v; want %q", name, err, test.want)
		}
		if after := everything(t, db); len(after) != len(before) {
			t.Errorf("%s: a refusal wrote", name)
		}
	}

	// A serial number is no machine's name: it is told again.
	inv, _, _ := open(t, t.TempDir())
	keyed(t, inv)
	if err := inv.Forget("bravo", "ada"); err != nil {
		t.Fatal(err)
	}
	enroll(t, inv, "alpha", mac3)
	boot(t, inv, "alpha", "e5ef6e9d")
	if h, err := inv.Restore("bravo", time.Time{}, "ada"); err != nil || h.Serial != "" {
		t.Errorf("serial number %q, %v", h.Serial, err)
	}
	if h, err := inv.BySerial("e5ef6e9d"); err != nil || h.Name != "alpha" {
		t.Errorf("it leads to %q, %v", h.Name, err)
	}
}

// TestSameName: a host that gets a forgotten one's name is another host. Both can be had back.
func TestSameName(t *testing.T) {
	inv, _, c := open(t, t.TempDir())
	first := keyed(t, inv)
	if err := inv.Forget("bravo", "ada"); err != nil {
		t.Fatal(err)
	}
	c.add(day)
	second := enroll(t, inv, "bravo", mac3)
	if second.HostKey == first.HostKey || second.LastEvent != 1 {
		t.Errorf("it has the forgotten host's key or log: %d events", second.LastEvent)
	}
	if _, err := inv.Reveal("bravo", "ada"); !errors.Is(err, ErrNotFound) {
		t.Errorf("it has the forgotten host's escrow: %v", err)
	}
	if err := inv.Forget("bravo", "ada"); err != nil {
		t.Fatal(err)
	}
	if _, err := inv.Restore("bravo", noon.Add(time.Hour), "ada"); !errors.Is(err, ErrNotFound) {
		t.Errorf("restored one that nobody forgot: %v", err)
	}
	if h, err := inv.Restore("bravo", noon, "ada"); err != nil || h.HostKey != first.HostKey {
		t.Errorf("the first: %s, %v", h.HostKey, err)
	}
	if err := inv.Forget("bravo", "ada"); err != nil {
		t.Fatal(err)
	}
	all, err := inv.Forgotten()
	if err != nil || len(all) != 2 {
		t.Fatalf("forgotten are %+v, %v", all, err)
	}

	// The older is purged; the disks that the living host of its name has stay that one's.
	live(t, inv, "bravo", mac1)
	if err := burnFor(inv, "bravo", first.Owned...); err != nil {
		t.Fatal(err)
	}
	if err := inv.PurgeForgotten(c.Now().Add(ForgottenFor)); err != nil {
		t.Fatal(err)
	}
	enroll(t, inv, "alpha", mac3)
	if got := owner(t, inv, "alpha", first.Owned[0]); got != "bravo" {
		t.Errorf("a living host's disk is %q's", got)
	}
}

// TestPurge: after 30 days, or at once, nothing is left.
func TestPurge(t *testing.T) {
	ways := map[string]func(*testing.T, *Inventory, *clock) error{
		"serve": func(t *testing.T, inv *Inventory, c *clock) error {
			c.add(ForgottenFor)
			if all, err := inv.Forgotten(); err != nil || len(all) > 0 {
				t.Errorf("can be restored: %+v, %v", all, err)
			}
			if _, err := inv.Restore("bravo", time.Time{}, "ada"); !errors.Is(err, ErrNotFound) {
				t.Errorf("restored too late: %v", err)
			}
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			return inv.Run(ended)
		},
		"forgotten": func(_ *testing.T, inv *Inventory, _ *clock) error { return inv.Purge("bravo") },
		"enrolled and forgotten": func(t *testing.T, inv *Inventory, _ *clock) error {
			enroll(t, inv, "bravo", mac1)
			return inv.Purge("bravo")
		},
	}
	for name, purge := range ways {
		inv, db, c := open(t, t.TempDir())
		before := everything(t, db)
		disk := keyed(t, inv).Owned[0]
		if err := inv.Forget("bravo", "ada"); err != nil {
			t.Fatal(err)
		}
		if err := purge(t, inv, c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if left := everything(t, db); len(left) != len(before) {
			t.Errorf("%s: %d records are left, such as %s", name, len(left), left[len(left)-1].Key)
		}
		enroll(t, inv, "alpha", mac3)
		if got := owner(t, inv, "alpha", disk); got != "" {
			t.Errorf("%s: its disk is %q's", name, got)
		}
		if err := inv.Purge("bravo"); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: purged twice: %v", name, err)
		}
	}
}

// TestForgottenIdentity: a key that was made for a host that is not enrolled yet can be had back, too.
func TestForgottenIdentity(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	made, err := inv.MakeIdentity("alpha")
	if err != nil {
		t.Fatal(err)
	}
	if l, err := inv.Loss("alpha"); err != nil || l.HostKey != made {
		t.Errorf("what is lost: %+v, %v", l, err)
	}
	if err := inv.Forget("alpha", "ada"); err != nil {
		t.Fatal(err)
	}
	all, err := inv.Forgotten()
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	if l, err := inv.LossOf(all[0]); err != nil || l.HostKey != made {
		t.Errorf("what is kept: %+v, %v", l, err)
	}
	if h, err := inv.Restore("alpha", time.Time{}, "ada"); err != nil || h.State != "" {
		t.Errorf("restored: %+v, %v", h, err)
	}
	if got, err := inv.Identity("alpha"); err != nil || got != made {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := inv.Get("alpha"); !errors.Is(err, ErrNotFound) {
		t.Errorf("it is enrolled now: %v", err)
	}
}
