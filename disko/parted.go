package disko

import (
	"cmp"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// partedTable is disko's legacy type of partition table, made with parted.
type partedTable struct {
	format string // gpt or msdos
	parts  []tablePart
}

// tablePart is a partition of a partedTable.
type tablePart struct {
	path, device, name string
	kind, fsType       string
	start, end         string
	flags              []string
	content            deviceContent
}

var (
	partedSize = regexp.MustCompile(`(?i)^(-?)([0-9]+(?:\.[0-9]+)?)(s|b|[kmgt]i?b|[kmgt]|%)?$`)
	partedFlag = regexp.MustCompile(`^[a-z][a-z0-9_-]*$`)
)

func parseTable(a *attrs, device string) deviceContent {
	t := &partedTable{format: a.oneOf("format", "gpt", "msdos")}
	if t.format == "" {
		a.bad("format", "must be gpt or msdos")
	}
	for i, p := range a.each("partitions") {
		t.parts = append(t.parts, t.parsePart(p, device, i+1))
	}
	t.checkOverlap(a.reader, 0, 512)
	return t
}

func (t *partedTable) parsePart(a *attrs, device string, n int) tablePart {
	const sizes = "a number with s, B, kB, MB, GB, TB, MiB, GiB and so on, or %"
	p := tablePart{path: a.path, device: diskoNumbered(device, n), name: a.optional("name"),
		kind: a.oneOf("part-type", "primary", "logical", "extended"),
		fsType: a.oneOf("fs-type", "bcachefs", "btrfs", "ext2", "ext3", "ext4", "fat16", "fat32",
			"hfs", "hfs+", "linux-swap", "ntfs", "reiserfs", "udf", "xfs"),
		start: a.matches("start", partedSize, sizes), end: a.matches("end", partedSize, sizes)}
	switch {
	case p.kind == "":
		a.bad("part-type", "must be primary, logical or extended")
	case p.kind == "logical" || t.format == "msdos" && n > 4:
		a.bad("part-type", "disko numbers this partition %d, and the kernel numbers logical ones from 5; use gpt", n)
	}

	if t.format == "gpt" && p.name == "" {
		a.bad("name", "must not be empty in a gpt table")
	}
	if a.flag("bootable") {
		p.flags = []string{"boot"}
	}
	for _, flag := range a.list("flags") {
		if !partedFlag.MatchString(flag) {
			a.bad("flags", "%q is not a flag of parted", flag)
		}
		p.flags = append(p.flags, flag)
	}

	p.content = a.volume(p.device)
	a.done()
	return p
}

// diskoNumbered returns the name of a partition as disko's deviceNumbering builds it from the name of its disk.
func diskoNumbered(disk string, n int) string {
	switch {
	case strings.HasPrefix(disk, "/dev/disk/"):
		return disk + "-part" + strconv.Itoa(n)
	case strings.HasPrefix(disk, "/dev/sd"), strings.HasPrefix(disk, "/dev/vd"), strings.HasPrefix(disk, "/dev/xvd"):
		return disk + strconv.Itoa(n)
	}
	return numbered(disk, n)
}

// position returns a bound in bytes from the start of the disk. size is that of the disk; false if the bound depends on
// it and it is not known (0). Negative bounds count from the end.
func position(text string, size int64) (float64, bool) {
	m := partedSize.FindStringSubmatch(text)
	if m == nil {
		return 0, false
	}
	f, _ := strconv.ParseFloat(m[2], 64)
	known := size > 0 || m[1] == "" && m[3] != "%"
	switch unit := strings.ToLower(m[3]); unit {
	case "%":
		f *= float64(size) / 100
	case "s":
		f *= 512
	case "b":
	case "":
		f *= 1e6 // parted's default unit is MB
	default:
		base := 1000.0
		if strings.Contains(unit, "i") {
			base = 1024
		}
		for range strings.IndexByte("kmgt", unit[0]) + 1 {
			f *= base
		}
	}

	if m[1] == "-" {
		f = float64(size) - f
	}
	return f, known
}

// checkOverlap records errors for partitions that end before they start, overlap, or exceed the disk or the limits of
// an MBR. size is that of the disk in bytes; if it is 0 (not known), only bounds that do not depend on it are checked.
func (t *partedTable) checkOverlap(r *reader, size, sector int64) {
	longest := float64(math.MaxUint32) * float64(cmp.Or(sector, 512))
	for i, p := range t.parts {
		start, known := position(p.start, size)
		end, alsoKnown := position(p.end, size)
		switch {
		case !known || !alsoKnown:
			continue
		case end <= start:
			r.errorf(p.path, "ends at %s, before it starts at %s", p.end, p.start)
		case size > 0 && end > float64(size):
			r.errorf(p.path, "ends at %s, and the disk has %s", p.end, human(size))
		case t.format == "msdos" && end-start > longest+2*mib: // parted rounds by up to that
			r.errorf(p.path, "from %s to %s is %s, and a partition in an MBR has %s at most; use gpt", p.start, p.end, human(int64(end-start)), human(int64(longest)))
		}

		for _, q := range t.parts[:i] {
			qStart, known := position(q.start, size)
			qEnd, alsoKnown := position(q.end, size)
			if known && alsoKnown && start < qEnd && qStart < end && q.kind != "extended" {
				r.errorf(p.path, "from %s to %s overlaps %s", p.start, p.end, q.path)
			}
		}
	}
}

func (t *partedTable) minimum() int64 {
	minimum := int64(0)
	for _, p := range t.parts {
		if p.content != nil {
			minimum += p.content.minimum()
		}
	}
	return minimum
}

// fill makes the partition table, or its missing partitions, and fills the partitions.
func (t *partedTable) fill(b *builder, on blockTarget) {
	kind := map[string]string{"gpt": "gpt", "msdos": "dos"}[t.format]
	steps := len(b.steps)
	var places []blockTarget
	switch {
	case b.make(t, on, kind):
		if on.size > 0 {
			t.checkOverlap(b.reader, on.size, on.sector)
		}
		on.keep = false
		argv := append(t.command(on), "mklabel", t.format)
		for i := range t.parts {
			argv = append(argv, t.mkpart(i)...)
			places = append(places, t.place(i, on))
		}
		b.step("make the partition table of "+on.device, on.device, argv...)
		b.tables[on.device] = t
	case on.found != nil && on.found.holds() == kind:
		places = t.keepTable(b, on)
	default:
		for i := range t.parts {
			places = append(places, t.place(i, on))
		}
	}

	if len(b.steps) > steps {
		b.reread(on.device)
	}
	for i, p := range t.parts {
		b.places[p.device] = places[i]
		if p.kind != "extended" && !places[i].keep {
			b.wipe(places[i])
		}
	}

	for i, p := range t.parts {
		b.fill(p.content, places[i])
	}
}

// command returns the beginning of a parted command. One command does everything, as parted sleeps like sgdisk.
func (t *partedTable) command(on blockTarget) []string {
	return []string{"parted", "-s", on.device, "--"}
}

// mkpart returns parted's arguments to make a partition. parted gives it the first free number.
func (t *partedTable) mkpart(i int) []string {
	p, n := t.parts[i], strconv.Itoa(i+1)
	kind := p.kind
	if t.format == "gpt" {
		kind = udevName(p.name)
	}
	args := []string{"mkpart", kind}
	if p.fsType != "" {
		args = append(args, p.fsType)
	}
	args = append(args, p.start, p.end)
	for _, flag := range p.flags {
		args = append(args, "set", n, flag, "on")
	}
	return args
}

// place returns where a partition is or will be.
func (t *partedTable) place(i int, on blockTarget) blockTarget {
	p := t.parts[i]
	at := blockTarget{device: p.device, name: p.name, at: p.path, keep: on.keep}
	if at.name == "" {
		at.name = "partition " + strconv.Itoa(i+1)
	}
	if on.kernel {
		at.device = numbered(on.device, i+1)
	}
	if start, ok := position(p.start, on.size); ok {
		if end, ok := position(p.end, on.size); ok {
			at.start = int64(start)
			at.size = int64(end-start) + mib // parted moves both ends to whole MiB
		}
	}

	return at
}
