package hosts

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// live brings a host to the point where its permit can be burned.
func live(t *testing.T, inv *Inventory, name, mac string) Host {
	t.Helper()
	enroll(t, inv, name, mac)
	h, err := inv.BeginBoot(name, Boot{Expires: inv.now().Add(time.Hour)}, "")
	if err == nil {
		h, err = inv.Apply(name, Event{Kind: EventContacted, Boot: &h.Boot})
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func burnFor(inv *Inventory, name string, disks ...Disk) error {
	_, err := inv.Apply(name, Event{Kind: EventBurned, Disks: disks})
	return err
}

func fail(t *testing.T, inv *Inventory, name string) {
	t.Helper()
	if _, err := inv.Apply(name, Event{Kind: EventFailed, Message: "over"}); err != nil {
		t.Fatal(err)
	}
}

func owner(t *testing.T, inv *Inventory, name string, d Disk) string {
	t.Helper()
	h, err := inv.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	owners, err := inv.Owners(h, []Disk{d})
	if err != nil {
		t.Fatal(err)
	}
	return owners[0].Host
}

// TestClaims: a disk belongs to the host that a permit was burned for it, until that is
// forgotten or the operator says otherwise.
func TestClaims(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	disk := Disk{Device: "/dev/sda", Model: "A/B C", Serial: "S/1", Size: 5}
	bare := Disk{Device: "/dev/vda", Size: 5}
	live(t, inv, "alpha", mac1)
	if got := owner(t, inv, "alpha", disk); got != "" {
		t.Errorf("before the permit is burned the disk is %q's", got)
	}
	if err := burnFor(inv, "alpha", disk, bare); err != nil {
		t.Fatal(err)
	}
	if err := burnFor(inv, "alpha", disk, bare); err != nil {
		t.Errorf("taken up again: %v", err)
	}
	fail(t, inv, "alpha")

	live(t, inv, "bravo", mac2)
	if got := owner(t, inv, "bravo", disk); got != "alpha" {
		t.Errorf("to bravo the disk is %q's", got)
	}
	if got := owner(t, inv, "bravo", bare); got != "" {
		t.Errorf("a disk without a serial number is %q's", got)
	}
	elsewhere := disk
	elsewhere.Device = "/dev/sdx"
	err := burnFor(inv, "bravo", elsewhere)
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "/dev/sdx (serial S/1) belongs to alpha") || !strings.Contains(err.Error(), "--wipe S/1") {
		t.Errorf("%v", err)
	}
	if h, _ := inv.Get("bravo"); h.State != StateLive || !h.Permit.Burned.IsZero() || h.Owned != nil {
		t.Errorf("after a refusal: %+v", h)
	}
	if err := burnFor(inv, "bravo", bare); err != nil {
		t.Errorf("a disk without a serial number: %v", err)
	}
	fail(t, inv, "bravo")

	live(t, inv, "bravo", mac2)
	elsewhere.Wipe = true
	if err := burnFor(inv, "bravo", elsewhere, bare); err != nil {
		t.Fatal(err)
	}
	if owner(t, inv, "alpha", disk) != "bravo" || owner(t, inv, "bravo", disk) != "bravo" {
		t.Error("the claim did not move")
	}
	events, err := inv.Events("alpha", 0)
	if last := events[len(events)-1]; err != nil || last.Kind != EventNote || last.Host != "alpha" || last.State != StateFailed ||
		!strings.Contains(last.Message, "claimed by bravo now") || !strings.Contains(last.Message, "/dev/sdx (serial S/1)") {
		t.Errorf("alpha was told %+v, %v", last, err)
	}

	// Who lost a disk does not free it.
	if err := inv.Purge("alpha"); err != nil || owner(t, inv, "bravo", disk) != "bravo" {
		t.Errorf("alpha forgotten: %v", err)
	}
	fail(t, inv, "bravo")
	if err := inv.Purge("bravo"); err != nil {
		t.Fatal(err)
	}
	live(t, inv, "alpha", mac1)
	if err := burnFor(inv, "alpha", disk); err != nil {
		t.Errorf("a freed disk: %v", err)
	}
}

// TestOwned: a host's own disks stay its own when it is enrolled again. Without a serial
// number they are known in the same machine only.
func TestOwned(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	disk, bare := Disk{Device: "/dev/sda", Serial: "QM00001", Size: 5}, Disk{Device: "/dev/vda", Size: 5}
	live(t, inv, "alpha", mac1)
	if err := burnFor(inv, "alpha", disk, bare); err != nil {
		t.Fatal(err)
	}
	fail(t, inv, "alpha")
	enroll(t, inv, "alpha", mac1)
	if owner(t, inv, "alpha", disk) != "alpha" || owner(t, inv, "alpha", bare) != "alpha" {
		t.Error("its disks are not known any more")
	}
	enroll(t, inv, "alpha", mac2)
	if owner(t, inv, "alpha", disk) != "" || owner(t, inv, "alpha", bare) != "" {
		t.Error("another machine's disks are taken for its own")
	}
	live(t, inv, "bravo", mac3)
	if err := burnFor(inv, "bravo", disk); err != nil {
		t.Errorf("QEMU gives QM00001 to every machine's first disk: %v", err)
	}
}

// TestDryRun: the permit of a dry run is never burned, and is spent at its end.
func TestDryRun(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	if _, err := inv.Enroll(Host{Name: "alpha", MACs: []string{mac1}, Permit: Permit{DryRun: true}}, time.Hour, nil); err != nil {
		t.Fatal(err)
	}
	h, err := inv.BeginBoot("alpha", Boot{Expires: noon.Add(time.Hour)}, "")
	if err == nil {
		h, err = inv.Apply("alpha", Event{Kind: EventContacted, Boot: &h.Boot})
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := burnFor(inv, "alpha", Disk{Device: "/dev/vda"}); !errors.Is(err, ErrRefused) {
		t.Errorf("the permit of a dry run was burned: %v", err)
	}
	h, err = inv.Apply("alpha", Event{Kind: EventRehearsed})
	if ok, _ := h.MayBoot(noon); err != nil || h.State != StateRehearsed || ok || h.Connected || h.Permit.Spent.IsZero() || !h.Permit.Burned.IsZero() {
		t.Errorf("%+v, %v", h, err)
	}
	again := enroll(t, inv, "alpha", mac1)
	if again.State != StateReady || again.Permit.DryRun || again.Boot.Token != h.Boot.Token {
		t.Errorf("enrolled after the dry run: %+v", again)
	}
	live(t, inv, "bravo", mac2)
	if _, err := inv.Apply("bravo", Event{Kind: EventRehearsed}); !errors.Is(err, ErrRefused) {
		t.Errorf("an install that is none ended as a dry run: %v", err)
	}
}

// TestDryRunOfReinstall: what is installed stays the host, with its key.
func TestDryRunOfReinstall(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	enroll(t, inv, "alpha", mac1)
	install(t, inv, "alpha")
	before, err := inv.Get("alpha")
	if err != nil {
		t.Fatal(err)
	}
	again := before
	again.Permit.DryRun = true
	if _, err := inv.Reinstall(again, time.Hour, nil, true); err != nil {
		t.Fatal(err)
	}
	h, err := inv.BeginBoot("alpha", Boot{Expires: noon.Add(time.Hour)}, "")
	if err != nil {
		t.Fatal(err)
	}
	apply(t, inv, "alpha", Event{Kind: EventContacted, Boot: &h.Boot})
	apply(t, inv, "alpha", Event{Kind: EventBuilt, System: "/nix/store/new"})
	h = apply(t, inv, "alpha", Event{Kind: EventRehearsed})
	private, err := inv.Secret("alpha", SecretHostKey)
	if err != nil {
		t.Fatal(err)
	}
	if h.State != StateRehearsed || !h.HasInstalled() || h.System != before.System || h.HostKey != before.HostKey || publicOf(t, private) != before.HostKey {
		t.Errorf("after the dry run: %+v", h)
	}
	h, err = inv.Reinstall(before, time.Hour, nil, false)
	if err != nil || h.State != StateReady || h.Boot.Token != "" {
		t.Errorf("reinstalled after the dry run: %+v, %v", h, err)
	}
}
