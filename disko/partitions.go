package disko

import (
	"slices"
	"strconv"
	"strings"
)

// Part is a partition that a layout makes, as a machine's firmware sees it.
type Part struct {
	Disk   string // name of the disk in the layout
	Device string // device of the disk, as the layout names it
	Path   string // attribute path in the layout
	Number int
	GPT    bool   // it is in a GPT; false: in an MBR only
	Type   string // type GUID in a GPT, upper case
	MBR    byte   // type of its entry in an MBR, which may be a hybrid one; 0: it has none
	// Bootable means the active flag in the MBR, or the legacy BIOS bootable attribute (2) in the GPT.
	Bootable    bool
	Format      string   // of the file system directly in it, as mkfs and mount call it; empty: none
	Mountpoints []string // of that file system, or of its subvolumes
	Size        int64    // in bytes; 0: the layout alone does not tell
}

// ESP reports whether it is an EFI system partition, by its type.
func (p Part) ESP() bool {
	return p.Type == typeCodes["EF00"] || !p.GPT && p.MBR == 0xef
}

// BIOSBoot reports whether it is the partition in which GRUB stores its core image on a GPT for a BIOS.
func (p Part) BIOSBoot() bool { return p.Type == typeCodes["EF02"] }

// BasicData reports whether its type is Microsoft basic data, by which firmware finds FAT.
func (p Part) BasicData() bool { return p.Type == typeCodes["0700"] }

// FAT reports whether it holds a FAT file system.
func (p Part) FAT() bool { return slices.Contains([]string{"vfat", "fat", "msdos"}, p.Format) }

// Partitions returns the partitions of the layout's disks and RAIDs, those of each device by number.
func (l *Layout) Partitions() (all []Part) {
	for _, d := range l.devices {
		var parts []Part
		switch t := bare(d.content()).(type) {
		case *gptTable:
			parts = t.list()
		case *partedTable:
			parts = t.list()
		}

		for n := range parts {
			parts[n].Disk = d.on.name
			parts[n].Device = d.on.device
			parts[n].Number = n + 1
		}

		all = append(all, parts...)
	}

	return all
}

// Bare returns the layout's disks and RAIDs that hold a file system directly, without partitions.
func (l *Layout) Bare() (all []Part) {
	for _, d := range l.devices {
		if p := holding(d.content()); p.Format != "" {
			p.Disk = d.on.name
			p.Device = d.on.device
			p.Path = d.path
			all = append(all, p)
		}
	}
	return all
}

// content returns what is on a disk or RAID; nil for other devices.
func (d *topDevice) content() deviceContent {
	switch body := d.body.(type) {
	case *wholeDisk:
		return body.content
	case *raid:
		return body.content
	}
	return nil
}

// list returns the partitions as firmware sees them.
func (g *gptTable) list() (all []Part) {
	for _, p := range g.parts {
		part := holding(p.content)
		part.Path = p.path
		part.GPT = true
		part.Type = p.typeGUID
		part.Size = p.end.bytes(0)
		part.Bootable = slices.Contains(p.attributes, 2)
		if h := p.hybrid; h != nil {
			part.MBR = h.mbrType(p.typeCode)
			part.Bootable = part.Bootable || h.bootable
		}
		all = append(all, part)
	}

	return all
}

// mbrType returns the type byte of the entry: what the layout says or, as sgdisk does, the first half of the four-digit
// code in the GPT.
func (h *hybrid) mbrType(code string) byte {
	if h.typeCode != "" {
		n, _ := strconv.ParseUint(strings.TrimPrefix(strings.ToLower(h.typeCode), "0x"), 16, 8) // checked by parseHybrid
		return byte(n)
	}
	if len(code) == 4 {
		n, _ := strconv.ParseUint(code[:2], 16, 8)
		return byte(n)
	}
	return 0x83
}

// list returns the partitions with the types that parted gives them (libparted, labels/dos.c and gpt.c).
func (t *partedTable) list() (all []Part) {
	for _, p := range t.parts {
		part := holding(p.content)
		part.Path = p.path
		has := func(flag string) bool { return slices.Contains(p.flags, flag) }
		fat := strings.HasPrefix(p.fsType, "fat")
		if part.GPT = t.format == "gpt"; part.GPT {
			part.Bootable = has("legacy_boot")
			switch {
			case has("bios_grub"):
				part.Type = typeCodes["EF02"]
			case has("boot"), has("esp"):
				part.Type = typeCodes["EF00"]
			case fat, has("msftdata"), p.fsType == "ntfs":
				part.Type = typeCodes["0700"]
			default:
				part.Type = typeCodes["8300"]
			}
		} else {
			part.Bootable = has("boot")
			part.MBR = map[string]byte{"fat16": 0x0e, "fat32": 0x0c, "ntfs": 7, "linux-swap": 0x82}[p.fsType] // parted sets lba by itself
			switch {
			case has("esp"):
				part.MBR = 0xef
			case part.MBR == 0:
				part.MBR = 0x83
			}
		}

		start, known := position(p.start, 0)
		if end, too := position(p.end, 0); known && too {
			part.Size = int64(end - start)
		}
		all = append(all, part)
	}

	return all
}

// holding returns a Part with only the fields that depend on its content.
func holding(c deviceContent) (p Part) {
	switch c := bare(c).(type) {
	case *filesystem:
		p.Format = c.format
		if c.mountpoint != "" {
			p.Mountpoints = []string{c.mountpoint}
		}
	case *btrfs:
		p.Format = "btrfs"
		for _, s := range append([]subvolume{c.root}, c.subs...) {
			if s.mountpoint != "" {
				p.Mountpoints = append(p.Mountpoints, s.mountpoint)
			}
		}
	}

	return p
}

// SizeOf returns the size in bytes of what the plan mounts at point; 0 if that is not known.
func (p *Plan) SizeOf(point string) int64 {
	for _, d := range p.Disks {
		if size := sizeOf(d.After, point); size > 0 {
			return size
		}
	}
	return 0
}

// sizeOf searches a list of segments and their children for a mount point.
func sizeOf(list []Segment, point string) int64 {
	for _, s := range list {
		if s.Mountpoint == point && s.Size > 0 {
			return s.Size
		}
		if size := sizeOf(s.Children, point); size > 0 {
			return size
		}
	}
	return 0
}
