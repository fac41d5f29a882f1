package disko

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func mustFacts(t testing.TB, data string) *Facts {
	t.Helper()
	f, err := ParseFacts([]byte(data))
	if err != nil {
		t.Fatalf("ParseFacts: %v", err)
	}
	return f
}

// machine is the facts of a machine with the devices, /dev/disk/by-id/the-disk being sda.
func machine(devices ...string) string {
	return `{"blockdevices":[` + strings.Join(devices, ",") + `],"links":{"/dev/disk/by-id/the-disk":"/dev/sda"}}`
}

// dev is a device of 8 GiB; more is JSON, beginning with a comma.
func dev(name, kind, more string, children ...string) string {
	path := "/dev/" + name
	if kind == "crypt" || kind == "lvm" {
		path = "/dev/mapper/" + name
	}
	if children != nil {
		more += `,"children":[` + strings.Join(children, ",") + `]`
	}
	return `{"name":"` + name + `","path":"` + path + `","type":"` + kind + `","size":8589934592,"log-sec":512` + more + `}`
}

// argvs are a stage's commands.
func argvs(steps []Step, stage Stage) []string {
	var list []string
	for _, s := range steps {
		if s.Stage == stage {
			list = append(list, strings.Join(s.Argv, " "))
		}
	}
	return list
}

func equalLines(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func wipes(devices ...string) []string {
	var list []string
	for _, d := range devices {
		list = append(list, "wipefs --all --force "+d)
	}
	last := devices[len(devices)-1]
	return append(list, strings.Join(zero(last), " "), "udevadm settle --timeout 120")
}

func TestDestroy(t *testing.T) {
	const boot = `,"fstype":"vfat","partlabel":"disk-main-ESP","mountpoints":["/mnt/boot"]`
	for name, c := range map[string]struct {
		facts string
		want  []string
	}{
		"blank":      {machine(dev("sda", "disk", "")), wipes("/dev/sda")},
		"partitions": {machine(dev("sda", "disk", "", dev("sda1", "part", ""), dev("sda2", "part", ""))), wipes("/dev/sda1", "/dev/sda2", "/dev/sda")},
		"an install was cut short": {machine(dev("sda", "disk", "",
			dev("sda1", "part", boot),
			dev("sda2", "part", `,"fstype":"crypto_LUKS"`, dev("crypted", "crypt", `,"fstype":"btrfs","uuid":"u","mountpoints":["/mnt/.swap","/mnt/nix","/mnt",null,"/run/provision/subvolumes"]`)),
			dev("sda3", "part", `,"fstype":"swap","mountpoints":["[SWAP]"]`))), append([]string{
			"swapoff /dev/sda3",
			"swapoff --all",
			"umount --recursive /run/provision/subvolumes",
			"umount --recursive /mnt/nix",
			"umount --recursive /mnt/boot",
			"umount --recursive /mnt/.swap",
			"umount --recursive /mnt",
			"cryptsetup close crypted",
		}, wipes("/dev/sda1", "/dev/sda2", "/dev/sda3", "/dev/sda")...)},
		"mounted twice": {machine(dev("sda", "disk", "", dev("sda1", "part", `,"mountpoints":["/mnt","/mnt"]`))),
			append([]string{"swapoff --all", "umount --recursive /mnt", "umount --recursive /mnt"}, wipes("/dev/sda1", "/dev/sda")...)},
		"another disk is mounted at /mnt": {machine(dev("sda", "disk", ""), dev("sdb", "disk", "", dev("sdb1", "part", `,"fstype":"ext4","mountpoint":"/mnt"`))),
			append([]string{"umount --recursive /mnt"}, wipes("/dev/sda")...)},
		"a pool in luks": {machine(dev("sda", "disk", "", dev("sda1", "part", "", dev("c", "crypt", `,"fstype":"zfs_member","label":"tank"`))), dev("zd0", "disk", `,"mountpoint":"[SWAP]"`)),
			append([]string{"swapoff /dev/zd0", "sh -c ! zpool list -- \"$0\" >/dev/null 2>&1 || zpool export -f -- \"$0\" tank", "cryptsetup close c"}, wipes("/dev/sda1", "/dev/sda")...)},
		"lvm in luks, and raid": {machine(dev("sda", "disk", "",
			dev("sda1", "part", "", dev("md127", "raid1", "", dev("md127p1", "part", ""))),
			dev("sda2", "part", "", dev("c", "crypt", "",
				dev("my--vg-root", "lvm", ""), dev("my--vg-home", "lvm", "", dev("home", "crypt", "")))))),
			append([]string{
				"cryptsetup close home", "vgchange --activate n my-vg", "stop",
			}, wipes("/dev/sda1", "/dev/sda2", "/dev/sda")...)},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := NewPlan(mustParse(t, readFile(t, "layouts/efi.json")), mustFacts(t, c.facts), Options{})
			if err != nil {
				t.Fatal(err)
			}
			if i := slices.Index(c.want, "stop"); i >= 0 {
				c.want = slices.Replace(c.want, i, i+1, "mdadm --stop /dev/md127", "cryptsetup close c")
			}
			equalLines(t, "destroy", argvs(p.Steps, StageDestroy), c.want)
			for _, s := range p.Steps {
				tool := s.Argv[0]
				if wiping := s.Stage == StageDestroy && (tool == "wipefs" || tool == "dd"); s.Destructive() != wiping {
					t.Errorf("%q destroys %q", s.Argv, s.Destroys)
				}
			}
		})
	}
}

func TestPartitionNodes(t *testing.T) {
	for device, want := range map[string]string{"sda": "/dev/sda2", "nvme0n1": "/dev/nvme0n1p2", "mmcblk0": "/dev/mmcblk0p2", "vdb": "/dev/vdb2"} {
		facts := mustFacts(t, strings.ReplaceAll(machine(dev("sda", "disk", "")), "/dev/sda", "/dev/"+device))
		p, err := NewPlan(mustParse(t, readFile(t, "layouts/efi.json")), facts, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if got := argvs(p.Steps, StageMount)[0]; got != "mount "+want+" /mnt -t ext4 -o defaults -o X-mount.mkdir" {
			t.Errorf("%s: %s", device, got)
		}
		if len(p.Disks) != 1 || p.Disks[0].Device != "/dev/"+device || p.Disks[0].Size != 8<<30 {
			t.Errorf("%s: takes %v", device, p.Disks)
		}
	}
}

func TestPlanProblems(t *testing.T) {
	const at = "disk.main.device: "
	two := func(t *testing.T) []byte { // a second disk, with /boot
		data := readFile(t, "layouts/efi.json")
		var doc struct{ Disk map[string]json.RawMessage }
		if err := json.Unmarshal(data, &doc); err != nil {
			t.Fatal(err)
		}
		other := strings.NewReplacer("the-disk", "other-id", "disk-main", "disk-other", `"/boot"`, `"/efi"`, `"/"`, `"/srv"`).Replace(string(doc.Disk["main"]))
		return edit(t, data, map[string]any{"disk.other": json.RawMessage(other)})
	}
	for name, c := range map[string]struct {
		layout func(*testing.T) []byte
		facts  string
		want   []string
	}{
		"not there": {nil, machine(dev("sdb", "disk", `,"model":" Samsung SSD ","serial":"S1"`), dev("vdc", "disk", ""), dev("loop0", "loop", ""), dev("zram0", "disk", "")),
			[]string{at + "/dev/disk/by-id/the-disk is not a disk of this machine; it has /dev/sdb (Samsung SSD, S1, 8 GiB), /dev/vdc (8 GiB)"}},
		"no disks":           {nil, machine(), []string{at + "/dev/disk/by-id/the-disk is not a disk of this machine; it has no disks"}},
		"a partition":        {nil, `{"blockdevices":[` + dev("sda", "disk", "", dev("sda1", "part", "")) + `],"links":{"/dev/disk/by-id/the-disk":"/dev/sda1"}}`, []string{at}},
		"too small":          {nil, machine(dev("sda", "disk", `,"size":524288000`)), []string{at + "/dev/sda (500 MiB) is too small: it has 524288000 bytes, the layout needs 502 MiB (526385152 bytes) at least: disk.main.content.partitions.ESP: from"}},
		"no medium":          {nil, machine(dev("sda", "disk", `,"size":0`)), []string{at + "/dev/sda (size not known) has no medium"}},
		"odd sectors":        {nil, machine(dev("sda", "disk", `,"log-sec":520`)), []string{at + "/dev/sda (8 GiB): sectors of 520 bytes are not supported"}},
		"read-only and busy": {nil, machine(dev("sda", "disk", `,"ro":true`, dev("sda1", "part", `,"mountpoints":["/"]`))), []string{at + "/dev/sda (8 GiB) is read-only", at + "/dev/sda is in use by the running system: /dev/sda1 is mounted at /"}},
		"looks like /mnt":    {nil, machine(dev("sda", "disk", "", dev("sda1", "part", `,"mountpoints":["/mnt2","/nix/.ro-store"]`))), []string{at + "/dev/sda is in use by the running system: /dev/sda1 is mounted at /mnt2", at + "/dev/sda is in use by the running system: /dev/sda1 is mounted at /nix/.ro-store"}},
		"busy below luks":    {nil, machine(dev("sda", "disk", "", dev("sda1", "part", "", dev("c", "crypt", `,"mountpoints":["/home"]`)))), []string{at + "/dev/sda is in use by the running system: /dev/mapper/c is mounted at /home"}},
		"unknown on it":      {nil, machine(dev("sda", "disk", "", dev("new0", "new", ""))), []string{at + `/dev/sda is in use by /dev/new0 of type "new"`}},
		"half a raid": {nil, machine(dev("sda", "disk", "", dev("md0", "raid1", "")), dev("sdb", "disk", "", dev("md0", "raid1", ""))),
			[]string{at + "/dev/sda holds a part of /dev/md0, which is also on /dev/sda, /dev/sdb; the layout does not take all of these"}},
		"label elsewhere": {nil, machine(dev("sda", "disk", ""), dev("sdb", "disk", "", dev("sdb2", "part", `,"partlabel":"disk-main-root"`))),
			[]string{`disk.main.content.partitions.root.label: "disk-main-root" is the label of /dev/sdb2 too`}},
		"one disk for two": {two, `{"blockdevices":[` + dev("sda", "disk", "") + `],"links":{"/dev/disk/by-id/the-disk":"/dev/sda","/dev/disk/by-id/other-id":"/dev/sda"}}`,
			[]string{`disk.other.device: disk "/dev/sda" is taken already by disk.main.device`}},
		"both missing": {two, machine(), []string{at, "disk.other.device: "}},
		"container elsewhere": {func(t *testing.T) []byte { return readFile(t, "layouts/luks.json") },
			machine(dev("vdb", "disk", ""), dev("sdc", "disk", "", dev("crypted", "crypt", ""))), []string{`disk: a container "crypted" is there already on /dev/sdc`}},
	} {
		t.Run(name, func(t *testing.T) {
			data := readFile(t, "layouts/efi.json")
			if c.layout != nil {
				data = c.layout(t)
			}
			_, err := NewPlan(mustParse(t, data), mustFacts(t, c.facts), Options{})
			wantProblems(t, err, c.want...)
		})
	}
}

func TestLUKSFlags(t *testing.T) {
	const at = "disk.main.content.partitions.luks.content"
	p, err := NewPlan(mustParse(t, edit(t, readFile(t, "layouts/luks.json"), map[string]any{
		at + ".keyFile":         "/tmp/old.key",
		at + ".extraOpenArgs":   []any{"--timeout 10"},
		at + ".extraFormatArgs": []any{"--pbkdf argon2id", "--label=x"},
		at + ".settings": map[string]any{
			"keyFile": "/tmp/raw.key", "keyFileSize": 4096, "keyFileOffset": 12, "allowDiscards": true,
			"bypassWorkqueues": true, "fallbackToPassword": true, "crypttabExtraOpts": []any{"x"},
		},
	})), mustFacts(t, machine(dev("vdb", "disk", ""))), Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := slices.DeleteFunc(argvs(p.Steps, StageCreate), func(s string) bool { return !strings.HasPrefix(s, "cryptsetup") })
	equalLines(t, "cryptsetup", got, []string{
		"cryptsetup -q luksFormat /dev/vdb2 --pbkdf argon2id --label=x --key-file /tmp/raw.key --keyfile-size 4096 --keyfile-offset 12",
		"cryptsetup open /dev/vdb2 crypted --allow-discards --perf-no_read_workqueue --perf-no_write_workqueue --timeout 10 --key-file /tmp/raw.key --keyfile-size 4096 --keyfile-offset 12 --persistent",
	})
	equalLines(t, "key files", p.KeyFiles(), []string{"/tmp/raw.key"})
	for _, s := range p.Steps {
		if s.Stdin != "" {
			t.Errorf("%q reads %s", s.Argv, s.Stdin)
		}
	}
	equalLines(t, "unmount", argvs(p.Unmount(), StageUnmount), []string{"umount --recursive /mnt", "cryptsetup close crypted"})
}

func TestLUKSKeys(t *testing.T) {
	const at = "disk.main.content.partitions.luks.content"
	for name, c := range map[string]struct {
		changes    map[string]any
		arg, stdin string
		files      []string
	}{
		"password":     {map[string]any{at + ".keyFile": "/k"}, "-", "/tmp/secret.key", []string{"/tmp/secret.key"}},
		"deprecated":   {map[string]any{at + ".keyFile": "/k", at + ".passwordFile": nil}, "/k", "", []string{"/k"}},
		"usb stick":    {map[string]any{at + ".settings.keyFile": "/dev/disk/by-id/usb"}, "/dev/disk/by-id/usb", "", nil},
		"raw is first": {map[string]any{at + ".settings.keyFile": "/r"}, "/r", "", []string{"/r"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := NewPlan(mustParse(t, edit(t, readFile(t, "layouts/luks.json"), c.changes)), nil, Options{})
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, s := range p.Steps {
				if i := slices.Index(s.Argv, "--key-file"); i >= 0 {
					n++
					if s.Argv[i+1] != c.arg || s.Stdin != c.stdin {
						t.Errorf("%q with stdin %q", s.Argv, s.Stdin)
					}
				}
			}
			if n != 2 {
				t.Errorf("%d steps have a key", n)
			}
			equalLines(t, "key files", p.KeyFiles(), c.files)
		})
	}
}

func TestSwap(t *testing.T) {
	const at = "disk.main.content.partitions."
	p, err := NewPlan(mustParse(t, edit(t, readFile(t, "layouts/swap.json"), map[string]any{
		at + "fresh.content.randomEncryption": false,
		at + "fresh.content.discardPolicy":    "once",
		at + "fresh.content.mountOptions":     []any{"defaults", "nofail"},
		at + "fresh.content.extraArgs":        []any{"--label x"},
	})), mustFacts(t, machine(dev("vdb", "disk", ""))), Options{})
	if err != nil {
		t.Fatal(err)
	}
	equalLines(t, "mount", argvs(p.Steps, StageMount), []string{
		"mount /dev/vdb3 /mnt -t ext4 -o defaults -o X-mount.mkdir",
		"mount /dev/vdb1 /mnt/boot -t vfat -o umask=0077 -o X-mount.mkdir",
		"swapon --discard=once --priority=100 --options=defaults,nofail /dev/vdb2",
		"swapon --discard --options=defaults /dev/vdb4",
	})
	equalLines(t, "unmount", argvs(p.Unmount(), StageUnmount), []string{"swapoff /dev/vdb4", "swapoff /dev/vdb2", "umount --recursive /mnt"})
	if create := argvs(p.Steps, StageCreate); !slices.Contains(create, "mkswap --label x /dev/vdb2") {
		t.Errorf("no mkswap in %q", create)
	}
}

func TestSwapFiles(t *testing.T) {
	p, err := NewPlan(mustParse(t, edit(t, readFile(t, "layouts/btrfs.json"), map[string]any{
		"disk.main.content.partitions.root.content.swap.a.priority":             7,
		"disk.main.content.partitions.root.content.subvolumes./spare.name":      "deep/er/test",
		"disk.main.content.partitions.root.content.subvolumes./spare.extraArgs": []any{"-i 0/5"},
	})), nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var swaps []string
	for _, s := range argvs(p.Steps, StageMount) {
		if strings.HasPrefix(s, "swapon") {
			swaps = append(swaps, s)
		}
	}
	equalLines(t, "swap", swaps, []string{
		"swapon --priority=7 --options=defaults /mnt/top/a",
		"swapon --options=defaults /mnt/top/b",
		"swapon --options=defaults /mnt/.swap/one",
		"swapon --options=defaults /mnt/.swap/other",
	})
	create := strings.Join(argvs(p.Steps, StageCreate), "\n")
	if want := "\nmkdir -p /run/provision/subvolumes/deep/er\nbtrfs subvolume create /run/provision/subvolumes/deep/er/test -i 0/5\n"; !strings.Contains(create, want) {
		t.Errorf("no %q in\n%s", want, create)
	}
}

func TestPlanJSON(t *testing.T) {
	p, err := NewPlan(mustParse(t, readFile(t, "layouts/luks.json")), mustFacts(t, machine(dev("vdb", "disk", ""))), Options{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Way          Mode
		Steps, Disks []map[string]any
	}
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if got.Way != Fresh || len(got.Steps) != len(p.Steps) || got.Disks[0]["device"] != "/dev/vdb" || got.Disks[0]["content"] != "blank" {
		t.Errorf("plan as JSON: %s", data)
	}
	if s := got.Steps[0]; s["stage"] != "destroy" || s["destroys"] != "everything on /dev/vdb (8 GiB): blank" || s["stdin"] != nil {
		t.Errorf("first step: %v", s)
	}
}

func TestFacts(t *testing.T) {
	// As util-linux 2.31 prints: numbers and booleans as strings, no path, one mount point.
	const old = `{"blockdevices":[
		{"name":"sda","kname":"sda","mountpoint":null,"label":null,"ro":"0","rm":"1","model":"SSD  ","serial":"S","wwn":"0x5","size":"8589934592","log-sec":"4096","type":"disk","pttype":"gpt","children":[
			{"name":"sda1","kname":"sda1","mountpoint":"/mnt/boot","fstype":"vfat","label":"ESP","partlabel":"x","ro":"0","rm":"1","size":"536870912","log-sec":"4096","type":"part"},
			{"name":"sda2","kname":"sda2","mountpoint":null,"fstype":"crypto_LUKS","size":"8053063680","type":"part"},
			{"name":"sda3","kname":"sda3","partlabel":"empty","size":"1048576","type":"part"}]},
		{"name":"sdb","kname":"sdb","fstype":"ext4","label":"data","size":"1024","type":"disk"},
		{"name":"sdc","kname":"sdc","pttype":"dos","size":"1024","type":"disk"},
		{"name":"sr0","kname":"sr0","size":"1024","type":"rom"},
		{"name":"sdd","kname":"sdd","size":"0","type":"disk"},
		{"name":"zram0","kname":"zram0","size":"1024","type":"disk"},
		{"name":"loop0","kname":"loop0","size":"1024","type":"loop"}],
		"links":{"/dev/disk/by-id/x":"/dev/sda"}}`
	f := mustFacts(t, old)
	want := []Disk{
		{Device: "/dev/sda", Model: "SSD", Serial: "S", WWN: "0x5", Size: 8 << 30, SectorSize: 4096, Removable: true,
			Content: `gpt: vfat "ESP" 512 MiB, crypto_LUKS 7.5 GiB, unformatted "empty" 1 MiB`},
		{Device: "/dev/sdb", Size: 1024, SectorSize: 512, Content: `ext4 "data" 1 KiB`},
		{Device: "/dev/sdc", Size: 1024, SectorSize: 512, Content: "dos: no partitions"},
	}
	if got := f.Disks(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	data, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	if again := mustFacts(t, string(data)); !reflect.DeepEqual(again, f) {
		t.Errorf("facts do not survive JSON: %+v", again)
	}
	for _, bad := range []string{"", "{}", "null", "[]", `{"blockdevices":7}`, `{"blockdevices":[{"size":"8G"}]}`, `{"blockdevices":[{"size":-1}]}`, `{"blockdevices":[{"ro":"yes"}]}`} {
		if _, err := ParseFacts([]byte(bad)); err == nil {
			t.Errorf("%s is taken for facts", bad)
		}
	}
}

func TestVolumeGroup(t *testing.T) {
	for name, want := range map[string]string{"vg-lv": "vg", "my--vg-l--v": "my-vg", "a----b-c": "a--b", "odd": "odd", "": ""} {
		if got := groupOf(name); got != want {
			t.Errorf("groupOf(%q) = %q, want %q", name, got, want)
		}
	}
}
