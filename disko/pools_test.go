package disko

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// part is a partition of a disk, for edits.
func part(disk, name string, content map[string]any) map[string]any {
	label := "disk-" + disk + "-" + name
	link := "/dev/disk/by-partlabel/" + label
	content["device"] = link
	return map[string]any{"type": "8300", "label": label, "device": link, "size": "1G", "start": "0", "end": "+1G", "priority": 500, "content": content}
}

// TestPoolProblems: what may be wrong between the parts of a layout.
func TestPoolProblems(t *testing.T) {
	const parts = "disk.main.content.partitions."
	type m = map[string]any
	lv := func(size string, more m) m {
		v := m{"name": "v", "size": size, "priority": 1000, "content": nil}
		for k, e := range more {
			v[k] = e
		}
		return v
	}
	vg := func(name string, lvs m) m { return m{"type": "lvm_vg", "name": name, "lvs": lvs} }
	pv := func(name, vg string) m { return part("main", name, m{"type": "lvm_pv", "vg": vg}) }
	inVG := func(v m) m { return m{parts + "pv": pv("pv", "g"), "lvm_vg": m{"g": vg("g", m{"v": v})}} }
	for name, c := range map[string]struct {
		layout  string
		changes m
		want    []string
	}{
		"missing volume group":  {"efi", m{parts + "pv": pv("pv", "g")}, []string{parts + "pv.content.vg: there is no lvm_vg.g; define it or correct the name"}},
		"missing RAID and pool": {"efi", m{parts + "a": part("main", "a", m{"type": "mdraid", "name": "r"}), parts + "b": part("main", "b", m{"type": "zfs", "pool": "z"}), parts + "c": part("main", "c", m{"type": "bcachefs", "filesystem": "f", "label": ""})}, []string{parts + "a.content.name: there is no mdadm.r", parts + "b.content.pool: there is no zpool.z", parts + "c.content.filesystem: there is no bcachefs_filesystems.f"}},
		"no members": {"efi", m{
			"lvm_vg": m{"g": vg("g", m{})}, "mdadm": m{"r": m{"type": "mdadm", "name": "r", "level": 6}},
			"zpool": m{"z": m{"type": "zpool", "name": "z", "mode": ""}},
		}, []string{"lvm_vg.g: has 0 members in the layout, and a volume group needs 1 at least", "mdadm.r: has 0 members in the layout, and RAID level 6 needs 4", "zpool.z: has 0 members"}},
		"too few members":         {"mdadm", m{"mdadm.boot.level": 6}, []string{"mdadm.boot: has 2 members in the layout, and RAID level 6 needs 4 at least"}},
		"mode needs more":         {"zfs", m{"zpool.plain.mode": "raidz3", "zpool.tank.mode.topology.log": []any{m{"mode": "mirror", "members": []any{"e"}}}}, []string{"zpool.plain: has 1 members in the layout, and mode raidz3 needs 4", "zpool.tank.mode.topology.log[0].members: has 1, and mode \"mirror\" needs 2"}},
		"topology":                {"zfs", m{"zpool.tank.mode.topology.cache": []any{"x"}}, []string{"zpool.tank.mode: its topology has \"x\", which is not a member", "zpool.tank.mode: its topology leaves out the members /dev/disk/by-partlabel/disk-j-zfs"}},
		"a member twice":          {"zfs", m{"zpool.tank.mode.topology.cache": []any{"j", "j"}}, []string{"zpool.tank.mode: its topology has \"j\""}},
		"odd modes":               {"zfs", m{"zpool.plain.mode": "raid5", "zpool.tank.mode.topology.vdev": []any{}, "mode": 1}, []string{"mode: is not known", `zpool.plain.mode: "raid5" is not known; known are mirror, raidz`, "zpool.tank.mode: its topology has no vdev for data"}},
		"cycle":                   {"efi", m{"lvm_vg": m{"a": vg("a", m{"v": lv("1G", m{"content": m{"type": "lvm_pv", "vg": "b", "device": "/dev/a/v"}})}), "b": vg("b", m{"v": lv("1G", m{"content": m{"type": "lvm_pv", "vg": "a", "device": "/dev/b/v"}})})}}, []string{"lvm_vg.a: is made of itself"}},
		"its own member":          {"efi", m{parts + "pv": pv("pv", "g"), "lvm_vg": m{"g": vg("g", m{"v": lv("1G", m{"content": m{"type": "lvm_pv", "vg": "g", "device": "/dev/g/v"}})})}}, []string{"lvm_vg.g: is made of itself"}},
		"volume sizes":            {"efi", inVG(lv("ten", nil)), []string{`lvm_vg.g.lvs.v.size: "ten" is not allowed; allowed are a number`}},
		"thin":                    {"efi", inVG(lv("1G", m{"lvm_type": "thinlv", "pool": "v"})), []string{`lvm_vg.g.lvs.v: its pool "v" is not a thin-pool of g that is made before it`}},
		"volume names":            {"efi", inVG(lv("1G", m{"name": "-x"})), []string{`lvm_vg.g.lvs.v.name: "-x" is not allowed`}},
		"too small for xfs":       {"efi", inVG(lv("100M", m{"content": m{"type": "filesystem", "format": "xfs", "device": "/dev/g/v"}})), []string{"lvm_vg.g.lvs.v: /dev/g/v (100 MiB) is too small: its content needs 300 MiB at least"}},
		"borrowed":                {"btrfs-raid", m{"disk.a.content.partitions.c.content.content.extraArgs": []any{"/dev/sdx", "/dev/mapper/ca"}}, []string{"disk.a.content.partitions.c.content.content.extraArgs: /dev/mapper/ca has content of its own", "disk.a.content.partitions.c.content.content.extraArgs: /dev/sdx is no device of this layout"}},
		"table in luks":           {"luks", m{parts + "luks.content.content": m{"type": "gpt", "device": "/dev/mapper/crypted", "efiGptPartitionFirst": true}}, []string{parts + "luks.content.content: a partition table cannot be here"}},
		"header in a file":        {"luks", m{parts + "luks.content.extraFormatArgs": []any{"--header /tmp/h"}}, []string{parts + "luks.content.extraFormatArgs: a header in the file \"/tmp/h\" would be lost"}},
		"fido2":                   {"luks", m{parts + "luks.content.enrollFido2": true, parts + "luks.content.enrollRecovery": true}, []string{parts + "luks.content.enrollFido2: needs someone at the machine", parts + "luks.content.enrollRecovery: "}},
		"two roots":               {"efi", m{"nodev": m{"/": m{"type": "nodev", "fsType": "tmpfs", "device": "tmpfs", "mountpoint": "/"}}}, []string{`nodev."/".mountpoint: mountpoint "/" is taken already by ` + parts + "root.content.mountpoint"}},
		"mount cycle":             {"tmpfs-root", m{"nodev.persist.device": "/etc/nixos/x"}, []string{`nodev."/etc/nixos".mountpoint: what is mounted here lies below itself`}},
		"nodev":                   {"tmpfs-root", m{"nodev.persist.device": "persist", "nodev.nowhere.device": "-a", "nodev.nowhere.fsType": "a/b"}, []string{`nodev.nowhere.device: "-a" is not a name for mount`, `nodev.nowhere.fsType: "a/b" is not allowed`, `nodev.persist.device: "persist" is not an absolute path`}},
		"zvol":                    {"zfs", m{"zpool.tank.datasets.raw.name": "no/raw", "zpool.tank.datasets.sys.type": "zfs", "zpool.tank.options.-x": "1"}, []string{"zpool.tank.datasets.raw: its parent tank/no is not in the layout", `zpool.tank.datasets.sys.type: "zfs" is not zfs_fs or zfs_volume`, `zpool.tank.options: "-x" is not the name of a property`}},
		"hybrids":                 {"gpt", m{parts + "bios.hybrid": m{}, parts + "log.hybrid": m{"mbrPartitionType": "fat"}}, []string{parts + `log.hybrid.mbrPartitionType: "fat" is not a number`, "disk.main.content.partitions: 4 of them are hybrid"}},
		"two layouts of one disk": {"efi", m{"disk.other": m{"type": "disk", "device": "/dev/disk/by-id/the-disk", "destroy": true}}, []string{`disk.other.device: device "/dev/disk/by-id/the-disk" is taken already by disk.main.device`}},
		"unknown type":            {"efi", m{parts + "root.content.type": "ext4"}, []string{parts + `root.content.type: "ext4" is not a known type of content`}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(edit(t, readFile(t, "layouts/"+c.layout+".json"), c.changes))
			wantProblems(t, err, c.want...)
		})
	}
}

// TestTableProblems: disko's legacy table, a list.
func TestTableProblems(t *testing.T) {
	data := string(readFile(t, "layouts/parted.json"))
	for name, c := range map[string]struct{ old, new, want string }{
		"overlap":   {`"start": "513MiB"`, `"start": "400MiB"`, ""},
		"backwards": {`"end": "513MiB"`, `"end": "1KiB"`, "disk.new.content.partitions[0]: ends at 1KiB, before it starts at 1MiB"},
		"logical":   {`"part-type": "primary"`, `"part-type": "logical"`, "disk.new.content.partitions[0].part-type: disko numbers this partition 1"},
		"bound":     {`"end": "513MiB"`, `"end": "+1s"`, `disk.new.content.partitions[0].end: "+1s" is not allowed`},
		"flag":      {`"bios_grub"`, `"--x"`, `disk.new.content.partitions[2].flags: "--x" is not a flag`},
		"format":    {`"format": "msdos"`, `"format": "bsd"`, `disk.old.content.format: "bsd" is not known; known are gpt, msdos`},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := Parse([]byte(strings.Replace(data, c.old, c.new, 1)))
			if c.want == "" { // in %, which a disk decides
				if err != nil {
					t.Fatal(err)
				}
				_, err = NewPlan(l, blank(t, l), Options{})
				c.want = "disk.new.content.partitions[1]: from 400MiB to -20GiB overlaps disk.new.content.partitions[0]"
			}
			if err == nil || !strings.HasPrefix(lines(err)[0], c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// TestManyDisks: what only the machine can say about layouts of several disks.
func TestManyDisks(t *testing.T) {
	small := func(data []byte) (*Layout, *Facts) {
		l := mustParse(t, data)
		f := blank(t, l)
		for i := range f.BlockDevices {
			f.BlockDevices[i].Size = 20 << 30
		}
		return l, f
	}
	t.Run("volumes over the disks", func(t *testing.T) {
		l, f := small(readFile(t, "layouts/lvm.json"))
		_, err := NewPlan(l, f, Options{})
		if err == nil || !strings.Contains(err.Error(), "lvm_vg.\"fast.1\".lvs.root.size: 20G takes 20 GiB, and only ") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("partitions over the disk", func(t *testing.T) {
		l, f := small(readFile(t, "layouts/mdadm.json"))
		_, err := NewPlan(l, f, Options{})
		wantProblems(t, err, "disk.a.device: /dev/sda (20 GiB) is too small", "disk.b.device: /dev/sdb (20 GiB) is too small")
	})
	t.Run("destroy is false", func(t *testing.T) {
		l := mustParse(t, readFile(t, "layouts/tmpfs-root.json"))
		f := blank(t, l)
		f.BlockDevices[0].FSType, f.BlockDevices[0].Label = "ext4", "photos"
		_, err := NewPlan(l, f, Options{})
		wantProblems(t, err, `disk.kept.device: what is on /dev/sdb (200 GiB) is kept, and lsblk alone does not tell`)
		f.Mounts = []MountedAt{}
		p, err := NewPlan(l, f, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range p.Steps {
			if s.Device == "/dev/sdb" && s.Stage != StageMount {
				t.Errorf("%s: %q", s.Stage, s.Argv)
			}
		}
		f.BlockDevices[0].FSType, f.BlockDevices[1].FSType = "xfs", "xfs"
		_, err = NewPlan(l, f, Options{})
		wantProblems(t, err, `disk.kept.device: /dev/sdb holds xfs "photos" 200 GiB, and the layout has ext4 there`)
	})
	t.Run("half of a pool, and names elsewhere", func(t *testing.T) {
		l := mustParse(t, readFile(t, "layouts/zfs.json"))
		f := blank(t, l)
		f.BlockDevices[0].Children = []BlockDevice{{Path: "/dev/sda1", Name: "sda1", Type: "part", FSType: "btrfs", UUID: "u"}}
		f.BlockDevices = append(f.BlockDevices,
			BlockDevice{Path: "/dev/sdx", Name: "sdx", Type: "disk", FSType: "btrfs", UUID: "u", Size: 1 << 30},
			BlockDevice{Path: "/dev/sdy", Name: "sdy", Type: "disk", FSType: "zfs_member", Label: "tank", UUID: "p", Size: 1 << 30})
		_, err := NewPlan(l, f, Options{})
		wantProblems(t, err, "disk.a.device: /dev/sda holds a part of the btrfs on /dev/sdx too", `disk: a pool "tank" is there already on /dev/sdy`)
	})
	t.Run("an imported pool is exported", func(t *testing.T) {
		l := mustParse(t, readFile(t, "layouts/zfs.json"))
		f := blank(t, l)
		for i := range 2 {
			f.BlockDevices[i].FSType, f.BlockDevices[i].Label, f.BlockDevices[i].UUID = "zfs_member", "$(x)", "p"
		}
		p, err := NewPlan(l, f, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if first := p.Steps[1].Argv; first[0] != "sh" || first[3] != "$(x)" || strings.Contains(first[2], "(x)") || p.Steps[2].Argv[0] != "wipefs" {
			t.Errorf("first step: %q, then %q", first, p.Steps[2].Argv)
		}
	})
}

// TestHookVariables runs a hook as a plan does: it finds the node's options as disko's
// scripts have them, and what they hold is never run.
func TestHookVariables(t *testing.T) {
	const evil = "it's $(touch /pwned) `id`\n*"
	p, err := NewPlan(mustParse(t, edit(t, readFile(t, "layouts/luks.json"), map[string]any{
		"disk.main.content.partitions.luks.content.settings":       map[string]any{"keyFileSize": 4194304, "allowDiscards": true, "x": evil},
		"disk.main.content.partitions.luks.content.postCreateHook": `printf '%s|' "$name" "$device" "${settings[keyFileSize]}" "${settings[x]}" "$askPassword" "$initrdUnlock" "${#additionalKeyFiles[@]}" "$#" *`,
	})), nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Hook != "" })
	s := p.Steps[i]
	if s.Hook != "disk.main.content.partitions.luks.content.postCreateHook" || !strings.Contains(s.Name, s.Hook) || s.Stage != StageCreate {
		t.Errorf("hook step: %+v", s)
	}
	out, err := exec.CommandContext(t.Context(), s.Argv[0], s.Argv[1:]...).CombinedOutput()
	if want := "crypted|/dev/disk/by-partlabel/disk-main-luks|4194304|" + evil + "||1|0|0|*|"; err != nil || string(out) != want {
		t.Errorf("got %q, %v\nwant %q", out, err, want)
	}
}

// TestPassphrase: where disko would ask, the operator gives the passphrase as a file.
func TestPassphrase(t *testing.T) {
	p, err := NewPlan(mustParse(t, edit(t, readFile(t, "layouts/luks.json"), map[string]any{"disk.main.content.partitions.luks.content.askPassword": true})), nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	equalLines(t, "key files", p.KeyFiles(), []string{"/run/provision/passphrase/crypted"})
	n := 0
	for _, s := range p.Steps {
		if s.Stdin == "/run/provision/passphrase/crypted" && strings.Contains(strings.Join(s.Argv, " "), "--key-file -") {
			n++
		}
	}
	if n != 2 {
		t.Errorf("%d steps read the passphrase", n)
	}
	if disks := p.Tables(); len(disks) != 1 || disks[0].Device != "/dev/vdb" {
		t.Errorf("tables on %v", disks)
	}
}
