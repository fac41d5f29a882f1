package disko

import (
	"math"
	"slices"
	"strconv"
	"strings"
)

// groupCapacity is the space in a volume group while its volumes are made, in bytes of whole extents. It is an upper
// bound.
type groupCapacity struct {
	total, free int64    // math.MaxInt64: not known
	taken       []string // names of the volumes that have used some of it
}

// newRoom returns the capacity of a new group. The first MiB of each member is LVM's own.
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

// percent returns the percentage that a volume takes, and of what: "FREE", "VG", or another word of LVM. It returns 0
// if the size is a number.
func (v logicalVolume) percent() (n int64, of string) {
	m := lvmPercent.FindStringSubmatch(v.size)
	if m == nil {
		return 0, ""
	}
	n, _ = strconv.ParseInt(m[1], 10, 64)
	switch of = strings.ToUpper(m[2]); of {
	case "", "F":
		of = "FREE"
	case "V", "P", "PVS": // PVS means the volumes that the command names, else all
		of = "VG"
	}
	return n, of
}

// allocate returns the largest size that a volume can get, in bytes; 0 if that is not known. It records an error if
// nothing can be left for the volume. If a percentage is more than what is left, LVM takes what is left: 60%VG twice
// gives 60% and 40% (tested with lvcreate 2.03).
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

// share returns a percentage of a size in whole extents. The size may be math.MaxInt64, not known.
func share(of, percent int64) int64 {
	if of == math.MaxInt64 {
		return of
	}
	extents := of / extentSize
	return min(extents*percent/100, extents) * extentSize
}

// copies returns how often each extent is stored, at least.
func (v logicalVolume) copies() int64 {
	said := slices.ContainsFunc(v.args, func(arg string) bool {
		return strings.HasPrefix(arg, "-m") || strings.HasPrefix(arg, "--mirrors")
	})
	if (v.kind == "mirror" || v.kind == "raid1") && !said {
		return 2
	}
	return 1
}

// refuse records the error that the group has too little space for a volume.
func (r *groupCapacity) refuse(b *builder, v logicalVolume, needs int64) {
	before := ""
	if len(r.taken) > 0 {
		before = " after " + strings.Join(r.taken, ", ") + "; volumes of lower priority are made first"
	}
	b.errorf(join(v.path, "size"), "%s takes %s, and only %s are left in the volume group%s",
		v.size, human(needs), human(r.free), before)
}

// take subtracts what a volume uses at least.
func (r *groupCapacity) take(v logicalVolume, percent int64, of string, uses int64) {
	r.taken = append(r.taken, v.name)
	whole := percent >= 100 && (of == "FREE" || of == "VG")
	switch {
	case percent == 0:
		if r.free < math.MaxInt64 {
			r.free -= uses
		}
	case len(v.args) > 0:

		// The arguments may restrict the volume to some of the members.
	case v.kind == "" && whole:
		r.free = 0
	case v.kind == "" && r.free < math.MaxInt64:
		r.free -= uses
	case v.kind == "thin-pool" && whole && r.free < math.MaxInt64:
		r.free /= 64 // LVM's estimate of the metadata may leave something
	}
}

// checkVolumes records an error if the volumes of a pool need more space than all of its members have. Sparse volumes
// do not count.
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
