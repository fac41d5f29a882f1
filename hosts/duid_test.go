package hosts

import (
	"errors"
	"testing"
	"time"
)

// TestDUID has the values of systemd's own test mode.
func TestDUID(t *testing.T) {
	id := [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	if got := duidOf(id); got != "00020000ab11617740de1342c3a2" {
		t.Error(got)
	}
}

// TestByDUID: a host's installer is known by its client's name from its first boot on, until the host has another MAC
// or is forgotten.
func TestByDUID(t *testing.T) {
	inv, _, clk := open(t, t.TempDir())
	h := enroll(t, inv, "bravo", mac1)
	find := func(want error) {
		t.Helper()
		if found, err := inv.ByDUID(h.DUID()); !errors.Is(err, want) || want == nil && found.Name != "bravo" {
			t.Errorf("%s, %v", found.Name, err)
		}
	}
	find(ErrNotFound)
	if _, err := inv.BeginBoot("bravo", Boot{MAC: mac1, Expires: clk.Now().Add(time.Minute)}, ""); err != nil {
		t.Fatal(err)
	}
	find(nil)
	if _, err := inv.Apply("bravo", Event{Kind: EventCancelled}); err != nil {
		t.Fatal(err)
	}
	if _, err := inv.Set("bravo", Change{MACs: []string{"52:54:00:00:00:77"}}, "ada"); err != nil {
		t.Fatal(err)
	}
	find(ErrNotFound)
}
