package disko

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// edit sets values in JSON, by path. "." separates names; a nil value deletes.
func edit(t testing.TB, data []byte, changes map[string]any) []byte {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(data, &doc); err != nil {
		t.Fatal(err)
	}
	paths := make([]string, 0, len(changes))
	for p := range changes {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	for _, p := range paths {
		at, names := doc, strings.Split(p, ".")
		for _, name := range names[:len(names)-1] {
			next, ok := at[name].(map[string]any)
			if !ok {
				t.Fatalf("edit: no %s in %s", name, p)
			}
			at = next
		}
		if last := names[len(names)-1]; changes[p] == nil {
			delete(at, last)
		} else {
			at[last] = changes[p]
		}
	}
	out, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func mustParse(t testing.TB, data []byte) *Layout {
	t.Helper()
	l, err := Parse(data)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return l
}

// lines are the problems of an error, one for each.
func lines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

// wantProblems compares each problem with the beginning of one wanted.
func wantProblems(t *testing.T, err error, want ...string) {
	t.Helper()
	got := lines(err)
	if !slices.IsSorted(got) {
		t.Errorf("problems are not sorted:\n%s", strings.Join(got, "\n"))
	}
	if len(got) != len(want) {
		t.Fatalf("got %d problems, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("problem %d:\n got %s\nwant %s", i, got[i], want[i])
		}
	}
}

// tableOf returns the partitions of a layout's first disk.
func tableOf(l *Layout) []partition {
	return l.disks()[0].body.(*wholeDisk).content.(*gptTable).parts
}

func TestParseProblems(t *testing.T) {
	const (
		main  = "disk.main"
		esp   = "disk.main.content.partitions.ESP"
		root  = "disk.main.content.partitions.root"
		lpart = "disk.main.content.partitions.luks"
	)
	for name, c := range map[string]struct {
		layout  string
		changes map[string]any
		want    []string
	}{
		"unknown attributes everywhere": {"efi", map[string]any{
			"new": 1, main + ".new": 1, main + ".content.new": 1, root + ".new": 1, root + ".content.new one": "x",
		}, []string{
			main + ".content.new: is not known", root + `.content."new one": is not known`, root + ".new: ", main + ".new: ", "new: ",
		}},
		"hooks": {"efi", map[string]any{
			main + ".content.postMountHook": "a\x00b", root + ".content.postUnmountHook": 7,
		}, []string{root + ".content.postUnmountHook: must be a string", main + ".content.postMountHook: has a NUL"}},
		"missing and null": {"efi", map[string]any{
			root + ".label": nil, root + ".end": nil,
		}, []string{root + ".end: is missing", root + ".label: is missing"}},
		"types": {"efi", map[string]any{
			root + ".alignment": "x", root + ".attributes": "x", root + ".content.mountOptions": []any{1}, main + ".content.partitions.ESP": 7,
		}, []string{esp + ": must be an attribute set", root + ".alignment: must be a whole number", root + ".attributes: must be a list of whole numbers", root + ".content.mountOptions: must be a list of strings"}},
		"sizes": {"efi", map[string]any{
			esp + ".size": "10 GB", esp + ".start": "+5%", esp + ".end": "1.5G", root + ".end": "99999999999999P",
		}, []string{esp + `.end: "1.5G" is not allowed; allowed are 0,`, esp + `.size: "10 GB" is not allowed; allowed are 100%`, esp + `.start: "+5%" is not allowed: sgdisk knows no percentages`, root + `.end: "99999999999999P"`}},
		"cannot fit anywhere": {"efi", map[string]any{esp + ".end": "-0", esp + ".size": "100%", root + ".content.format": "xfs"}, []string{root + ": only 1007 KiB are left for it, it needs 300 MiB at least"}},
		"overlap":             {"efi", map[string]any{root + ".start": "100M"}, []string{root + ": from 100M to -0 does not fit"}},
		"duplicates": {"efi", map[string]any{
			esp + ".label": "disk-main-root", esp + ".content.mountpoint": "/",
			esp + ".device": "/dev/disk/by-partlabel/disk-main-root", esp + ".content.device": "/dev/disk/by-partlabel/disk-main-root",
			esp + ".uuid": "809B3A2B-828a-4730-95e1-75b6343e415a", root + ".uuid": "809b3a2b-828a-4730-95e1-75b6343e415a",
		}, []string{
			root + `.content.mountpoint: mountpoint "/" is taken already by ` + esp,
			root + `.device: device "/dev/disk/by-partlabel/disk-main-root" is taken already by ` + esp + ".device",
			root + `.label: label "disk-main-root" is taken already by ` + esp + ".label",
			root + ".uuid: uuid ",
		}},
		"labels": {"efi", map[string]any{esp + ".label": "a:b", root + ".label": strings.Repeat("x", 37)}, []string{esp + ".label: ", root + ".label: "}},
		"labels that udev escapes otherwise": {"efi", map[string]any{
			esp + ".label": "a^b", esp + ".device": `/dev/disk/by-partlabel/a\x5Eb`, esp + ".content.device": `/dev/disk/by-partlabel/a\x5Eb`,
		}, []string{esp + `.label: udev makes /dev/disk/by-partlabel/a\x5eb of "a^b", and the installed system would look for`}},
		"type codes": {"efi", map[string]any{esp + ".type": "EEEE", root + ".type": "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"}, []string{esp + `.type: "EEEE" is not a known sgdisk code; write`}},
		"devices":    {"efi", map[string]any{root + ".content.device": "/dev/sda9", main + ".content.device": "/dev/sdq"}, []string{main + `.content.device: "/dev/sdq" differs`, root + `.content.device: "/dev/sda9" differs`}},
		"no root":    {"efi", map[string]any{root + ".content.mountpoint": "/srv"}, []string{`disk: nothing is mounted at "/"`}},
		"mount points": {"efi", map[string]any{root + ".content.mountpoint": "srv", esp + ".content.mountpoint": "/boot/../etc"},
			[]string{esp + `.content.mountpoint: "/boot/../etc" must not have ..`, root + `.content.mountpoint: "srv" is not an absolute path`}},
		"control characters": {"efi", map[string]any{root + ".content.extraArgs": []any{"a\x00b"}, root + ".label": "a\nb"}, []string{root + ".content.extraArgs: has a control character", root + ".label: has a control character"}},
		"numbers":            {"efi", map[string]any{root + ".attributes": []any{64}, root + ".alignment": -1}, []string{root + ".alignment: -1 is not between", root + ".attributes: 64 is not between"}},
		"luks": {"luks", map[string]any{
			lpart + ".content.name": "a b", lpart + ".content.settings.header": "/x", lpart + ".content.settings.keyFileSize": "8",
			lpart + ".content.extraFormatArgs": []any{"--label 'x y'"}, lpart + ".content.enrollFido2": true, lpart + ".content.passwordFile": "key",
			lpart + ".content.content.device": "/dev/mapper/a b",
		}, []string{
			lpart + ".content.enrollFido2: needs someone at the machine", lpart + `.content.extraFormatArgs: "--label 'x y'" has shell syntax`,
			lpart + `.content.name: "a b" is not a name for`, lpart + `.content.passwordFile: "key" is not an absolute path`,
			lpart + ".content.settings.header: ", lpart + ".content.settings.keyFileSize: must be a whole number",
		}},
		"swap": {"swap", map[string]any{
			"disk.main.content.partitions.fresh.content.randomEncryption": false,
			"disk.main.content.partitions.plain.content.discardPolicy":    "never",
			"disk.main.content.partitions.plain.content.priority":         40000,
		}, []string{`disk.main.content.partitions.plain.content.discardPolicy: "never"`, "disk.main.content.partitions.plain.content.priority: 40000"}},
		"btrfs": {"btrfs", map[string]any{
			root + ".content.subvolumes./home.name": "../x", root + ".content.subvolumes./nix.name": "/sys/",
			root + ".content.subvolumes./swap.mountpoint":    nil,
			root + ".content.subvolumes./swap.swap.two.path": "a/b", root + ".content.swap.a.size": "",
		}, []string{
			root + `.content.subvolumes."/home".name: "../x" is not a name`,
			root + `.content.subvolumes."/swap".swap.one: a swap file needs a mountpoint`,
			root + `.content.subvolumes."/swap".swap.two.path: "a/b" is not a plain file name`,
			root + `.content.subvolumes."/swap".swap.two: a swap file needs a mountpoint`,
			root + `.content.subvolumes."/sys".name: subvolume `,
			root + `.content.swap.a.size: "" is not a number`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(edit(t, readFile(t, "layouts/"+c.layout+".json"), c.changes))
			wantProblems(t, err, c.want...)
		})
	}
}

func TestParseNoLayout(t *testing.T) {
	for data, want := range map[string]string{
		"":                          "disk layout is not JSON",
		"{":                         "disk layout is not JSON",
		"[]":                        "disk layout is not JSON",
		"null":                      "disk layout is null",
		"{}":                        "disk: the layout has no disks",
		`{"disk":{}} x`:             "disk layout is not JSON",
		`{"disk":7}`:                "disk: must be an attribute set\ndisk: the layout has no disks",
		`{"disk":{"a":null}}`:       "disk: the layout has no disks",
		strings.Repeat("[", 100000): "disk layout is not JSON",
	} {
		if _, err := Parse([]byte(data)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("Parse(%.20q) = %v, want %s", data, err, want)
		}
	}
}
