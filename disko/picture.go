package disko

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Segment is a part of a disk in the picture of a plan, or something inside such a part.
type Segment struct {
	// Name is the name of a partition, container, volume or subvolume; for existing content it is the label, if it has
	// one. Name and What are texts for people.
	Name string `json:"name,omitempty"`
	What string `json:"what"` // ext4, LUKS, in RAID boot, free, …
	// Device is the kernel's name, or the layout's if the machine is not known.
	Device string   `json:"device,omitempty"`
	Of     []string `json:"of,omitempty"`    // devices from which it is made
	Start  int64    `json:"start,omitempty"` // in bytes from the start of the disk
	Size   int64    `json:"size,omitempty"`  // in bytes; 0: not known
	// Mountpoint is where it is mounted now, or will be mounted in the installed system.
	Mountpoint string    `json:"mountpoint,omitempty"`
	Kept       bool      `json:"kept,omitempty"` // it exists now, and the plan keeps it
	Children   []Segment `json:"children,omitempty"`
}

// Amount returns the size for people; empty if it is not known.
func (s Segment) Amount() string {
	if s.Size == 0 {
		return ""
	}
	return human(s.Size)
}

// leastGap is the smallest free space, in bytes, that is shown.
const leastGap = 32 * mib

// fsNames are the names for people of lsblk's FSTYPE, where they differ.
var fsNames = map[string]string{
	"crypto_LUKS": "LUKS", "LVM2_member": "LVM member", "linux_raid_member": "RAID member", "zfs_member": "ZFS member",
}

// bareTypes are types of partitions that need no file system, by sgdisk's codes.
var bareTypes = map[string]string{"0C01": "reserved", "4100": "PReP boot", "EF02": "BIOS boot"}

// unformatted says what a partition without content is for.
func unformatted(guid string) string {
	for code, what := range bareTypes {
		if strings.EqualFold(typeCodes[code], guid) {
			return what
		}
	}
	return "unformatted"
}

// picture sets what the disks hold before and after the plan, and what is made of several devices or of none.
func (p *Plan) picture(l *Layout, b *builder) {
	for i, d := range p.takes {
		disk := &p.Disks[i]
		disk.Name = d.on.name
		disk.Erased = p.Mode == Fresh && d.body.(*wholeDisk).destroy
		if n := b.found[disk.Device]; n != nil {
			disk.Before = n.stretches(!disk.Erased)
		}
		whole := b.within(d.on.device, d.on.name, d.body.(*wholeDisk).content)
		disk.After = whole.Children
		if whole.What != "partition table" || len(whole.Children) == 0 {
			disk.After = []Segment{whole}
		}
		disk.After = withGaps(append(disk.After, others(disk.Before, disk.After)...), disk.Size)
		disk.Before = withGaps(disk.Before, disk.Size)
	}

	for _, d := range l.devices {
		if _, ok := d.body.(*wholeDisk); !ok {
			p.Made = append(p.Made, b.made(d))
		}
	}
}

// others returns the partitions of a disk that are kept and that are not in the layout.
func others(before, after []Segment) (kept []Segment) {
	for _, s := range before {
		if s.Kept && strings.HasPrefix(s.Device, "/dev/") &&
			!slices.ContainsFunc(after, func(a Segment) bool { return a.Device == s.Device }) {
			kept = append(kept, s)
		}
	}
	return kept
}

// withGaps sorts segments by position, and adds the free space between them. size is that of the disk in bytes.
func withGaps(list []Segment, size int64) []Segment {
	slices.SortStableFunc(list, func(a, b Segment) int { return cmp.Compare(a.Start, b.Start) })
	unknown := len(list) == 0 || slices.ContainsFunc(list, func(s Segment) bool { return s.Size == 0 })
	if unknown || len(list) > 1 && list[1].Start == 0 { // lsblk before 2.38 does not show the start
		return list
	}
	var all []Segment
	at := int64(0)
	gap := func(to int64) {
		if to-at >= leastGap {
			all = append(all, Segment{What: "free", Start: at, Size: to - at})
		}
	}
	for i, s := range list {
		gap(s.Start)
		// Where parted puts partitions is known only to about 1 MiB.
		s.Size = min(s.Size, size-s.Start)
		if i+1 < len(list) {
			s.Size = min(s.Size, list[i+1].Start-s.Start)
		}
		all = append(all, s)
		at = max(at, s.Start+s.Size)
	}

	gap(size)
	return all
}

// stretches returns what is on a disk now: its partitions or, without a partition table, its content.
func (n *placedDevice) stretches(kept bool) (list []Segment) {
	for i := range n.Children {
		extended := []string{"0x5", "0xf", "0x85"} // extended partitions, whose logical partitions are listed too
		if c := &n.Children[i]; c.Type == "part" && !slices.Contains(extended, c.PartType) {
			list = append(list, c.segment(kept))
		}
	}
	if list == nil && (n.FSType != "" || len(n.Children) > 0 || len(n.mountpoints()) > 0) {
		list = []Segment{n.segment(kept)}
	}
	return list
}

// segment returns an existing device with everything on it.
func (d *BlockDevice) segment(kept bool) Segment {
	s := Segment{
		Device: d.device(),
		Start:  int64(d.Start) * 512,
		Size:   int64(d.Size),
		Kept:   kept,
		Name:   printable(cmp.Or(d.Label, d.PartLabel)),
		What:   printable(cmp.Or(fsNames[d.FSType], d.FSType, unformatted(d.PartType))),
	}
	if points := d.mountpoints(); len(points) > 0 {
		s.Mountpoint = printable(points[0])
	}
	if d.Type != "part" && d.Type != "disk" && s.Name == "" {
		s.Name = printable(d.Name)
	}
	for i := range d.Children {
		s.Children = append(s.Children, d.Children[i].segment(kept))
	}
	return s
}

// sketch completes a segment with the content that the device will have.
func (b *builder) sketch(s Segment, c deviceContent, on blockTarget) Segment {
	// A kept partition that is empty gets its content now.
	s.Kept = on.keep && (c == nil || on.found == nil || on.found.holds() != "")
	switch c := bare(c).(type) {
	case nil:
		s.What = cmp.Or(s.What, "unformatted")
	case *filesystem:
		s.What, s.Mountpoint = c.format, c.mountpoint
	case *btrfs:
		s.What, s.Mountpoint = "btrfs", c.root.mountpoint
		s.Children = subvolumes(append([]subvolume{c.root}, c.subs...), s.Kept)
	case *swapArea:
		s.What = "swap"
		if c.random {
			s.What = "swap, encrypted anew at each boot"
		}
	case *luks:
		s.What = "LUKS"
		s.Children = []Segment{b.within("/dev/mapper/"+c.name, c.name, c.content)}
	case *memberDevice:
		group, name, _ := strings.Cut(c.key, " ")
		s.What = "in " + map[string]string{"lvm_vg": "volume group", "mdadm": "RAID", "zpool": "pool"}[group] + " " + name
	case *bcachefsMember:
		_, name, _ := strings.Cut(c.key, " ")
		s.What = "in bcachefs " + name
	case *gptTable:
		s.What = "partition table"
		for _, p := range c.parts {
			part := b.within(p.device, p.name, p.content)
			if part.Size == 0 {
				part.Size = p.end.bytes(on.sector)
			}
			if p.content == nil {
				part.What = unformatted(p.typeGUID)
			}
			s.Children = append(s.Children, part)
		}
	case *partedTable:
		s.What = "partition table"
		for _, p := range c.parts {
			s.Children = append(s.Children, b.within(p.device, p.name, p.content))
		}
	}

	return s
}

// within returns the segment of a device, by the layout's name of it, with its content.
func (b *builder) within(device, name string, c deviceContent) Segment {
	on := b.places[device]
	if on.found != nil && on.found.Type == "part" {
		on.start = int64(on.found.Start) * 512
	}
	return b.sketch(Segment{Name: cmp.Or(name, on.name), Device: on.device, Start: on.start, Size: on.size}, c, on)
}

// bytes returns the size of a partition that the layout sets, in bytes; 0 if it takes the rest.
func (b bound) bytes(sectorSize int64) int64 {
	switch {
	case b.rest() || b.sign != '+':
		return 0
	case b.unit == 0:
		return int64(b.number) * cmp.Or(sectorSize, 512)
	}
	return int64(b.number) << (10 * b.unit)
}

// subvolumes lists the subvolumes of a file system, the first of which is the top level, and their swap files.
func subvolumes(subs []subvolume, kept bool) (list []Segment) {
	for _, s := range subs {
		if s.name != "" {
			list = append(list, Segment{Name: s.name, What: "subvolume", Mountpoint: s.mountpoint, Kept: kept})
		}
		for _, f := range s.swapfiles {
			list = append(list, Segment{Name: path.Join("/", s.name, f.file), What: "swap file of " + f.size, Kept: kept})
		}
	}
	return list
}

// made returns the segment of something that is made of several devices, or of none.
func (b *builder) made(d *topDevice) Segment {
	on := b.places[d.on.device]
	s := Segment{Name: d.on.name, Device: on.device, Kept: on.keep}
	of := func(key string) {
		for _, m := range b.members[key] {
			s.Of = append(s.Of, m.device)
			s.Kept = m.keep
		}
	}
	switch body := d.body.(type) {
	case *raid:
		of("mdadm " + body.name)
		s.Size = body.size(b.members["mdadm "+body.name])
		inside := b.sketch(s, body.content, on)
		if _, ok := bare(body.content).(*gptTable); ok {
			s.Children = inside.Children
		} else {
			inside.Name = ""
			inside.Of = nil
			inside.Device = ""
			s.Children = []Segment{inside}
		}

		s.What = fmt.Sprintf("RAID %d", body.level)
	case *volumeGroup:
		of("lvm_vg " + body.name)
		s.What, s.Device = "volume group", ""
		for _, m := range b.members["lvm_vg "+body.name] {
			s.Size += m.size
		}
		s.Children = b.volumes(body)
	case *zpool:
		of("zpool " + body.name)
		s.What, s.Mountpoint = strings.TrimSpace("pool "+body.mode), body.root.mountpoint
		for _, ds := range body.datasets {
			child := Segment{Name: ds.name, What: "dataset", Mountpoint: ds.mountpoint}
			if ds.size != "" {
				child = b.within("/dev/zvol/"+ds.name, ds.name, ds.content)
			}
			s.Children = append(s.Children, child)
		}
	case *bcachefs:
		of("bcachefs_filesystems " + body.name)
		s.What, s.Mountpoint = "bcachefs", body.root.mountpoint
		s.Children = subvolumes(body.subs, s.Kept)
	case *nodev:
		s.What = body.kind
		s.Mountpoint = body.mountpoint
		s.Name = ""
		s.Device = ""
		if body.bind() {
			s.What, s.Of = "bind mount", []string{d.on.device}
		}
	}

	return s
}

// volumes lists the volumes of a group, with thin volumes inside their pools.
func (b *builder) volumes(g *volumeGroup) (list []Segment) {
	for _, v := range g.volumes {
		s := b.within("/dev/"+g.name+"/"+v.name, v.name, v.content)
		if v.kind == "thin-pool" {
			s.What = "thin pool"
		} else if v.kind != "" && v.kind != "thinlv" {
			s.What += ", " + v.kind
		}

		if i := slices.IndexFunc(list, func(p Segment) bool { return v.kind == "thinlv" && p.Name == v.pool }); i >= 0 {
			list[i].Children = append(list[i].Children, s)
			continue
		}
		list = append(list, s)
	}

	return list
}
