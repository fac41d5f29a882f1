package disko

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// stopping are the steps of a plan that come before the first that loses data, without those that wait.
func stopping(p *Plan) (list []string) {
	for _, s := range p.Steps {
		if s.Destructive() {
			return list
		}
		if s.Argv[0] == "sh" {
			list = append(list, "sh … "+strings.Join(s.Argv[3:], " "))
		} else {
			list = append(list, strings.Join(s.Argv, " "))
		}
	}
	return list
}

// onBoth is a layout of sda and sdb.
func onBoth(t *testing.T) *Layout {
	data := readFile(t, "layouts/efi.json")
	var doc struct{ Disk map[string]json.RawMessage }
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	other := strings.NewReplacer("/dev/disk/by-id/the-disk", "/dev/sdb", "disk-main", "disk-other", `"/boot"`, `"/efi"`, `"/"`, `"/srv"`).Replace(string(doc.Disk["main"]))
	return mustParse(t, edit(t, data, map[string]any{"disk.other": json.RawMessage(other)}))
}

// TestLeftovers: what lies on disks that the layout takes all of is stopped, the innermost first, and the disks are wiped.
func TestLeftovers(t *testing.T) {
	one := mustParse(t, readFile(t, "layouts/efi.json")) // sda
	both := onBoth(t)
	mapped := func(name, kind string, children ...string) string {
		return dev(name, kind, `,"path":"/dev/mapper/`+name+`"`, children...)
	}
	for name, c := range map[string]struct {
		layout *Layout
		facts  string
		want   []string
	}{
		"RAID of members, of which one is left": {one, machine(dev("sda", "disk", "", dev("sda1", "part", `,"fstype":"linux_raid_member"`, dev("md127", "raid5", `,"size":0`)))),
			[]string{"mdadm --stop /dev/md127"}},
		"RAID that lsblk does not show": {one, strings.Replace(machine(dev("sda", "disk", "", dev("sda1", "part", `,"kname":"sda1","fstype":"linux_raid_member"`))),
			`"links"`, `"holders":[{"device":"sda1","holder":"md127"}],"links"`, 1), []string{"mdadm --stop /dev/md127"}},
		"mapping that lsblk does not show": {one, strings.Replace(machine(dev("sda", "disk", `,"kname":"sda"`)),
			`"links"`, `"holders":[{"device":"sda","holder":"dm-3","mapping":"old"}],"links"`, 1), []string{"dmsetup remove --retry -- old"}},
		"linear RAID": {one, machine(dev("sda", "disk", "", dev("md0", "linear", ""))), []string{"mdadm --stop /dev/md0"}},
		"Intel's, container and RAID": {both, machine(
			dev("sda", "disk", `,"fstype":"isw_raid_member"`, dev("md127", "md", `,"size":0`), dev("md126", "raid1", "", dev("md126p1", "part", ""))),
			dev("sdb", "disk", `,"fstype":"isw_raid_member"`, dev("md127", "md", `,"size":0`), dev("md126", "raid1", "", dev("md126p1", "part", "")))),
			[]string{"mdadm --stop /dev/md126", "mdadm --stop /dev/md127"}},
		"DDF, container alone":              {one, machine(dev("sda", "disk", `,"fstype":"ddf_raid_member","uuid":"u"`, dev("md127", "md", `,"size":0`))), []string{"mdadm --stop /dev/md127"}},
		"members of which nothing was made": {both, machine(dev("sda", "disk", `,"fstype":"isw_raid_member"`), dev("sdb", "disk", `,"fstype":"isw_raid_member"`)), nil},
		"mapping without an owner":          {one, machine(dev("sda", "disk", "", dev("sda1", "part", "", mapped("old-it's", "dm", mapped("inner", "crypt"))))), []string{"cryptsetup close inner", "dmsetup remove --retry -- old-it's"}},
		"dmraid":                            {both, machine(dev("sda", "disk", "", mapped("isw_x", "dmraid", mapped("isw_x1", "part"))), dev("sdb", "disk", "", mapped("isw_x", "dmraid", mapped("isw_x1", "part")))), []string{"dmsetup remove --retry -- isw_x1", "dmsetup remove --retry -- isw_x"}},
		"multipath with one path":           {one, machine(dev("sda", "disk", "", mapped("mpatha", "mpath", mapped("mpatha-part1", "part", mapped("vg-root", "lvm"))))), []string{"vgchange --activate n vg", "dmsetup remove --retry -- mpatha-part1", "sh … mpatha"}},
		"Stratis":                           {one, machine(dev("sda", "disk", `,"fstype":"stratis","uuid":"u"`, mapped("stratis-1-private-x-physical", "stratis", mapped("stratis-1-x-thin", "stratis")))), []string{"dmsetup remove --retry -- stratis-1-x-thin", "dmsetup remove --retry -- stratis-1-private-x-physical"}},
		"Ceph on LVM":                       {one, machine(dev("sda", "disk", `,"fstype":"LVM2_member"`, mapped("ceph--1-osd--2", "lvm"))), []string{"vgchange --activate n ceph-1"}},
		"Ceph":                              {one, machine(dev("sda", "disk", `,"fstype":"ceph_bluestore","uuid":"u"`)), nil},
		"bcache": {both, machine(
			dev("sda", "disk", "", dev("sda1", "part", `,"fstype":"bcache"`, dev("bcache0", "disk", `,"fstype":"btrfs"`))),
			dev("sdb", "disk", `,"fstype":"bcache"`, dev("bcache0", "disk", `,"fstype":"btrfs"`))),
			[]string{"sh … sda1", "sh … sdb"}},
		"bcache that nothing was made of": {one, machine(dev("sda", "disk", `,"fstype":"bcache"`)), []string{"sh … sda"}},
		"DRBD that is down":               {one, machine(dev("sda", "disk", `,"fstype":"drbd"`), dev("drbd0", "disk", `,"size":0`)), nil},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := NewPlan(c.layout, mustFacts(t, c.facts), Options{})
			if err != nil {
				t.Fatal(err)
			}
			equalLines(t, "stopped", stopping(p), c.want)
			for _, disk := range p.Disks {
				if !slices.Contains(argvs(p.Steps, StageDestroy), "wipefs --all --force "+disk.Device) {
					t.Errorf("%s is not wiped", disk.Device)
				}
			}
		})
	}
}

// TestLeftoversOfMore: what lies also on a disk that stays is refused, with the command that takes it apart.
func TestLeftoversOfMore(t *testing.T) {
	one := mustParse(t, readFile(t, "layouts/efi.json")) // sda
	both := onBoth(t)
	on := func(more string, children ...string) string {
		return machine(dev("sda", "disk", more, children...), dev("sdb", "disk", more, children...))
	}
	mapped := func(name, kind string) string { return dev(name, kind, `,"path":"/dev/mapper/`+name+`"`) }
	for name, c := range map[string]struct {
		layout *Layout
		facts  string
		want   []string
	}{
		"RAID":         {one, on("", dev("md0", "raid1", "")), []string{"/dev/md0", "mdadm --stop /dev/md0, then wipefs --all /dev/sda"}},
		"container":    {one, on(`,"fstype":"isw_raid_member"`, dev("md127", "md", `,"size":0`)), []string{"/dev/md127", "mdadm --stop /dev/md127"}},
		"volume":       {one, on("", mapped("v--g-a", "lvm")), []string{"/dev/mapper/v--g-a", "vgreduce v-g"}},
		"mapping":      {one, on("", mapped("odd one", "dm")), []string{"dmsetup remove 'odd one'"}},
		"paths":        {one, on("", mapped("mpatha", "mpath")), []string{"multipath -f mpatha"}},
		"bcache":       {one, on(`,"fstype":"bcache"`, dev("bcache0", "disk", "")), []string{"echo 1 >/sys/block/bcache0/bcache/stop"}},
		"all paths":    {both, on("", mapped("mpatha", "mpath")), []string{"/dev/sda, /dev/sdb are paths to one disk, /dev/mapper/mpatha"}},
		"silent paths": {both, on(`,"wwn":"0x6001405","serial":"6001405"`), []string{"/dev/sdb has the WWN 0x6001405", "the layout would take it twice"}},

		"Intel's, not started": {one, on(`,"fstype":"isw_raid_member"`), []string{"/dev/sda and /dev/sdb both hold a part of a isw_raid_member", "wipefs --all /dev/sda"}},
		"DDF, not started":     {one, on(`,"fstype":"ddf_raid_member"`), []string{"both hold a part of a ddf_raid_member"}},
		"Stratis, not started": {one, on(`,"fstype":"stratis"`), []string{"both hold a part of a stratis"}},
		"bcache, not started":  {one, on(`,"fstype":"bcache"`), []string{"both hold a part of a bcache"}},
		"RAID, not started":    {one, on(`,"fstype":"linux_raid_member","uuid":"u"`), []string{"/dev/sda holds a part of the linux_raid_member on /dev/sdb too", "wipefs --all /dev/sda"}},
		"DRBD that is up":      {one, machine(dev("sda", "disk", `,"fstype":"drbd"`), dev("drbd0", "disk", "")), []string{"/dev/sda holds a part of DRBD, which is in use (/dev/drbd0)", "drbdadm down all"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewPlan(c.layout, mustFacts(t, c.facts), Options{})
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got  %v\nwant %s", err, want)
				}
			}
		})
	}
	for name, facts := range map[string]string{
		"another RAID on a disk that stays": machine(dev("sda", "disk", `,"fstype":"linux_raid_member","uuid":"u"`), dev("sdb", "disk", `,"fstype":"linux_raid_member","uuid":"v"`)),
		"another DDF":                       machine(dev("sda", "disk", `,"fstype":"ddf_raid_member","uuid":"u"`), dev("sdb", "disk", `,"fstype":"ddf_raid_member","uuid":"v"`)),
		"RAID on disks that stay":           machine(dev("sda", "disk", ""), dev("sdb", "disk", "", dev("md0", "raid1", "")), dev("sdc", "disk", "", dev("md0", "raid1", ""))),
		"paths to a disk that stays":        machine(dev("sda", "disk", ""), dev("sdb", "disk", "", mapped("mpatha", "mpath")), dev("sdc", "disk", "", mapped("mpatha", "mpath"))),
	} {
		p, err := NewPlan(one, mustFacts(t, facts), Options{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := stopping(p); len(got) > 0 {
			t.Errorf("%s: stopped %q", name, got)
		}
	}
}

// TestHolders: what the probe finds to lie on disks is in the tree, once, and open.
func TestHolders(t *testing.T) {
	out := `lsblk|{"blockdevices":[{"name":"sda","kname":"sda","path":"/dev/sda","type":"disk","size":8589934592,"children":[` +
		`{"name":"sda1","kname":"sda1","path":"/dev/sda1","type":"part","size":1048576,"children":[{"name":"x","kname":"dm-0","path":"/dev/mapper/x","type":"crypt","size":1048576}]},` +
		`{"name":"sda2","kname":"sda2","path":"/dev/sda2","type":"part","size":1048576}]}]}|holders|sda1` + "\tdm-0\tx\nsda2\tmd127\t\ndm-0\tdm-1\ty z\nsda2\tsda3\t\n" +
		"|signatures|/dev/sda\n/dev/sda1\n/dev/dm-0\n/dev/sda2\n|end|"
	data, err := ReadProbe([]byte(strings.ReplaceAll(out, "|", "\x00")))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range mustFacts(t, string(data)).nodes() {
		got = append(got, strings.Join([]string{n.device(), n.Type, string(n.holder())}, " "))
	}
	equalLines(t, "nodes", got, []string{"/dev/sda disk ", "/dev/sda1 part ", "/dev/mapper/x crypt crypt", "/dev/mapper/y z dm dm", "/dev/sda2 part ", "/dev/md127 md md"})
	if _, err := ReadProbe([]byte(strings.ReplaceAll(`lsblk|{"blockdevices":[]}|holders|what|end|`, "|", "\x00"))); err == nil || !strings.Contains(err.Error(), "what") {
		t.Errorf("a line that is not understood: %v", err)
	}
}

// TestHoldersLoop: a machine may say that devices lie on each other.
func TestHoldersLoop(t *testing.T) {
	var holders []string
	for _, on := range "0123456789" {
		for _, holder := range "0123456789" {
			holders = append(holders, `{"device":"md`+string(on)+`","holder":"md`+string(holder)+`"}`)
		}
	}
	facts := strings.Replace(machine(dev("md0", "disk", "")), `"links"`, `"holders":[`+strings.Join(holders, ",")+`],"links"`, 1)
	if _, err := ParseFacts([]byte(facts)); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("%v", err)
	}
	if f := mustFacts(t, strings.Replace(machine(dev("md0", "disk", "")), `"links"`, `"holders":[`+holders[0]+`],"links"`, 1)); len(f.nodes()) != 1 {
		t.Errorf("%d devices", len(f.nodes()))
	}
}
