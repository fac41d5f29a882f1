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

// The machine that the results were recorded on: Disks virtio disks of DiskSize bytes, which the layouts' disks become
// in byte order of their names.
const (
	Disks    = 4
	DiskSize = 256 << 30
)

// NewDisks makes the blank disks of a machine for recorded layouts, in the folder dir.
func NewDisks(dir string) ([]lab.Disk, error) {
	var disks []lab.Disk
	for i := range Disks {
		disk, err := lab.NewDisk(fmt.Sprintf("%s/disk%d.raw", dir, i), DiskSize, fmt.Sprintf("BESIDE%d", i))
		if err != nil {
			return nil, err
		}
		disks = append(disks, disk)
	}
	return disks, nil
}

// Nodes are the names of the machine's disks.
func Nodes() []string { return []string{"/dev/vda", "/dev/vdb", "/dev/vdc", "/dev/vdd"} }

// Place gives a layout the machine's disks.
func Place(layout []byte) ([]byte, error) {
	var devices map[string]map[string]map[string]json.RawMessage
	if err := json.Unmarshal(layout, &devices); err != nil {
		return nil, fmt.Errorf("read a layout: %w", err)
	}
	for i, name := range slices.Sorted(maps.Keys(devices["disk"])) {
		node, err := json.Marshal(Nodes()[i])
		if err != nil {
			return nil, err
		}
		devices["disk"][name]["device"] = node
	}
	return json.Marshal(devices)
}

// results holds a file for each layout, as TestDiskoByHand writes them.
//
//go:embed results
var results embed.FS

// Recorded returns what disko's script made of the layout called name ("examples/mdadm" is disko's, "layouts/mdadm"
// is ours), or nil if there is no record of it.
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
		return nil, fmt.Errorf("there is no record of %s; make beside makes one", name)
	}
	asked := map[string]bool{}
	disko.walk(func(table, thing, property string) { asked[disko[table][thing][property]] = true })
	ours.Normalise(func(uuid string) bool { return asked[uuid] })
	return explain(name, diff(disko, ours), differences), nil
}

// diff returns a line for each property that is not the same on both sides.
func diff(disko, ours Tables) []string {
	var lines []string
	compare := func(place, disko, ours string) {
		if disko != ours {
			lines = append(lines, fmt.Sprintf("%s: disko %q, ours %q", place, disko, ours))
		}
	}
	both := Tables{}
	for _, side := range []Tables{disko, ours} {
		side.walk(func(table, thing, property string) {
			if both[table] == nil {
				both[table] = map[string]map[string]string{}
			}
			if both[table][thing] == nil {
				both[table][thing] = map[string]string{}
			}
			both[table][thing][property] = ""
		})
	}
	both.walk(func(table, thing, property string) {
		compare(strings.Join([]string{table, thing, property}, " "), disko[table][thing][property], ours[table][thing][property])
	})
	return lines
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

var differences = []difference{}
