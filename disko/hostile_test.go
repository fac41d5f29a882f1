package disko

import (
	"encoding/json"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tools are all programs that a plan runs, but mkfs.X.
var tools = strings.Fields("bash bcachefs btrfs cryptsetup lvcreate mdadm mkdir mkswap modprobe mount parted partprobe " +
	"pvcreate sfdisk sgdisk sh swapoff swapon udevadm umount vgchange vgcreate wipefs zfs zpool zvol_wait")

// checkPlan is what must be true of any plan.
func checkPlan(t *testing.T, p *Plan) {
	t.Helper()
	mounted := map[string]bool{"/mnt": true}
	for _, s := range slices.Concat(p.Steps, p.Unmount()) {
		if len(s.Argv) == 0 || s.Name == "" || s.Device == "" {
			t.Fatalf("empty step %+v", s)
		}
		if tool := s.Argv[0]; !slices.Contains(tools, tool) && !formatPattern.MatchString(strings.TrimPrefix(tool, "mkfs.")) || strings.Contains(tool, "/") {
			t.Fatalf("%q is not a tool", s.Argv)
		}
		if strings.Contains(strings.Join(s.Argv, ""), "\x00") {
			t.Fatalf("argument with NUL in %q", s.Argv)
		}
		if s.Stage == StageMount && s.Argv[0] == "mount" {
			at := s.Argv[2]
			if at != "/mnt" && !strings.HasPrefix(at, "/mnt/") || path.Clean(at) != at {
				t.Fatalf("%q mounts outside", s.Argv)
			}
			for below := range mounted {
				if below != "/mnt" && strings.HasPrefix(below, at+"/") {
					t.Fatalf("%s is mounted before %s", below, at)
				}
			}
			mounted[at] = true
		}
	}
}

func layouts(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/layouts/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	all := map[string][]byte{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(file), ".json")] = data
	}
	return all
}

// slot is a value in a JSON document.
type slot struct {
	name  string // of the attribute
	value any
	set   func(any)
}

// slots returns every value in a document, in a fixed order.
func slots(doc any) (all []slot) {
	switch doc := doc.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(doc)) {
			all = append(all, slot{k, doc[k], func(v any) { doc[k] = v }})
			all = append(all, slots(doc[k])...)
		}
	case []any:
		for i := range doc {
			all = append(all, slot{"", doc[i], func(v any) { doc[i] = v }})
			all = append(all, slots(doc[i])...)
		}
	}
	return all
}

func decode(t testing.TB, data []byte) (doc any) {
	t.Helper()
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func encode(t testing.TB, doc any) []byte {
	t.Helper()
	data, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Options whose next argument is a value, whatever it begins with.
var takesValue = strings.Fields("-o -O -t -L -l -n -V --key-file --size")

// TestHostile writes hostile text into every string of every layout, once alone and once
// wherever the string is. It is refused or reaches the tools as data: whole within one
// argument that is no option and no shell.
func TestHostile(t *testing.T) {
	t.Parallel()
	reached, refused := 0, 0
	seen := map[string]bool{}
	all := layouts(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		data := all[name]
		for i, s := range slots(decode(t, data)) {
			old, ok := s.value.(string)
			if !ok || strings.HasSuffix(s.name, "Hook") || len(old) > 100 || seen[s.name+old] {
				continue
			}
			seen[s.name+old] = true
			for _, evil := range []string{"$(touch /pwned)`id`; q'u\"o\\te", "-rf", "new\nline", "../../etc"} {
				alone := decode(t, data)
				slots(alone)[i].set(evil)
				everywhere := decode(t, data)
				for _, o := range slots(everywhere) {
					if text, ok := o.value.(string); ok && len(old) > 2 {
						o.set(strings.ReplaceAll(text, old, evil))
					}
				}
				for _, doc := range []any{alone, everywhere} {
					l, err := Parse(encode(t, doc))
					if err != nil {
						refused++
						continue
					}
					p, err := NewPlan(l, nil, Options{})
					if err != nil {
						t.Fatalf("%s: %q was parsed and cannot be planned: %v", name, evil, err)
					}
					checkPlan(t, p)
					reached += countData(t, p, evil)
				}
			}
		}
	}
	t.Logf("hostile text reached %d arguments and was refused %d times", reached, refused)
	if reached < 500 || refused < 500 {
		t.Errorf("hostile text reached %d arguments and was refused %d times; the test does not see what it should", reached, refused)
	}
}

// countData returns in how many arguments the text is, and fails where it could be taken
// for something else than data. Lists of arguments may hold options; that is their use.
func countData(t *testing.T, p *Plan, evil string) (n int) {
	t.Helper()
	for _, s := range slices.Concat(p.Steps, p.Unmount()) {
		for i, arg := range s.Argv {
			if !strings.Contains(arg, evil) {
				continue
			}
			n++
			switch last := s.Argv[max(0, i-1)]; {
			case i == 0:
				t.Fatalf("%q runs %q", s.Argv, evil)
			case last == "-c" && s.Hook == "":
				t.Fatalf("%q is in the shell of %q", evil, s.Argv)
			case last == "-c" && strings.Contains(strings.Split(arg, "\n")[0], evil):
				t.Fatalf("%q is in the prelude of %q", evil, s.Argv)
			case slices.Contains(s.Argv[:i], "--"):
			case strings.HasPrefix(arg, "-") && arg == evil && s.Hook == "" && !slices.Contains(takesValue, last) && !takesArgs(s.Argv[0]):
				t.Fatalf("%q is an option in %q", evil, s.Argv)
			}
		}
	}
	return n
}

// takesArgs tells whether a layout may give a tool further arguments.
func takesArgs(tool string) bool {
	return strings.HasPrefix(tool, "mk") || slices.Contains([]string{"bcachefs", "btrfs", "cryptsetup", "lvcreate", "mdadm", "zfs"}, tool)
}

// FuzzParse changes layouts: each three bytes of changes say where, how and with what. A
// layout that is parsed can be planned, and its plan is sound.
func FuzzParse(f *testing.F) {
	all := layouts(f)
	names := slices.Sorted(maps.Keys(all))
	for i := range names {
		f.Add(uint8(i), []byte{}, "")
		f.Add(uint8(i), []byte{7, 3, 9, 80, 0, 0}, "100%")
	}
	f.Fuzz(func(t *testing.T, which uint8, changes []byte, text string) {
		doc := decode(t, all[names[int(which)%len(names)]])
		changes = changes[:min(len(changes), 24)] // each may double the document
		for ; len(changes) >= 3; changes = changes[3:] {
			list := slots(doc)
			if len(list) == 0 {
				break
			}
			at := list[(int(changes[0])<<3|int(changes[1]>>5))%len(list)]
			other := list[int(changes[2])*7%len(list)].value
			switch changes[1] % 8 {
			case 0:
				at.set(nil)
			case 1:
				at.set(text)
			case 2:
				at.set(float64(changes[2]) * 1000)
			case 3:
				at.set(changes[2]%2 == 0)
			case 4:
				at.set([]any{text})
			case 5: // from elsewhere; a copy, or the document would hold itself
				at.set(decode(t, encode(t, other)))
			case 6:
				if s, ok := at.value.(string); ok {
					at.set(s + text)
				}
			case 7:
				if m, ok := at.value.(map[string]any); ok {
					m[text] = decode(t, encode(t, other))
				}
			}
		}
		fuzzed(t, encode(t, doc))
	})
}

// FuzzParseBytes is for what is hardly JSON.
func FuzzParseBytes(f *testing.F) {
	for _, data := range layouts(f) {
		f.Add(data)
	}
	f.Fuzz(fuzzed)
}

func fuzzed(t *testing.T, data []byte) {
	l, err := Parse(data)
	if err != nil {
		return
	}
	p, err := NewPlan(l, nil, Options{})
	if err != nil && strings.Contains(err.Error(), "names a path in /nix/store") {
		return // for disko's own script
	}
	if err != nil {
		t.Fatalf("a layout that was parsed cannot be planned: %v", err)
	}
	checkPlan(t, p)
	facts := blank(t, l)
	facts.Mounts = []MountedAt{}
	for _, way := range []Mode{Fresh, Format} {
		if p, err = NewPlan(l, facts, Options{Mode: way}); err == nil {
			checkPlan(t, p)
			checkDisks(t, p)
		}
	}
	// Whatever other layout's disks these are.
	for i := range facts.BlockDevices {
		d := &facts.BlockDevices[i]
		d.TableType = "gpt"
		d.Children = []BlockDevice{
			{Path: d.Path + "1", Type: "part", Size: mib, Start: 2048, PartLabel: "disk-main-ESP", FSType: "vfat"},
			{Path: d.Path + "2", Type: "part", Size: 1 << 30, Start: 8192, PartLabel: "disk-main-root", FSType: "LVM2_member", Children: []BlockDevice{
				{Path: "/dev/mapper/pool-root", Name: "pool-root", Type: "lvm", Size: 1 << 29}}},
			{Path: d.Path + "3", Type: "part", Start: 1 << 40, PartLabel: "disk-main-luks", FSType: "crypto_LUKS"},
		}
	}
	for _, way := range []Mode{Fresh, Format, Mount} {
		if p, err = NewPlan(l, facts, Options{Mode: way}); err == nil {
			checkDisks(t, p)
		}
	}
}

// checkDisks: what writes to a disk or partition writes to one of the plan's.
func checkDisks(t *testing.T, p *Plan) {
	t.Helper()
	writers := []string{"wipefs", "dd", "sgdisk", "sfdisk", "parted", "pvcreate", "cryptsetup", "mkswap"}
	for _, s := range p.Steps {
		if !slices.Contains(writers, s.Argv[0]) && !strings.HasPrefix(s.Argv[0], "mkfs.") || strings.Count(s.Device, "/") != 2 {
			continue
		}
		if !slices.Contains(s.Argv, s.Device) && !slices.Contains(s.Argv, "of="+s.Device) || !slices.ContainsFunc(p.Disks, func(d Disk) bool { return strings.HasPrefix(s.Device, d.Device) }) {
			t.Fatalf("%q writes to %s, which is not in the plan: %v", s.Argv, s.Device, p.Disks)
		}
	}
}
