package hosts

import (
	"errors"
	"strings"
	"testing"
)

// TestBeyond: what a plan at the burn may differ in from what was confirmed, and what not.
func TestBeyond(t *testing.T) {
	disk := func(device, model, serial, wwn string, size int64) Disk {
		return Disk{Device: device, Model: model, Serial: serial, WWN: wwn, Size: size}
	}
	erased := func(d Disk) Taken { return Taken{Disk: d, Name: "main", Named: "/dev/sda", Erased: true} }
	kept := func(d Disk) Taken {
		k := erased(d)
		k.Erased = false
		return k
	}
	a := disk("/dev/sda", "Samsung SSD 870 EVO 1TB", "S3Z9", "0x5002538e", 1e12)
	named := Taken{Disk: Disk{Device: "/dev/sda"}, Name: "main", Named: "/dev/sda", Erased: true}
	for name, c := range map[string]struct {
		confirmed, takes Taken
		beyond           bool
	}{
		"the same":                       {erased(a), erased(a), false},
		"under another name":             {erased(a), erased(disk("/dev/sdb", a.Model, a.Serial, a.WWN, a.Size)), false},
		"kept instead of erased":         {erased(a), kept(a), false},
		"erased instead of kept":         {kept(a), erased(a), true},
		"another serial number":          {erased(a), erased(disk("/dev/sda", a.Model, "S3Z8", "", a.Size)), true},
		"another serial, the same WWN":   {erased(a), erased(disk("/dev/sda", a.Model, "S3Z8", a.WWN, a.Size)), true},
		"another WWN, one controller":    {erased(a), erased(disk("/dev/sda", a.Model, a.Serial, "0x5002538f", a.Size)), true},
		"another size":                   {erased(a), erased(disk("/dev/sda", a.Model, a.Serial, a.WWN, 2e12)), true},
		"another model":                  {erased(a), erased(disk("/dev/sda", "WDC WD10", a.Serial, a.WWN, a.Size)), true},
		"the WWN in capitals":            {erased(a), erased(disk("/dev/sda", a.Model, a.Serial, "0x5002538E", a.Size)), false},
		"the model as SCSI tells it":     {erased(a), erased(disk("/dev/sdb", "Samsung SSD 870", a.Serial, "", a.Size)), false},
		"the model as udev writes it":    {erased(a), erased(disk("/dev/sdb", "Samsung_SSD_870_EVO_1TB", a.Serial, "", a.Size)), false},
		"a serial that tells nothing":    {erased(disk("/dev/sda", "", "QM00001", "", 1e9)), erased(disk("/dev/sdb", "", "QM00001", "", 1e9)), true},
		"nothing to tell it, moved":      {erased(disk("/dev/vda", "", "", "", 1e9)), erased(disk("/dev/vdb", "", "", "", 1e9)), true},
		"nothing to tell it, in place":   {erased(disk("/dev/vda", "", "", "", 1e9)), erased(disk("/dev/vda", "", "", "", 1e9)), false},
		"never seen, of the same name":   {named, erased(a), false},
		"never seen, another in the end": {named, Taken{Disk: a, Name: "main", Named: "/dev/sdb", Erased: true}, true},
		"never seen, to be kept": {Taken{Disk: named.Disk, Name: "main", Named: "/dev/sda"},
			erased(a), true},
	} {
		why := Confirmed{Disks: []Taken{c.confirmed}}.Beyond([]Taken{c.takes})
		if (len(why) > 0) != c.beyond {
			t.Errorf("%s: %q", name, why)
		}
		for _, w := range why {
			if !strings.Contains(w, c.takes.Device) || !strings.Contains(w, c.confirmed.Device) {
				t.Errorf("%s: it does not say what differs: %s", name, w)
			}
		}
	}
	if why := (Confirmed{}).Beyond([]Taken{erased(a)}); len(why) != 1 || !strings.Contains(why[0], "confirmed was no disk") {
		t.Errorf("nothing was confirmed: %q", why)
	}
}

// TestBurnWhatWasConfirmed: a permit is burned for what was confirmed, and for nothing else,
// until that is confirmed, too. A permit from before there were confirmations goes on.
func TestBurnWhatWasConfirmed(t *testing.T) {
	shown := Taken{Disk: Disk{Device: "/dev/sda", Serial: "A", Size: 1}, Name: "main", Named: "/dev/sda", Erased: true}
	other := Taken{Disk: Disk{Device: "/dev/sdb", Serial: "B", Size: 1}, Name: "main", Named: "/dev/sda", Erased: true}
	burnFor := func(d Taken) Event {
		return Event{Kind: EventBurned, Time: noon, Disks: []Disk{d.Disk}, Takes: []Taken{d}}
	}
	h := hostIn(StateLive)
	h.Permit.Confirmed = &Confirmed{Disks: []Taken{shown}}
	_, err := next(h, burnFor(other))
	if !errors.Is(err, ErrRefused) || !strings.HasPrefix(err.Error(), "nothing was changed.") || !strings.Contains(err.Error(), "provision retry ") {
		t.Errorf("another disk than the one that was confirmed: %v", err)
	}
	if _, err := next(h, Event{Kind: EventBurned, Time: noon, Disks: []Disk{shown.Disk}}); !errors.Is(err, ErrRefused) {
		t.Errorf("nobody said what is erased: %v", err)
	}
	if after, err := next(h, burnFor(shown)); err != nil || after.State != StateInstalling {
		t.Errorf("what was confirmed: %v", err)
	}
	failed, err := next(h, Event{Kind: EventFailed, Time: noon, Phase: PhaseDisks, Message: "another disk"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := next(failed, Event{Kind: EventRetried, Time: noon, Confirmed: &Confirmed{Disks: []Taken{other}}})
	if err != nil {
		t.Fatal(err)
	}
	again.State = StateLive
	if after, err := next(again, burnFor(other)); err != nil || after.Permit.Disks[0].Serial != "B" {
		t.Errorf("what was confirmed by retry: %v", err)
	}
	h.Permit.Confirmed = nil
	if _, err := next(h, Event{Kind: EventBurned, Time: noon, Disks: []Disk{other.Disk}}); err != nil {
		t.Errorf("an old permit: %v", err)
	}
}
