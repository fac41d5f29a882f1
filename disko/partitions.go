package disko

import (
	"slices"
	"strconv"
	"strings"
)

// Part is a partition that a layout makes, as a machine's firmware looks at it.
type Part struct {
	Disk   string // the disk's name in the layout
	Device string // the disk's, as the layout names it
	Path   string // in the layout
	Number int
	GPT    bool   // it is in a GPT; else in an MBR alone
	Type   string // in a GPT: the type's GUID, upper case
	MBR    byte   // type of its entry in an MBR, a hybrid one too; 0: it has none
	// Bootable: marked so in the MBR, or in the GPT for a BIOS (attribute 2).
	Bootable    bool
	Format      string   // of the file system that is right in it, as mkfs and mount call it; empty: none
	Mountpoints []string // of that file system, or of its subvolumes
	Size        int64    // bytes; 0: the layout alone does not tell
}

// ESP tells whether it is an EFI system partition, by its type.
func (p Part) ESP() bool {
	return p.Type == typeCodes["EF00"] || !p.GPT && p.MBR == 0xef
}

// BIOSBoot tells whether it is where GRUB puts itself on a GPT for a BIOS.
func (p Part) BIOSBoot() bool { return p.Type == typeCodes["EF02"] }

// BasicData tells whether it is of Microsoft's type for data, by which firmware finds FAT.
func (p Part) BasicData() bool { return p.Type == typeCodes["0700"] }

// FAT tells whether it holds a FAT file system.
func (p Part) FAT() bool { return slices.Contains([]string{"vfat", "fat", "msdos"}, p.Format) }

// Partitions are those of the layout's disks and RAIDs, each device's by number.
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

// Bare are the layout's disks and RAIDs that hold a file system without partitions.
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

// content is what is on a disk or RAID; nil on what is neither.
func (d *topDevice) content() deviceContent {
	switch body := d.body.(type) {
	case *wholeDisk:
		return body.content
	case *raid:
		return body.content
	}
	return nil
}

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

// mbrType is the type of the entry: what the layout says, or what sgdisk makes of the code in
// the GPT, of which it is the first half.
func (h *hybrid) mbrType(code string) byte {
	if h.typeCode != "" {
		n, _ := strconv.ParseUint(strings.TrimPrefix(strings.ToLower(h.typeCode), "0x"), 16, 8) // parsed once already
		return byte(n)
	}
	if len(code) == 4 {
		n, _ := strconv.ParseUint(code[:2], 16, 8)
		return byte(n)
	}
	return 0x83
}

// list tells what parted makes of types and flags (libparted, labels/dos.c and gpt.c).
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

// holding is a partition of which only the content is known.
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

// SizeOf is the size in bytes of what the plan mounts at point; 0: it is not known.
func (p *Plan) SizeOf(point string) int64 {
	for _, d := range p.Disks {
		if size := sizeOf(d.After, point); size > 0 {
			return size
		}
	}
	return 0
}

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
