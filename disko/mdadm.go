package disko

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
)

// raid is made of mdraid members.
type raid struct {
	name, metadata string
	level          int
	args           []string
	content        content
}

// The superblock has 32 bytes for "any:" and the name (md(4)).
var raidName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,27}$`)

// levels are those of mdadm, and the fewest members of each.
var levels = map[int]int{0: 1, 1: 1, 4: 2, 5: 2, 6: 4, 10: 2}

func parseRAID(d *device, a *attrs, _ string) {
	a.want("type", "mdadm")
	r := &raid{name: a.matches("name", raidName, "up to 28 letters, digits and _.+- not beginning with one of .+-"),
		level: need[int](a, "level"), args: a.list("extraArgs"),
		metadata: a.oneOf("metadata", "1", "1.0", "1.1", "1.2", "default", "ddf", "imsm")}
	a.borrow("extraArgs", r.args)
	if r.metadata == "" {
		r.metadata = "default"
	}
	if least, ok := levels[r.level]; !ok {
		a.bad("level", "%d is not 0, 1, 4, 5, 6 or 10", r.level)
	} else {
		a.atLeast("mdadm "+r.name, least, a.path, fmt.Sprintf("RAID level %d", r.level))
	}
	a.unique("RAID", r.name, a.at("name"))
	d.on, d.body = place{device: "/dev/md/" + r.name, name: r.name, at: a.path}, r
	r.content = a.content(d.on.device)
}

func (r *raid) fill(b *builder, on place) {
	members := b.members["mdadm "+r.name]
	// --run: do not ask whether to go on where old content shines through.
	argv := []string{"mdadm", "--create", on.device, "--run", "--level=" + strconv.Itoa(r.level),
		"--raid-devices=" + strconv.Itoa(len(members)), "--metadata=" + r.metadata, "--force", "--homehost=any"}
	argv = append(argv, b.resolve(r.args)...)
	for _, m := range members {
		argv = append(argv, m.device)
	}
	b.step("make the RAID "+r.name, on.device, argv...)
	b.close("stop RAID "+r.name, on.device, "mdadm", "--stop", on.device)
	b.reread(on.device)
	// What was on the members at the place where the RAID's data now begin shows again.
	b.wipe(on)
	b.step("zero the partition tables of "+on.device, on.device, "sgdisk", "--zap-all", on.device)
	on.size, on.sector = r.size(members), 512
	b.nodes[on.device] = on.device
	b.fill(r.content, on)
}

// size is the most that the RAID can hold, 0 if it is not known.
func (r *raid) size(members []place) int64 {
	if slices.ContainsFunc(members, func(m place) bool { return m.size == 0 }) {
		return 0
	}
	n, least, sum := int64(len(members)), int64(math.MaxInt64), int64(0)
	for _, m := range members {
		least, sum = min(least, m.size), sum+m.size
	}
	switch r.level {
	case 0:
		return sum
	case 4, 5:
		return least * (n - 1)
	case 6:
		return least * (n - 2)
	case 10:
		return least * n / 2
	}
	return least
}
