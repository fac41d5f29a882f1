package hosts

import (
	"strings"
	"testing"

	"provision/internal/store"
)

// TestTells: serial numbers that many disks have, and such that are one disk's.
func TestTells(t *testing.T) {
	for _, serial := range []string{
		"", " ", "0", "7", "000000000000", "FFFFFFFF", "0000_0000_0000_0000", "000000000001", "N/A", "none", "To be filled by O.E.M.", "Default string",
		"0123456789ABCDEF", "123456789012", "1234", "QM00001", "drive-scsi0", "drive-scsi0-0-0-3", "drive-virtio-disk0", "drive-sata1", "scsi0", "virtio0",
		"AA000000000000000001", "beaf110000000000", "VMware NVME_0000", "VB1234-56789", "1-0000:00:1d.7-1", "persistent-disk-0", "xxxxxxxx", "deadbeef",
	} {
		if tells(serial) {
			t.Errorf("%q is taken for one disk's", serial)
		}
	}
	for _, serial := range []string{
		"S3Z9NB0K123456", "WD-WCC4E1234567", "PDNLH0BRH58322", "0x1c5a12f0", "50026B7785000012", "VB5f1c0d3e-19a2b3c4", "AA000000000000000485", "S/1",
		"6000c29a4b3f", "vol0a1b2c3d4e5f60718", "1234A", "20230101000001",
	} {
		if !tells(serial) {
			t.Errorf("%q is not taken for one disk's", serial)
		}
	}
}

// judge is whose a disk is to a host.
func judge(t *testing.T, inv *Inventory, name string, d Disk) Owner {
	t.Helper()
	h, err := inv.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	owners, err := inv.Owners(h, []Disk{d})
	if err != nil {
		t.Fatal(err)
	}
	return owners[0]
}

// burned installs a host for disks, as far as that matters to claims.
func burned(t *testing.T, inv *Inventory, name, mac string, disks ...Disk) {
	t.Helper()
	live(t, inv, name, mac)
	if err := burnFor(inv, name, disks...); err != nil {
		t.Fatal(err)
	}
	fail(t, inv, name)
}

// TestSharedSerial: virtual machines whose disks all have one serial number do not lay claim to each other's.
func TestSharedSerial(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	for _, serial := range []string{"drive-scsi0", "AA000000000000000001", "N/A"} {
		d := Disk{Device: "/dev/sda", Model: "QEMU HARDDISK", Serial: serial, Size: 32 << 30}
		burned(t, inv, "alpha", mac1, d)
		if got := judge(t, inv, "alpha", d); got.Host != "alpha" {
			t.Errorf("%s: to alpha it is %+v", serial, got)
		}
		live(t, inv, "bravo", mac2)
		if got := judge(t, inv, "bravo", d); got != (Owner{}) {
			t.Errorf("%s: to bravo it is %+v", serial, got)
		}
		if err := burnFor(inv, "bravo", d); err != nil {
			t.Errorf("%s: %v", serial, err)
		}
		if got := judge(t, inv, "alpha", d); got.Host != "alpha" {
			t.Errorf("%s: after bravo's install, to alpha it is %+v", serial, got)
		}
		fail(t, inv, "bravo")
	}
}

// TestController: all logical disks of a RAID controller have its serial number. What a permit was burned for is one of
// them; the others are not the host's, and not anybody's for the asking.
func TestController(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	system := Disk{Device: "/dev/sda", Model: "LOGICAL VOLUME", Serial: "PDNLH0BRH58322", WWN: "0x600508b1001c0001", Size: 300e9, Vague: true}
	data := Disk{Device: "/dev/sdb", Model: "LOGICAL VOLUME", Serial: "PDNLH0BRH58322", WWN: "0x600508b1001c0002", Size: 300e9, Vague: true}
	burned(t, inv, "alpha", mac1, system)
	for name, other := range map[string]Disk{
		"another WWN":                data,
		"another size":               {Device: "/dev/sdb", Model: "LOGICAL VOLUME", Serial: "PDNLH0BRH58322", Size: 4000e9},
		"the WWN with another model": {Device: "/dev/sdc", Model: "P408i", Serial: "PDNLH0BRH58322", WWN: "0x600508b1001c0001", Size: 300e9},
	} {
		if got := judge(t, inv, "alpha", other); got.Host != "" || got.Doubt == "" {
			t.Errorf("%s: to its own host it is %+v", name, got)
		}
		if got := judge(t, inv, "alpha", system); got.Host != "alpha" {
			t.Errorf("the disk itself is %+v", got)
		}
	}
	if got := judge(t, inv, "alpha", data).Doubt; got != "this host has claimed a disk with its serial number and another WWN (0x600508b1001c0001)" {
		t.Errorf("%q", got)
	}

	// Another host's claim of one of them is certain, and that of its neighbours is doubted.
	live(t, inv, "bravo", mac2)
	if got := judge(t, inv, "bravo", system); got.Host != "alpha" {
		t.Errorf("to bravo it is %+v", got)
	}
	if got := judge(t, inv, "bravo", data); got.Host != "" || got.Doubt != "the host alpha has claimed a disk with its serial number and another WWN (0x600508b1001c0001)" {
		t.Errorf("to bravo its neighbour is %+v", got)
	}
	if err := burnFor(inv, "bravo", data); err != nil {
		t.Fatal(err)
	}
	if got := judge(t, inv, "bravo", data); got.Host != "bravo" {
		t.Errorf("to bravo what it was installed on is %+v", got)
	}
	if got := judge(t, inv, "alpha", system); got.Host != "alpha" {
		t.Errorf("then alpha's is %+v", got)
	}
}

// TestOtherSize: a claim of another host is doubted where the size differs.
func TestOtherSize(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	d := Disk{Device: "/dev/sda", Model: "SATA SSD", Serial: "S4X1K77", Size: 240e9}
	burned(t, inv, "alpha", mac1, d)
	live(t, inv, "bravo", mac2)
	if got := judge(t, inv, "bravo", d); got.Host != "alpha" {
		t.Errorf("of the same size: %+v", got)
	}
	d.Size = 500e9
	if got := judge(t, inv, "bravo", d); got.Host != "" || got.Doubt != "the host alpha has claimed a disk with its serial number and another size (240.0 GB)" {
		t.Errorf("of another size: %+v", got)
	}
	// Two disks of one machine that have it prove that it is not one disk's.
	d.Size, d.Vague = 240e9, true
	if got := judge(t, inv, "bravo", d); got.Host != "" || got.Doubt != "the host alpha has claimed a disk with its serial number, which is not one disk's alone" {
		t.Errorf("one of two: %+v", got)
	}
}

// TestTwins: of disks that say the same of themselves, a host's are only those that it has all of.
func TestTwins(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	enroll(t, inv, "bravo", mac2)
	for _, twin := range []Disk{
		{Model: "Virtual disk", Size: 8e9},                 // which say nothing
		{Model: "SSD", Serial: "S4X1K77", Size: 8e9},       // a batch with one number
		{Model: "LUN", WWN: "0x6001405a1b2c3d", Size: 8e9}, // and paths
	} {
		one, two := twin, twin
		one.Device, two.Device = "/dev/vda", "/dev/vdb"
		one.Twins, two.Twins = 1, 1
		one.Vague, two.Vague = one.Serial != "", one.Serial != ""

		burned(t, inv, "alpha", mac1, one)
		for _, d := range []Disk{one, two} {
			if got := judge(t, inv, "alpha", d); got.Host != "" || got.Doubt == "" {
				t.Errorf("%+v, of which one is the host's: %+v", d, got)
			}
		}
		burned(t, inv, "alpha", mac1, one, two)
		for _, d := range []Disk{one, two} {
			if got := judge(t, inv, "alpha", d); got.Host != "alpha" {
				t.Errorf("%+v, of which both are the host's: %+v", d, got)
			}
		}
		three := two
		three.Device, three.Twins = "/dev/vdc", 2
		if got := judge(t, inv, "alpha", three); got.Host != "" || got.Doubt == "" {
			t.Errorf("%+v, which was added: %+v", three, got)
		}
		if got := judge(t, inv, "bravo", one); got != (Owner{}) {
			t.Errorf("to another host %+v is %+v", one, got)
		}
		if err := inv.Purge("alpha"); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGoesOnWithTwins: a burned permit is taken up again for the same of two disks that say the same of themselves.
func TestGoesOnWithTwins(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	one := Disk{Device: "/dev/sda", Model: "SSD", Serial: "S4X1K77", Size: 8e9, Vague: true, Twins: 1}
	two := one
	two.Device = "/dev/sdb"
	live(t, inv, "alpha", mac1)
	if err := burnFor(inv, "alpha", one); err != nil {
		t.Fatal(err)
	}
	if err := burnFor(inv, "alpha", one); err != nil {
		t.Errorf("for the same: %v", err)
	}
	if err := burnFor(inv, "alpha", two); err == nil || !strings.Contains(err.Error(), "the permit was burned for /dev/sda") {
		t.Errorf("for the other: %v", err)
	}
}

// TestOldClaims: claims by model and serial number alone, which older versions stored, go on protecting.
func TestOldClaims(t *testing.T) {
	inv, _, _ := open(t, t.TempDir())
	d := Disk{Device: "/dev/sda", Model: "A/B C", Serial: "S/1", WWN: "0x5000c500a1b2c3d4", Size: 240e9}
	virtual := Disk{Device: "/dev/sdb", Model: "QEMU HARDDISK", Serial: "drive-scsi0", Size: 240e9}
	known := []Disk{{Device: "/dev/sda", Model: d.Model, Serial: d.Serial, Size: d.Size}, virtual}
	burned(t, inv, "alpha", mac1, known...)
	recs, err := inv.store.List("disk/", "")
	if err != nil {
		t.Fatal(err)
	}
	old := []store.Write{store.Put("disk/A%2FB%20C/S%2F1", []byte("alpha")), store.Put("disk/QEMU%20HARDDISK/drive-scsi0", []byte("alpha"))}
	for _, rec := range recs {
		old = append(old, store.Delete(rec.Key))
	}
	if err := inv.store.Commit(nil, old); err != nil {
		t.Fatal(err)
	}

	if got := judge(t, inv, "alpha", d); got.Host != "alpha" {
		t.Errorf("to its host it is %+v", got)
	}
	live(t, inv, "bravo", mac2)
	if got := judge(t, inv, "bravo", d); got.Host != "alpha" {
		t.Errorf("to another host it is %+v", got)
	}
	if err := burnFor(inv, "bravo", d); err == nil || !strings.Contains(err.Error(), "belongs to alpha") {
		t.Errorf("it is taken: %v", err)
	}
	if got := judge(t, inv, "bravo", virtual); got.Host != "" || got.Doubt == "" {
		t.Errorf("a serial number that is made up: %+v", got)
	}
	larger := d
	larger.Size = 500e9
	if got := judge(t, inv, "bravo", larger); got.Host != "" || got.Doubt == "" {
		t.Errorf("of another size: %+v", got)
	}

	d.Wipe = true
	if err := burnFor(inv, "bravo", d); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"alpha", "bravo"} {
		if got := judge(t, inv, name, d); got.Host != "bravo" {
			t.Errorf("after --wipe, to %s it is %+v", name, got)
		}
	}
	fail(t, inv, "bravo")
	if err := inv.Purge("bravo"); err != nil {
		t.Fatal(err)
	}
	if err := inv.Purge("alpha"); err != nil {
		t.Fatal(err)
	}
	if recs, err := inv.store.List("disk/", ""); err != nil || len(recs) > 0 {
		t.Errorf("claims of nobody: %v, %v", recs, err)
	}
}
