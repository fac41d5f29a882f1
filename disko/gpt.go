package disko

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// gptTable is a partition table that sgdisk makes.
type gptTable struct {
	parts   []partition // in the order of their numbers, which start at 1
	eeFirst bool        // the hybrid MBR begins with the entry that protects the GPT
	hybrids []int       // numbers of the partitions that are in a hybrid MBR too
}

type partition struct {
	path, name, label  string
	device             string // the name that outlives the installation, by-partlabel or by-partuuid
	typeCode, typeGUID string
	uuid               string // empty: random
	start, end         bound
	alignment          uint64 // sectors; 0: sgdisk's default
	attributes         []int
	priority           int
	hybrid             *hybrid
	content            deviceContent // nil: left unformatted
}

// hybrid is a partition's entry in a hybrid MBR.
type hybrid struct {
	typeCode string // empty: what sgdisk finds right
	bootable bool
}

func parseGPT(a *attrs) deviceContent {
	align := 0
	if _, present := a.raw["efiGptPartitionFirst"]; !present {
		align = oldAlignment
	}
	g := &gptTable{eeFirst: older(a, "efiGptPartitionFirst", true)}
	names, sets := a.sets("partitions")
	for _, name := range names {
		g.parts = append(g.parts, parsePartition(sets[name], name, align))
	}

	// disko numbers partitions by position: stable by priority, ties in byte order of the name.
	slices.SortStableFunc(g.parts, func(a, b partition) int { return cmp.Compare(a.priority, b.priority) })
	for i, p := range g.parts {
		if p.hybrid != nil {
			g.hybrids = append(g.hybrids, i+1)
		}
	}

	if len(g.hybrids) > 3 {
		a.bad("partitions", "%d of them are hybrid; an MBR has room for 3 beside the entry that protects the GPT", len(g.hybrids))
	}
	if len(a.problems) == 0 {
		// Bounds that no disk can satisfy are the layout's fault, whatever the machine.
		if _, err := arrange(g.parts, math.MaxInt64, 512); err != nil {
			a.problems = append(a.problems, err.Error())
		}
	}

	return g
}

var (
	guidPattern = regexp.MustCompile(`^[0-9A-Fa-f]{8}-([0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}$`)
	sizePattern = regexp.MustCompile(`^(100%|[0-9]+(?:[KMGTPEkmgtpe](?:[iI]?[bB])?)?)$`)
	mbrPattern  = regexp.MustCompile(`^(0[xX])?[0-9A-Fa-f]{1,2}$`)
)

// oldAlignment, in sectors, is what disko before 1.4 gave each call of sgdisk. That it is so old shows in the table,
// which has no efiGptPartitionFirst.
const oldAlignment = 2048

// parsePartition reads a partition, which is aligned as said if it does not say that itself.
func parsePartition(a *attrs, name string, align int) partition {
	p := partition{path: a.path, name: name, device: a.str("device")}
	a.ignore("name") // it is in the label
	a.absolute("device", p.device)
	p.label = a.str("label")
	const link = "/dev/disk/by-partlabel/"
	switch n := len(utf16.Encode([]rune(p.label))); {
	case n == 0 || n > 36 || strings.Contains(p.label, ":"): // sgdisk cuts a label at its first colon
		a.bad("label", "%q must have 1 to 36 UTF-16 units and no colon", p.label)
	case strings.HasPrefix(p.device, link) && p.device != link+udevName(p.label) &&
		!strings.ContainsFunc(p.label, unicode.IsControl):
		a.bad("label", "udev makes %s%s of %q, and the installed system would look for %s; choose a label of letters, digits and -", link, udevName(p.label), p.label, p.device)
	}

	if p.label != "" {
		a.unique("label", p.label, a.at("label"))
	}
	if p.uuid = a.optional("uuid"); p.uuid != "" {
		if !guidPattern.MatchString(p.uuid) {
			a.bad("uuid", "%q is not a UUID", p.uuid)
		}
		a.unique("uuid", strings.ToUpper(p.uuid), a.at("uuid"))
	}

	p.typeCode = a.str("type")
	p.typeGUID = typeGUID(p.typeCode)
	if p.typeGUID == "" {
		a.bad("type", "%q is not a known sgdisk code; write the partition type's GUID", p.typeCode)
	}

	// The size is in the end already.
	a.matches("size", sizePattern, "100%, 0 (the largest free block), or a number with K, M, G, T or P")
	p.start, p.end = a.bound("start"), a.bound("end")
	p.priority = need[int](a, "priority")
	if _, present := a.raw["alignment"]; present {
		align, _ = take[int](a, "alignment")
	}
	p.alignment = uint64(align)
	if align < 0 || align > 65536 {
		a.bad("alignment", "%d is not between 0 and 65536 sectors", align)
		p.alignment = 0
	}
	bits, _ := take[[]int](a, "attributes")
	for _, bit := range bits {
		if bit < 0 || bit > 63 {
			a.bad("attributes", "%d is not between 0 and 63", bit)
		} else if !slices.Contains(p.attributes, bit) {
			p.attributes = append(p.attributes, bit)
		}
	}

	p.hybrid = parseHybrid(a)
	p.content = a.volume(p.device)
	a.done()
	return p
}

func parseHybrid(a *attrs) *hybrid {
	raw, ok := a.raw["hybrid"]
	delete(a.raw, "hybrid")
	if !ok {
		return nil
	}
	s := a.set(a.at("hybrid"), raw)
	if s == nil {
		return nil
	}
	h := &hybrid{typeCode: s.optional("mbrPartitionType"), bootable: s.flag("mbrBootableFlag")}
	if h.typeCode != "" && !mbrPattern.MatchString(h.typeCode) {
		s.bad("mbrPartitionType", "%q is not a number such as 0x0c", h.typeCode)
	}
	s.done()
	return h
}

// udevName is how udev writes a label in the name of a link (libblkid's blkid_encode_string).
func udevName(label string) string {
	var b strings.Builder
	for _, r := range label {
		switch {
		case r >= utf8.RuneSelf, r >= '0' && r <= '9', r >= 'A' && r <= 'Z', r >= 'a' && r <= 'z', strings.ContainsRune("#+-.:=@_", r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, `\x%02x`, r)
		}
	}
	return b.String()
}

func (g *gptTable) minimum() int64 {
	minimum, _ := smallest(g.parts, 512)
	return minimum
}

// fill makes the partition table and fills the partitions. The partitions are known by
// the kernel's names where those are known: links by label race with udev and clash with
// other disks' labels (disko#739, #551).
func (g *gptTable) fill(b *builder, on blockTarget) {
	var places []blockTarget
	steps := len(b.steps)
	switch {
	case b.make(g, on, "gpt"):
		places = g.makeTable(b, on)
	case on.found != nil && on.found.holds() == "gpt":
		places = g.keepTable(b, on)
	default:
		places = g.unseen(on)
	}

	if len(b.steps) > steps {
		b.reread(on.device)
	}
	for n, part := range g.parts {
		b.places[part.device] = places[n]
		if part.typeGUID == typeGUID("EF02") && !slices.Contains(b.system.GRUB, on.device) {
			b.system.GRUB = append(b.system.GRUB, on.device)
		}
		if strings.Contains(part.device, "/by-partlabel/") {
			b.labels[part.label] = join(part.path, "label")
		}

		// An old file system may begin exactly where the partition does, and mkfs would refuse
		// or ask. All are wiped first: content may put a header or a log on another one.
		if !places[n].keep {
			b.wipe(places[n])
			if part.uuid != "" {
				b.names = append(b.names, uniqueName{"partuuid", strings.ToLower(part.uuid)})
			}
		}
	}

	for n, part := range g.parts {
		b.fill(part.content, places[n])
	}
}

// makeTable makes the table with all its partitions.
func (g *gptTable) makeTable(b *builder, on blockTarget) []blockTarget {
	dev := on.device
	for i, argv := range sgdisk(g.parts, dev) {
		name := "make the partition table of " + dev
		if i > 0 {
			name = fmt.Sprintf("make partition %d, %s", i, g.parts[i-1].name)
		}
		b.step(name, dev, argv...)
	}

	g.makeHybrid(b, dev)
	b.tables[dev] = g
	on.keep = false
	places := g.unseen(on)
	if on.size > 0 {
		if extents, err := arrange(g.parts, on.size, on.sector); err == nil { // else make said so
			for n, e := range extents {
				places[n].start = int64(e.first) * on.sector
				places[n].size, places[n].sector = int64(e.last-e.first+1)*on.sector, on.sector
			}
		}
	}

	return places
}

// unseen returns the partitions as they are named where nothing more is known.
func (g *gptTable) unseen(on blockTarget) []blockTarget {
	places := make([]blockTarget, len(g.parts))
	for n, part := range g.parts {
		places[n] = blockTarget{device: part.device, name: part.name, at: part.path, keep: on.keep}
		if on.kernel && !on.keep {
			places[n].device = numbered(on.device, n+1)
		}
	}
	return places
}

// numbered is the kernel's name of a partition.
func numbered(disk string, n int) string {
	if strings.TrimRight(disk, "0123456789") != disk {
		disk += "p"
	}
	return disk + strconv.Itoa(n)
}

// sgdisk returns the calls that make a table. It sleeps for a second when it has written,
// so one call makes all, unless a partition is aligned in its own way: the alignment holds
// for the rest of a call.
func sgdisk(parts []partition, dev string) (calls [][]string) {
	if slices.ContainsFunc(parts, func(p partition) bool { return p.alignment != parts[0].alignment }) {
		calls = [][]string{{"sgdisk", "--clear", dev}}
		for n, p := range parts {
			calls = append(calls, slices.Concat([]string{"sgdisk"}, p.options(n+1), []string{dev}))
		}
		return calls
	}
	argv := []string{"sgdisk", "--clear"}
	for n, p := range parts {
		argv = append(argv, p.options(n+1)...)
	}
	return [][]string{append(argv, dev)}
}

// options are sgdisk's.
func (p partition) options(number int) []string {
	n := strconv.Itoa(number)
	argv := []string{"--align-end"}
	if p.alignment != 0 {
		argv = append(argv, "--set-alignment="+strconv.FormatUint(p.alignment, 10))
	}
	uuid := p.uuid
	if uuid == "" {
		uuid = "R"
	}
	argv = append(argv,
		"--new="+n+":"+p.start.text+":"+p.end.text,
		"--partition-guid="+n+":"+uuid,
		"--change-name="+n+":"+p.label,
		"--typecode="+n+":"+p.typeCode,
		"--attributes="+n+":=:0")
	for _, bit := range p.attributes {
		argv = append(argv, "--attributes="+n+":set:"+strconv.Itoa(bit))
	}
	return argv
}

// makeHybrid puts partitions into the MBR beside the protective entry. That one is first
// unless :EE says that it comes last (sgdisk(8), --hybrid); disko counts as if it always
// came last, and forgets a space where it comes first.
func (g *gptTable) makeHybrid(b *builder, dev string) {
	if len(g.hybrids) == 0 {
		return
	}
	var numbers []string
	for _, n := range g.hybrids {
		numbers = append(numbers, strconv.Itoa(n))
	}
	first := 2
	if !g.eeFirst {
		numbers = append(numbers, "EE")
		first = 1
	}
	b.step("make a hybrid MBR on "+dev, dev, "sgdisk", "-h", strings.Join(numbers, ":"), dev)
	for i, n := range g.hybrids {
		h, entry := g.parts[n-1].hybrid, strconv.Itoa(first+i)
		if h.typeCode != "" {
			b.step("set the type of MBR entry "+entry, dev, "sfdisk", "--label-nested", "dos", "--part-type", dev, entry, h.typeCode)
		}
		if h.bootable {
			b.step("make MBR entry "+entry+" bootable", dev, "sfdisk", "--label-nested", "dos", "--activate", dev, entry)
		}
	}
}
