package layouts

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layout is one to make.
type layout struct {
	name string
	data []byte // disko.devices as JSON, with the machine's disks

	before string // what is done on the blank disks
	holds  string // what must succeed when the layout was made
	// remove takes one thing away that can be made again, while all is open, or closed. What
	// of the snapshot changes by making it again matches gone.
	remove, removeClosed string
	gone                 string
	ends                 string // what must succeed after all
}

var withoutTools = regexp.MustCompile(`"type": *"(zfs|zpool|bcachefs)"`)

// read returns the layouts of a folder whose tools the machine has.
func read(t *testing.T, kind, dir string) (list []layout) {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.json")
	check(t, err)
	for _, file := range files {
		data, err := os.ReadFile(file)
		check(t, err)
		if !withoutTools.Match(data) {
			name := kind + "/" + strings.TrimSuffix(filepath.Base(file), ".json")
			l := removals[name]
			for was, is := range mended[name] {
				data = bytes.ReplaceAll(data, []byte(was), []byte(is))
			}
			l.name, l.data = name, place(t, data, slices.Contains(large, name))
			list = append(list, l)
		}
	}
	return list
}

// mended is what has to be replaced in layouts that kernel or tools do not take as they are.
var mended = map[string]map[string]string{
	"layouts/btrfs-raid": {`"-d raid1"`: `"-d single"`}, // no swap on a file of which there are copies
	"layouts/tmpfs-root": {`"rbind,ro"`: `"rbind"`},     // what is read-only gets no folder to bind
	// It has no root.
	"examples/multi-device-no-deps": {`"nodev": {}`: `"nodev": {"/": {"device": "tmpfs", "fsType": "tmpfs", "mountOptions": [], "mountpoint": "/", "type": "nodev"}}`},
	// parted 3.6 has this flag on partitions of types that have it, of which the layout names none.
	"layouts/parted": {`"lba"`: `"raid"`},
	"layouts/gpt":    {`"prjquota"`: `"prjquota", "logdev=/dev/disk/by-partlabel/disk-main-log"`},
}

// large are layouts for disks larger than the machine's.
var large = []string{"layouts/gpt", "layouts/luks-options", "layouts/lvm", "layouts/mdadm", "layouts/parted"}

// place gives a layout the machine's disks, makes keys quick to try, and if it is large, MiB of 64 of its GiB.
func place(t *testing.T, data []byte, large bool) []byte {
	t.Helper()
	var all map[string]any
	check(t, json.Unmarshal(data, &all))
	devices := map[string]string{"/dev/disk/by-id/usb-stick": keyDisk}
	disks := all["disk"].(map[string]any)
	for i, name := range slices.Sorted(maps.Keys(disks)) {
		devices[disks[name].(map[string]any)["device"].(string)] = nodes[i]
	}
	text := func(s string) string {
		if node := devices[s]; node != "" {
			return node
		}
		for device, node := range devices { // partitions of legacy tables have the disk's name in theirs
			if m := partNumber.FindStringSubmatch(s); m != nil && strings.TrimSuffix(s, m[0]) == device {
				return node + m[1]
			}
		}
		if m := gibibytes.FindStringSubmatch(s); m != nil && large {
			n, err := strconv.Atoi(m[2])
			check(t, err)
			return fmt.Sprintf("%s%dM%s", m[1], 64*n, m[3])
		}
		return s
	}
	var edit func(v any) any
	edit = func(v any) any {
		switch v := v.(type) {
		case string:
			return text(v)
		case []any:
			for i := range v {
				v[i] = edit(v[i])
			}
		case map[string]any:
			for k := range v {
				v[k] = edit(v[k])
			}
			if args, ok := v["extraFormatArgs"].([]any); ok && v["type"] == "luks" {
				v["extraFormatArgs"] = append(args, "--pbkdf pbkdf2", "--pbkdf-force-iterations 1000")
			}
		}
		return v
	}
	data, err := json.Marshal(edit(all))
	check(t, err)
	return data
}

var (
	gibibytes  = regexp.MustCompile(`^([+-]?)([0-9]+)G((?:iB)?)$`)
	partNumber = regexp.MustCompile(`(?:-part|p)?([0-9]+)$`)
)

// some are made if LAYOUTS does not say which: they have all that the others have, in less time. `make layouts` makes all.
const some = "^[^/]+$|layouts/(parted|swap|tmpfs-root)$|presets/(rpi3|luks-btrfs)$"

// TestLayouts makes layouts, on two machines: those whose names match the regular expression in LAYOUTS.
func TestLayouts(t *testing.T) {
	type test struct {
		name string
		run  func(*testing.T, *machine)
	}
	all := []test{{"foreign", foreign}, {"differing", differing}}
	for _, l := range slices.Concat(own(t), presets(t), read(t, "layouts", "../../../disko/testdata/layouts"), theirs(t)) {
		all = append(all, test{l.name, l.cycle})
	}
	want := regexp.MustCompile(cmp.Or(os.Getenv("LAYOUTS"), some))
	work := make(chan test, len(all))
	for _, test := range all {
		if want.MatchString(test.name) {
			work <- test
		}
	}
	close(work)
	for n := range min(2, len(work)) {
		t.Run(fmt.Sprint("machine ", n+1), func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			for test := range work {
				t.Run(test.name, func(t *testing.T) { m.use(t, test.run) })
			}
		})
	}
}

// theirs are disko's own examples, evaluated. They are on some machines only.
func theirs(t *testing.T) []layout {
	for _, shared := range []string{"../../../../shared", "../../../../../shared"} {
		dir := shared + "/disko/layouts"
		if _, err := os.Stat(dir); err == nil {
			return read(t, "examples", dir)
		}
	}
	t.Log("no ../shared/disko beside the repository: only our own layouts are made")
	return nil
}
