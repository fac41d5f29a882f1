package beside

import (
	"encoding/json"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// answers are what a machine prints that has a RAID on two disks, with a file system on it.
var answers = map[string]string{
	"lsblk": `{"blockdevices": [
		{"name":"vda", "size":16, "ro":false, "uuid":"aaaa", "fstype":"linux_raid_member", "mountpoints":[null], "children": [
			{"name":"md127", "size":8, "ro":false, "uuid":"bbbb", "fstype":"ext4", "mountpoints":["/mnt/b","/mnt"]}]},
		{"name":"vdb", "size":16, "ro":true, "uuid":"aaaa", "fstype":"linux_raid_member", "mountpoints":[null], "children": [
			{"name":"md127", "size":8, "ro":false, "uuid":"bbbb", "fstype":"ext4", "mountpoints":["/mnt","/mnt/b"]}]}]}`,
	"blkid":    "DEVNAME=/dev/vda\nUUID=aaaa\nUUID_SUB=cccc\nTYPE=linux_raid_member\n\nDEVNAME=/dev/md127\nLABEL=a\\ b\nUUID=bbbb\n",
	"findmnt":  `{"filesystems": [{"target":"/","fstype":"rootfs"},{"target":"/mnt2","fstype":"tmpfs"},{"target":"/mnt","source":"/dev/disk/by-id/raid","fstype":"ext4"},{"target":"/mnt","source":"tmpfs","fstype":"tmpfs","size":1}]}`,
	"readlink": "/dev/md127",
	"swapon":   "/mnt/swap file 1024 -2\n",
}

// read reads answers, of which some are changed.
func read(t *testing.T, changed map[string]string) (Tables, error) {
	t.Helper()
	now := maps.Clone(answers)
	maps.Copy(now, changed)
	return Read(func(command string) (string, error) {
		for _, word := range strings.Fields(command) {
			if out, ok := now[word]; ok {
				return out, nil
			}
		}
		t.Fatalf("unexpected command %s", command)
		return "", nil
	})
}

func TestRead(t *testing.T) {
	got, err := read(t, nil)
	check(t, err)
	got.Normalise(func(uuid string) bool { return uuid == "cccc" })
	raid := map[string]string{"size": "8", "ro": "false", "fstype": "ext4", "mountpoints": "/mnt /mnt/b", "uuid": "as blkid /dev/md127 UUID"}
	want := Tables{
		"lsblk": {
			"vda":       {"size": "16", "ro": "false", "fstype": "linux_raid_member", "uuid": "as blkid /dev/vda UUID"},
			"vda/md127": raid,
			"vdb":       {"size": "16", "ro": "true", "fstype": "linux_raid_member", "uuid": "as blkid /dev/vda UUID"},
			"vdb/md127": raid,
		},
		"blkid": {
			"/dev/vda":   {"UUID": "random", "UUID_SUB": "cccc", "TYPE": "linux_raid_member"},
			"/dev/md127": {"UUID": "random", "LABEL": `a\ b`},
		},
		"mounts": {
			"/mnt":       {"source": "/dev/md127", "fstype": "ext4"},
			"/mnt again": {"source": "tmpfs", "fstype": "tmpfs"},
		},
		"swaps": {"/mnt/swap": {"type": "file", "size": "1024", "prio": "-2"}},
	}
	if lines := diff(want, got); lines != nil {
		t.Errorf("wanted (disko), and got (ours):\n%s", strings.Join(lines, "\n"))
	}
}

func TestReadRefuses(t *testing.T) {
	for command, out := range map[string]string{
		"lsblk": "no JSON", "blkid": "UUID=of no device\n", "findmnt": "no JSON", "swapon": "/dev/vda1 partition\n",
	} {
		if got, err := read(t, map[string]string{command: out}); err == nil {
			t.Errorf("%s printed %q: read as %v", command, out, got)
		}
	}
}

func TestDifferences(t *testing.T) {
	one, err := read(t, nil)
	check(t, err)
	// Another UUID is no difference, unless it was asked for.
	other, err := read(t, map[string]string{
		"blkid":   strings.ReplaceAll(strings.ReplaceAll(answers["blkid"], "bbbb", "dddd"), "cccc", "eeee"),
		"lsblk":   strings.ReplaceAll(answers["lsblk"], "bbbb", "dddd"),
		"findmnt": strings.ReplaceAll(answers["findmnt"], `"tmpfs"`, `"ramfs"`),
	})
	check(t, err)
	one.Normalise(func(uuid string) bool { return uuid == "cccc" })
	data, err := json.Marshal(one)
	check(t, err)
	known := []difference{
		{"x y", "another memory", regexp.MustCompile("^mounts /mnt again ")},
		{"x", "another disk", regexp.MustCompile("vdq")},
		{"y", "not here", regexp.MustCompile("UUID")},
	}
	check(t, json.Unmarshal(data, &one)) // as recorded
	other.Normalise(func(uuid string) bool { return uuid == "eeee" })
	got := explain("x", diff(one, other), known)
	want := []string{
		`blkid /dev/vda UUID_SUB: disko "cccc", ours "eeee"`,
		"listed, and not there: another disk",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// TestNewerKernel: what a newer kernel adds to a mount by itself is no difference, and what a layout asked for is one.
func TestNewerKernel(t *testing.T) {
	mount := func(fstype, options string) Tables {
		return Tables{"mounts": {"/mnt": {"fstype": fstype, "options": options}}}
	}
	for _, tt := range []struct {
		fstype, disko, ours string
		differ              bool
	}{
		{"btrfs", "rw,noatime,space_cache=v2", "rw,noatime,discard=async,space_cache=v2", false},
		{"btrfs", "rw,discard=async,space_cache=v2", "rw,discard=async,space_cache=v2", false},
		{"btrfs", "rw,discard=async,space_cache=v2", "rw,space_cache=v2", true},
		{"btrfs", "rw,noatime", "rw,discard=async", true},
		{"ext4", "rw", "rw,discard=async", true},
	} {
		lines := compare("layouts/none", mount(tt.fstype, tt.disko), mount(tt.fstype, tt.ours))
		if (lines != nil) != tt.differ {
			t.Errorf("%s of disko's kernel %s and of ours %s: %v", tt.fstype, tt.disko, tt.ours, lines)
		}
	}
}

// TestRecorded finds a record for every layout of ours and for every one that a difference is listed for, each whole.
func TestRecorded(t *testing.T) {
	files, err := fs.Glob(results, "results/*/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	names := map[string]bool{}
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(file, "results/"), ".json")
		names[name] = true
		record, err := Recorded(name)
		check(t, err)
		if len(record["lsblk"]) == 0 || len(record["blkid"]) == 0 || len(record["mounts"]) == 0 {
			t.Errorf("%s is not whole", file)
		}
	}
	files, err = filepath.Glob("../../../disko/testdata/layouts/*.json")
	check(t, err)
	presets, err := filepath.Glob("../../../disko/presets/*.json")
	check(t, err)
	for _, file := range slices.Concat(files, presets) {
		name := map[bool]string{true: "presets/", false: "layouts/"}[slices.Contains(presets, file)] + strings.TrimSuffix(filepath.Base(file), ".json")
		if names[name] == (LeftOut(name) != "") {
			t.Errorf("%s: a record: %v; why there is none: %q", name, names[name], LeftOut(name))
		}
	}
	for _, d := range differences {
		for _, name := range strings.Fields(d.layouts) {
			if !names[name] {
				t.Errorf("%s has a difference, and no record: %s", name, d.reason)
			}
		}
	}
	if _, err := Compare("examples/no-such", Tables{}); err == nil || !strings.Contains(err.Error(), "make beside") {
		t.Errorf("without a record: %v", err)
	}
}
