package layouts

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
)

// set is an attribute set.
type set = map[string]any

// evaluate writes a layout as disko's modules do: names, labels and devices are added to what the groups say.
func evaluate(t *testing.T, groups set) []byte {
	t.Helper()
	each := func(group string, fill func(i int, name string, s set)) {
		of, _ := groups[group].(set)
		for i, name := range slices.Sorted(maps.Keys(of)) {
			fill(i, name, of[name].(set))
		}
	}
	each("disk", func(i int, name string, d set) {
		d["name"], d["type"] = name, "disk"
		if d["device"] == nil {
			d["device"] = nodes[i]
		}
		if d["destroy"] == nil {
			d["destroy"] = true
		}
		fill(d["content"], d["device"].(string), "disk-"+name)
	})
	each("mdadm", func(_ int, name string, r set) {
		r["name"], r["type"] = name, "mdadm"
		fill(r["content"], "/dev/md/"+name, "mdadm-"+name)
	})
	each("lvm_vg", func(_ int, group string, g set) {
		g["name"], g["type"] = group, "lvm_vg"
		for name, v := range g["lvs"].(set) {
			v := v.(set)
			v["name"] = name
			if v["priority"] == nil {
				v["priority"] = map[bool]int{true: 501, false: 1000}[v["lvm_type"] == "thin-pool"]
			}
			fill(v["content"], "/dev/"+group+"/"+name, "")
		}
	})
	each("nodev", func(_ int, point string, n set) {
		n["type"], n["mountpoint"] = "nodev", point
		if n["device"] == nil {
			n["device"] = n["fsType"]
		}
	})
	data, err := json.Marshal(groups)
	check(t, err)
	return data
}

func fill(content any, device, label string) {
	c, ok := content.(set)
	if !ok {
		return
	}
	c["device"] = device
	switch c["type"] {
	case "luks":
		fill(c["content"], "/dev/mapper/"+c["name"].(string), "")
	case "table":
		for i, p := range c["partitions"].([]any) {
			fill(p.(set)["content"], fmt.Sprintf("%s%d", device, i+1), "")
		}
	case "gpt":
		c["efiGptPartitionFirst"] = true
		for name, p := range c["partitions"].(set) {
			p := p.(set)
			p["name"] = name
			usual := set{"label": label + "-" + name, "type": "8300", "start": "0", "priority": 1000, "end": fmt.Sprint("+", p["size"])}
			switch {
			case p["size"] == "100%":
				usual["end"], usual["priority"] = "-0", 9001
			case p["type"] == "EF02":
				usual["priority"] = 100
			}
			for k, v := range usual {
				if p[k] == nil {
					p[k] = v
				}
			}
			p["device"] = "/dev/disk/by-partlabel/" + p["label"].(string)
			fill(p["content"], p["device"].(string), "")
		}
	}
}

// with adds attributes to a set.
func with(s, more set) set { maps.Copy(s, more); return s }

func fs(format, point string, args ...string) set {
	return set{"type": "filesystem", "format": format, "mountpoint": point, "extraArgs": args, "mountOptions": []string{"defaults"}}
}

func part(size string, content set) set {
	if content == nil {
		return set{"size": size}
	}
	return set{"size": size, "content": content}
}

func gpt(partitions set) set { return set{"content": set{"type": "gpt", "partitions": partitions}} }

func luks(name string, content set, more set) set {
	return with(set{"type": "luks", "name": name, "content": content, "extraFormatArgs": []string{"--pbkdf pbkdf2", "--pbkdf-force-iterations 1000"}}, more)
}

func raid(name string) set { return set{"type": "mdraid", "name": name} }

func pv(group string) set { return set{"type": "lvm_pv", "vg": group} }

// own returns the layouts that are made for this test: for what no other shows.
func own(t *testing.T) []layout {
	members := func(also set) set {
		return gpt(with(set{
			"r1": part("80M", raid("r1")), "r4": part("80M", raid("r4")), "r5": part("80M", raid("r5")), "r6": part("80M", raid("r6")),
			"r10": part("80M", raid("r10")), "r0": part("80M", raid("r0"))}, also))
	}
	level := func(n int, content set) set { return set{"level": n, "metadata": "default", "content": content} }
	list := []layout{{
		name: "filesystems",
		data: evaluate(t, set{"disk": set{"main": gpt(set{
			"boot": part("64M", fs("vfat", "/boot", "-n", "BOOT")), "e2": part("64M", fs("ext2", "/e2")), "e3": part("64M", fs("ext3", "/e3")),
			"ex": part("64M", fs("exfat", "/ex", "-L", "it's")), "f2": part("64M", fs("f2fs", "/f2")), "nt": part("64M", fs("ntfs", "/nt", "--fast")),
			"x":    part("400M", with(fs("xfs", "/x", "-L", "quo ta"), set{"mountOptions": []string{"prjquota", "usrquota,noatime"}})),
			"root": part("100%", fs("ext4", "/", "-L", "$(root)", "-m", "1")),
		})}}),
		removeClosed: "sgdisk --delete=3 /dev/vda", gone: `^/dev/vda3 |/mnt/e3/`,
	}, {
		name: "btrfs on two disks",
		data: evaluate(t, set{"disk": set{
			"a": gpt(set{"boot": part("64M", fs("vfat", "/boot")), "swap": part("64M", set{"type": "swap", "priority": 5, "discardPolicy": "once"}), "r": part("1G", nil)}),
			"b": gpt(set{"boot": part("64M", nil), "r": part("1G", set{"type": "btrfs", "extraArgs": []string{"-f", "-d raid1", "-m raid1", "/dev/disk/by-partlabel/disk-a-r"},
				"mountOptions": []string{"noatime"}, "subvolumes": set{
					"/root": set{"type": "btrfs_subvol", "name": "/root", "mountpoint": "/", "mountOptions": []string{"compress=zstd"}},
					"/home": set{"type": "btrfs_subvol", "name": "/home", "mountpoint": "/home", "mountOptions": []string{"compress=zstd", "noatime"}},
				}})})}}),
		remove: "umount /mnt/home; mount /dev/vdb2 /run/lock -o subvol=/; btrfs subvolume delete /run/lock/home; umount /run/lock",
		gone:   ` path home$|/mnt/home/`,
	}, {
		name: "RAID levels",
		data: evaluate(t, set{
			"disk": set{"a": members(set{"bios": set{"size": "1M", "type": "EF02"}}), "b": members(nil), "c": members(nil), "d": members(set{"spare": part("10M", nil)})},
			"mdadm": set{"r0": level(0, set{"type": "swap"}), "r1": with(level(1, fs("ext4", "/")), set{"metadata": "1.0"}), "r4": level(4, fs("ext4", "/4")),
				"r5": level(5, fs("ext4", "/5")), "r6": level(6, luks("six", fs("ext4", "/6"), set{"passwordFile": "/tmp/a password"})), "r10": level(10, fs("vfat", "/10"))},
		}),
		remove: "umount /mnt/10; wipefs --all /dev/md/r10", gone: `^/dev/md/r10 |/mnt/10/`,
	}, {
		name: "LVM of many",
		data: evaluate(t, set{
			"disk": set{"a": gpt(set{"1": part("300M", pv("six")), "2": part("300M", pv("six")), "3": part("300M", pv("six")), "4": part("300M", pv("six")), "5": part("300M", pv("six"))}), "b": set{"content": pv("whole")}},
			"lvm_vg": set{
				"six":   set{"lvs": set{"r6": set{"size": "100M", "lvm_type": "raid6", "content": fs("ext4", "/")}, "r1": set{"size": "64M", "lvm_type": "raid1", "content": nil}}},
				"whole": set{"lvs": set{"pool": set{"size": "50%FREE", "lvm_type": "thin-pool"}, "thin": set{"size": "20G", "lvm_type": "thinlv", "pool": "pool", "content": fs("ext4", "/thin")}, "plain": set{"size": "64M", "content": set{"type": "swap"}}}},
			}}),
		removeClosed: "vgchange --quiet --activate y whole; lvremove --yes whole/thin; vgchange --quiet --activate n whole", gone: `whole-thin |whole thin |/mnt/thin/`,
	}, {
		name: "whole disks",
		data: evaluate(t, set{"disk": set{
			"a": set{"content": fs("ext4", "/")}, "b": set{"content": set{"type": "swap", "discardPolicy": "both", "priority": 10}},
			"c": set{"content": luks("whole", set{"type": "btrfs", "mountpoint": "/b", "mountOptions": []string{"noatime"}, "swap": set{"f": set{"path": "f", "size": "32M", "priority": 1}}}, set{"settings": set{"keyFile": "/tmp/key", "keyFileSize": 512, "keyFileOffset": 100}})},
			"d": set{"content": set{"type": "table", "format": "msdos", "partitions": []any{
				set{"name": "a", "part-type": "primary", "start": "1M", "end": "100M", "bootable": true, "fs-type": "fat32", "content": fs("vfat", "/boot")},
				set{"name": "b", "part-type": "primary", "start": "100M", "end": "50%", "content": fs("ext4", "/d")},
				set{"name": "c", "part-type": "primary", "start": "50%", "end": "100%", "content": nil}}}}}}),
		removeClosed: "parted -s /dev/vdd rm 2; wipefs --all /dev/vdb", gone: `^/dev/vdd2 |^/dev/vdb |swap /dev/vdb|/mnt/d/`,
	}, {
		name: "odd partitions",
		data: evaluate(t, set{"disk": set{"x": gpt(set{
			"umläut größe": set{"size": "64M", "label": "grün_#+-.=@", "content": fs("ext4", "/")},
			"sectors":      set{"size": "100M", "start": "4194304s", "end": "4399103s", "alignment": 1, "attributes": []int{2, 63}},
			"fixed":        set{"size": "64M", "uuid": "5E2B7B9C-6B5E-4F0F-8A44-0C7D1A2B3C4D", "type": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "content": fs("vfat", "/boot")},
			"aligned":      set{"size": "64M", "alignment": 65536, "content": set{"type": "swap", "randomEncryption": true}},
			"from the end": set{"size": "64M", "label": "from_the_end", "start": "-64M", "end": "-0", "priority": 5000, "content": set{"type": "swap", "discardPolicy": "pages", "resumeDevice": true}},
		})}}),
		removeClosed: "sgdisk --delete=2 /dev/vda", gone: `^/dev/vda2 |/mnt/boot/`,
	}}
	hook := func(s set, name string) set {
		for _, when := range []string{"preCreate", "postCreate", "preMount", "postMount", "preUnmount", "postUnmount"} {
			s[when+"Hook"] = fmt.Sprintf(`echo "%s %s $device $mountpoint" >>/run/hooks`, name, when)
		}
		return s
	}
	list = append(list, layout{
		name:         "hooks",
		data:         evaluate(t, set{"disk": set{"a": gpt(set{"root": part("100%", hook(fs("ext4", "/"), "root")), "boot": part("64M", hook(fs("vfat", "/boot"), "boot"))})}}),
		removeClosed: "rm -f /run/hooks; wipefs --all /dev/vda1", gone: `^/dev/vda1 |/mnt/boot/`,
		ends: `[ "$(cat /run/hooks)" = "boot preCreate /dev/vda1 /boot
boot postCreate /dev/vda1 /boot
root preMount /dev/vda2 /
root postMount /dev/vda2 /
boot preMount /dev/vda1 /boot
boot postMount /dev/vda1 /boot
boot preUnmount /dev/vda1 /boot
root preUnmount /dev/vda2 /
boot postUnmount /dev/vda1 /boot
root postUnmount /dev/vda2 /" ] || { cat /run/hooks >&2; false; }`,
	}, layout{
		name: "NVMe, SATA, sectors of 4096 bytes",
		data: evaluate(t, set{"disk": set{
			"n": with(gpt(set{"boot": with(part("64M", fs("vfat", "/boot")), set{"type": "EF00"}), "root": part("100%", fs("ext4", "/"))}), set{"device": "/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_NVME"}),
			"s": with(set{"content": set{"type": "table", "format": "gpt", "partitions": []any{
				set{"name": "one", "part-type": "primary", "start": "1MiB", "end": "-1GiB", "content": fs("xfs", "/srv")},
				set{"name": "two", "part-type": "primary", "start": "-1GiB", "end": "100%", "flags": []string{"swap"}, "content": set{"type": "swap"}}}}}, set{"device": "/dev/sda"}),
			"k": with(gpt(set{"e": part("64M", fs("vfat", "/k")), "x": part("400M", fs("xfs", "/x")), "l": part("100%", luks("k", set{"type": "swap"}, set{"passwordFile": "/tmp/p"}))}), set{"device": "/dev/vdf"}),
		}}),
		removeClosed: "sgdisk --delete=1 /dev/nvme0n1; parted -s /dev/sda rm 1; sgdisk --delete=1 /dev/vdf", gone: `^/dev/(nvme0n1p1|sda1|vdf1) |/mnt/(boot|srv|k)/`,
	})
	return list
}

// removals are what is taken away from layouts of the folders.
var removals = map[string]layout{
	"layouts/efi":          {removeClosed: "wipefs --all /dev/vda1", gone: `^/dev/vda1 |/mnt/boot/`},
	"layouts/btrfs-raid":   {removeClosed: "wipefs --all /dev/vda1", gone: `^/dev/vda1 |/mnt/boot/`},
	"layouts/btrfs":        {remove: "swapoff /mnt/.swap/one; rm /mnt/.swap/one; btrfs subvolume delete /mnt/home/me", gone: `^swap /mnt/.swap/one|path (home/)?me$`},
	"layouts/gpt":          {removeClosed: "sgdisk --delete=7 /dev/vda", gone: `^/dev/vda7 |/mnt/win dows/`},
	"layouts/hooks":        {remove: "swapoff /dev/vg/swap; wipefs --all /dev/vg/swap", gone: `vg-swap `},
	"layouts/hybrid":       {removeClosed: "wipefs --all /dev/vda2", gone: `^/dev/vda2 |/mnt/user data`},
	"layouts/luks":         {removeClosed: "wipefs --all /dev/vda2", gone: `^/dev/vda2 |crypted|/mnt/user data`},
	"layouts/luks-options": {removeClosed: "sgdisk --delete=4 /dev/vda", gone: `^/dev/vda4 |/dev/mapper/old `},
	"layouts/lvm":          {removeClosed: "vgchange --quiet --activate y fast.1; lvremove --yes fast.1/mirrored; vgchange --quiet --activate n fast.1", gone: `mirrored|/mnt/m/`},
	"layouts/mdadm":        {remove: "umount /mnt/boot; wipefs --all /dev/md/boot", gone: `^/dev/md/boot |/mnt/boot/`},
	"layouts/parted":       {removeClosed: "parted -s /dev/vdb rm 2", gone: `/dev/vdb2 `},
	"layouts/swap":         {removeClosed: "wipefs --all /dev/vda4", gone: `/dev/vda4 `},
	"layouts/tmpfs-root": {before: "mkfs.ext4 -q /dev/vda; mount /dev/vda /tmp; echo kept >/tmp/kept; umount /tmp",
		holds: "[ $(cat /mnt/data/kept) = kept ]", removeClosed: "wipefs --all /dev/vdb1", gone: `^/dev/vdb1 |/mnt/boot/`},
}
