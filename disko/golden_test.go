package disko

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestGolden plans every layout in testdata for blank disks. DISKO_GOLDEN=write writes
// what it finds; read it before you commit it.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/layouts/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			l := mustParse(t, readFile(t, "layouts/"+name+".json"))
			p, err := NewPlan(l, blank(t, l), Options{})
			if err != nil {
				t.Fatal(err)
			}
			golden := "testdata/plans/" + name + ".txt"
			if os.Getenv("DISKO_GOLDEN") == "write" {
				if err := os.WriteFile(golden, []byte(planText(p)), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if lines := diff(strings.Split(string(want), "\n"), strings.Split(planText(p), "\n")); lines != nil {
				t.Errorf("differs from %s:\n%s", golden, strings.Join(lines, "\n"))
			}
		})
	}
}

// blank is a machine with a blank disk of 200 GiB for each disk of the layout.
func blank(t testing.TB, l *Layout) *Facts {
	t.Helper()
	f := &Facts{BlockDevices: []BlockDevice{}, Links: map[string]string{}}
	for i, d := range l.disks() {
		node := d.on.device
		if strings.Count(node, "/") != 2 {
			node = fmt.Sprintf("/dev/vdz%d", i)
			f.Links[d.on.device] = node
		}
		f.BlockDevices = append(f.BlockDevices, BlockDevice{Path: node, Name: filepath.Base(node), Type: "disk", Size: 200 << 30, SectorSize: 512})
	}
	return f
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9/_.,:=+@%^-]+$`)

// planText is a plan for people who compare it.
func planText(p *Plan) string {
	var b strings.Builder
	for _, s := range slices.Concat(p.Steps, p.Unmount()) {
		fmt.Fprintf(&b, "%s: %s", s.Stage, s.Name)
		if s.Destroys != "" {
			fmt.Fprintf(&b, "; destroys %s", s.Destroys)
		}
		b.WriteString("\n   ")
		for _, arg := range s.Argv {
			if !plainWord.MatchString(arg) {
				arg = strconv.Quote(arg)
			}
			b.WriteString(" " + arg)
		}
		if s.Stdin != "" {
			b.WriteString(" < " + strconv.Quote(s.Stdin))
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "key files: %q\n", p.KeyFiles())
	return b.String()
}

// known are the attributes of disko's types. What a layout calls "type" is given for a
// partition, an LV, a swap file and a topology's vdev by where they are.
var known = map[string]string{
	"disk":                "name type device destroy imageName imageSize content HOOKS",
	"gpt":                 "type device efiGptPartitionFirst partitions HOOKS",
	"partition":           "name label type size start end alignment attributes uuid priority hybrid content device",
	"hybrid":              "mbrPartitionType mbrBootableFlag",
	"table":               "type device format partitions HOOKS",
	"table partition":     "name part-type fs-type start end flags bootable content",
	"filesystem":          "type device format extraArgs mountOptions mountpoint HOOKS",
	"luks":                "type device name keyFile passwordFile askPassword settings additionalKeyFiles initrdUnlock extraFormatArgs extraOpenArgs content HOOKS",
	"settings":            "keyFile keyFileSize keyFileOffset allowDiscards bypassWorkqueues header",
	"swap":                "type device discardPolicy priority randomEncryption resumeDevice mountOptions extraArgs HOOKS",
	"btrfs":               "type device extraArgs mountOptions mountpoint subvolumes swap HOOKS",
	"btrfs_subvol":        "type name extraArgs mountOptions mountpoint swap",
	"swap file":           "size path priority options",
	"lvm_pv":              "type device vg HOOKS",
	"lvm_vg":              "type name lvs HOOKS",
	"lv":                  "name size lvm_type pool extraArgs priority content",
	"mdraid":              "type device name HOOKS",
	"mdadm":               "type name level metadata extraArgs content HOOKS",
	"zfs":                 "type device pool HOOKS",
	"zpool":               "type name mode options rootFsOptions mountpoint mountOptions datasets HOOKS",
	"topology":            "type vdev spare log dedup special cache",
	"vdev":                "mode members",
	"zfs_fs":              "type name options mountOptions mountpoint HOOKS",
	"zfs_volume":          "type name size options mountOptions extraArgs content HOOKS",
	"bcachefs":            "type device filesystem label extraFormatArgs HOOKS",
	"bcachefs_filesystem": "type name uuid passwordFile extraFormatArgs mountOptions mountpoint subvolumes HOOKS",
	"bcachefs_subvolume":  "type name mountOptions mountpoint",
	"nodev":               "type fsType device mountpoint mountOptions HOOKS",
}

// TestAttributes: the layouts in testdata use every attribute of every type, and disko's
// examples none that is not in the list.
func TestAttributes(t *testing.T) {
	ours := collect(t, "testdata/layouts")
	for kind, list := range known {
		for _, name := range strings.Fields(strings.ReplaceAll(list, "HOOKS", strings.Join(hookNames, " "))) {
			if !ours[kind+" "+name] {
				t.Errorf("no layout in testdata sets %s of %s", name, kind)
			}
		}
	}
	t.Run("disko's examples", func(t *testing.T) {
		for used := range collect(t, yardstick(t)+"/layouts") {
			i := strings.LastIndex(used, " ")
			if kind, name := used[:i], used[i+1:]; known[kind] == "" || !slices.Contains(strings.Fields(known[kind]), name) && !slices.Contains(hookNames, name) {
				t.Errorf("disko's examples set %q of %q, which is not in the list", name, kind)
			}
		}
	})
}

// collect returns the "KIND ATTRIBUTE" that layouts set to something.
func collect(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal(dir, err)
	}
	set := map[string]bool{}
	var walk func(v any, kind string)
	named := func(v any, kind string) {
		m, _ := v.(map[string]any)
		for _, each := range m {
			walk(each, kind)
		}
	}
	walk = func(v any, kind string) {
		if list, ok := v.([]any); ok {
			for _, each := range list {
				walk(each, kind)
			}
			return
		}
		m, ok := v.(map[string]any)
		if !ok {
			return
		}
		if kind == "" {
			kind, _ = m["type"].(string)
		}
		for name, v := range m {
			if text := fmt.Sprint(v); text != "<nil>" && text != "" && text != "[]" && text != "map[]" {
				set[kind+" "+name] = true
			}
			switch at := kind + " " + name; at {
			case "gpt partitions":
				named(v, "partition")
			case "table partitions":
				walk(v, "table partition")
			case "partition hybrid":
				walk(v, "hybrid")
			case "luks settings":
				walk(v, "settings")
			case "btrfs swap", "btrfs_subvol swap":
				named(v, "swap file")
			case "lvm_vg lvs":
				named(v, "lv")
			case "zpool mode":
				if m, ok := v.(map[string]any); ok {
					walk(m["topology"], "topology")
				}
			case "topology vdev", "topology log", "topology dedup", "topology special":
				walk(v, "vdev")
			case "zpool datasets", "btrfs subvolumes", "bcachefs_filesystem subvolumes":
				named(v, "")
			default:
				if name == "content" {
					walk(v, "")
				}
			}
		}
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var doc map[string]any
		if err := json.Unmarshal(data, &doc); err != nil {
			t.Fatal(err)
		}
		for _, group := range doc {
			named(group, "")
		}
	}
	return set
}
