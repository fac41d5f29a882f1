package installer

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"provision/disko"
	"provision/hosts"
	"provision/images"
)

// sdCard is the layout of an SD card with a root file system and, if fw is not empty, before it a partition for the
// firmware: its type (parted's fs-type in an MBR, sgdisk's code in a GPT), its size in MiB, and its file system.
func sdCard(t *testing.T, table, fw string) *disko.Layout {
	t.Helper()
	type set map[string]any
	filesystem := func(device, format, point string) set {
		return set{"type": "filesystem", "device": device, "format": format, "mountpoint": point,
			"extraArgs": []string{}, "mountOptions": []string{"defaults"}}
	}
	const card = "/dev/mmcblk0"
	mbr := func(number, fsType, start, end, format, point string, flags ...string) set {
		return set{"name": "part" + number, "part-type": "primary", "fs-type": fsType, "start": start, "end": end,
			"bootable": false, "flags": append([]string{}, flags...),
			"content": filesystem(card+"p"+number, format, point)}
	}
	gpt := func(name, code, size, end, format, point string, attributes ...int) set {
		device := "/dev/disk/by-partlabel/disk-main-" + name
		return set{"name": name, "label": "disk-main-" + name, "device": device, "type": code, "size": size, "start": "0",
			"end": end, "alignment": 0, "priority": 100, "uuid": nil, "hybrid": nil,
			"attributes": append([]int{}, attributes...), "content": filesystem(device, format, point)}
	}

	var parts []set // of an MBR
	named := set{"root": gpt("root", "8300", "100%", "-0", "ext4", "/", 2)}
	root, start := "1", "1MiB"
	if fw != "" {
		fields := strings.Fields(fw)
		kind, size, format := fields[0], fields[1], fields[2]
		mib, err := strconv.Atoi(size)
		if err != nil {
			t.Fatal(err)
		}
		root, start = "2", fmt.Sprintf("%dMiB", 1+mib)
		parts = append(parts, mbr("1", kind, "1MiB", start, format, "/boot/firmware"))
		named["fw"] = gpt("fw", kind, size+"M", "+"+size+"M", format, "/boot/firmware")
	}
	parts = append(parts, mbr(root, "ext4", start, "100%", "ext4", "/", "boot"))

	disk := set{"type": "gpt", "device": card, "efiGptPartitionFirst": false, "partitions": named}
	if table == "msdos" {
		disk = set{"type": "table", "device": card, "format": "msdos", "partitions": parts}
	}
	data, err := json.Marshal(set{
		"bcachefs_filesystems": set{}, "lvm_vg": set{}, "mdadm": set{}, "nodev": set{}, "zpool": set{},
		"disk": set{"main": set{"type": "disk", "name": "main", "device": card, "imageName": "main", "imageSize": "2G",
			"destroy": true, "content": disk}},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := disko.Parse(data)
	if err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	return l
}

// TestCheckBoard: what the board would not start from ends the install before anything is
// changed; what is only doubtful is noted.
func TestCheckBoard(t *testing.T) {
	dir := t.TempDir()
	inv := inventory(t, dir)
	full := firmwareCatalog(t)
	none, err := images.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for i, test := range []struct {
		board, asked, table string
		firmware            string
		catalog             *images.Catalog
		err, note           string
	}{
		{"rpi4", "rpi4", "msdos", "fat32 200 vfat", full, "", ""},
		{"", "", "msdos", "ext4 1 vfat", full, "", ""},
		{"pc", "pc", "msdos", "", none, "", ""},
		{"rpi4", "rpi5", "msdos", "fat32 200 vfat", full, "", "it is enrolled as rpi4, and asked to boot as rpi5 does"},
		{"rpi4", "", "msdos", "fat32 1 vfat", full, "nothing was changed. disk.main.content.partitions[0]: the partition for the firmware has ", ""},
		{"rpi4", "", "gpt", "0700 1 vfat", full,
			"nothing was changed. disk.main.content.partitions.fw: the partition for the firmware has 1 MB, and that of rpi4 (Raspberry Pi 4, 400 or CM4) needs 1.1 MB: make it larger", "EEPROM of September 2020"},
		{"rpi4", "", "msdos", "fat32 1 vfat", none, "", "no firmware is here to be put on the disk: the host has to bring its own"},
		{"rpi5", "", "msdos", "fat32 1 vfat", full, "", "it lacks bcm2712*-rpi-*.dtb"},
		{"rpi3", "", "gpt", "0700 200 vfat", full,
			"nothing was changed. The layout does not suit the board, rpi3 (Raspberry Pi 3B, 3B+ or CM3) (enroll it with --board if it is another):\n  disk.main.content.partitions.fw: rpi3: its boot ROM reads no GPT", ""},
	} {
		layout := sdCard(t, test.table, test.firmware)
		plan, err := disko.NewPlan(layout, nil, disko.Options{})
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprint("host", i)
		h, err := inv.Enroll(hosts.Host{Name: name, MACs: []string{fmt.Sprintf("52:54:00:00:00:%02x", i)}, Choices: hosts.Choices{Board: test.board}}, time.Hour, nil)
		if err != nil {
			t.Fatal(err)
		}
		h.Boot.Board = test.asked
		f := &reconciler{name: name, Installer: &Installer{Hosts: inv, Images: test.catalog, Now: time.Now, Log: slog.New(slog.DiscardHandler)}}
		err = f.checkBoard(h, layout, plan)
		if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%d: %v", i, err)
		}
		events, err := inv.Events(name, 1)
		if err != nil {
			t.Fatal(err)
		}
		notes := ""
		for _, ev := range events {
			notes += ev.Message + "\n"
		}
		if (notes == "") != (test.note == "") || !strings.Contains(notes, test.note) {
			t.Errorf("%d: noted %q", i, notes)
		}
	}
}
