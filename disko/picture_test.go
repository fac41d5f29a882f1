package disko

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// checkPicture: what a disk holds before and after is in order, does not overlap and is
// all of the disk; and all that is mounted is in the picture, once.
func checkPicture(t *testing.T, p *Plan) {
	t.Helper()
	var points, want []string
	var walk func(list []Segment)
	walk = func(list []Segment) {
		for _, s := range list {
			if s.Mountpoint != "" {
				points = append(points, s.Mountpoint)
			}
			walk(s.Children)
		}
	}
	for _, d := range p.Disks {
		walk(d.After)
		for _, list := range [][]Segment{d.Before, d.After} {
			at, gaps := int64(0), int64(0)
			for _, s := range list {
				if s.Start < at {
					t.Fatalf("%s: %v overlaps what is before it", d.Device, s)
				}
				gaps += s.Start - at
				at = s.Start + s.Size
			}
			if gaps += d.Size - at; len(list) > 0 && d.Size > 0 && (at > d.Size || gaps > int64(len(list)+1)*leastGap) {
				t.Fatalf("%s has %d bytes, of which %d are in no segment: %v", d.Device, d.Size, gaps, list)
			}
		}
	}
	walk(p.Made)
	for _, s := range p.Steps {
		if s.Stage == StageMount && s.Argv[0] == "mount" {
			want = append(want, "/"+strings.TrimPrefix(strings.TrimPrefix(s.Argv[2], target), "/"))
		}
	}
	slices.Sort(points)
	slices.Sort(want)
	if !slices.Equal(points, want) {
		t.Fatalf("the picture has %q, and mounted is %q", points, want)
	}
}

func TestPictureOfLayouts(t *testing.T) {
	for _, name := range []string{"bcachefs", "btrfs", "btrfs-raid", "efi", "gpt", "hybrid", "luks", "lvm", "mdadm", "parted", "swap", "tmpfs-root"} {
		l := mustParse(t, readFile(t, "layouts/"+name+".json"))
		p, err := NewPlan(l, blank(t, l), Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) { checkPicture(t, p) })
	}
}

// outline is a picture in few words.
func outline(list []Segment) string {
	var words []string
	for _, s := range list {
		w := fmt.Sprintf("%s=%s", s.Name, s.What)
		if s.Of != nil {
			w += " of " + strings.Join(s.Of, "+")
		}
		if s.Mountpoint != "" {
			w += " at " + s.Mountpoint
		}
		if s.Kept {
			w += " kept"
		}
		if s.Children != nil {
			w += " [" + outline(s.Children) + "]"
		}
		words = append(words, w)
	}
	return strings.Join(words, ", ")
}

func TestPicture(t *testing.T) {
	luks := machine(dev("vdb", "disk", `,"pttype":"gpt"`,
		dev("vdb2", "part", `,"start":4096,"size":2147483648,"fstype":"crypto_LUKS"`, dev("old", "crypt", `,"fstype":"ext4","label":"nix\u001b[2Jos","mountpoints":["/mnt"]`)),
		dev("vdb1", "part", `,"start":34,"size":16384,"parttype":"21686148-6449-6e6f-744e-656564454649"`)))
	for _, c := range []struct{ name, layout, facts, before, after, made string }{
		{"nothing is known", "luks", "", "", "ESP=vfat at /boot, luks=LUKS [crypted=ext4 at /]", ""},
		{"blank", "luks", machine(dev("vdb", "disk", "")), "", "ESP=vfat at /boot, luks=LUKS [crypted=ext4 at /]", ""},
		{"in order, with what is free", "luks", luks, "=BIOS boot, =LUKS [nix[2Jos=ext4 at /mnt], =free", "ESP=vfat at /boot, luks=LUKS [crypted=ext4 at /]", ""},
		{"without a table", "luks", machine(dev("vdb", "disk", `,"fstype":"ntfs","label":"Backup"`)), "Backup=ntfs", "ESP=vfat at /boot, luks=LUKS [crypted=ext4 at /]", ""},
		{"an old lsblk", "luks", machine(dev("vdb", "disk", `,"pttype":"gpt"`, dev("vdb1", "part", `,"fstype":"ext4"`), dev("vdb2", "part", ""))),
			"=ext4, =unformatted", "ESP=vfat at /boot, luks=LUKS [crypted=ext4 at /]", ""},
		{"logical partitions", "luks", machine(dev("vdb", "disk", `,"pttype":"dos"`, dev("vdb1", "part", `,"start":2048,"parttype":"0xf"`), dev("vdb5", "part", `,"start":4096,"fstype":"xfs"`))),
			"=xfs", "ESP=vfat at /boot, luks=LUKS [crypted=ext4 at /]", ""},
	} {
		var f *Facts
		if c.facts != "" {
			f = mustFacts(t, c.facts)
		}
		p, err := NewPlan(mustParse(t, readFile(t, "layouts/"+c.layout+".json")), f, Options{})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		d := p.Disks[0]
		for what, pair := range map[string][2]string{"before": {outline(d.Before), c.before}, "after": {outline(d.After), c.after}, "made": {outline(p.Made), c.made}} {
			if pair[0] != pair[1] {
				t.Errorf("%s: %s is %q instead of %q", c.name, what, pair[0], pair[1])
			}
		}
		if !d.Erased || d.Name != "main" {
			t.Errorf("%s: %v", c.name, d)
		}
	}
}

// TestPictureMade: what is made of many devices.
func TestPictureMade(t *testing.T) {
	for name, want := range map[string]string{
		"mdadm": "big=RAID 0 of /dev/sda4+/dev/sdb4 [=in volume group late], late=volume group of /dev/md/big [srv=xfs at /srv], " +
			"boot=RAID 1 of /dev/sda2+/dev/sdb2 [=vfat at /boot], data=RAID 1 of /dev/sda3+/dev/sdb3 [root=ext4 at /]",
		"lvm": "fast.1=volume group of /dev/sda2+/dev/sdc1+/dev/sdb1 [pool=thin pool [thin=ext4 at /thin], mirrored=ext4, raid1 at /m, " +
			"old-mirror=unformatted, mirror, r4=unformatted, raid4, r5=unformatted, raid5, root=ext4 at /, swap=swap, striped=xfs, raid0 at /s, share=unformatted, home=ext4 at /home]",
		"zfs": "plain=pool of /dev/sdk at /plain, tank=pool of /dev/sda2+/dev/sdb1+/dev/sdc1+/dev/sdd1+/dev/sde1+/dev/sdf1+/dev/sdg1+/dev/sdh1+/dev/sdi1+/dev/sdj1 " +
			"[tank/legacy=dataset at /old, tank/none=dataset, tank/raw=unformatted, tank/sys=dataset at /, tank/sys/nix=dataset at /nix, tank/sys/swap=swap]",
		"bcachefs":   "bare=bcachefs of /dev/vdc1 at /bare, pool=bcachefs of /dev/vda2+/dev/vdb [subs/home=subvolume at /home, subs/home/me=subvolume, subs/root=subvolume at /]",
		"tmpfs-root": "=tmpfs at /, =bind mount of /persist/etc/nixos at /etc/nixos, =tmpfs, =bind mount of /nix/persist at /persist",
	} {
		l := mustParse(t, readFile(t, "layouts/"+name+".json"))
		p, err := NewPlan(l, blank(t, l), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := outline(p.Made); got != want {
			t.Errorf("%s: got %s", name, got)
		}
	}
}
