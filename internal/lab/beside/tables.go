package beside

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Tables is what a machine says about its disks: a table ("lsblk", "blkid", "mounts", "swaps"), a thing in it, and the
// thing's properties. A thing of lsblk is the way to it ("vda/vda2/crypted"), so that a member of a RAID has one for
// each of its disks.
type Tables map[string]map[string]map[string]string

// Read asks a machine, by running commands on it, for everything that is on its disks or mounted below /mnt.
func Read(run func(command string) (string, error)) (Tables, error) {
	t := Tables{}
	for _, ask := range []struct {
		table, command string
		parse          func(out string, table map[string]map[string]string) error
	}{
		// lsblk shows what udev knows, which nobody may have told of a new file system.
		{"lsblk", "udevadm trigger --settle --subsystem-match=block && lsblk --json --bytes --output NAME,TYPE,SIZE,START,RO,LOG-SEC,PTTYPE,PTUUID," +
			"PARTTYPE,PARTLABEL,PARTFLAGS,PARTUUID,FSTYPE,FSVER,LABEL,UUID,MOUNTPOINTS,FSROOTS", parseLsblk},
		// Without the cache, which may know devices that are no more. It exits 2 when it finds nothing.
		{"blkid", "blkid -c /dev/null -o export || [ $? = 2 ]", parseBlkid},
		// All, as a layout without a root has mounts below /mnt and none there.
		{"mounts", "findmnt --json --bytes --list --nofsroot --output TARGET,SOURCE,FSROOT,FSTYPE,OPTIONS,SIZE", parseMounts},
		{"swaps", "swapon --show=NAME,TYPE,SIZE,PRIO --bytes --noheadings --raw", parseSwaps},
	} {
		out, err := run(ask.command)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", ask.table, err)
		}
		t[ask.table] = map[string]map[string]string{}
		if err := ask.parse(out, t[ask.table]); err != nil {
			return nil, fmt.Errorf("read %s: %w: %q", ask.table, err, out)
		}
	}
	for _, mount := range t["mounts"] {
		// btrfs is shown by the name that it was mounted by, or by the one that udev told the kernel before.
		if source := mount["source"]; strings.HasPrefix(source, "/dev/disk/") {
			node, err := run("readlink -f '" + source + "'")
			if err != nil {
				return nil, fmt.Errorf("resolve %s: %w", source, err)
			}
			mount["source"] = node
		}
	}
	return t, nil
}

func parseLsblk(out string, table map[string]map[string]string) error {
	var tree struct{ BlockDevices []map[string]any }
	if err := json.Unmarshal([]byte(out), &tree); err != nil {
		return err
	}
	var walk func(way string, list []map[string]any)
	walk = func(way string, list []map[string]any) {
		for _, device := range list {
			name := way + fmt.Sprint(device["name"])
			table[name] = map[string]string{}
			for column, value := range device {
				if column != "name" && column != "children" {
					set(table[name], column, value)
				}
			}
			var children []map[string]any
			for _, child := range items(device["children"]) {
				children = append(children, child.(map[string]any))
			}
			walk(name+"/", children)
		}
	}
	walk("", tree.BlockDevices)
	return nil
}

func items(v any) []any {
	list, _ := v.([]any)
	return list
}

// set sets a property of JSON, if it is not null. A list is in the order of time, which says nothing.
func set(properties map[string]string, name string, value any) {
	switch value := value.(type) {
	case nil:
	case float64:
		properties[name] = fmt.Sprintf("%.0f", value)
	case []any:
		var words []string
		for _, v := range value {
			if v != nil {
				words = append(words, fmt.Sprint(v))
			}
		}
		if slices.Sort(words); words != nil {
			properties[name] = strings.Join(words, " ")
		}
	default:
		properties[name] = fmt.Sprint(value)
	}
}

func parseBlkid(out string, table map[string]map[string]string) error {
	var properties map[string]string
	for line := range strings.Lines(out) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		switch {
		case name == "DEVNAME":
			properties = map[string]string{}
			table[value] = properties
		case ok && properties != nil:
			properties[name] = value
		case name != "":
			return fmt.Errorf("line %q belongs to no device", name)
		}
	}
	return nil
}

func parseMounts(out string, table map[string]map[string]string) error {
	var list struct{ Filesystems []map[string]any }
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return err
	}
	for _, mount := range list.Filesystems {
		target := fmt.Sprint(mount["target"])
		if !strings.HasPrefix(target+"/", "/mnt/") {
			continue
		}
		for table[target] != nil { // another one over it
			target += " again"
		}
		table[target] = map[string]string{}
		for column, value := range mount {
			if column != "target" {
				set(table[target], column, value)
			}
		}
		if table[target]["fstype"] == "tmpfs" { // the machine's memory, and in the options if it is the layout's
			delete(table[target], "size")
		}
	}
	return nil
}

func parseSwaps(out string, table map[string]map[string]string) error {
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) != 4 {
			return fmt.Errorf("line %q has not 4 columns", line)
		}
		table[fields[0]] = map[string]string{"type": fields[1], "size": fields[2], "prio": fields[3]}
	}
	return nil
}

// walk visits all properties in their order.
func (t Tables) walk(visit func(table, thing, property string)) {
	for _, table := range slices.Sorted(maps.Keys(t)) {
		for _, thing := range slices.Sorted(maps.Keys(t[table])) {
			for _, property := range slices.Sorted(maps.Keys(t[table][thing])) {
				visit(table, thing, property)
			}
		}
	}
}

// Normalise replaces UUIDs that the layout did not ask for: each by the place where it is found first, as it is
// equal there and here.
func (t Tables) Normalise(asked func(uuid string) bool) {
	first := map[string]string{}
	t.walk(func(table, thing, property string) {
		properties := t[table][thing]
		value := properties[property]
		if kind := strings.ToLower(property); !strings.HasSuffix(kind, "uuid") && kind != "uuid_sub" || asked(value) {
			return
		}
		place, known := first[value]
		if properties[property] = "as " + place; !known {
			first[value] = strings.Join([]string{table, thing, property}, " ")
			properties[property] = "random"
		}
	})
}

// versions are what other versions of kernel and tools show than those of the records, by file system.
var versions = map[string]struct {
	newer []string // mount options that are shown now, and were not
	older []string // mount options that were shown, and are not any more
	fsver bool     // the tool writes its own version
}{
	"btrfs": {newer: []string{"discard=async"}}, // since Linux 6.2, where the disk can discard
	"f2fs": { // Linux 6.12 and f2fs-tools 1.16, after 6.1 and 1.15
		newer: []string{"nogc_merge", "barrier", "errors=continue"},
		older: []string{"no_heap", "discard_unit=block"},
		fsver: true,
	},
}

// alignVersions takes out of both what only the versions of kernel and tools make of the same disks. The order of mount
// options is not compared.
func (t Tables) alignVersions(recorded Tables) {
	for target, mount := range t["mounts"] {
		theirs := recorded["mounts"][target]
		if theirs == nil {
			continue
		}
		v := versions[mount["fstype"]]
		ours, other := strings.Split(mount["options"], ","), strings.Split(theirs["options"], ",")
		if mount["fstype"] == "tmpfs" { // a share of the machine's memory, of which there is another amount
			ours = slices.DeleteFunc(ours, sized)
			other = slices.DeleteFunc(other, sized)
		}
		mount["options"] = without(ours, v.newer, other)
		theirs["options"] = without(other, v.older, ours)
	}
	for path, device := range t["lsblk"] {
		theirs := recorded["lsblk"][path]
		if versions[device["fstype"]].fsver {
			delete(device, "fsver")
			delete(theirs, "fsver")
		}
		// lsblk of util-linux 2.41 tells the table that a partition of an array is in; 2.38 does not.
		if strings.Contains(path, "/md") && theirs["pttype"] == "" {
			delete(device, "pttype")
		}
	}
}

func sized(option string) bool { return strings.HasPrefix(option, "size=") }

// without joins the options but for those of gone that the others have not.
func without(options, gone, others []string) string {
	options = slices.DeleteFunc(slices.Clone(options), func(option string) bool {
		return slices.Contains(gone, option) && !slices.Contains(others, option)
	})
	slices.Sort(options)
	return strings.Join(options, ",")
}
