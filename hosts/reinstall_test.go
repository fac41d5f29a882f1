package hosts

import (
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func publicOf(t testing.TB, private []byte) string {
	t.Helper()
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return authorized(signer.PublicKey())
}

func apply(t testing.TB, inv *Inventory, name string, ev Event) Host {
	t.Helper()
	h, err := inv.Apply(name, ev)
	if err != nil {
		t.Fatalf("%s: %v", ev.Kind, err)
	}
	return h
}

// TestReinstall: an installed host gets a permit, a new boot and, if that is
// wanted, a new key; what is on its disks counts until the permit is burned.
func TestReinstall(t *testing.T) {
	for _, newIdentity := range []bool{false, true} {
		inv, _, _ := open(t, t.TempDir())
		enroll(t, inv, "alpha", mac1)
		install(t, inv, "alpha")
		before := apply(t, inv, "alpha", Event{Kind: EventAddress, Address: "10.0.0.9"})
		h := before
		h.Permit.Via = ViaKexec
		h, err := inv.Reinstall(h, time.Hour, nil, newIdentity)
		if err != nil {
			t.Fatal(err)
		}
		if h.State != StateReady || h.Boot.Token != "" || h.Layout != "" || !h.Permit.Burned.IsZero() || h.Permit.Via != ViaKexec || !h.HasInstalled() {
			t.Errorf("after reinstall: %+v", h)
		}
		if take := h.Permit.Take; take == nil || take.HostKey != before.HostKey || take.Address != "10.0.0.9" {
			t.Errorf("it takes over %+v", take)
		}
		if (h.HostKey != before.HostKey) != newIdentity {
			t.Errorf("new identity %v: key %s, was %s", newIdentity, h.HostKey, before.HostKey)
		}
		// What was not begun is undone.
		apply(t, inv, "alpha", Event{Kind: EventBuilt, System: "/nix/store/new"})
		h = apply(t, inv, "alpha", Event{Kind: EventCancelled})
		if h.State != StateInstalled || h.System != before.System || h.HostKey != before.HostKey || !h.HasInstalled() {
			t.Errorf("cancelled: %+v", h)
		}
		if ok, _ := h.MayBoot(noon); ok {
			t.Error("it may boot after the cancel")
		}
		private, err := inv.Secret("alpha", SecretHostKey)
		if err != nil || publicOf(t, private) != before.HostKey {
			t.Errorf("cancelled: the private key is not that of before: %v", err)
		}
		// The second time it is carried out.
		h.Permit.Via, h.Permit.Take = "", nil
		if h, err = inv.Reinstall(h, time.Hour, nil, newIdentity); err != nil {
			t.Fatal(err)
		}
		install(t, inv, "alpha")
		now, err := inv.Get("alpha")
		if err != nil || now.State != StateInstalled || now.Installed.HostKey != h.HostKey {
			t.Errorf("installed again: %+v, %v", now, err)
		}
	}
}

func TestBurnEndsWhatStood(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	enroll(t, inv, "alpha", mac1)
	install(t, inv, "alpha")
	h, err := inv.Get("alpha")
	if err != nil {
		t.Fatal(err)
	}
	if _, err = inv.Reinstall(h, time.Hour, nil, false); err != nil {
		t.Fatal(err)
	}
	if h, err = inv.BeginBoot("alpha", Boot{Expires: noon.Add(time.Hour)}, ""); err != nil {
		t.Fatal(err)
	}
	apply(t, inv, "alpha", Event{Kind: EventContacted, Boot: &h.Boot})
	h = apply(t, inv, "alpha", Event{Kind: EventBurned, Disks: []Disk{{Device: "/dev/vda"}}})
	if h.HasInstalled() {
		t.Error("what stood is said to stand after the permit was burned")
	}
	if h = apply(t, inv, "alpha", Event{Kind: EventCancelled}); h.State != StateFailed {
		t.Errorf("cancelled after the permit was burned: %s", h.State)
	}
}

func TestRetry(t *testing.T) {
	begin := func(t *testing.T) (*Inventory, *clock) {
		inv, _, c := open(t, t.TempDir())
		enroll(t, inv, "alpha", mac1)
		return inv, c
	}
	t.Run("unburned, expired", func(t *testing.T) {
		inv, c := begin(t)
		c.add(48 * time.Hour)
		apply(t, inv, "alpha", Event{Kind: EventFailed, Phase: PhaseBuild, Message: "no"})
		h := apply(t, inv, "alpha", Event{Kind: EventRetried, Via: ViaWake})
		if !h.Permit.Live(c.Now()) || h.State != StateReady || h.Error != "" || h.Permit.Via != ViaWake || h.Permit.Retries != 1 {
			t.Errorf("%+v", h)
		}
	})
	t.Run("burned", func(t *testing.T) {
		inv, _ := begin(t)
		h, err := inv.BeginBoot("alpha", Boot{Expires: noon.Add(time.Hour)}, "uuid")
		if err != nil {
			t.Fatal(err)
		}
		apply(t, inv, "alpha", Event{Kind: EventContacted, Boot: &h.Boot})
		apply(t, inv, "alpha", Event{Kind: EventBurned, Disks: []Disk{{Device: "/dev/vda", Serial: "A", Size: 1}}})
		apply(t, inv, "alpha", Event{Kind: EventFailed, Phase: PhaseCopy, Message: "no"})
		h = apply(t, inv, "alpha", Event{Kind: EventRetried})
		if h.Permit.Burned.IsZero() || len(h.Permit.Disks) != 1 || h.Machine != "" || h.Boot.Token == "" || h.Permit.Boots != 0 {
			t.Errorf("%+v", h)
		}
		apply(t, inv, "alpha", Event{Kind: EventContacted, Boot: &h.Boot})
		if _, err := inv.Apply("alpha", Event{Kind: EventBurned, Disks: []Disk{{Device: "/dev/vda", Serial: "B", Size: 1}}}); !errors.Is(err, ErrRefused) {
			t.Errorf("another disk under the same permit: %v", err)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		inv, _ := begin(t)
		apply(t, inv, "alpha", Event{Kind: EventCancelled})
		if _, err := inv.Apply("alpha", Event{Kind: EventRetried}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "withdrawn") {
			t.Errorf("a withdrawn permit is taken up again: %v", err)
		}
	})
	t.Run("installed", func(t *testing.T) {
		inv, _ := begin(t)
		install(t, inv, "alpha")
		if _, err := inv.Apply("alpha", Event{Kind: EventRetried}); !errors.Is(err, ErrRefused) {
			t.Errorf("an installed host is tried again: %v", err)
		}
	})
}
