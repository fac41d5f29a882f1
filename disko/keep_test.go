package disko

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

// made is a machine that has the layout of a file, with what it has unmounted and closed.
func made(t *testing.T, file string) (*sim, *Layout) {
	t.Helper()
	l := mustParse(t, readFile(t, "layouts/"+file))
	m := newSim(t, numberedDisks(t, l))
	p, err := m.plan(l, Fresh)
	if err != nil {
		t.Fatal(err)
	}
	m.run(p.Steps)
	m.run(p.Unmount())
	return m, l
}

// labelled returns the partition with a label.
func (m *sim) labelled(label string) *simDevice {
	for _, d := range m.devices {
		if d.PartLabel == label {
			return d
		}
	}
	m.t.Fatalf("no partition %q", label)
	return nil
}

// TestDiffer: what is there and not as the layout says is never changed; what differs is
// said.
func TestDiffer(t *testing.T) {
	part := func(label string, change func(*simDevice)) func(*sim) {
		return func(m *sim) { change(m.labelled(label)) }
	}
	for _, c := range []struct {
		name, layout string
		change       func(*sim)
		want         string
	}{
		{"file system", "efi.json", part("disk-main-root", func(d *simDevice) { d.FSType, d.Label = "ntfs", "Windows" }),
			`disk.main.content.partitions.root: /dev/nvme0n1p2 holds ntfs "Windows" 199.5 GiB, and the layout has ext4 there`},
		{"partition type", "efi.json", part("disk-main-root", func(d *simDevice) { d.PartType = "x" }),
			"disk.main.content.partitions.root: the type of /dev/nvme0n1p2 is x instead of 0FC63DAF-8483-4772-8E79-3D69D8477DE4"},
		{"partition size", "efi.json", part("disk-main-ESP", func(d *simDevice) { d.Size -= 64 * mib }),
			"disk.main.content.partitions.ESP: /dev/nvme0n1p1 has 436 MiB instead of 500 MiB"},
		{"attributes", "efi.json", part("disk-main-ESP", func(d *simDevice) { d.PartFlags = "0x1" }),
			"disk.main.content.partitions.ESP: the attributes of /dev/nvme0n1p1 are 0x1 instead of 0x0"},
		{"two with one label", "efi.json", part("disk-main-ESP", func(d *simDevice) { d.PartLabel = "disk-main-root" }),
			"disk.main.content.partitions.root: /dev/nvme0n1p1 and /dev/nvme0n1p2 could both be it, by label and uuid"},
		{"partition table", "efi.json", func(m *sim) { m.devices["/dev/nvme0n1"].TableType = "dos" },
			"disk.main.device: /dev/nvme0n1 holds dos:"},
		{"another name of the container", "luks.json", func(m *sim) { m.add("/dev/mapper/mine", "crypt", 1<<30, m.labelled("disk-main-luks").Path) },
			"disk.main.content.partitions.luks: /dev/nvme0n1p2 is open as mine instead of crypted; close it"},
		{"inside the container", "luks.json", func(m *sim) { m.devices["/dev/mapper/crypted"].FSType = "xfs" },
			"disk.main.content.partitions.luks: /dev/mapper/crypted holds xfs 199.5 GiB, and the layout has ext4 there"},
		{"header of the container", "luks-options.json", part("disk-main-head", func(d *simDevice) { d.FSType = "" }),
			"the LUKS header of /dev/nvme0n1p5 is missing on /dev/nvme0n1p"},
		{"volume group", "lvm.json", func(m *sim) { m.pvs[m.labelled("disk-two-pv").Path] = "slow" },
			`lvm_vg."fast.1": /dev/nvme2n1p1 is in the volume group slow instead of fast.1`},
		{"more in the volume group", "lvm.json", func(m *sim) {
			m.add("/dev/sdx", "disk", 1<<40).FSType = "LVM2_member"
			m.pvs["/dev/sdx"] = "fast.1"
		}, `lvm_vg."fast.1": the volume group fast.1 is on /dev/sdx too, which the layout does not have in it`},
		{"a new member", "lvm.json", part("disk-two-pv", func(d *simDevice) { d.FSType = "" }),
			"/dev/nvme2n1p1"},
		{"size of a volume", "lvm.json", func(m *sim) { m.volume("root").Size *= 2 },
			`lvm_vg."fast.1".lvs.root: the volume root has 40 GiB instead of 20 GiB`},
		{"type of a volume", "lvm.json", func(m *sim) { m.volume("mirrored").Type = "linear" },
			`lvm_vg."fast.1".lvs.mirrored: the volume mirrored is of type linear instead of raid1`},
		{"level of a RAID", "mdadm.json", func(m *sim) {
			for _, d := range m.devices {
				if slices.Contains(d.on, m.labelled("disk-a-boot").Path) {
					d.Type = "raid0"
				}
			}
		}, " is a raid0 instead of raid1"},
		{"metadata of a RAID", "mdadm.json", part("disk-a-boot", func(d *simDevice) { d.FSVersion = "1.2" }), " is 1.2 instead of 1.0"},
		{"another RAID", "mdadm.json", part("disk-b-boot", func(d *simDevice) { d.Label = "any:root" }),
			`mdadm.boot: /dev/nvme1n1p2 is part of the RAID "root" instead of "boot"`},
		{"half of a RAID", "mdadm.json", part("disk-b-boot", func(d *simDevice) { d.UUID = "x" }),
			"mdadm.boot: /dev/nvme0n1p2 and /dev/nvme1n1p2 are not parts of one RAID"},
		{"a pool's name", "zfs.json", func(m *sim) {
			for _, d := range m.devices {
				if d.Label == "tank" {
					d.Label = "pond"
				}
			}
		}, `is part of the pool "pond" instead of "tank"`},
		{"no subvolume", "btrfs.json", func(m *sim) {
			for _, inside := range m.inside {
				inside["/home"] = "other"
			}
		}, "/home on /dev/nvme0n1p2 is no subvolume"},
		{"mounted already", "efi.json", func(m *sim) {
			m.add("/dev/sdx", "disk", 1<<40)
			m.mounts = append(m.mounts, MountedAt{Target: "/mnt/boot", Source: "/dev/sdx", FSType: "vfat"})
		}, "/mnt/boot: /dev/sdx is mounted there instead of /dev/nvme0n1p1; unmount it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, l := made(t, c.layout)
			c.change(m)
			for _, way := range []Mode{Format, Mount} {
				_, err := m.plan(l, way)
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: got %v\nwant %s", way, err, c.want)
				}
			}
		})
	}
}

// volume returns a logical volume.
func (m *sim) volume(name string) *LogicalVolume {
	return &m.lvs[slices.IndexFunc(m.lvs, func(lv LogicalVolume) bool { return lv.Name == name })]
}

// TestBeside: what is not the layout's stays as it is, and what is missing is made beside
// it, with a number that is free.
func TestBeside(t *testing.T) {
	m, l := made(t, "efi.json")
	esp, root := m.labelled("disk-main-ESP"), m.labelled("disk-main-root")
	root.Size -= 50 << 30
	esp.FSType, esp.PartLabel, esp.Size = "ntfs", "Basic data partition", 500*mib
	foreign := esp.BlockDevice
	p, err := m.plan(l, Format)
	if err != nil {
		t.Fatal(err)
	}
	got := argvs(p.Steps, StageCreate)
	want := []string{
		"sgdisk --align-end --new=3:0:+500M --partition-guid=3:R --change-name=3:disk-main-ESP --typecode=3:EF00 --attributes=3:=:0 /dev/nvme0n1",
		"udevadm settle --timeout 120", "partprobe /dev/nvme0n1", "udevadm trigger --subsystem-match=block --sysname-match=nvme0n1*", "udevadm settle --timeout 120",
		"wipefs --all --force /dev/nvme0n1p3", "mkfs.vfat /dev/nvme0n1p3",
	}
	if !slices.Equal(got, want) || len(p.Steps) != len(want)+2 {
		t.Errorf("got %s", planText(p))
	}
	m.run(p.Steps)
	m.empty(l, Format, "after making the ESP beside")
	if !reflect.DeepEqual(esp.BlockDevice, foreign) {
		t.Errorf("the foreign partition is %+v", esp.BlockDevice)
	}
	root.Size += 30 << 30 // no room is left
	m.remove(m.labelled("disk-main-ESP").Path)
	root.Size += 20 << 30
	if _, err := m.plan(l, Format); err == nil || !strings.Contains(err.Error(), "disk.main.content.partitions.ESP: ") {
		t.Errorf("without room: %v", err)
	}
}

// TestMissingVolume: a volume and a subvolume that are missing are made again, and nothing else.
func TestMissingVolume(t *testing.T) {
	m, l := made(t, "lvm.json")
	m.lvs = slices.DeleteFunc(m.lvs, func(lv LogicalVolume) bool { return lv.Name == "home" })
	m.remove("/dev/mapper/fast.1-home")
	p, err := m.plan(l, Format)
	if err != nil {
		t.Fatal(err)
	}
	if got := argvs(p.Steps, StageCreate); len(got) != 2 || !strings.HasPrefix(got[0], "lvcreate ") || got[1] != "mkfs.ext4 /dev/fast.1/home" {
		t.Errorf("got %q", got)
	}
	m.run(p.Steps)
	m.empty(l, Format, "after making the volume")

	m, l = made(t, "btrfs.json")
	for _, inside := range m.inside {
		delete(inside, "/home")
	}
	if p, err = m.plan(l, Format); err != nil {
		t.Fatal(err)
	}
	if got := argvs(p.Steps, StageCreate); len(got) != 4 || !strings.HasPrefix(got[2], "btrfs subvolume create "+scratch+"/home") {
		t.Errorf("got %q", got)
	}
	m.run(p.Steps)
	m.empty(l, Format, "after making the subvolume")
}

// TestSignatures: what blkid finds on a device that udev knows nothing of stands where it belongs.
func TestSignatures(t *testing.T) {
	out := `lsblk|{"blockdevices":[{"name":"sda","kname":"sda","type":"disk","size":8589934592,"children":[` +
		`{"name":"sda1","kname":"sda1","type":"part","size":1048576},{"name":"sda2","kname":"sda2","type":"part","size":1048576,"fstype":"xfs"},` +
		`{"name":"sda3","kname":"sda3","type":"part","size":1048576},{"name":"sda4","kname":"sda4","type":"part","size":1048576}]}]}|` +
		"signatures|/dev/sda\nPTTYPE=gpt\n/dev/sda1\nLABEL=my\\ data\nUUID=1-2\nTYPE=btrfs\n/dev/sda3\n/dev/sda4\nTYPE=unclear\n|mounts||swaps|Filename Type Size Used Priority\n/mnt/a\\040b file 1 0 -2\n|end|"
	data, err := ReadProbe([]byte(strings.ReplaceAll(strings.Replace(out, "mounts||", `mounts|{"filesystems":[]}|`, 1), "|", "\x00")))
	if err != nil {
		t.Fatal(err)
	}
	f := mustFacts(t, string(data))
	var got []string
	for _, n := range f.nodes() {
		got = append(got, strings.Join([]string{n.Name, n.FSType, n.Label, n.UUID}, " "))
	}
	if want := []string{"sda   ", "sda1 btrfs my data 1-2", "sda2 xfs  ", "sda3   ", "sda4 unclear  "}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if !slices.Equal(f.Swaps, []string{"/mnt/a b"}) {
		t.Errorf("swaps: %q", f.Swaps)
	}
}
