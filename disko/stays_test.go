package disko

import (
	"slices"
	"strings"
	"testing"
)

// TestNamesThatStay: names on disks that stay are compared with those that the layout gives.
func TestNamesThatStay(t *testing.T) {
	const root = "disk.main.content.partitions.root"
	labelled := edit(t, readFile(t, "layouts/efi.json"), map[string]any{
		root + ".content.extraArgs":                          []any{"-F", "-L", "nixos"},
		"disk.main.content.partitions.ESP.content.extraArgs": []any{"-n", "BOOT"},
		root + ".uuid": "11111111-2222-4333-8444-555555555555",
	})
	efi, lvm, mdadm, luks := readFile(t, "layouts/efi.json"), readFile(t, "layouts/lvm.json"), readFile(t, "layouts/mdadm.json"), readFile(t, "layouts/luks.json")
	for name, c := range map[string]struct {
		layout []byte
		stays  string // a device that is not the layout's
		more   string // facts
		want   string // empty: nothing speaks against it
	}{
		"label":                     {labelled, dev("sdx", "disk", "", dev("sdx2", "part", `,"fstype":"ext4","label":"nixos"`)), "", `disk: "nixos" is the label of the ext4 on /dev/sdx2 too, which the layout does not take; the installed system could mount the wrong one: change it (e2label /dev/sdx2 NEW), wipe that disk or choose another label`},
		"label of the ESP":          {labelled, dev("sdx", "disk", "", dev("sdx1", "part", `,"fstype":"vfat","label":"BOOT"`)), "", `disk: "BOOT" is the label of the vfat on /dev/sdx1 too`},
		"label without a table":     {labelled, dev("sdx", "disk", `,"fstype":"btrfs","label":"nixos"`), "", `disk: "nixos" is the label of the btrfs on /dev/sdx too`},
		"another label":             {labelled, dev("sdx", "disk", "", dev("sdx2", "part", `,"fstype":"ext4","label":"nixos2"`)), "", ""},
		"a label that is not given": {efi, dev("sdx", "disk", "", dev("sdx2", "part", `,"fstype":"ext4","label":"nixos"`)), "", ""},
		"partition UUID":            {labelled, dev("sdx", "disk", "", dev("sdx1", "part", `,"partuuid":"11111111-2222-4333-8444-555555555555"`)), "", "disk: the partition /dev/sdx1, which the layout does not take, has the UUID"},
		"partition label":           {efi, dev("sdx", "disk", `,"tran":"usb"`, dev("sdx1", "part", `,"partlabel":"disk-main-root"`)), "", root + `.label: "disk-main-root" is the label of /dev/sdx1 too`},

		"group":                             {lvm, dev("sdx", "disk", "", dev("sdx1", "part", `,"fstype":"LVM2_member"`, dev("fast.1-a", "lvm", ""))), "", `disk: a volume group "fast.1" is there already on /dev/sdx, which the layout does not take; rename it (vgrename fast.1 NEW)`},
		"group that is not active":          {lvm, dev("sdx", "disk", "", dev("sdx1", "part", `,"fstype":"LVM2_member"`)), `"pvs":[{"pv_name":"/dev/sdx1","vg_name":"fast.1"}]`, `disk: a volume group "fast.1" is there already on /dev/sdx`},
		"group by another name of its disk": {lvm, dev("sdx", "disk", `,"fstype":"LVM2_member"`), `"links":{"/dev/disk/by-id/x":"/dev/sdx"},"pvs":[{"pv_name":"/dev/disk/by-id/x","vg_name":"fast.1"}]`, `disk: a volume group "fast.1" is there already on /dev/sdx`},
		"another group":                     {lvm, dev("sdx", "disk", `,"fstype":"LVM2_member"`), `"pvs":[{"pv_name":"/dev/sdx","vg_name":"fast"}]`, ""},
		"group on what is not there":        {lvm, dev("sdx", "disk", ""), `"pvs":[{"pv_name":"[unknown]","vg_name":"fast.1"}]`, ""},
		"group of both":                     {lvm, dev("sdx", "disk", `,"fstype":"LVM2_member"`), `"pvs":[{"pv_name":"/dev/sdb","vg_name":"old"},{"pv_name":"/dev/sdx","vg_name":"old"}]`, "disk.two.device: /dev/sdb holds a part of the volume group old, which is on /dev/sdx too; the layout does not take all of its disks: take /dev/sdb out of the group (vgreduce old /dev/sdb), remove the group (vgremove old)"},
		"group of the layout's disks":       {lvm, dev("sdx", "disk", ""), `"pvs":[{"pv_name":"/dev/sda","vg_name":"fast.1"},{"pv_name":"/dev/sdb","vg_name":"fast.1"},{"pv_name":"[unknown]","vg_name":"fast.1"}]`, ""},

		"RAID":                   {mdadm, dev("sdx", "disk", "", dev("sdx1", "part", `,"fstype":"linux_raid_member","label":"any:boot","uuid":"q"`, dev("md127", "raid1", ""))), "", `disk: a RAID "boot" is there already on /dev/sdx`},
		"RAID that cannot start": {mdadm, dev("sdx", "disk", `,"fstype":"linux_raid_member","label":"oldhost:boot","uuid":"q"`), "", `disk: a RAID "boot" is there already on /dev/sdx`},
		"RAID of firmware":       {mdadm, dev("sdx", "disk", `,"fstype":"isw_raid_member"`, dev("md126", "raid1", "")), `"links":{"/dev/md/boot":"/dev/md126"}`, `disk: a RAID "boot" is there already on /dev/sdx`},
		"another RAID":           {mdadm, dev("sdx", "disk", `,"fstype":"linux_raid_member","label":"boot:old","uuid":"q"`), "", ""},

		"container":     {luks, dev("sdx", "disk", "", dev("crypted", "crypt", "")), "", `disk: a container "crypted" is there already on /dev/sdx, which the layout does not take; close it (cryptsetup close crypted)`},
		"other mapping": {luks, dev("sdx", "disk", "", dev("crypted", "dm", `,"path":"/dev/mapper/crypted"`)), "", `disk: a device "crypted" of device mapper is there already on /dev/sdx, which the layout does not take; remove it (dmsetup remove crypted)`},
	} {
		t.Run(name, func(t *testing.T) {
			l := mustParse(t, c.layout)
			f := mustFacts(t, `{`+strings.TrimPrefix(c.more+",", ",")+`"blockdevices":[`+c.stays+`]}`)
			there := blank(t, l)
			f.BlockDevices = slices.Concat(there.BlockDevices, f.BlockDevices)
			if f.Links == nil {
				f.Links = map[string]string{}
			}
			for from, to := range there.Links {
				f.Links[from] = to
			}
			_, err := NewPlan(l, f, Options{})
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantProblems(t, err, c.want)
		})
	}
}

// TestNamesOfKept: what is kept has its names already, and they are no reason to stop.
func TestNamesOfKept(t *testing.T) {
	for _, name := range []string{"lvm.json", "mdadm.json", "luks.json"} {
		m, l := made(t, name)
		for _, way := range []Mode{Format, Mount} {
			if _, err := m.plan(l, way); err != nil {
				t.Errorf("%s: %s: %v", name, way, err)
			}
		}
		if _, err := m.plan(l, Fresh); err != nil {
			t.Errorf("%s: fresh: %v", name, err)
		}
	}
}

// TestLabelOf: mkfs's ways of being told a label.
func TestLabelOf(t *testing.T) {
	for args, want := range map[string]string{
		"ext4 -F -L nixos": "nixos", "ext4 -Lnixos": "nixos", "vfat -F 32 -n BOOT": "BOOT", "btrfs --label nixos -f": "nixos", "swap --label=swap": "swap",
		"f2fs -l data -f": "data", "xfs -n size=4096": "", "xfs -l logdev=/dev/x": "", "ext4 -L": "", "btrfs -f": "",
	} {
		words := strings.Fields(args)
		if got := labelOf(words[0], words[1:]); got != want {
			t.Errorf("%s: %q", args, got)
		}
	}
}
