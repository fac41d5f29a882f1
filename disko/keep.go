package disko

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
)

// What is kept must be as the layout says. Every difference is an error, and all are reported at once. The only change
// that is ever made to existing content is to add what is missing.

// make reports whether content has to be made, because it is missing or because nothing is kept there. kind is the name
// that lsblk has for it. If something else is there, it records an error.
func (b *builder) make(c deviceContent, on blockTarget, kind string) bool {
	switch {
	case !on.keep:
	case on.found == nil || on.found.holds() == kind:
		return false
	case on.found.holds() != "" || len(on.found.Children) > 0:
		b.errorf(on.at, "%s holds %s, and the layout has %s there", on.device, printable(on.found.content()), kind)
		return false
	case !b.lacks(on.at, "%s is empty, and the layout has %s there", on.device, kind):
		return false
	}

	if on.size > 0 {
		b.fits(c, on)
	}
	return true
}

// clear records an error if a disk that is kept has signatures of several kinds: udev then knows neither what it holds
// nor which of its partitions is which.
func (b *builder) clear(at, disk string) {
	for _, n := range b.devices {
		if n.FSType == "unclear" && slices.Contains(n.roots, disk) {
			b.errorf(at, "%s holds signatures of several things; look at them with wipefs, and remove the wrong "+
				"ones by hand", n.device())
		}
	}
}

// lacks reports whether something that is missing may be made. In mode Mount it may not, and lacks records an error.
func (b *builder) lacks(at, format string, args ...any) bool {
	if b.mode == Mount {
		b.errorf(at, format, args...)
	}
	return b.mode != Mount
}

// holds names the content of a device: a file system, the signature of a member, or a partition table. It is empty if
// there is none.
func (d *BlockDevice) holds() string {
	if d.FSType != "" {
		return d.FSType
	}
	if d.Type == "part" { // lsblk shows the type of the table that the partition is in
		return ""
	}
	if d.TableType == "" && len(d.Children) > 0 && d.Children[0].Type == "part" {
		return d.Children[0].TableType
	}
	return d.TableType
}

// number returns a partition's number, from its kernel name.
func (d *BlockDevice) number() int {
	name := d.kernelName()
	n, _ := strconv.Atoi(name[len(strings.TrimRight(name, "0123456789")):])
	return n
}

// extent returns the first and last sector of a partition.
func (d *BlockDevice) extent(sectorSize int64) extent {
	first := uint64(d.Start) * 512 / uint64(sectorSize)
	return extent{first, first + uint64(int64(d.Size)/sectorSize) - 1}
}

// there returns a device of the machine by any of its names; nil if there is none.
func (b *builder) there(device string) *placedDevice {
	if b.facts == nil {
		return nil
	}
	if n := b.found[device]; n != nil {
		return n
	}
	return b.found[b.facts.Links[device]]
}

// child returns the device of a kind, such as crypt, that is directly on a node; nil if there is none.
func (b *builder) child(n *placedDevice, kind string) *placedDevice {
	for i := range n.Children {
		if c := &n.Children[i]; strings.HasPrefix(c.Type, kind) {
			return b.found[c.device()]
		}
	}
	return nil
}

// open adds a step that opens something that exists and is closed. What is inside is seen only after that.
func (b *builder) open(on blockTarget, name, device, stdin string, argv ...string) {
	if on.keep && on.found == nil && b.facts != nil {
		return // it is inside something else that is closed
	}
	b.opens = append(b.opens, Step{Stage: StageOpen, Name: name, Argv: argv, Device: device, Stdin: stdin})
}

// memberState says how many members of a RAID, group or pool exist already.
type memberState int

// The states of a group of members.
const (
	allNew memberState = iota
	allKept
	unseen
	mixed
)

// stateOf returns the common state of members.
func stateOf(members []blockTarget) memberState {
	kept, hidden := 0, 0
	for _, m := range members {
		if m.keep {
			kept++
			if m.found == nil {
				hidden++
			}
		}
	}

	switch {
	case hidden > 0:
		return unseen
	case kept == 0:
		return allNew
	case kept == len(members):
		return allKept
	}

	return mixed
}

// together returns the state of members, and records an error if only some of them exist.
func (b *builder) together(at, what string, members []blockTarget) memberState {
	s := stateOf(members)
	if s == mixed {
		var there, not []string
		for _, m := range members {
			if m.keep {
				there = append(there, m.device)
			} else {
				not = append(not, m.device)
			}
		}
		b.errorf(at, "%s is on %s, and %s would be new in it; it is kept or made as a whole", what, strings.Join(there, ", "), strings.Join(not, ", "))
	}

	return s
}

// keepTable finds the layout's partitions on a disk that is kept: by UUID where the layout has one, else by label, as
// the installed system does. It makes missing ones, with free numbers, if possible those of the layout.
func (g *gptTable) keepTable(b *builder, on blockTarget) []blockTarget {
	places := make([]blockTarget, len(g.parts))
	taken, used := map[int]bool{}, []extent{}
	for i := range on.found.Children {
		if c := &on.found.Children[i]; c.Type == "part" {
			taken[c.number()] = true
			used = append(used, c.extent(on.sector))
		}
	}

	for n, p := range g.parts {
		at := blockTarget{device: p.device, name: p.name, at: p.path, sector: on.sector}
		if c := p.find(b, on.found); c != nil {
			p.compare(b, c, on.sector)
			at.device = c.device()
			at.size = int64(c.Size)
			at.kernel = true
			at.keep = true
			at.found = b.found[c.device()]
		}
		places[n] = at
	}

	for n, p := range g.parts {
		if places[n].keep || !b.lacks(p.path, "%s has no partition %s", on.device, strconv.Quote(p.label)) {
			continue
		}
		number := n + 1
		for taken[number] {
			number = number%tableEntries + 1
		}
		taken[number] = true
		all, err := arrangeBeside(used, []partition{p}, on.size, on.sector)
		if err != nil {
			b.problems = append(b.problems, err.Error())
			continue
		}

		used = all
		e := all[len(all)-1]
		places[n].device, places[n].kernel = numbered(on.device, number), true
		places[n].start, places[n].size = int64(e.first)*on.sector, int64(e.last-e.first+1)*on.sector
		b.step(fmt.Sprintf("make partition %d, %s", number, p.name), on.device, slices.Concat([]string{"sgdisk"}, p.options(number), []string{on.device})...)
		if p.hybrid != nil {
			b.errorf(p.path, "is to be in a hybrid MBR, and a table that is kept gets none")
		}
	}

	return places
}

// find returns the partition of a kept disk; nil if it has no such partition. If several match, it records an error.
func (p partition) find(b *builder, disk *placedDevice) (found *BlockDevice) {
	for i := range disk.Children {
		c := &disk.Children[i]
		switch {
		case c.Type != "part" || c.PartLabel != p.label && (p.uuid == "" || !strings.EqualFold(c.PartUUID, p.uuid)):
		case found != nil:
			b.errorf(p.path, "%s and %s could both be it, by label and uuid", found.device(), c.device())
		default:
			found = c
		}
	}
	return found
}

// compare records errors for the differences between an existing partition and the layout. Bounds that depend on the
// neighbouring partitions are not compared.
func (p partition) compare(b *builder, c *BlockDevice, sectorSize int64) {
	differ := func(what, got, want string) {
		if !strings.EqualFold(got, want) {
			b.errorf(p.path, "the %s of %s is %s instead of %s", what, c.device(), got, want)
		}
	}
	differ("label", strconv.Quote(c.PartLabel), strconv.Quote(p.label))
	differ("type", c.PartType, p.typeGUID)
	if p.uuid != "" {
		differ("uuid", c.PartUUID, p.uuid)
	}
	got, _ := strconv.ParseUint(strings.TrimPrefix(c.PartFlags, "0x"), 16, 64)
	if want := p.attributeMask(); got != want {
		b.errorf(p.path, "the attributes of %s are %#x instead of %#x", c.device(), got, want)
	}
	e, ss := c.extent(sectorSize), uint64(sectorSize)
	if p.start.sign == ' ' && p.start.number > 0 {
		if want := p.start.resolve(0, math.MaxInt64, 0, 1, ss); far(e.first, want, ss) {
			b.errorf(p.path, "%s starts at sector %d instead of %d", c.device(), e.first, want)
		}
	}

	want := p.end.resolve(0, math.MaxInt64, 0, 1, ss)
	switch size := e.last - e.first + 1; {
	case p.end.rest():
	case p.end.sign == '+' && far(size, want, ss):
		b.errorf(p.path, "%s has %s instead of %s", c.device(), human(int64(size*ss)), human(int64(want*ss)))
	case p.end.sign == ' ' && far(e.last, want, ss):
		b.errorf(p.path, "%s ends at sector %d instead of %d", c.device(), e.last, want)
	}
}

// keepTable does the same for a table of parted, where partitions are found by number.
func (t *partedTable) keepTable(b *builder, on blockTarget) []blockTarget {
	places := make([]blockTarget, len(t.parts))
	for i, p := range t.parts {
		at := t.place(i, blockTarget{device: on.device, kernel: true, size: on.size})
		number := i + 1
		j := slices.IndexFunc(on.found.Children, func(c BlockDevice) bool { return c.Type == "part" && c.number() == number })
		if j < 0 {
			if b.lacks(p.path, "%s has no partition %d", on.device, number) {
				b.step("make partition "+strconv.Itoa(number)+", "+at.name, on.device, append(t.command(on), t.mkpart(i)...)...)
			}
			places[i] = at
			continue
		}

		c := &on.found.Children[j]
		t.compareBounds(b.reader, p, on.size, int64(c.Start)*512, int64(c.Start)*512+int64(c.Size))
		if t.format == "gpt" && c.PartLabel != udevName(p.name) && c.PartLabel != p.name {
			b.errorf(p.path, "the name of %s is %q instead of %q", c.device(), c.PartLabel, p.name)
		}
		at.device = c.device()
		at.size = int64(c.Size)
		at.keep = true
		at.found = b.found[c.device()]
		places[i] = at
	}

	return places
}

// compareBounds records an error if a partition is in another place. parted aligns to whole MiB, and reserves space at
// both ends of the disk.
func (t *partedTable) compareBounds(r *reader, p tablePart, disk, start, end int64) {
	differ := func(what, text string, got int64) {
		if want, ok := position(text, disk); ok && math.Abs(want-float64(got)) > 2*mib && p.kind != "extended" {
			r.errorf(p.path, "%s at %s instead of %s", what, human(got), text)
		}
	}
	differ("starts", p.start, start)
	differ("ends", p.end, end)
}

// mounted reports whether something is mounted already, and records an error if another device is mounted there.
func (b *builder) mounted(point, device string, options []string) bool {
	if b.facts == nil || b.mode == Fresh {
		return false
	}
	at := path.Join(target, point)
	i := len(b.facts.Mounts) - 1
	for ; i >= 0 && b.facts.Mounts[i].Target != at; i-- { // the last mount hides earlier ones
	}
	if i < 0 {
		return false
	}
	has := b.facts.Mounts[i]
	if strings.HasPrefix(device, "/dev/") {
		got, want := b.there(has.Source), b.there(device)
		if got == nil || got != want && (want == nil || got.UUID == "" || got.UUID != want.UUID) {
			b.errorf(at, "%s is mounted there instead of %s; unmount it", has.Source, device)
		}
		for _, o := range options {
			if sub, ok := strings.CutPrefix(o, "subvol="); ok && path.Clean("/"+sub) != has.FSRoot {
				b.errorf(at, "%s of %s is mounted there instead of %s; unmount it", has.FSRoot, has.Source, sub)
			}
		}
	}

	return true
}

// swapping reports whether a device or file is used as swap already.
func (b *builder) swapping(device string) bool {
	if b.facts == nil || b.mode == Fresh {
		return false
	}
	if n := b.there(device); n != nil {
		return slices.Contains(n.mountpoints(), "[SWAP]")
	}
	return slices.Contains(b.facts.Swaps, device)
}
