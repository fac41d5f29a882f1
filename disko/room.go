package disko

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// groupCapacity is the most that a volume group can have while its volumes are made, in bytes of whole extents.
type groupCapacity struct {
	total, free int64    // math.MaxInt64: not known
	taken       []string // the volumes that have taken of it
}

// newRoom is that of a new group. Each member begins with a MiB of LVM's own.
func newRoom(members []blockTarget) *groupCapacity {
	r := &groupCapacity{}
	for _, m := range members {
		r.total += max(0, m.size-mib) / extentSize * extentSize
	}
	if slices.ContainsFunc(members, func(m blockTarget) bool { return m.size == 0 }) {
		r.total = math.MaxInt64
	}
	r.free = r.total
	return r
}

// percent returns what a volume takes of what, "FREE" or "VG"; 0 if its size is a number.
func (v logicalVolume) percent() (n int64, of string) {
	m := lvmPercent.FindStringSubmatch(v.size)
	if m == nil {
		return 0, ""
	}
	n, _ = strconv.ParseInt(m[1], 10, 64)
	switch of = strings.ToUpper(m[2]); of {
	case "", "F":
		of = "FREE"
	case "V", "P", "PVS": // PVS are those that the command names, or all
		of = "VG"
	}
	return n, of
}

// allocate returns the most that a volume can get, 0 if that is not known, and reports one for which nothing can be
// left. LVM takes a percentage for what is left where that is less: 60%VG twice are 60% and 40% (tried with lvcreate
// 2.03).
func (r *groupCapacity) allocate(b *builder, v logicalVolume) (size int64) {
	percent, of := v.percent()
	switch {
	case v.kind == "thinlv":
		return v.bytes()
	case percent == 0:
		size = v.bytes() / extentSize * extentSize
	case r.free == 0:
		size = 0
	case of == "FREE":
		size = share(r.free, percent)
	case of == "VG":
		size = min(r.free, share(r.total, percent))
	default:
		size = r.free
	}

	copies := v.copies()
	if percent > 0 && size < math.MaxInt64 {
		size = size / copies / extentSize * extentSize
	}
	if takes := v.bytes() * copies; takes > r.free || size == 0 {
		r.refuse(b, v, max(takes, extentSize))
		return size
	}
	if size == math.MaxInt64 {
		size = 0
	}
	r.take(v, percent, of, size*copies)
	return size
}

// share is a part of a size, which may be not known.
func share(of, percent int64) int64 {
	if of == math.MaxInt64 {
		return of
	}
	extents := of / extentSize
	return min(extents*percent/100, extents) * extentSize
}

// copies is how many there are of each extent, at least.
func (v logicalVolume) copies() int64 {
	said := slices.ContainsFunc(v.args, func(arg string) bool {
		return strings.HasPrefix(arg, "-m") || strings.HasPrefix(arg, "--mirrors")
	})
	if (v.kind == "mirror" || v.kind == "raid1") && !said {
		return 2
	}
	return 1
}

func (r *groupCapacity) refuse(b *builder, v logicalVolume, needs int64) {
	before := ""
	if len(r.taken) > 0 {
		before = " after " + strings.Join(r.taken, ", ") + "; volumes of lower priority are made first"
	}
	b.errorf(join(v.path, "size"), "%s takes %s, and only %s are left in the volume group%s",
		v.size, human(needs), human(r.free), before)
}

// take takes away what a volume uses at least.
func (r *groupCapacity) take(v logicalVolume, percent int64, of string, uses int64) {
	r.taken = append(r.taken, v.name)
	whole := percent >= 100 && (of == "FREE" || of == "VG")
	switch {
	case percent == 0:
		if r.free < math.MaxInt64 {
			r.free -= uses
		}
	case len(v.args) > 0:

		// Its arguments may keep it to some of the members.
	case v.kind == "" && whole:
		r.free = 0
	case v.kind == "" && r.free < math.MaxInt64:
		r.free -= uses
	case v.kind == "thin-pool" && whole && r.free < math.MaxInt64:
		r.free /= 64 // LVM's estimate of the metadata may leave something
	}
}

// checkVolumes reports volumes that are larger than all members together. Sparse ones may be.
func (z *zpool) checkVolumes(b *builder, members []blockTarget) {
	room, needs := int64(0), int64(0)
	for _, m := range members {
		if m.size == 0 {
			return
		}
		room += m.size
	}

	for _, d := range z.datasets {
		sparse := slices.Contains(d.args, "-s") || d.option("refreservation") != ""
		if d.size == "" || sparse {
			continue
		}
		if needs += (logicalVolume{size: d.size}).bytes(); needs > room {
			const tooMuch = "the volumes up to this one take %s, and the pool's members have %s"
			b.errorf(join(d.path, "size"), tooMuch, human(needs), human(room))
			return
		}
	}
}
