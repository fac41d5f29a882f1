package disko

import (
	"fmt"
	"math"
	"math/bits"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	mib = 1 << 20
	// A GPT has 128 entries of 128 bytes at both ends of the disk.
	tableEntries   = 128
	tableEntrySize = 128
)

// bound is the start or end of a partition in sgdisk's notation: a sign ('+' from the start of the free block, '-' from
// its end, ' ' absolute) and a number of sectors (unit 0) or of units of 1024^unit bytes. The number zero means
// sgdisk's default.
type bound struct {
	text   string
	sign   byte
	number uint64
	unit   int
}

// boundPattern matches what is read as a bound. sgdisk itself reads a number and one letter and ignores the rest, so
// MiB and MB are M. If the letter is not a unit, it counts sectors: 50% is sector 50, and 1.5G is sector 1. As nobody
// means that, these are errors here.
var boundPattern = regexp.MustCompile(`^([+-]?)([0-9]+)(?:([sSkKmMgGtTpPeE])(?:[iI]?[bB])?|(%))?$`)

// bound reads a bound.
func (a *attrs) bound(name string) bound {
	text := a.str(name)
	b := bound{text: text, sign: ' '}
	m := boundPattern.FindStringSubmatch(text)
	if m == nil {
		a.bad(name, "%q is not allowed; allowed are 0, or a number of sectors, or one with K, M, G, T or P (of 1024, "+
			"with or without iB), after + (from the start) or - (from the end) or alone (from the start of the disk)", text)
		return b
	}

	if m[1] != "" {
		b.sign = m[1][0]
	}
	number, err := strconv.ParseUint(m[2], 10, 64)
	if number == 0 && err == nil {
		return b // the unit does not matter
	}

	b.number = number
	b.unit = max(0, strings.IndexByte("SKMGTPE", strings.ToUpper(m[3] + "S")[0]))
	switch {
	case m[4] != "":
		a.bad(name, "%q is not allowed: sgdisk knows no percentages, and takes it for sector %d; "+
			"the rest of the disk is -0", text, number)
	case err != nil || bits.Len64(number)+10*b.unit > 62:
		a.bad(name, "%q is not allowed: no disk is so large", text)
	}

	return b
}

// rest reports whether the bound depends on the size of the disk.
func (b bound) rest() bool { return b.number == 0 || b.sign == '-' }

// resolve returns the sector of the bound. It is IeeeToInt in gptfdisk's support.cc.
func (b bound) resolve(low, high, def, align, sectorSize uint64) uint64 {
	if b.number == 0 {
		return def
	}
	n := b.number
	if b.unit > 0 {
		unit := uint64(1) << (10 * b.unit)
		if unit >= sectorSize {
			n *= unit / sectorSize
		} else {
			n /= sectorSize / unit
		}
	}

	switch {
	case b.sign == '+' && high-def < align:
		return low + max(n, 1) - 1
	case b.sign == '+':
		return def + n
	case b.sign == '-' && n > high:
		return 0
	case b.sign == '-':
		return high - n
	}

	return n
}

// extent is the first and last sector of a partition.
type extent struct{ first, last uint64 }

// arranger finds free space as gptfdisk does when sgdisk adds one partition after the other.
type arranger struct {
	used        []extent
	first, last uint64 // usable sectors
	align       uint64 // in sectors
}

// arrange returns where sgdisk puts the partitions on an empty disk of size bytes.
func arrange(parts []partition, size, sectorSize int64) ([]extent, error) {
	return arrangeBeside(nil, parts, size, sectorSize)
}

// arrangeBeside is arrange for a disk on which some space is used. The result begins with the used extents.
func arrangeBeside(used []extent, parts []partition, size, sectorSize int64) ([]extent, error) {
	ss := uint64(sectorSize)
	if sectorSize < 512 || sectorSize > 1<<16 || bits.OnesCount64(ss) != 1 {
		return nil, fmt.Errorf("sectors of %d bytes are not supported", sectorSize)
	}
	entries := uint64(tableEntries*tableEntrySize+ss-1) / ss
	sectors := uint64(size) / ss
	if sectors < 2*(entries+2) {
		return nil, fmt.Errorf("too small for a partition table")
	}
	g := &arranger{used: slices.Clone(used), first: 2 + entries, last: sectors - entries - 2}
	for _, p := range parts {
		if len(g.used) == tableEntries {
			return nil, fmt.Errorf("%s: a gpt table has %d partitions at most", p.path, tableEntries)
		}
		g.setAlignment(p.alignment, sectors, ss)
		if err := g.add(p, ss); err != nil {
			return nil, err
		}

		e := g.used[len(g.used)-1]
		minimum := int64(0)
		if p.content != nil {
			minimum = p.content.minimum()
		}

		// Sectors are compared, as bytes may overflow here.
		if has := e.last - e.first + 1; has < uint64(minimum)/ss {
			return nil, fmt.Errorf("%s: only %s are left for it, it needs %s at least", p.path, human(int64(has*ss)), human(minimum))
		}
	}

	return g.used, nil
}

// setAlignment sets the alignment as each sgdisk command does when it reads the table: a partition that does not start
// at a multiple of 1 MiB lowers the alignment for the partitions after it. explicit, if not 0, is the alignment that
// the layout sets.
func (g *arranger) setAlignment(explicit, sectors, ss uint64) {
	g.align = explicit
	if explicit > 0 {
		return
	}
	g.align = max(mib/ss, 1)
	for _, u := range g.used {
		for u.first%g.align != 0 {
			g.align /= 2
		}
	}

	const smallestAdvancedFormat = 585937500 // in sectors
	if g.align < 8 && sectors >= smallestAdvancedFormat {
		g.align = 8
	}
}

// add finds the space for a partition and marks it as used. ss is the sector size in bytes.
func (g *arranger) add(p partition, ss uint64) error {
	low, ok := g.largest()
	if !ok {
		return fmt.Errorf("%s: no space is left for it; give it a lower priority than the partition that takes the rest", p.path)
	}
	low = g.aligned(low)
	high := g.lastFree(low)
	if end := g.aligned(high + 1); end != high+1 && g.free(end-1, end-1) && end > low {
		high = end - 1
	}
	first := p.start.resolve(low, high, low, g.align, ss)
	last := p.end.resolve(first, high, high, g.align, ss)
	first = g.aligned(first)
	if first > last || !g.free(first, last) {
		return fmt.Errorf("%s: from %s to %s does not fit in the free space", p.path, p.start.text, p.end.text)
	}
	g.used = append(g.used, extent{first, last})
	return nil
}

// free reports whether all of the sectors are usable and in no partition.
func (g *arranger) free(first, last uint64) bool {
	if first < g.first || last > g.last {
		return false
	}
	for _, u := range g.used {
		if first <= u.last && last >= u.first {
			return false
		}
	}
	return true
}

// lastFree returns the last sector of the free block that contains start.
func (g *arranger) lastFree(start uint64) uint64 {
	end := g.last
	for _, u := range g.used {
		if u.first > start && u.first <= end {
			end = u.first - 1
		}
	}
	return end
}

// largest returns the start of the largest free block, and the first of these if several are equal; false if there is
// none.
func (g *arranger) largest() (start uint64, ok bool) {
	starts := []uint64{g.first}
	for _, u := range g.used {
		starts = append(starts, u.last+1)
	}
	best := uint64(0)
	for _, s := range starts {
		if !g.free(s, s) {
			continue
		}
		if n := g.lastFree(s) - s + 1; n > best || n == best && s < start {
			best, start = n, s
		}
	}

	return start, best > 0
}

// aligned moves a sector to a multiple of the alignment: down if the sectors between are free, else up.
func (g *arranger) aligned(sector uint64) uint64 {
	rest := sector % g.align
	if rest == 0 {
		return sector
	}
	down, up := sector-rest, sector-rest+g.align
	if g.free(down, sector-1) {
		return down
	}
	if g.free(sector+1, up) {
		return up
	}
	return sector
}

// smallest returns the size in bytes, in whole MiB, of the smallest disk on which the partitions fit; false if there is
// none.
func smallest(parts []partition, sectorSize int64) (int64, bool) {
	low, high := int64(0), int64(math.MaxInt64/mib)
	for low < high {
		mid := low + (high-low)/2
		if _, err := arrange(parts, mid*mib, sectorSize); err == nil {
			high = mid
		} else {
			low = mid + 1
		}
	}
	_, err := arrange(parts, low*mib, sectorSize)
	return low * mib, err == nil
}

// human returns a size in bytes for people: "512 MiB", "7.5 GiB".
func human(n int64) string {
	unit, f := 0, float64(n)
	for f >= 1024 && unit < 6 {
		f, unit = f/1024, unit+1
	}
	s := strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0")
	return s + " " + []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}[unit]
}
