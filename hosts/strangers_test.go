package hosts

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// asks has a machine with this UUID ask for a boot.
func asks(t *testing.T, inv *Inventory, uuid string) Host {
	t.Helper()
	h, err := inv.BeginBoot("alpha", Boot{MAC: mac1, Expires: inv.now().Add(time.Minute)}, uuid)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestUUIDBinds: the machine that asked is the host's once its boot was fetched, or its installer contacted, and not
// before; another one is told how it can be the host's.
func TestUUIDBinds(t *testing.T) {
	fetch := func(t *testing.T, inv *Inventory, h Host) {
		if _, err := inv.UseBoot(h.Boot.Token, Fetch{Client: "10.0.0.9", File: "script"}); err != nil {
			t.Fatal(err)
		}
	}
	contact := func(t *testing.T, inv *Inventory, h Host) {
		apply(t, inv, "alpha", Event{Kind: EventContacted, Boot: &h.Boot, Address: "10.0.0.9"})
		apply(t, inv, "alpha", Event{Kind: EventLost})
	}
	for name, claim := range map[string]func(*testing.T, *Inventory, Host){"fetched": fetch, "contacted": contact} {
		t.Run(name, func(t *testing.T) {
			inv, _, _ := open(t, t.TempDir())
			enroll(t, inv, "alpha", mac1)
			asks(t, inv, "forged")
			claim(t, inv, asks(t, inv, "real"))
			_, err := inv.BeginBoot("alpha", Boot{Expires: noon.Add(time.Hour)}, "forged")
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "run `provision retry alpha`") {
				t.Fatalf("a machine with another UUID: %v", err)
			}
			if name == "contacted" {
				apply(t, inv, "alpha", Event{Kind: EventFailed, Phase: PhaseCopy, Message: "no"})
			}
			apply(t, inv, "alpha", Event{Kind: EventRetried})
			asks(t, inv, "forged")
		})
	}
}

// TestSerialBinds: the serial number that a Raspberry Pi told is the host's once its boot was fetched, or its installer
// contacted, and not before: until then another host's machine that tells it is believed.
func TestSerialBinds(t *testing.T) {
	const mine, others = "e5ef6e9d", "00000001"
	begin := func(inv *Inventory, name, serial string) (Host, error) {
		return inv.BeginBoot(name, Boot{Expires: noon.Add(time.Hour), Serial: serial}, "")
	}
	leads := func(t *testing.T, inv *Inventory, serial, want string) {
		t.Helper()
		if h, err := inv.BySerial(serial); h.Name != want || (err == nil) != (want != "") {
			t.Errorf("%s leads to %q, %v; want %q", serial, h.Name, err, want)
		}
	}
	for name, claim := range map[string]func(*Inventory, Host) error{
		"fetched": func(inv *Inventory, h Host) error {
			_, err := inv.UseBoot(h.Boot.Token, Fetch{Client: "10.0.0.9", File: "initrd"})
			return err
		},
		"contacted": func(inv *Inventory, h Host) error {
			_, err := inv.Apply(h.Name, Event{Kind: EventContacted, Boot: &h.Boot, Address: "10.0.0.9"})
			_, lost := inv.Apply(h.Name, Event{Kind: EventLost})
			return errors.Join(err, lost)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inv, _, _ := open(t, t.TempDir())
			enroll(t, inv, "alpha", mac1)
			enroll(t, inv, "bravo", mac2)
			for _, ask := range []struct{ host, serial string }{{"bravo", mine}, {"alpha", others}, {"alpha", mine}} {
				if h, err := begin(inv, ask.host, ask.serial); err != nil || h.Serial != "" {
					t.Fatalf("%s tells %s: %v, bound to %q", ask.host, ask.serial, err, h.Serial)
				}
				leads(t, inv, ask.serial, ask.host)
			}
			leads(t, inv, others, "")
			h, err := begin(inv, "alpha", mine)
			if err = errors.Join(err, claim(inv, h)); err != nil {
				t.Fatal(err)
			}
			if h, err = inv.Get("alpha"); err != nil || h.Serial != mine {
				t.Errorf("it is bound to %q, %v", h.Serial, err)
			}
			if _, err := begin(inv, "bravo", mine); !errors.As(err, new(SerialClash)) {
				t.Errorf("another host's machine tells it: %v", err)
			}
			_, err = begin(inv, "alpha", others)
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "run `provision retry alpha`") {
				t.Errorf("its machine tells another: %v", err)
			}
			// bravo's machine told it once, and does not take it along.
			if err := inv.Forget("bravo", "ada"); err != nil {
				t.Fatal(err)
			}
			leads(t, inv, mine, "alpha")
			if name == "contacted" {
				apply(t, inv, "alpha", Event{Kind: EventFailed, Phase: PhaseCopy, Message: "no"})
			}
			apply(t, inv, "alpha", Event{Kind: EventRetried})
			if _, err := begin(inv, "alpha", others); err != nil {
				t.Error(err)
			}
			leads(t, inv, others, "alpha")
			leads(t, inv, mine, "")
		})
	}
}

// TestBootsThatNobodyFetched do not use the permit up; those that were fetched do.
func TestBootsThatNobodyFetched(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	enroll(t, inv, "alpha", mac1)
	for range 2 * MaxBoots {
		asks(t, inv, "")
	}
	for range MaxBoots {
		h := asks(t, inv, "")
		for _, whole := range []bool{false, true} {
			if _, err := inv.UseBoot(h.Boot.Token, Fetch{Client: "10.0.0.9", File: "script", Whole: whole}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := inv.BeginBoot("alpha", Boot{Expires: noon.Add(time.Hour)}, ""); !errors.Is(err, ErrRefused) {
		t.Errorf("one boot more: %v", err)
	}
}

// TestStrangersHideNothing: whatever anybody on the network causes, for as long as it likes, the host has its last
// address, and its log what others than strangers caused.
func TestStrangersHideNothing(t *testing.T) {
	inv, db, clk := open(t, t.TempDir())
	enroll(t, inv, "alpha", mac1)
	apply(t, inv, "alpha", Event{Kind: EventRevealed, Message: "to somebody"})
	var h Host
	for range MaxEvents/10 + 5 {
		clk.add(61 * time.Second)
		for i := range 12 {
			address := fmt.Sprint("10.0.0.", i)
			h = apply(t, inv, "alpha", Event{Kind: EventAddress, Address: address, Message: "has address " + address})
			apply(t, inv, "alpha", Event{Kind: EventNote, Stranger: true, Message: fmt.Sprint(clk.Now(), i)})
		}
		apply(t, inv, "alpha", Event{Kind: EventNote, Message: "of ours"})
	}
	if h.Address != "10.0.0.11" {
		t.Errorf("the address is %s", h.Address)
	}
	events, err := inv.Events("alpha", 0)
	if err != nil {
		t.Fatal(err)
	}
	kinds := make(map[Kind]int)
	for _, ev := range events {
		if !ev.Stranger {
			kinds[ev.Kind]++
		}
	}
	if kinds[EventEnrolled] != 1 || kinds[EventRevealed] != 1 || kinds[EventNote] < 5 {
		t.Errorf("of what strangers did not cause there are %v", kinds)
	}
	if recs, _ := db.List(t.Context(), "event/", ""); len(events) > MaxEvents || len(recs) != len(events) || h.Events > MaxEvents {
		t.Errorf("%d events, %d in the store", len(events), len(recs))
	}
}
