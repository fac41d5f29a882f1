package model

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

const (
	diskPath = "/dev/vdz"
	keyPath  = "/tmp/disk.key"
	diskSize = 8 << 30
)

// disk is a machine's only one: what the layout's steps make of it.
type disk struct {
	serial string
	luks   bool
	ext4   bool   // in the container
	system string // store path of what starts from it; empty: nothing does
	key    []byte // of its SSH server

	open    bool
	mounted bool
}

// off is what a power cut leaves.
func (d *disk) off() { d.open, d.mounted = false, false }

// erases tells whether a command takes away what is on a disk.
func erases(argv []string) bool {
	return argv[0] == "wipefs" && slices.Contains(argv, "--all") || argv[0] == "dd" || argv[0] == "blkdiscard" ||
		argv[0] == "cryptsetup" && slices.Contains(argv, "luksFormat") || strings.HasPrefix(argv[0], "mkfs")
}

// do carries a step out.
func (d *disk) do(argv []string) {
	switch words := strings.Join(argv, " "); {
	case strings.Contains(words, "luksFormat"):
		*d = disk{serial: d.serial, luks: true}
	case strings.HasPrefix(words, "cryptsetup open"):
		d.open = d.luks
	case strings.HasPrefix(words, "cryptsetup close"):
		d.open = false
	case strings.HasPrefix(argv[0], "mkfs"):
		d.ext4 = d.open
		d.system, d.key = "", nil
	case argv[0] == "mount":
		d.mounted = d.ext4 && d.open
	case argv[0] == "umount":
		d.mounted = false
	case erases(argv):
		*d = disk{serial: d.serial}
	}
}

type object = map[string]any

func device(name, serial string) object {
	return object{"name": name, "kname": name, "path": "/dev/" + name, "type": "disk", "size": diskSize, "serial": serial}
}

// probe is what disko's probe prints of it: names and outputs in turn.
func (d *disk) probe() []byte {
	device := device("vdz", d.serial)
	signatures := diskPath + "\n"
	mounts, links := []object{}, ""
	if d.luks {
		device["fstype"] = "crypto_LUKS"
		signatures += "TYPE=crypto_LUKS\n"
	}
	if d.open {
		inside := object{"name": "crypt", "kname": "dm-0", "path": "/dev/mapper/crypt", "type": "crypt",
			"size": diskSize - 16<<20}
		signatures += "/dev/dm-0\n"
		links = "/dev/mapper/crypt\t../dm-0\n"
		if d.ext4 {
			inside["fstype"] = "ext4"
			signatures += "TYPE=ext4\n"
		}
		if d.mounted {
			inside["mountpoints"] = []string{"/mnt"}
			mount := object{"target": "/mnt", "source": "/dev/mapper/crypt", "fstype": "ext4", "fsroot": "/"}
			mounts = append(mounts, mount)
		}
		device["children"] = []object{inside}
	}
	return probed(object{"blockdevices": []object{device}}, links, object{"filesystems": mounts}, signatures)
}

// crowd is so many disks more, of a machine that says too much.
func (d *disk) crowd(n int) []byte {
	all := []object{device("vdz", d.serial)}
	for i := range n {
		all = append(all, device(fmt.Sprint("x", i), strings.Repeat("\x1b[31m", 20)))
	}
	for _, o := range all {
		o["fstype"] = "ext4" // so that nobody has to look
	}
	return probed(object{"blockdevices": all}, "", object{"filesystems": []object{}}, "")
}

func probed(lsblk object, links string, mounts object, signatures string) []byte {
	json := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			panic(err) // strings and numbers always can
		}
		return string(data)
	}
	words := []string{"lsblk", json(lsblk), "links", links, "mounts", json(mounts), "swaps", "",
		"signatures", signatures, "holders", "", "end", ""}
	return []byte(strings.Join(words, "\x00"))
}
