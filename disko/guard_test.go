package disko

import (
	"strings"
	"testing"
)

const (
	windowsReserved = `,"parttype":"e3c9e316-0b5c-4db8-817d-f92df00215ae"`
	windowsRecovery = `,"parttype":"de94bba4-06d1-4d40-a16a-bfd50179d6ac","partlabel":"Recovery"`
	serial          = `,"model":"Samsung SSD 870","serial":"S3Z9"`
)

// TestGuard: what speaks against erasing a disk, and what does not.
func TestGuard(t *testing.T) {
	l := mustParse(t, readFile(t, "layouts/btrfs.json")) // disk.main, /dev/disk/by-id/the-disk, erased
	const sda = "/dev/sda (Samsung SSD 870, S3Z9, 8 GiB): "
	const flag = ". If it shall be taken anyway, say --wipe S3Z9"
	other := dev("sdb", "disk", `,"serial":"OTHER"`, dev("sdb1", "part", `,"fstype":"ntfs"`))
	for _, c := range []struct {
		name  string
		disk  string
		known Known
		want  string
	}{
		{"blank", dev("sda", "disk", serial), Known{}, ""},
		{"Linux", dev("sda", "disk", serial, dev("sda1", "part", `,"fstype":"vfat"`), dev("sda2", "part", `,"fstype":"btrfs"`), dev("sda3", "part", `,"fstype":"swap"`)), Known{}, ""},
		{"NTFS", dev("sda", "disk", serial, dev("sda1", "part", `,"fstype":"ntfs","label":"Windows"`)), Known{},
			sda + `/dev/sda1 holds NTFS "Windows", 8 GiB` + flag},
		{"NTFS without a table", dev("sda", "disk", serial+`,"fstype":"ntfs"`), Known{}, sda + "/dev/sda holds NTFS, 8 GiB" + flag},
		{"Windows", dev("sda", "disk", serial, dev("sda1", "part", `,"fstype":"vfat"`), dev("sda2", "part", windowsReserved), dev("sda3", "part", `,"fstype":"BitLocker","partlabel":"Basic data partition"`), dev("sda4", "part", windowsRecovery+`,"fstype":"ntfs"`)), Known{},
			sda + `/dev/sda2 is Windows's reserved partition, 8 GiB; /dev/sda3 holds BitLocker "Basic data partition", 8 GiB; /dev/sda4 holds NTFS "Recovery" and is a recovery partition of Windows, 8 GiB` + flag},
		{"recovery in an MBR", dev("sda", "disk", serial, dev("sda1", "part", `,"parttype":"0x27"`)), Known{}, sda + "/dev/sda1 is a recovery partition of Windows, 8 GiB" + flag},
		{"LUKS", dev("sda", "disk", serial, dev("sda1", "part", `,"fstype":"crypto_LUKS"`)), Known{}, sda + "/dev/sda1 holds LUKS, 8 GiB" + flag},
		{"LUKS in LVM", dev("sda", "disk", serial, dev("sda1", "part", `,"fstype":"LVM2_member"`, dev("vg-lv", "lvm", `,"fstype":"crypto_LUKS"`))), Known{}, sda + "/dev/mapper/vg-lv holds LUKS, 8 GiB" + flag},
		{"ZFS", dev("sda", "disk", serial, dev("sda1", "part", `,"fstype":"zfs_member","label":"tank"`)), Known{}, sda + `/dev/sda1 holds ZFS "tank", 8 GiB` + flag},
		{"macOS", dev("sda", "disk", serial, dev("sda1", "part", `,"fstype":"apfs","parttype":"7c3457ef-0000-11aa-aa11-00306543ecac"`)), Known{}, sda + "/dev/sda1 holds APFS of macOS and is an APFS container of macOS, 8 GiB" + flag},
		{"VMware", dev("sda", "disk", serial+`,"fstype":"VMFS_volume_member"`), Known{}, sda + "/dev/sda holds VMFS of VMware, 8 GiB" + flag},
		{"Ceph", dev("sda", "disk", serial, dev("ceph-osd", "lvm", `,"fstype":"ceph_bluestore"`)), Known{}, sda + "/dev/mapper/ceph-osd holds a part of Ceph, 8 GiB" + flag},
		{"what calls itself anything", dev("sda", "disk", serial, dev("sda1", "part", `,"fstype":"ntfs","label":"\u001b[2J"`)), Known{}, sda + `/dev/sda1 holds NTFS "[2J", 8 GiB` + flag},
		{"removable", dev("sda", "disk", serial+`,"rm":true`), Known{}, sda + "it is removable" + flag},
		{"USB", dev("sda", "disk", serial+`,"rm":true,"tran":"usb"`), Known{}, sda + "it is a USB disk" + flag},
		{"mounted", dev("sda", "disk", serial, dev("sda1", "part", `,"fstype":"ext4","mountpoints":["/mnt"]`)), Known{}, sda + "/dev/sda1 is mounted at /mnt" + flag},
		{"swap", dev("sda", "disk", serial, dev("sda1", "part", `,"fstype":"swap","mountpoints":["[SWAP]"]`)), Known{}, sda + "/dev/sda1 is in use as swap" + flag},
		{"all at once", dev("sda", "disk", serial+`,"tran":"usb"`, dev("sda1", "part", `,"fstype":"ntfs","mountpoints":["/mnt"]`)), Known{Owners: []string{"alpha"}},
			sda + "it belongs to the host alpha; it is a USB disk; /dev/sda1 holds NTFS, 8 GiB; /dev/sda1 is mounted at /mnt" + flag},
		{"another host's", dev("sda", "disk", serial), Known{Host: "bravo", Owners: []string{"alpha"}}, sda + "it belongs to the host alpha" + flag},

		{"its own", dev("sda", "disk", serial, dev("sda1", "part", `,"fstype":"crypto_LUKS"`), dev("sda2", "part", `,"fstype":"swap","mountpoints":["[SWAP]"]`)), Known{Host: "bravo", Owners: []string{"bravo"}}, ""},
		{"doubted and blank", dev("sda", "disk", serial), Known{Host: "bravo", Doubts: []string{"a doubt"}}, ""},
		{"doubted and Linux", dev("sda", "disk", serial, dev("sda1", "part", `,"fstype":"ext4"`)), Known{Host: "bravo", Doubts: []string{"a doubt"}}, sda + "a doubt, and it holds partitions: ext4 8 GiB" + flag},
		{"doubted and swap without a table", dev("sda", "disk", serial+`,"fstype":"swap"`), Known{Host: "bravo", Owners: []string{""}, Doubts: []string{"a doubt"}}, sda + "a doubt, and it holds swap 8 GiB" + flag},
		{"doubted with an empty table", dev("sda", "disk", serial+`,"pttype":"gpt"`), Known{Host: "bravo", Doubts: []string{"a doubt"}}, sda + "a doubt, and it holds gpt: no partitions" + flag},
		{"doubted and LUKS", dev("sda", "disk", serial, dev("sda1", "part", `,"fstype":"crypto_LUKS"`)), Known{Doubts: []string{"a doubt"}}, sda + "a doubt, and it holds partitions: crypto_LUKS 8 GiB; /dev/sda1 holds LUKS, 8 GiB" + flag},
		{"doubted and wiped", dev("sda", "disk", serial, dev("sda1", "part", `,"fstype":"ext4"`)), Known{Doubts: []string{"a doubt"}, Wipe: []string{"S3Z9"}}, ""},
		{"its own, on a stick", dev("sda", "disk", serial+`,"rm":true`), Known{Host: "bravo", Owners: []string{"bravo"}}, sda + "it is removable" + flag},
		{"wiped", dev("sda", "disk", serial+`,"rm":true`, dev("sda1", "part", `,"fstype":"ntfs"`)), Known{Host: "bravo", Owners: []string{"alpha"}, Wipe: []string{"S3Z9"}}, ""},
		{"wiped by link", dev("sda", "disk", serial, dev("sda1", "part", `,"fstype":"ntfs"`)), Known{Wipe: []string{"/dev/disk/by-id/the-disk"}}, ""},
		{"wiped by WWN", dev("sda", "disk", `,"wwn":"0x5002538E"`, dev("sda1", "part", `,"fstype":"ntfs"`)), Known{Wipe: []string{"0x5002538e"}}, ""},
		{"wiped by path", dev("sda", "disk", "", dev("sda1", "part", `,"fstype":"ntfs"`)), Known{Wipe: []string{"/dev/sda"}}, ""},
		{"its path is not its name", dev("sda", "disk", serial+`,"rm":true`), Known{Wipe: []string{"/dev/sda"}}, sda + "it is removable" + flag},
		{"another wiped", dev("sda", "disk", serial+`,"rm":true`), Known{Wipe: []string{"OTHER", "", "S3Z"}}, sda + "it is removable" + flag},
		{"no serial number", dev("sda", "disk", `,"rm":true`), Known{}, "/dev/sda (8 GiB): it is removable. If it shall be taken anyway, say --wipe /dev/sda"},
		{"WWN alone", dev("sda", "disk", `,"rm":true,"wwn":"0x5"`), Known{}, "/dev/sda (8 GiB): it is removable. If it shall be taken anyway, say --wipe 0x5"},
		{"serial number with blanks", dev("sda", "disk", `,"rm":true,"serial":"it's 1"`), Known{}, `/dev/sda (it's 1, 8 GiB): it is removable. If it shall be taken anyway, say --wipe 'it'\''s 1'`},
		{"one serial number for two", dev("sda", "disk", `,"rm":true,"serial":"OTHER"`), Known{Wipe: []string{"OTHER"}}, "/dev/sda (OTHER, 8 GiB): it is removable. If it shall be taken anyway, say --wipe /dev/sda"},
		{"one serial number for two, by path", dev("sda", "disk", `,"rm":true,"serial":"OTHER"`), Known{Wipe: []string{"/dev/sda"}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := NewPlan(l, mustFacts(t, machine(c.disk, other)), Options{})
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, o := range p.Guard(c.known) {
				got += o.String()
			}
			if got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestGuardKept: a disk that is kept may hold anything, and be mounted; it may not be another
// host's.
func TestGuardKept(t *testing.T) {
	m, l := made(t, "luks.json")
	for _, way := range []Mode{Format, Mount} {
		p, err := m.plan(l, way)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Guard(Known{Host: "bravo"}); got != nil {
			t.Errorf("%s: %s", way, got)
		}
		if got := p.Guard(Known{Host: "bravo", Owners: []string{"alpha"}}); len(got) != 1 || got[0].Why[0] != "it belongs to the host alpha" || len(got[0].Why) != 1 {
			t.Errorf("%s: %s", way, got)
		}
	}
	p, err := m.plan(l, Fresh)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Guard(Known{Host: "bravo"}); len(got) != 1 || !strings.Contains(got[0].String(), "holds LUKS") {
		t.Errorf("%s: %s", Fresh, got)
	}
	p, err = NewPlan(l, nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Guard(Known{Host: "bravo", Owners: []string{"alpha"}}); got != nil {
		t.Errorf("without facts: %s", got)
	}
}

// TestGuardDestroyFalse: the same for a disk that the layout keeps, beside one that it erases.
func TestGuardDestroyFalse(t *testing.T) {
	text := strings.Replace(string(readFile(t, "layouts/btrfs.json")), `"destroy": true`, `"destroy": false`, 1)
	facts := strings.Replace(machine(dev("sda", "disk", `,"serial":"S3Z9","rm":true`)), `"links"`, `"mounts":[],"links"`, 1)
	p, err := NewPlan(mustParse(t, []byte(text)), mustFacts(t, facts), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Guard(Known{}); got != nil {
		t.Errorf("%s", got)
	}
}

func TestWiped(t *testing.T) {
	l := mustParse(t, readFile(t, "layouts/btrfs.json"))
	p, err := NewPlan(l, mustFacts(t, machine(dev("sda", "disk", serial), dev("sdb", "disk", `,"serial":"OTHER"`))), Options{})
	if err != nil {
		t.Fatal(err)
	}
	devices, unknown := p.Wiped([]string{"S3Z9", "OTHER", "NONE"})
	equalLines(t, "wiped", devices, []string{"/dev/sda"})
	equalLines(t, "unknown", unknown, []string{"OTHER", "NONE"})
}

// TestWipedTwins: a word that two disks of the machine share names neither, and what is said tells what names them.
func TestWipedTwins(t *testing.T) {
	l := mustParse(t, readFile(t, "layouts/btrfs.json"))
	ntfs := dev("sda1", "part", `,"fstype":"ntfs"`)
	facts := mustFacts(t, machine(dev("sda", "disk", `,"serial":"RAID","wwn":"0x1"`, ntfs), dev("sdb", "disk", `,"serial":"RAID","wwn":"0x2"`)))
	p, err := NewPlan(l, facts, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d := p.Disks[0]; !d.Vague || d.Twins != 0 {
		t.Errorf("two with one serial number: %+v", d)
	}
	if got := p.Guard(Known{Wipe: []string{"RAID"}}); len(got) != 1 || got[0].Flag != "--wipe 0x1" {
		t.Errorf("%v", got)
	}
	for word, want := range map[string]string{
		"RAID": "2 disks of this machine have that name; say 0x1 for /dev/sda, 0x2 for /dev/sdb",
		"0x2":  "it names no disk that the layout takes",
		"NONE": "it names no disk that the layout takes",
		"0x1":  "",
	} {
		if got := p.Unnamed(word); got != want {
			t.Errorf("%s: %q", word, got)
		}
	}

	// Without a WWN, the place where it is plugged in is all that tells it from the other.
	facts = mustFacts(t, strings.Replace(machine(dev("sda", "disk", `,"serial":"RAID"`, ntfs), dev("sdb", "disk", `,"serial":"RAID"`)),
		`"links":{`, `"links":{"/dev/disk/by-path/pci-0-ata-1":"/dev/sda",`, 1))
	if p, err = NewPlan(l, facts, Options{}); err != nil {
		t.Fatal(err)
	}
	if d := p.Disks[0]; !d.Vague || d.Twins != 1 {
		t.Errorf("two that say the same: %+v", d)
	}
	if got := p.Guard(Known{Wipe: []string{"RAID"}}); len(got) != 1 || got[0].Flag != "--wipe /dev/disk/by-path/pci-0-ata-1" {
		t.Errorf("%v", got)
	}
	if got := p.Guard(Known{Wipe: []string{"/dev/disk/by-path/pci-0-ata-1"}}); got != nil {
		t.Errorf("%v", got)
	}
}
