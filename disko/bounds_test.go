package disko

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// volumes is a layout with volumes on one disk, in byte order of their names. Each is "SIZE", "SIZE KIND" or
// "SIZE KIND PRIORITY".
func volumes(t testing.TB, list map[string]string) []byte {
	t.Helper()
	lvs := object{}
	for name, text := range list {
		words := append(strings.Fields(text), "", "", "")
		lv := object{"name": name, "size": words[0], "lvm_type": nil, "pool": nil, "priority": 1000, "extraArgs": []any{}, "content": nil}
		if words[1] != "" && words[1] != "-" {
			lv["lvm_type"] = words[1]
		}
		if words[1] == "thinlv" {
			lv["pool"] = words[2]
		} else if words[2] != "" {
			lv["priority"], _ = strconv.Atoi(words[2])
		}
		lvs[name] = lv
	}
	return encode(t, object{
		"disk": object{"main": object{"type": "disk", "device": "/dev/sda", "destroy": true,
			"content": object{"type": "lvm_pv", "device": "/dev/sda", "vg": "pool"}}},
		"lvm_vg": object{"pool": object{"type": "lvm_vg", "name": "pool", "lvs": lvs}},
		"nodev":  object{"/": object{"type": "nodev", "fsType": "tmpfs", "device": "tmpfs", "mountpoint": "/", "mountOptions": []any{}}},
	})
}

// oneDisk is a machine with a blank disk of some MiB.
func oneDisk(size int64) *Facts {
	return &Facts{BlockDevices: []BlockDevice{{Path: "/dev/sda", Name: "sda", Type: "disk", Size: lenientNumber(size * mib), SectorSize: 512}}}
}

// TestVolumesThatNeverFit are found without a machine, where no machine could have room.
func TestVolumesThatNeverFit(t *testing.T) {
	for name, c := range map[string]struct {
		volumes map[string]string
		want    string // of the only problem; empty: none
	}{
		"all before another":     {map[string]string{"a": "100%FREE", "b": "1G"}, "lvs.b.size: 1G takes 1 GiB, and only 0 B are left in the volume group after a; volumes of lower priority"},
		"all of two":             {map[string]string{"a": "100%FREE", "b": "100%FREE"}, "lvs.b.size: 100%FREE takes 4 MiB, and only 0 B"},
		"all of the group":       {map[string]string{"a": "100%VG", "b": "5%VG"}, "lvs.b.size: 5%VG takes"},
		"more than all":          {map[string]string{"a": "+130%FREE", "b": "5%FREE"}, "lvs.b.size: 5%FREE takes"},
		"by priority":            {map[string]string{"a": "1G - 2000", "b": "100%FREE"}, "lvs.a.size: 1G takes"},
		"all, and last":          {map[string]string{"a": "100%FREE - 2000", "b": "1G"}, ""},
		"a half, twice":          {map[string]string{"a": "50%VG", "b": "50%VG"}, ""},
		"shares of what is left": {map[string]string{"a": "90%FREE", "b": "90%FREE", "c": "10G"}, ""},
		"thin ones take nothing": {map[string]string{"a": "100%FREE thin-pool", "b": "900T thinlv a"}, ""},
		"a mirror leaves some":   {map[string]string{"a": "100%FREE raid1", "b": "1G"}, ""}, // where its disks are not of one size
	} {
		_, err := Parse(volumes(t, c.volumes))
		if c.want == "" && err == nil {
			continue
		}
		if err == nil || !strings.HasPrefix(err.Error(), "lvm_vg.pool."+c.want) || c.want == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// volumesOnADisk are made on a disk with room for 250 extents of 4 MiB.
var volumesOnADisk = map[string]struct {
	volumes map[string]string
	sizes   string // in extents, or the beginning of the problem
}{
	"fixed":                     {map[string]string{"a": "500M", "b": "500MiB"}, "125 125"},
	"fixed, too large":          {map[string]string{"a": "500M", "b": "501M"}, "lvs.b.size: 501M takes 504 MiB, and only 500 MiB are left in the volume group after a"},
	"fractions":                 {map[string]string{"a": ".5g", "b": "1.5M", "c": "+10mb"}, "128 1 3"},
	"free":                      {map[string]string{"a": "50%FREE", "b": "50%FREE", "c": "100%free"}, "125 62 63"},
	"group":                     {map[string]string{"a": "33%VG", "b": "33%vg", "c": "100%F"}, "82 82 86"},
	"reduced to the rest":       {map[string]string{"a": "60%VG", "b": "60%VG"}, "150 100"},
	"all members are the group": {map[string]string{"a": "100M", "b": "50%PVS"}, "25 125"},
	"less than an extent":       {map[string]string{"a": "995M", "b": "10%FREE"}, "lvs.b.size: 10%FREE takes 4 MiB"},
	"behind a share":            {map[string]string{"a": "80%FREE", "b": "250M"}, "lvs.b.size: 250M takes 252 MiB, and only 200 MiB"},
	"mirrored":                  {map[string]string{"a": "501M raid1"}, "lvs.a.size: 501M takes 1008 MiB"},
	"behind a pool":             {map[string]string{"a": "100%FREE thin-pool", "b": "500M"}, "lvs.b.size: 500M takes 500 MiB"},
}

// TestVolumesOnADisk: what does not fit is found with the machine, before anything is done.
func TestVolumesOnADisk(t *testing.T) {
	for name, c := range volumesOnADisk {
		l := mustParse(t, volumes(t, c.volumes))
		p, err := NewPlan(l, oneDisk(1004), Options{})
		if err != nil {
			if !strings.HasPrefix(err.Error(), "lvm_vg.pool."+c.sizes) || c.sizes[0] != 'l' {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		var sizes []string
		for _, s := range p.Made[0].Children {
			sizes = append(sizes, fmt.Sprint(s.Size/extentSize))
		}
		if got := strings.Join(sizes, " "); got != c.sizes {
			t.Errorf("%s: the picture has volumes of %s extents, want %s", name, got, c.sizes)
		}
	}
}

// TestRAIDOnSmallVolumes: the tools make a GPT whose one partition runs to its end on a RAID 1 of volumes of 30M, which
// LVM makes 32 MiB large.
func TestRAIDOnSmallVolumes(t *testing.T) {
	layout := decode(t, volumes(t, map[string]string{"a": "30M", "b": "30M"})).(object)
	lvs := layout["lvm_vg"].(object)["pool"].(object)["lvs"].(object)
	for name, lv := range lvs {
		lv.(object)["content"] = object{"type": "mdraid", "device": "/dev/pool/" + name, "name": "small"}
	}
	table := func(format string) object {
		p := part("small", "only", object{})
		p["content"] = object{"type": "filesystem", "device": p["device"], "format": format}
		p["end"] = "-0"
		return object{"type": "gpt", "device": "/dev/md/small", "efiGptPartitionFirst": true, "partitions": object{"only": p}}
	}
	for format, want := range map[string]string{"ext4": "", "vfat": "", "xfs": "mdadm.small: /dev/md/small (32 MiB) is too small"} {
		layout["mdadm"] = object{"small": object{"type": "mdadm", "name": "small", "level": 1, "content": table(format)}}
		l, err := Parse(encode(t, layout))
		if err == nil {
			_, err = NewPlan(l, oneDisk(1004), Options{})
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", format, err, want)
		}
	}
}

// TestNeverFits: a swap file or a pool's volumes may be larger than what they are to be on.
func TestNeverFits(t *testing.T) {
	const file = "disk.main.content.partitions.root.content.swap.a.size"
	for name, c := range map[string]struct {
		layout  string
		changes map[string]any
		want    string
	}{
		"swap file":     {"btrfs", map[string]any{file: "300G"}, "disk.main.device: "},
		"pool's volume": {"zfs", map[string]any{"zpool.tank.datasets.raw.size": "9T"}, "zpool.tank.datasets.raw.size: the volumes up to this one take 9 TiB"},
		"sparse volume": {"zfs", map[string]any{"zpool.tank.datasets.sys/swap.size": "900T"}, ""},
	} {
		l := mustParse(t, edit(t, readFile(t, "layouts/"+c.layout+".json"), c.changes))
		_, err := NewPlan(l, blank(t, l), Options{})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasPrefix(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestVolumeSizes(t *testing.T) {
	for _, size := range []string{"100%FREE", "+100%FREE", "100%", "20%VG", "5%pvs", "1000%VG", "10G", "+10g", "1.5T", ".5GiB", "512Mi", "4096", "100b", "64S"} {
		if _, err := Parse(volumes(t, map[string]string{"a": size})); err != nil {
			t.Errorf("%s: %v", size, err)
		}
	}
	for _, size := range []string{"", "0", "0M", "0%FREE", "-10G", "33.3%FREE", "100%LV", "10X", "G", "%", ".", "+", "10GiBs", "100%FREE;"} {
		if _, err := Parse(volumes(t, map[string]string{"a": size})); err == nil || !strings.HasPrefix(err.Error(), "lvm_vg.pool.lvs.a.size: ") {
			t.Errorf("%q: %v", size, err)
		}
	}
}

// TestVolumesLikeLVM makes the volumes with lvm on a loop device, as far as it goes without device mapper.
func TestVolumesLikeLVM(t *testing.T) {
	lvm, err := exec.LookPath("lvm")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("it needs root and lvm (apt-get install lvm2)")
	}
	file := filepath.Join(t.TempDir(), "disk")
	sparse(t, file, 1004*mib)
	out, err := exec.Command("losetup", "--find", "--show", file).Output()
	if err != nil {
		t.Skipf("no loop device: %v", err)
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if err := exec.Command("losetup", "--detach", loop).Run(); err != nil {
			t.Error(err)
		}
	})
	settings := fmt.Sprintf(`activation{udev_sync=0 udev_rules=0 monitoring=0} global{locking_dir=%q} backup{backup=0 archive=0}`, t.TempDir())
	t.Setenv("LVM_SYSTEM_DIR", t.TempDir())
	run := func(argv ...string) (string, error) {
		cmd := exec.Command(lvm, append(argv, "--devices", loop, "--driverloaded", "n", "--config", settings)...)
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	must := func(argv ...string) string {
		t.Helper()
		out, err := run(argv...)
		if err != nil {
			t.Fatalf("%q: %v", argv, err)
		}
		return out
	}
	const group = "provisiontest"
	for name, c := range volumesOnADisk {
		if strings.Contains(fmt.Sprint(c.volumes), "raid1") || strings.Contains(fmt.Sprint(c.volumes), "thin") {
			continue // device mapper has to know these
		}
		l := mustParse(t, volumes(t, c.volumes))
		i := slices.IndexFunc(l.devices, func(d *topDevice) bool { _, ok := d.body.(*volumeGroup); return ok })
		must("pvcreate", "-ff", "--yes", loop)
		must("vgcreate", group, loop)
		var sizes []string
		for _, v := range l.devices[i].body.(*volumeGroup).volumes {
			if _, err := run(append(v.lvcreate(group), "-an", "-Zn", "-Wn")...); err != nil {
				sizes = []string{"lvs." + v.name + ".size: "}
				break
			}
			size := must("lvs", "--noheadings", "--nosuffix", "--units", "m", "-o", "lv_size", group+"/"+v.name)
			extents, err := strconv.ParseFloat(size, 64)
			if err != nil {
				t.Fatal(err)
			}
			sizes = append(sizes, fmt.Sprint(extents/4))
		}
		if got := strings.Join(sizes, " "); !strings.HasPrefix(c.sizes, got) {
			t.Errorf("%s: lvm makes %s, we plan %s", name, got, c.sizes)
		}
		must("vgremove", "-ff", "--yes", group)
	}
}

// sparse makes a file of zeros.
func sparse(t *testing.T, name string, size int64) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

// TestLeastLikeTheTools looks for the smallest file that each tool takes: none is below what a layout may have.
func TestLeastLikeTheTools(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	weak := []string{"--key-file", secret, "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}
	for _, c := range []struct {
		content deviceContent
		argv    []string // the file comes last
	}{
		{&filesystem{format: "vfat"}, []string{"mkfs.vfat"}},
		{&filesystem{format: "vfat", args: []string{"-F", "32"}}, []string{"mkfs.vfat", "-F", "32"}},
		{&filesystem{format: "ext2"}, []string{"mkfs.ext2", "-F"}},
		{&filesystem{format: "ext4"}, []string{"mkfs.ext4", "-F"}},
		{&filesystem{format: "xfs", args: []string{"-f"}}, []string{"mkfs.xfs", "-f"}},
		{&filesystem{format: "f2fs"}, []string{"mkfs.f2fs", "-f"}},
		{&btrfs{args: []string{"-f", "-L", "root"}}, []string{"mkfs.btrfs", "-f", "-L", "root"}},
		{&btrfs{args: []string{"-f", "--mixed"}}, []string{"mkfs.btrfs", "-f", "--mixed"}},
		{&btrfs{args: []string{"-m", "single"}}, []string{"mkfs.btrfs", "-f", "-m", "single"}},
		{&swapArea{}, []string{"mkswap"}},
		{&luks{}, slices.Concat([]string{"cryptsetup", "-q", "luksFormat"}, weak)},
		{&luks{formatArgs: []string{"--type", "luks1"}}, slices.Concat([]string{"cryptsetup", "-q", "luksFormat", "--type", "luks1"}, weak)},
		{&luks{formatArgs: []string{"--offset", "2048"}}, slices.Concat([]string{"cryptsetup", "-q", "luksFormat", "--offset", "2048"}, weak)},
	} {
		if _, err := exec.LookPath(c.argv[0]); err != nil {
			t.Logf("%s is not installed", c.argv[0])
			continue
		}
		least := c.content.minimum()
		for size := least - 4096; size > 0 && size >= least/2; size -= max(4096, least/8) {
			file := filepath.Join(t.TempDir(), "disk")
			sparse(t, file, size)
			out, err := exec.Command(c.argv[0], append(c.argv[1:len(c.argv):len(c.argv)], file)...).CombinedOutput()
			if err == nil && !strings.Contains(string(out), "too small for activation") { // to open it fails then
				t.Errorf("%q takes %d bytes, and a layout needs %d", c.argv, size, least)
			}
		}
	}
}

// TestLongestInMBR: an MBR counts a partition's sectors in 32 bits.
func TestLongestInMBR(t *testing.T) {
	l := mustParse(t, encode(t, object{"disk": object{"main": object{"type": "disk", "device": "/dev/sda", "destroy": true,
		"content": object{"type": "table", "device": "/dev/sda", "format": "msdos", "partitions": []any{
			object{"part-type": "primary", "start": "1MiB", "end": "100%", "name": "root",
				"content": object{"type": "filesystem", "device": "/dev/sda1", "format": "ext4", "mountpoint": "/"}}}}}}}))
	if _, err := NewPlan(l, oneDisk(2<<20), Options{}); err != nil {
		t.Error(err)
	}
	_, err := NewPlan(l, oneDisk(3<<20), Options{})
	wantProblems(t, err, "disk.main.content.partitions[0]: from 1MiB to 100% is 3 TiB, and a partition in an MBR has 2 TiB at most; use gpt")
}
