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

// TestRefused: the layouts of disko's examples that are out of scope, each with all the
// attributes that make them so.
func TestRefused(t *testing.T) {
	content := func(disk, part string) string { return "disk." + disk + ".content.partitions." + part + ".content" }
	refused := map[string][]string{
		"bcachefs": {
			"bcachefs_filesystems.mounted_subvolumes_in_multi: ", "bcachefs_filesystems.relies_on_external_subvolume: ",
			content("vdb", "vdb2") + `.type: "bcachefs" is not supported yet; supported are btrfs, filesystem, luks, swap`,
			content("vdc", "vdc1") + ".type: ", content("vdd", "vdd1") + ".type: ", content("vde", "vdd1") + ".type: ",
		},
		"btrfs-subvolumes": nil, "gpt-bios-compat": nil, "gpt-name-with-whitespace": nil,
		"gpt-unformatted": nil, "hybrid": nil, "luks-interactive-login": nil, "simple-efi": nil, "with-lib": nil,
		"f2fs":                  {content("main", "root") + `.format: "f2fs" is not supported yet; supported are btrfs, ext2, ext3, ext4, vfat, xfs`},
		"hybrid-mbr":            {"disk.main.content.partitions.TOW-BOOT-FI.hybrid: is not supported yet"},
		"legacy-table":          {`disk.main.content.type: "table" is not supported yet; supported is gpt`},
		"luks-btrfs-raid":       {content("disk2", "crypt_p2") + `.content.extraArgs: "/dev/mapper/p1" names a second device`},
		"luks-btrfs-subvolumes": {content("main", "luks") + ".additionalKeyFiles: is not supported yet"},
		"luks-lvm": {
			content("main", "luks") + ".additionalKeyFiles: ",
			content("main", "luks") + `.content.type: "lvm_pv" is not supported yet; supported are btrfs, filesystem, swap`,
			"lvm_vg.pool: lvm_vg is not supported yet",
		},
		"lvm-raid": {
			content("one", "boot") + `.type: "mdraid"`, content("one", "primary") + `.type: "lvm_pv"`,
			content("two", "boot") + `.type: "mdraid"`, content("two", "primary") + `.type: "lvm_pv"`,
			"lvm_vg.pool: ", "mdadm.boot: ",
		},
		"lvm-sizes-sort":       {content("one", "primary") + `.type: "lvm_pv"`, "lvm_vg.pool: "},
		"mdadm":                {content("disk1", "mdadm") + `.type: "mdraid"`, content("disk2", "mdadm") + `.type: "mdraid"`, "mdadm.raid1: "},
		"mdadm-raid0":          {content("disk1", "mdadm") + `.type: "mdraid"`, content("disk2", "mdadm") + `.type: "mdraid"`, "mdadm.raid0: "},
		"multi-device-no-deps": {`disk: nothing is mounted at "/"`},
		"stand-alone":          {`disk.sda.content.type: "table"`},
		"swap":                 {content("main", "encryptedSwap") + ".randomEncryption: is not supported yet"},
		"tmpfs":                {`nodev."/tmp": nodev is not supported yet; supported is disk`},
		"zfs":                  {content("x", "zfs") + `.type: "zfs"`, content("y", "zfs") + `.type: "zfs"`, "zpool.zroot: "},
		"zfs-encrypted-root":   {content("root", "zfs") + `.type: "zfs"`, "zpool.zroot: "},
	}
	var vdevs []string
	for _, d := range []string{"cache", "data1", "data2", "data3", "dedup1", "dedup2", "dedup3", "log1", "log2", "log3", "spare", "special1", "special2", "special3"} {
		vdevs = append(vdevs, content(d, "zfs")+`.type: "zfs"`)
	}
	refused["zfs-with-vdevs"] = append(vdevs, "zpool.zroot: ")
	files, _ := filepath.Glob("testdata/layouts/*.json")
	if len(files) != len(refused) {
		t.Errorf("%d layouts, %d expectations", len(files), len(refused))
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		t.Run(name, func(t *testing.T) {
			want, ok := refused[name]
			if !ok {
				t.Fatal("nothing is expected of it")
			}
			_, err := Parse(readFile(t, "layouts/"+name+".json"))
			wantProblems(t, err, want...)
		})
	}
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
		"unknown attributes everywhere": {"simple-efi", map[string]any{
			"new": 1, main + ".new": 1, main + ".content.new": 1, root + ".new": 1, root + ".content.new one": "x",
		}, []string{
			main + ".content.new: is not known", root + `.content."new one": is not known`, root + ".new: ", main + ".new: ", "new: ",
		}},
		"hooks": {"simple-efi", map[string]any{
			main + ".preCreateHook": "x", main + ".content.postMountHook": "a\nb", root + ".content.postUnmountHook": "x",
		}, []string{root + ".content.postUnmountHook: is not supported yet; remove", main + ".content.postMountHook: ", main + ".preCreateHook: "}},
		"missing and null": {"simple-efi", map[string]any{
			main + ".destroy": nil, root + ".label": nil, root + ".end": nil,
		}, []string{root + ".end: is missing", root + ".label: is missing", main + ".destroy: is missing"}},
		"destroy": {"simple-efi", map[string]any{main + ".destroy": false}, []string{main + ".destroy: false is not supported yet"}},
		"types": {"simple-efi", map[string]any{
			root + ".alignment": "x", root + ".attributes": "x", root + ".content.mountOptions": []any{1}, main + ".content.partitions.ESP": 7,
		}, []string{esp + ": must be an attribute set", root + ".alignment: must be a whole number", root + ".attributes: must be a list of whole numbers", root + ".content.mountOptions: must be a list of strings"}},
		"sizes": {"simple-efi", map[string]any{
			esp + ".size": "10 GB", esp + ".start": "+5%", esp + ".end": "0M", root + ".end": "99999999999999P",
		}, []string{esp + `.end: "0M" is not allowed`, esp + `.size: "10 GB" is not a size; allowed are 100%`, esp + `.start: "+5%" is not allowed; allowed are 0,`, root + `.end: "99999999999999P"`}},
		"cannot fit anywhere": {"simple-efi", map[string]any{esp + ".end": "-0", esp + ".size": "100%"}, []string{root + ": only 1007 KiB are left for it, it needs 32 MiB at least"}},
		"overlap":             {"simple-efi", map[string]any{root + ".start": "100M"}, []string{root + ": from 100M to -0 does not fit"}},
		"duplicates": {"simple-efi", map[string]any{
			esp + ".label": "disk-main-root", esp + ".content.mountpoint": "/",
			esp + ".uuid": "809B3A2B-828a-4730-95e1-75b6343e415a", root + ".uuid": "809b3a2b-828a-4730-95e1-75b6343e415a",
		}, []string{
			root + `.content.mountpoint: mountpoint "/" is taken already by ` + esp,
			root + `.label: label "disk-main-root" is taken already by ` + esp + ".label",
			root + ".uuid: uuid ",
		}},
		"labels":     {"simple-efi", map[string]any{esp + ".label": "a:b", root + ".label": strings.Repeat("x", 37)}, []string{esp + ".label: ", root + ".label: "}},
		"type codes": {"simple-efi", map[string]any{esp + ".type": "EEEE", root + ".type": "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"}, []string{esp + `.type: "EEEE" is not a known sgdisk code; write`}},
		"devices":    {"simple-efi", map[string]any{root + ".content.device": "/dev/sda9", main + ".content.device": "/dev/sdq"}, []string{main + `.content.device: "/dev/sdq" differs`, root + `.content.device: "/dev/sda9" differs`}},
		"no root":    {"simple-efi", map[string]any{root + ".content.mountpoint": "/srv"}, []string{`disk: nothing is mounted at "/"`}},
		"mount points": {"simple-efi", map[string]any{root + ".content.mountpoint": "srv", esp + ".content.mountpoint": "/boot/../etc"},
			[]string{esp + `.content.mountpoint: "/boot/../etc" must not have ..`, root + `.content.mountpoint: "srv" is not an absolute path`}},
		"control characters": {"simple-efi", map[string]any{root + ".content.extraArgs": []any{"a\x00b"}, root + ".label": "a\nb"}, []string{root + ".content.extraArgs: has a control character", root + ".label: has a control character"}},
		"numbers":            {"simple-efi", map[string]any{root + ".attributes": []any{64}, root + ".alignment": -1}, []string{root + ".alignment: -1 is not between", root + ".attributes: 64 is not between"}},
		"no key": {"luks-interactive-login", map[string]any{lpart + ".content.passwordFile": nil}, []string{
			lpart + ".content.askPassword: a passphrase cannot be asked for; set passwordFile or settings.keyFile"}},
		"asks": {"luks-interactive-login", map[string]any{lpart + ".content.askPassword": true}, []string{lpart + ".content.askPassword: "}},
		"luks": {"luks-interactive-login", map[string]any{
			lpart + ".content.name": "a b", lpart + ".content.settings.header": "/x", lpart + ".content.settings.keyFileSize": "8",
			lpart + ".content.extraFormatArgs": []any{"--label 'x y'"}, lpart + ".content.enrollFido2": true, lpart + ".content.passwordFile": "key",
			lpart + ".content.content.device": "/dev/mapper/a b",
		}, []string{
			lpart + ".content.enrollFido2: is not supported yet", lpart + `.content.extraFormatArgs: "--label 'x y'" has shell syntax`,
			lpart + `.content.name: "a b" is not a name for`, lpart + `.content.passwordFile: "key" is not an absolute path`,
			lpart + ".content.settings.header: ", lpart + ".content.settings.keyFileSize: must be a whole number",
		}},
		"swap": {"swap", map[string]any{
			"disk.main.content.partitions.encryptedSwap.content.randomEncryption": false,
			"disk.main.content.partitions.plainSwap.content.discardPolicy":        "never",
			"disk.main.content.partitions.plainSwap.content.priority":             40000,
		}, []string{`disk.main.content.partitions.plainSwap.content.discardPolicy: "never"`, "disk.main.content.partitions.plainSwap.content.priority: 40000"}},
		"btrfs": {"btrfs-subvolumes", map[string]any{
			root + ".content.subvolumes./home.name": "../x", root + ".content.subvolumes./nix.name": "/rootfs/",
			root + ".content.subvolumes./swap.mountpoint":          nil,
			root + ".content.subvolumes./swap.swap.swapfile2.path": "a/b", root + ".content.swap.swapfile.size": "",
		}, []string{
			root + `.content.subvolumes."/home".name: "../x" is not a name`,
			root + `.content.subvolumes."/rootfs".name: subvolume `,
			root + `.content.subvolumes."/swap".swap.swapfile2.path: "a/b" is not a plain file name`,
			root + `.content.subvolumes."/swap".swap.swapfile2: a swap file needs a mountpoint`,
			root + `.content.subvolumes."/swap".swap.swapfile: a swap file needs a mountpoint`,
			root + `.content.swap.swapfile.size: "" is not a number`,
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

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/layouts/*.json")
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Parse(data)
		if err != nil {
			return
		}
		p, err := NewPlan(l, nil)
		if err != nil {
			t.Fatalf("a layout that was parsed cannot be planned: %v", err)
		}
		for _, s := range append(p.Steps, p.Unmount()...) {
			if len(s.Argv) == 0 || s.Argv[0] == "" || s.Name == "" || s.Device == "" {
				t.Fatalf("empty step %+v", s)
			}
			for _, arg := range s.Argv {
				if strings.ContainsRune(arg, 0) {
					t.Fatalf("argument with NUL in %q", s.Argv)
				}
			}
		}
	})
}
