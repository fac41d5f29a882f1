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

// gptTable is a GUID partition table, made with sgdisk.
type gptTable struct {
	parts   []partition // in the order of their numbers, which start at 1
	eeFirst bool        // the protective entry is the first of the hybrid MBR
	hybrids []int       // numbers of the partitions that are also in a hybrid MBR
}

// partition is a partition of a GPT.
type partition struct {
	path, name, label  string
	device             string // the name that the installed system uses: by-partlabel or by-partuuid
	typeCode, typeGUID string
	uuid               string // empty: random
	start, end         bound
	alignment          uint64 // in sectors; 0: sgdisk's default
	attributes         []int
	priority           int
	hybrid             *hybrid
	content            deviceContent // nil: left unformatted
}

// hybrid is a partition's entry in a hybrid MBR.
type hybrid struct {
	typeCode string // empty: what sgdisk chooses
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

	// disko numbers partitions by position: in order of priority, and those of equal priority in byte order of their
	// names.
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
		// Bounds that no disk can satisfy are an error of the layout, whatever the machine.
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

// oldAlignment, in sectors, is the alignment that disko before 1.4 set in each call of sgdisk. Layouts of those
// versions are recognised by the lack of efiGptPartitionFirst.
const oldAlignment = 2048

// parsePartition reads a partition. align is its alignment in sectors, unless it has one of its own.
func parsePartition(a *attrs, name string, align int) partition {
	p := partition{path: a.path, name: name, device: a.str("device")}
	a.ignore("name") // the label has it
	a.absolute("device", p.device)
	p.label = a.str("label")
	const link = "/dev/disk/by-partlabel/"
	switch n := len(utf16.Encode([]rune(p.label))); {
	case n == 0 || n > 36 || strings.Contains(p.label, ":"): // sgdisk ends a label at its first colon
		a.bad("label", "%q must have 1 to 36 UTF-16 units and no colon", p.label)
	case strings.HasPrefix(p.device, link) && p.device != link+udevName(p.label) &&
		!strings.ContainsFunc(p.label, unicode.IsControl):
		a.bad("label", "udev makes %s%s of %q, and the installed system would look for %s; choose a label of "+
			"letters, digits and -", link, udevName(p.label), p.label, p.device)
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

	// The size is part of the end already.
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

// udevName returns a label as udev writes it in the name of a link (blkid_encode_string in libblkid).
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

// fill makes the partition table and fills the partitions. Commands use the kernel names of partitions where these are
// known: links by label appear only when udev is done, and clash with the labels of other disks (disko#739, #551).
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

		// An old file system may begin exactly where the partition does, and mkfs would then refuse or ask. All partitions
		// are wiped before any is filled, since content may put a header or a journal on another one.
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

// makeTable makes the table with all its partitions, and returns them.
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
		if extents, err := arrange(g.parts, on.size, on.sector); err == nil { // fits has reported an error
			for n, e := range extents {
				places[n].start = int64(e.first) * on.sector
				places[n].size, places[n].sector = int64(e.last-e.first+1)*on.sector, on.sector
			}
		}
	}

	return places
}

// unseen returns the partitions with the names they have if nothing more is known.
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

// numbered returns the kernel's name of a partition.
func numbered(disk string, n int) string {
	if strings.TrimRight(disk, "0123456789") != disk {
		disk += "p"
	}
	return disk + strconv.Itoa(n)
}

// sgdisk returns the commands that make a table. As sgdisk sleeps for a second after it has written, one command makes
// all partitions, unless their alignments differ: an alignment applies to the whole command.
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

// options returns sgdisk's options for making the partition.
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

// makeHybrid puts partitions into the MBR, in addition to the protective entry. That entry is the first unless :EE puts
// it last (sgdisk(8), --hybrid). disko numbers the entries as if it were always last, and omits a space where it is
// first.
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
