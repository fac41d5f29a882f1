package bootable

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	"provision/disko"
	"provision/internal/boards"
)

func board(t *testing.T, name string) boards.Board {
	t.Helper()
	b, err := boards.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// layoutOf makes a layout of one disk. Each part is "NAME TYPE SIZE FORMAT MOUNTPOINT OPTION...". Of a GPT, TYPE is
// sgdisk's code and an option is hybrid=TYPE or legacy; of an MBR, TYPE is parted's fs-type and an
// option is a flag.
func layoutOf(t *testing.T, table, device string, parts ...string) *disko.Layout {
	t.Helper()
	type set map[string]any
	content := func(dev, format, point string) any {
		switch {
		case format == "-":
			return nil
		case point == "-":
			point = ""
		}
		fs := set{"type": "filesystem", "device": dev, "format": format, "extraArgs": []string{}, "mountOptions": []string{"defaults"}, "mountpoint": nil}
		if point != "" {
			fs["mountpoint"] = point
		}
		return fs
	}
	gpt := set{}
	var list []any
	at := 1
	for i, p := range parts {
		f := strings.Fields(p)
		name, kind, size, options := f[0], f[1], f[2], f[5:]
		if table == "msdos" {
			dev := device + "p" + strconv.Itoa(i+1)
			start := strconv.Itoa(at) + "MiB"
			end := "100%"
			if mib, err := strconv.Atoi(strings.TrimSuffix(size, "M")); err == nil {
				at += mib
				end = strconv.Itoa(at) + "MiB"
			}
			var fsType any
			if kind != "-" {
				fsType = kind
			}
			list = append(list, set{"name": name, "part-type": "primary", "fs-type": fsType, "start": start, "end": end,
				"bootable": false, "flags": append([]string{}, options...), "content": content(dev, f[3], f[4])})
			continue
		}
		dev, end := "/dev/disk/by-partlabel/disk-main-"+name, "+"+size
		if size == "100%" {
			end = "-0"
		}
		part := set{"name": name, "label": "disk-main-" + name, "device": dev, "type": kind, "size": size, "start": "0", "end": end, "alignment": 0,
			"attributes": []int{}, "priority": 100 + i, "uuid": nil, "hybrid": nil, "content": content(dev, f[3], f[4])}
		for _, o := range options {
			if o == "legacy" {
				part["attributes"] = []int{2}
			} else {
				part["hybrid"] = set{"mbrPartitionType": strings.TrimPrefix(o, "hybrid="), "mbrBootableFlag": false}
			}
		}
		gpt[name] = part
	}
	made := set{"type": "gpt", "device": device, "efiGptPartitionFirst": false, "partitions": gpt}
	if table == "msdos" {
		made = set{"type": "table", "device": device, "format": "msdos", "partitions": list}
	}
	data, err := json.Marshal(set{"bcachefs_filesystems": set{}, "lvm_vg": set{}, "mdadm": set{}, "nodev": set{}, "zpool": set{}, "disk": set{"main": set{
		"type": "disk", "name": "main", "device": device, "imageName": "main", "imageSize": "2G", "destroy": true, "content": made}}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := disko.Parse(data)
	if err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	return l
}

// TestProblems: what each board would not start from is said, with what mends it.
func TestProblems(t *testing.T) {
	const card, nvme = "/dev/mmcblk0", "/dev/nvme0n1"
	for _, test := range []struct {
		board, table, device string
		parts                []string
		want                 []string // in turn; "!" first: stops
	}{
		{"pc", "gpt", card, []string{"ESP EF00 500M vfat /boot", "root 8300 100% ext4 /"}, nil},
		{"pc", "gpt", card, []string{"bios EF02 1M - -", "root 8300 100% ext4 /"}, nil},
		{"pc", "msdos", card, []string{"root - 100% ext4 / boot"}, nil},
		{"pc", "gpt", card, []string{"root 8300 100% ext4 /"}, []string{"!pc: nothing in the layout starts it: add an EFI system partition"}},
		{"pc", "gpt", card, []string{"ESP EF00 500M vfat -", "root 8300 100% ext4 /"}, []string{"holds no vfat that is mounted"}},
		{"pc", "gpt", card, []string{"ESP 8300 500M vfat /boot", "root 8300 100% ext4 /"}, []string{"UEFI looks for a partition of type EF00"}},
		{"uefi-aarch64", "gpt", card, []string{"ESP 8300 500M vfat /boot", "root 8300 100% ext4 /"}, []string{"the partition with the FAT should be of type EF00"}},
		{"uefi-aarch64", "gpt", card, []string{"ESP EF00 500M vfat /boot", "root 8300 100% ext4 /"}, nil},
		{"uefi-aarch64", "gpt", card, []string{"bios EF02 1M - -", "root 8300 100% ext4 /"}, []string{"!uefi-aarch64: UEFI starts from an EFI system partition, and the layout has none"}},

		{"rpi3", "msdos", card, []string{"fw fat32 200M vfat /boot/firmware", "root - 100% ext4 / boot"}, nil},
		{"rpi3", "gpt", card, []string{"fw 0700 200M vfat /boot/firmware hybrid=0x0c", "root 8300 100% ext4 / legacy"}, nil},
		{"rpi3", "gpt", card, []string{"fw 0700 200M vfat /boot/firmware", "root 8300 100% ext4 / legacy"},
			[]string{`!disk.main.content.partitions.fw: rpi3: its boot ROM reads no GPT: use a table of type "table" and format "msdos", or put this partition into a hybrid MBR too: hybrid.mbrPartitionType = "0x0c"`}},
		{"rpi3", "gpt", card, []string{"fw EF00 200M vfat /boot/firmware hybrid=0xef", "root 8300 100% ext4 / legacy"},
			[]string{`!this one is of type 0xef: set hybrid.mbrPartitionType = "0x0c"`}},
		{"rpi3", "msdos", card, []string{"fw fat32 200M vfat /boot/firmware esp", "root - 100% ext4 / boot"}, []string{`!set fs-type = "fat32", without the flag esp`}},
		{"rpi3", "msdos", card, []string{"fw - 200M vfat /boot/firmware", "root - 100% ext4 / boot"}, []string{"!this one is of type 0x83"}},

		{"rpi4", "msdos", card, []string{"fw fat32 200M vfat /boot/firmware", "root - 100% ext4 / boot"}, nil},
		{"rpi4", "msdos", card, []string{"fw fat32 500M vfat /boot", "root - 100% ext4 /"}, nil},
		{"rpi4", "msdos", card, []string{"fw ext4 200M vfat /boot/firmware", "root - 100% ext4 / boot"}, []string{"!of a FAT type, and this one is of type 0x83"}},
		{"rpi4", "gpt", card, []string{"fw 0700 200M vfat /boot/firmware", "root 8300 100% ext4 / legacy"}, []string{"EEPROM of September 2020"}},
		{"rpi4", "gpt", card, []string{"fw 8300 200M vfat /boot/firmware", "root 8300 100% ext4 / legacy"}, []string{`!set type = "0700"`}},
		{"rpi4", "gpt", card, []string{"root 8300 100% ext4 /"}, []string{"rpi4: the layout has no FAT partition for its firmware (vfat, mounted at /boot/firmware)"}},
		{"rpi4", "msdos", card, []string{"fw fat32 200M vfat /boot/firmware", "root - 100% ext4 /"}, []string{"U-Boot looks only at partitions that are marked bootable, or at the first if none is: set bootable = true"}},

		{"rpi5", "gpt", card, []string{"fw EF00 200M vfat /boot/firmware", "root 8300 100% ext4 /"}, []string{"set attributes = [ 2 ]"}},
		{"rpi5", "gpt", card, []string{"data 0700 100M vfat /data", "fw 0700 200M vfat /boot/firmware", "root 8300 100% ext4 / legacy"}, []string{"takes the first FAT partition of the disk, which is disk.main.content.partitions.data"}},
		{"rpi5", "gpt", nvme, []string{"fw EF00 500M vfat /boot/firmware", "root 8300 100% ext4 / legacy"}, []string{"does not read NVMe"}},
	} {
		t.Run(test.board+" "+strings.Join(test.parts, ", "), func(t *testing.T) {
			got := Problems(layoutOf(t, test.table, test.device, test.parts...), board(t, test.board))
			for i, p := range got {
				words := p.String()
				if p.Stops {
					words = "!" + words
				}
				want := "nothing"
				if i < len(test.want) {
					want = test.want[i]
				}
				text, stops := strings.CutPrefix(want, "!")
				if p.Stops != stops || !strings.Contains(words, text) {
					t.Errorf("got %s, want %s", words, want)
				}
			}
			if len(got) < len(test.want) {
				t.Errorf("%d problems, want %q", len(got), test.want)
			}
		})
	}
}

// TestPresetsSuitBoards: each layout that comes with provision suits the boards that it is for, and the one for a
// Raspberry Pi with a GPT not the Pi 3.
func TestPresetsSuitBoards(t *testing.T) {
	for _, p := range disko.Presets() {
		l, err := p.Layout()
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range boardsOf(p) {
			for _, problem := range Problems(l, b) {
				if problem.Stops || b.GPTSince == "" {
					t.Errorf("%s for %s: %s", p.Name, b, problem)
				}
			}
		}
		problems := Problems(l, board(t, "rpi3"))
		if (p.Name == "rpi4" || p.Name == "rpi5") && (len(problems) == 0 || !problems[0].Stops) {
			t.Errorf("%s for rpi3: %v", p.Name, problems)
		}
	}
}

// boardsOf returns the boards that a preset is for: the one that it is called like, or else all that start what UEFI
// and BIOS start.
func boardsOf(p disko.Preset) []boards.Board {
	b, err := boards.Parse(p.Name)
	if err == nil {
		return []boards.Board{b}
	}
	return slices.DeleteFunc(boards.All(), func(b boards.Board) bool {
		return b.Firmware != "" || p.Arch != "" && p.Arch != b.Arch
	})
}
