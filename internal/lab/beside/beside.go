// Package beside compares the disks that our plans make with those that disko's own scripts make of the same layouts,
// in the same virtual machine: as lsblk, blkid, findmnt and swapon show them. What disko's scripts made is recorded in
// results; TestDiskoByHand records it, given disko's source.
package beside

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"

	"provision/internal/lab"
)

// NewDisks makes blank disks for the layout called name, in the folder dir: of the sizes that its results were recorded
// with. The machine is to have them on virtio, where Nodes are their names; they become the layout's disks in byte order
// of their names there.
func NewDisks(dir, name string) ([]lab.Disk, error) {
	var disks []lab.Disk
	for i := range Nodes() {
		disk, err := lab.NewDisk(fmt.Sprintf("%s/disk%d.raw", dir, i), DiskSize(name), fmt.Sprintf("BESIDE%d", i))
		if err != nil {
			return nil, err
		}
		disks = append(disks, disk)
	}
	return disks, nil
}

// DiskSize is the size of each disk in bytes.
func DiskSize(name string) int64 {
	if slices.Contains([]string{"layouts/lvm", "layouts/mdadm", "layouts/parted"}, name) {
		return 256 << 30
	}
	return 16 << 30 // formatting more of it under LUKS takes an emulated machine minutes
}

// Nodes are the names of the machine's disks.
func Nodes() []string { return []string{"/dev/vda", "/dev/vdb", "/dev/vdc", "/dev/vdd"} }

// leftOut are layouts of which there is no record, by why.
var leftOut = map[string]string{
	"ZFS is not in Debian's main archive": "examples/complex examples/non-root-zfs examples/zfs examples/zfs-encrypted-root " +
		"examples/zfs-over-legacy examples/zfs-with-vdevs layouts/hooks-pools layouts/zfs",
	"Debian's kernel has no bcachefs":                                                "examples/bcachefs layouts/bcachefs",
	"it has enrollFido2, which is newer than this disko":                             "layouts/luks-options",
	"disko cannot evaluate a disk with nothing on it":                                "layouts/tmpfs-root",
	"disko makes a btrfs before the LUKS device of another disk that is to be in it": "layouts/btrfs-raid",
	"disko's line for a hybrid MBR lacks a space, and then no partition is left":     "layouts/gpt",
}

// LeftOut says why there can be no record of a layout, or nothing.
func LeftOut(name string) string {
	for reason, names := range leftOut {
		if slices.Contains(strings.Fields(names), name) {
			return reason
		}
	}
	return ""
}

// results holds a file for each layout, as TestDiskoByHand writes them.
//
//go:embed results
var results embed.FS

// Recorded returns what disko's script made of the layout called name ("examples/mdadm" is disko's, "layouts/mdadm"
// and "presets/ext4" are ours), or nil if there is no record of it.
func Recorded(name string) (Tables, error) {
	data, err := results.ReadFile("results/" + name + ".json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var t Tables
	if err := json.Unmarshal(data, &t); err != nil {
		return nil, fmt.Errorf("read the results of %s: %w", name, err)
	}
	return t, nil
}

// Compare returns the differences between what disko's script made of a layout, as recorded, and ours: those that are
// not explained, and the explanations of nothing. It normalises ours.
func Compare(name string, ours Tables) ([]string, error) {
	disko, err := Recorded(name)
	if err != nil {
		return nil, err
	}
	if disko == nil {
		return nil, fmt.Errorf("there is no record of %s; BESIDE=write make beside makes one", name)
	}
	return compare(name, disko, ours), nil
}

// compare is Compare with what disko's script made, normalised.
func compare(name string, disko, ours Tables) []string {
	asked := map[string]bool{}
	disko.walk(func(table, thing, property string) { asked[disko[table][thing][property]] = true })
	ours.Normalise(func(uuid string) bool { return asked[uuid] })
	ours.alignVersions(disko)
	return explain(name, diff(disko, ours), differences)
}

// diff returns a line for each thing that only one side has, and for each property that is not the same on both.
func diff(disko, ours Tables) []string {
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	for _, table := range keys(disko, ours) {
		for _, thing := range keys(disko[table], ours[table]) {
			theirs, own := disko[table][thing], ours[table][thing]
			switch {
			case theirs == nil:
				say("%s %s: only ours", table, thing)
				continue
			case own == nil:
				say("%s %s: only disko's", table, thing)
				continue
			}
			for _, property := range keys(theirs, own) {
				if theirs[property] != own[property] {
					say("%s %s %s: disko %q, ours %q", table, thing, property, theirs[property], own[property])
				}
			}
		}
	}
	return lines
}

// keys returns those of both maps, sorted.
func keys[T any](a, b map[string]T) []string {
	both := map[string]T{}
	maps.Copy(both, a)
	maps.Copy(both, b)
	return slices.Sorted(maps.Keys(both))
}

// A difference is one between disko's scripts and our plans, in these layouts.
type difference struct {
	layouts, reason string
	line            *regexp.Regexp
}

// explain returns the lines that no difference explains, and the differences that explain none.
func explain(name string, lines []string, differences []difference) []string {
	used := map[int]bool{}
	var left []string
	for _, line := range lines {
		i := slices.IndexFunc(differences, func(d difference) bool {
			return d.line.MatchString(line) && slices.Contains(strings.Fields(d.layouts), name)
		})
		if used[i] = true; i < 0 {
			left = append(left, line)
		}
	}
	for i, d := range differences {
		if !used[i] && slices.Contains(strings.Fields(d.layouts), name) {
			left = append(left, "listed, and not there: "+d.reason)
		}
	}
	return left
}

var differences = []difference{
	{"layouts/btrfs layouts/hooks layouts/lvm layouts/parted layouts/swap examples/btrfs-subvolumes examples/luks-btrfs-subvolumes examples/swap presets/luks-lvm",
		"disko's mount script loses swap since its commit 0597c92; a large build may need it",
		regexp.MustCompile(`^swaps .*: only ours$|^lsblk .* mountpoints: disko "", ours "\[SWAP\]"$`)},
	{"presets/mirror-btrfs", "disko mounts by link; lsblk finds the mounts of a btrfs on two devices by the name that the kernel was told last, which may be that",
		regexp.MustCompile(`^lsblk vdb/vdb2 (fsroots|mountpoints): disko "(/mnt)?/nix", `)},
	{"examples/multi-device-no-deps", "the example has no root and is refused; the test adds one", regexp.MustCompile(`^mounts /mnt: only ours$`)},
}
