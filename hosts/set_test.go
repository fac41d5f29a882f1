package hosts

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"provision/internal/store"
)

// installed is a host that was installed on a machine with these MACs.
func installed(t *testing.T, inv *Inventory, name string, macs ...string) Host {
	t.Helper()
	enroll(t, inv, name, macs...)
	install(t, inv, name)
	h, err := inv.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func lastEvent(t *testing.T, inv *Inventory, name string) Event {
	t.Helper()
	events, err := inv.Events(name, 0)
	if err != nil || len(events) == 0 {
		t.Fatalf("%s has no log: %v", name, err)
	}
	return events[len(events)-1]
}

func set1(s string) *string { return &s }

// TestSetMACs: how MACs are chosen, and which words are refused.
func TestSetMACs(t *testing.T) {
	tests := []struct {
		give, want string // joined by commas
		refused    string
	}{
		{give: mac3, want: mac3},
		{give: strings.ToUpper(mac3) + "," + mac1, want: mac1 + "," + mac3},
		{give: "+" + mac3, want: mac1 + "," + mac2 + "," + mac3},
		{give: "+" + mac3 + ",-" + mac1, want: mac2 + "," + mac3},
		{give: "-" + mac1 + ",-" + mac2, want: ""},
		{give: "+" + mac1, want: mac1 + "," + mac2},
		{give: "-" + mac3, refused: "has no such MAC; it has " + mac1},
		{give: "+" + mac3 + "," + mac1, refused: "write + or - before each"},
		{give: mac3 + ",-" + mac1, refused: "write + or - before each"},
		{give: "+nonsense", refused: "six bytes"},
		{give: "", refused: "six bytes"},
	}
	for _, test := range tests {
		inv, db, _ := open(t, t.TempDir())
		installed(t, inv, "alpha", mac1, mac2)
		done, err := inv.Set("alpha", Change{MACs: strings.Split(test.give, ",")}, "ada")
		if test.refused != "" {
			if err == nil || !strings.Contains(err.Error(), test.refused) {
				t.Errorf("%s: %v; want %q", test.give, err, test.refused)
			}
			continue
		}
		if err != nil || strings.Join(done.Host.MACs, ",") != test.want {
			t.Errorf("%s: %s, %v; want %s", test.give, done.Host.MACs, err, test.want)
		}
		recs, err := db.List(t.Context(), "mac/", "")
		if err != nil || len(recs) != len(done.Host.MACs) {
			t.Errorf("%s: %d MACs lead to hosts, %v", test.give, len(recs), err)
		}
		for _, mac := range done.Host.MACs {
			if h, err := inv.ByMAC(mac); err != nil || h.Name != "alpha" {
				t.Errorf("%s: %s leads to %q, %v", test.give, mac, h.Name, err)
			}
		}
		if noted := len(done.Notes) > 0; noted != (test.want == "") {
			t.Errorf("%s: notes %q", test.give, done.Notes)
		}
	}
}

// TestDockMoves: the MAC of a dock moves from host to host, and both logs tell it.
func TestDockMoves(t *testing.T) {
	const dock = "52:54:00:00:00:0d"
	inv, _, _ := open(t, t.TempDir())
	was := installed(t, inv, "alpha", dock)
	installed(t, inv, "bravo", mac1)
	done, err := inv.Set("bravo", Change{MACs: []string{"+" + dock}}, "ada")
	if err != nil || !slices.Equal(done.Host.MACs, []string{mac1, dock}) {
		t.Fatalf("bravo has %s, %v", done.Host.MACs, err)
	}
	if notes := strings.Join(done.Notes, "\n"); !strings.Contains(notes, "was alpha's") || !strings.Contains(notes, "alpha has no MAC now") {
		t.Errorf("notes: %s", notes)
	}
	alpha, err := inv.Get("alpha")
	if err != nil || len(alpha.MACs) > 0 || alpha.State != StateInstalled || alpha.Installed != was.Installed || alpha.HostKey != was.HostKey {
		t.Errorf("alpha is %+v, %v", alpha, err)
	}
	if ev := lastEvent(t, inv, "alpha"); ev.Kind != EventChanged || ev.Message != "ada moved its MAC "+dock+" to bravo" {
		t.Errorf("alpha was told %+v", ev)
	}
	if ev := lastEvent(t, inv, "bravo"); ev.Kind != EventChanged || ev.Message != "ada changed it: MAC "+mac1+" → "+mac1+", "+dock {
		t.Errorf("bravo was told %+v", ev)
	}
	if h, err := inv.ByMAC(dock); err != nil || h.Name != "bravo" {
		t.Errorf("the dock leads to %q, %v", h.Name, err)
	}
	if _, err := inv.Reinstall(alpha, 1, nil, false); err == nil || !strings.Contains(err.Error(), "provision set alpha --mac MAC") {
		t.Errorf("a host without a MAC was permitted: %v", err)
	}

	// Nothing is different: nothing is written.
	before := lastEvent(t, inv, "bravo")
	done, err = inv.Set("bravo", Change{MACs: []string{"+" + dock}}, "ada")
	if err != nil || len(done.What) > 0 || lastEvent(t, inv, "bravo").Number != before.Number {
		t.Errorf("%q, %v", done.What, err)
	}
}

// TestPermitIsForAMachine: a host with a permit keeps its machine, whichever way a MAC would move.
func TestPermitIsForAMachine(t *testing.T) {
	changes := map[string]Change{
		"MAC": {MACs: []string{mac3}}, "one more": {MACs: []string{"+" + mac3}}, "one less": {MACs: []string{"-" + mac1}},
		"image":     {Choices: Choices{Image: "other"}, Named: []string{"image"}},
		"board":     {Choices: Choices{Board: "rpi4"}, Named: []string{"board"}},
		"serial":    {Serial: set1("e5ef6e9d")},
		"another's": {MACs: []string{"+" + mac2}},
	}
	for name, c := range changes {
		inv, db, clock := open(t, t.TempDir())
		enroll(t, inv, "alpha", mac1)
		installed(t, inv, "bravo", mac2)
		before := everything(t, db)
		_, err := inv.Set("alpha", c, "ada")
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "run `provision cancel alpha` first") {
			t.Errorf("%s: %v", name, err)
		}
		if after := everything(t, db); !slices.EqualFunc(before, after, func(a, b store.Record) bool { return a.Version == b.Version }) {
			t.Errorf("%s: a refusal wrote", name)
		}
		apply(t, inv, "alpha", Event{Kind: EventCancelled})
		if _, err := inv.Set("alpha", c, "ada"); err != nil {
			t.Errorf("%s, cancelled: %v", name, err)
		}
		if h, err := inv.Get("alpha"); err != nil || h.Permit.Live(clock.Now()) {
			t.Errorf("%s: it has a permit, %v", name, err)
		}
	}

	inv, _, _ := open(t, t.TempDir())
	live(t, inv, "alpha", mac1)
	installed(t, inv, "bravo", mac2)
	if _, err := inv.Set("bravo", Change{MACs: []string{"+" + mac1}}, "ada"); !errors.Is(err, ErrRefused) ||
		!strings.Contains(err.Error(), "from alpha: alpha has a permit") {
		t.Errorf("a MAC was taken from a host with a permit: %v", err)
	}
	if h, err := inv.ByMAC(mac1); err != nil || h.Name != "alpha" {
		t.Errorf("it leads to %q, %v", h.Name, err)
	}
	params := []string{"nomodeset"}
	done, err := inv.Set("alpha", Change{
		Choices: Choices{FixedAddress: "10.0.0.7", BootMethod: Method{Offer: OfferBINL}, KernelParams: params, Disko: Format},
		Named:   []string{"address", "boot_method", "kernel_params", "image"},
	}, "ada")
	if err != nil || done.Host.State != StateLive || done.Host.FixedAddress != "10.0.0.7" || done.Host.BootMethod.Offer != OfferBINL ||
		!slices.Equal(done.Host.KernelParams, params) || done.Host.Disko != "" || len(done.What) != 3 {
		t.Errorf("what is not the machine's: %q, %v", done.What, err)
	}
}

// TestSetRefused: values are checked as at an enrolment.
func TestSetRefused(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	installed(t, inv, "alpha", mac1)
	for want, c := range map[string]Change{
		"write an IPv4 address": {Choices: Choices{FixedAddress: "fe80::1"}, Named: []string{"address"}}, "8 hexadecimal digits": {Serial: set1("../x")},
	} {
		if _, err := inv.Set("alpha", c, "ada"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	if _, err := inv.Set("nosuch", Change{}, "ada"); !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// TestAnotherMachineByMAC: with other MACs a host is on another machine, whose disks and boots are not known.
func TestAnotherMachineByMAC(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	enroll(t, inv, "alpha", mac1, mac2)
	h := boot(t, inv, "alpha", "e5ef6e9d")
	bare := Disk{Device: "/dev/vda", Size: 5}
	for _, ev := range []Event{{Kind: EventContacted, Boot: &h.Boot}, {Kind: EventBurned, Disks: []Disk{bare}}, {Kind: EventRebooted}, {Kind: EventProved}} {
		apply(t, inv, "alpha", ev)
	}
	if _, err := inv.Set("alpha", Change{MACs: []string{"-" + mac2, "+" + mac3}}, "ada"); err != nil || owner(t, inv, "alpha", bare) != "alpha" {
		t.Errorf("with a network card replaced its disks are not known any more, %v", err)
	}
	done, err := inv.Set("alpha", Change{MACs: []string{"52:54:00:00:00:09"}}, "ada")
	if err != nil || owner(t, inv, "alpha", bare) != "" || done.Host.Serial != "" || done.Host.Boot.Token != "" {
		t.Errorf("another machine's disks are taken for its own: %+v, %v", done.Host, err)
	}
	if _, err := inv.BySerial("e5ef6e9d"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the serial number leads to it still: %v", err)
	}
}
