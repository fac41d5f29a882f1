package disko

import (
	"strings"
	"testing"
)

// shelf is a machine with disks of every kind, by size: a stick, an SD card without a
// card, a write-protected disk, two NVMe, a SATA SSD, and two equal hard disks.
func shelf(t *testing.T) *Facts {
	disk := func(name, serial, more string, size string) string {
		return `{"name":"` + name + `","path":"/dev/` + name + `","type":"disk","log-sec":512,"size":` + size + `,"serial":"` + serial + `"` + more + `}`
	}
	return mustFacts(t, machine(
		disk("sda", "STICK", `,"tran":"usb","rm":true,"rota":true`, "9000000000000"),
		disk("sdb", "CASE", `,"tran":"usb","rm":false,"rota":false`, "9000000000000"),
		disk("sdc", "EMPTY", `,"rm":false`, "0"),
		disk("sdd", "PROTECTED", `,"tran":"sata","ro":true,"rota":true`, "9000000000000"),
		disk("nvme0n1", "N-SMALL", `,"tran":"nvme","rota":false,"wwn":"eui.0025388B71B0A1C2"`, "250000000000"),
		disk("nvme1n1", "N-LARGE ", `,"tran":"nvme","rota":"0"`, "1000000000000"),
		disk("sde", "SSD", `,"tran":"sata","rota":false`, "120000000000"),
		disk("sdf", "HDD-1", `,"tran":"sata","rota":true`, "4000000000000"),
		disk("sdg", "HDD-2", `,"tran":"sata","rota":"1"`, "4000000000000"),
	))
}

func TestSelect(t *testing.T) {
	l := mustParse(t, readFile(t, "layouts/btrfs.json")) // disk.main
	for selector, want := range map[string]string{
		"serial:STICK":             "/dev/sda", // who names it means it
		"serial:N-LARGE":           "/dev/nvme1n1",
		"wwn:eui.0025388b71b0a1c2": "/dev/nvme0n1",
		"smallest":                 "/dev/sde",
		"smallest-ssd":             "/dev/sde",
		"largest-ssd":              "/dev/nvme1n1",
		"largest-nvme":             "/dev/nvme1n1",
		"smallest-nvme":            "/dev/nvme0n1",
		"/dev/nvme0n1":             "/dev/nvme0n1",
		"/dev/disk/by-id/the-disk": "/dev/sda",
	} {
		p, err := NewPlan(l, shelf(t), Options{Disks: map[string]string{"main": selector}})
		if err != nil {
			t.Errorf("%s: %v", selector, err)
		} else if got := p.Disks[0].Device; got != want || p.Steps[len(p.Steps)-1].Device == "" {
			t.Errorf("%s is %s instead of %s", selector, got, want)
		}
	}
	for selector, want := range map[string][]string{
		"largest":          {"disk.main.device: 2 disks of this machine are largest: /dev/sdf (HDD-1, 3.6 TiB) sata, /dev/sdg (HDD-2, 3.6 TiB) sata; choose one with serial:SERIAL"},
		"smallest-hdd":     {"2 disks of this machine are smallest-hdd", "HDD-1", "HDD-2"},
		"serial:n-large":   {"no disk of this machine is serial:n-large; it has /dev/sda (STICK, 8.2 TiB) usb removable, ", "(N-LARGE, "},
		"serial:EMPTY":     {"no disk of this machine is serial:EMPTY"},
		"serial:PROTECTED": {"/dev/sdd (PROTECTED, 8.2 TiB) is read-only"},
		"wwn:0x5":          {"wwn:eui.0025388B71B0A1C2"},
		"/dev/sdz":         {"disk.main.device: /dev/sdz is not a disk of this machine"},
		"biggest":          {`disk.main.device: "biggest" selects no disk; possible are serial:SERIAL, wwn:WWN, largest, smallest, largest-hdd, smallest-hdd, largest-nvme, smallest-nvme, largest-sata, smallest-sata, largest-ssd, smallest-ssd, and a path`},
		"largest-tape":     {"selects no disk"},
		"serial:":          {"selects no disk"},
		"":                 {"selects no disk"},
		"sda":              {"selects no disk"},
		"-f":               {"selects no disk"},
		"serial:A\x1b[2J":  {"selects no disk"},
		"/dev/sda\n":       {"selects no disk"},
	} {
		_, err := NewPlan(l, shelf(t), Options{Disks: map[string]string{"main": selector}})
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%q: got %v, want %q", selector, err, w)
			}
		}
		if err != nil && strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("%q is one mistake, and this is more: %v", selector, err)
		}
	}
}

// TestSelectDisks: what may be wrong between the names, the layout and the disks.
func TestSelectDisks(t *testing.T) {
	l := mustParse(t, readFile(t, "layouts/btrfs-raid.json")) // disk.a, disk.b
	have := l.disks()
	a, b := have[0].on.name, have[1].on.name
	both := map[string]string{a: "serial:HDD-2", b: "serial:HDD-1"}
	p, err := NewPlan(l, shelf(t), Options{Disks: both})
	if err != nil || p.Disks[0].Device != "/dev/sdg" || p.Disks[1].Device != "/dev/sdf" {
		t.Errorf("got %v, %v", p, err)
	}
	for want, disks := range map[string]map[string]string{
		"is taken already by disk." + a: {a: "largest-nvme", b: "/dev/nvme1n1"},
		`disk.mian: is not in the layout, so "largest" cannot be its device; the layout has ` + a + ", " + b: {"mian": "largest"},
	} {
		for _, f := range []*Facts{shelf(t), nil} {
			if _, err := NewPlan(l, f, Options{Disks: disks}); f != nil && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%v: got %v, want %q", disks, err, want)
			} else if f == nil && (err == nil) == (disks["mian"] != "") {
				t.Errorf("%v without facts: got %v", disks, err)
			}
		}
	}
	// The next plan takes the same disks.
	p, err = NewPlan(l, shelf(t), Options{Disks: p.Devices()})
	if err != nil || p.Disks[0].Device != "/dev/sdg" || p.Disks[1].Device != "/dev/sdf" {
		t.Errorf("got %v, %v", p, err)
	}
	if _, err := NewPlan(l, shelf(t), Options{Disks: both, Script: "x"}); err == nil || !strings.Contains(err.Error(), "disko's own script names its disks itself") {
		t.Errorf("with a script: %v", err)
	}
	// Without facts, nobody knows which one it is.
	p, err = NewPlan(l, nil, Options{Disks: both})
	if err != nil || p.Disks[0].Device != "serial:HDD-2" {
		t.Errorf("got %v, %v", p, err)
	}
}

func TestParseDisks(t *testing.T) {
	got, err := ParseDisks([]string{"main=largest", "b=serial:A=B"})
	if err != nil || len(got) != 2 || got["main"] != "largest" || got["b"] != "serial:A=B" {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"largest", "=largest", "main=", "main=huge", "main=smallest-hdd"} {
		if _, err := ParseDisks([]string{"main=largest", bad}); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// TestSelectBuiltIn: whatever its size, what is not a disk of the machine's own is never meant by a size; who names it
// means it. Areas of an eMMC, floppies and empty readers are no disks at all.
func TestSelectBuiltIn(t *testing.T) {
	l := mustParse(t, readFile(t, "layouts/btrfs.json")) // disk.main
	emmc := dev("mmcblk0", "disk", `,"serial":"0x1234"`)
	for name, more := range map[string]string{
		"mtdblock0": "", "pmem0": "", "pmem0s": "", "nbd0": "", "nbd15": "", "rbd0": "", "drbd0": "", "drbd1001": "", "etherd/e0.0": "", "ublkb0": "", "nullb0": "",
		"mmcblk0boot0": "", "mmcblk0boot1": `,"ro":false`, "mmcblk0rpmb": "", "mmcblk0gp0": "", "fd0": "", "bcache0": "", "zram1": "", "md0": "", "dm-0": "",
		"sdz": `,"tran":"iscsi"`, "sdy": `,"tran":"fcoe"`, "nvme9n1": `,"tran":"tcp"`,
	} {
		for _, size := range []string{"16777216", "900000000000000"} {
			f := mustFacts(t, machine(dev(name, "disk", `,"size":`+size+more), emmc))
			for selector := range map[string]bool{"smallest": true, "largest": true, "smallest-ssd": true, "largest-ssd": true} {
				p, err := NewPlan(l, f, Options{Disks: map[string]string{"main": selector}})
				if err != nil || p.Disks[0].Device != "/dev/mmcblk0" {
					t.Errorf("%s of %s bytes: %s: %v", name, size, selector, err)
				}
			}
		}
	}
	for name, isDisk := range map[string]bool{
		"fd0": false, "fd1": false, "mmcblk0boot0": false, "mmcblk0rpmb": false, "bcache0": false, "ram0": false, "zram0": false, "zd16": false,
		"sda": true, "nbd0": true, "pmem0": true, "drbd0": true, "rbd0": true, "mtdblock0": true, "mmcblk1": true, "nvme0n1": true, "vda": true, "xvda": true,
	} {
		if got := mustFacts(t, machine(dev(name, "disk", ""))).Disks(); len(got) == 1 != isDisk {
			t.Errorf("%s is listed: %v", name, got)
		}
	}
	if got := mustFacts(t, machine(dev("sdc", "disk", `,"size":0,"rm":true,"model":"Card Reader"`))).Disks(); len(got) != 0 {
		t.Errorf("an empty reader is listed: %v", got)
	}
	for _, name := range []string{"sda", "sdaa", "vdb", "xvdc", "hda", "nvme10n2", "mmcblk1", "dasda", "cciss!c0d0"} {
		f := mustFacts(t, machine(dev(name, "disk", "")))
		if p, err := NewPlan(l, f, Options{Disks: map[string]string{"main": "largest"}}); err != nil || p.Disks[0].Device != "/dev/"+name {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSelectTwins: the error that names several disks says what tells them apart.
func TestSelectTwins(t *testing.T) {
	l := mustParse(t, readFile(t, "layouts/btrfs.json")) // disk.main
	for want, more := range map[string][2]string{
		"serial:SERIAL":                  {`,"serial":"A"`, `,"serial":"B"`},
		"wwn:WWN":                        {`,"serial":"A","wwn":"0x1"`, `,"serial":"A","wwn":"0x2"`},
		"a path below /dev/disk/by-path": {`,"serial":"A"`, `,"serial":"A"`},
	} {
		f := mustFacts(t, machine(dev("sda", "disk", more[0]), dev("sdb", "disk", more[1])))
		_, err := NewPlan(l, f, Options{Disks: map[string]string{"main": "largest"}})
		if err == nil || !strings.HasSuffix(err.Error(), "choose one with "+want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
