package layouts

import (
	"maps"
	"strings"
	"testing"

	"provision/disko"
)

// foreign makes a layout beside another system, which stays byte for byte where it is.
func foreign(t *testing.T, m *machine) {
	l := layout{data: evaluate(t, set{"disk": set{"main": gpt(set{
		"boot": with(part("64M", fs("vfat", "/boot")), set{"type": "EF00"}), "root": part("100%", fs("ext4", "/"))})}})}
	m.wipe(t)
	m.sh(t, `set -e
sgdisk --clear --new=5:1G:+128M --typecode=5:0700 --change-name=5:"Basic data partition" --attributes=5:set:63 \
	--new=1:0:+16M --typecode=1:0C01 --change-name=1:"Microsoft reserved partition" /dev/vda
partprobe /dev/vda; udevadm settle
mkfs.ntfs --quiet --fast --label Windows /dev/vda5
mount -t ntfs /dev/vda5 /tmp; seq 10000 >/tmp/pagefile.sys; umount /tmp
head -c 16M /dev/urandom >/dev/vda1`)
	look := func() string {
		return m.sh(t, `set -e
udevadm settle
lsblk --noheadings --list --output NAME,START,SIZE,PTUUID,PARTTYPE,PARTUUID,PARTLABEL,PARTFLAGS,FSTYPE,LABEL,UUID /dev/vda1 /dev/vda5
sha256sum /dev/vda1 /dev/vda5`)
	}
	was := look()
	for _, do := range []string{"", "sgdisk --delete=2 /dev/vda", "wipefs --all /dev/vda3"} {
		if do != "" {
			m.sh(t, do+"; udevadm settle")
		}
		l.make(t, m, disko.Format)
		m.sh(t, writeFiles)
		m.closed(t)
		if is := look(); is != was {
			t.Errorf("after %q the other system is\n%s\nand was\n%s", do, is, was)
		}
	}
}

// differing formats disks on which something is not as the layout says. That is an error, and changes nothing.
func differing(t *testing.T, m *machine) {
	base := func(change func(disks, all set)) []byte {
		a := set{
			"boot": with(part("64M", fs("vfat", "/boot")), set{"type": "EF00"}), "root": part("200M", fs("ext4", "/")), "swap": part("64M", set{"type": "swap"}),
			"crypt": part("100M", luks("c", fs("ext4", "/c"), set{"passwordFile": "/tmp/p"})), "pv": part("300M", pv("vg")), "r": part("80M", raid("r")),
		}
		all := set{
			"disk":   set{"a": gpt(a), "b": gpt(set{"r": part("80M", raid("r")), "b": part("1G", set{"type": "btrfs", "mountpoint": "/b", "mountOptions": []string{}})})},
			"mdadm":  set{"r": set{"level": 1, "metadata": "1.0", "content": fs("ext4", "/r")}},
			"lvm_vg": set{"vg": set{"lvs": set{"x": set{"size": "64M", "content": fs("ext4", "/x")}}}},
		}
		change(a, all)
		return evaluate(t, all)
	}
	l := layout{data: base(func(_, _ set) {})}
	m.wipe(t)
	l.make(t, m, disko.Fresh)
	m.sh(t, writeData)
	made := m.snapshot(t)
	closed := m.closed(t)
	part := func(parts set, name string) set { return parts[name].(set) }
	for want, change := range map[string]func(parts, all set){
		"holds ext4, and the layout has f2fs": func(p, _ set) { part(p, "root")["content"] = fs("f2fs", "/") },
		"holds swap, and the layout has ext4": func(p, _ set) { part(p, "swap")["content"] = fs("ext4", "/s") },
		"has 64 MiB instead of 80 MiB":        func(p, _ set) { part(p, "boot")["size"] = "80M" },
		"the type of /dev/vda":                func(p, _ set) { part(p, "boot")["type"] = "8300" },
		"attributes of /dev/vda":              func(p, _ set) { part(p, "boot")["attributes"] = []int{2} },
		"the uuid of /dev/vda":                func(p, _ set) { part(p, "boot")["uuid"] = "5E2B7B9C-6B5E-4F0F-8A44-0C7D1A2B3C4D" },
		"holds crypto_LUKS":                   func(p, _ set) { part(p, "crypt")["content"] = fs("ext4", "/c") },
		"the layout has crypto_LUKS":          func(p, _ set) { part(p, "root")["content"] = luks("d", fs("ext4", "/"), set{"passwordFile": "/tmp/p"}) },
		"mdadm.r.level":                       func(_, all set) { all["mdadm"].(set)["r"].(set)["level"] = 0 },
		"mdadm.r.metadata":                    func(_, all set) { all["mdadm"].(set)["r"].(set)["metadata"] = "1.2" },
		"lvm_vg.vg.lvs.x":                     func(_, all set) { all["lvm_vg"].(set)["vg"].(set)["lvs"].(set)["x"].(set)["size"] = "100M" },
		"No key available":                    func(p, _ set) { part(p, "crypt")["content"].(set)["settings"] = set{"keyFile": "/tmp/other"} },
	} {
		d := m.tool(t, base(change), disko.Format)
		if _, err := d.Make(m.ctx); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
		check(t, d.Close(m.ctx))
	}
	// libblkid names nothing where it finds two signatures; it is not empty.
	const root, magic = "/dev/disk/by-partlabel/disk-a-root", " bs=1 seek=4086 conv=notrunc,fsync status=none"
	m.sh(t, "printf SWAPSPACE2 | dd of="+root+magic)
	d := m.tool(t, l.data, disko.Format)
	if _, err := d.Make(m.ctx); err == nil || !strings.Contains(err.Error(), "signatures of several things") {
		t.Errorf("an ext4 with a signature of swap: %v", err)
	}
	check(t, d.Close(m.ctx))
	m.sh(t, "head -c 10 /dev/zero | dd of="+root+magic)
	l.make(t, m, disko.Mount)
	m.same(t, "after all that differed", made, nil)
	if again := m.closed(t); !maps.Equal(again, closed) {
		t.Error("a partition table has changed")
	}
}
