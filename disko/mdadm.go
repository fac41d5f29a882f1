package disko

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// raid is a RAID that is made of mdraid members.
type raid struct {
	name, metadata string
	level          int
	args           []string
	content        deviceContent
}

// raidName matches names that fit: the superblock has 32 bytes for "any:" and the name (md(4)).
var raidName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,27}$`)

// levels are the RAID levels of mdadm, with the lowest number of members of each.
var levels = map[int]int{0: 1, 1: 1, 4: 2, 5: 2, 6: 4, 10: 2}

func parseRAID(d *topDevice, a *attrs, _ string) {
	a.want("type", "mdadm")
	r := &raid{name: a.matches("name", raidName, "up to 28 letters, digits and _.+- not beginning with one of .+-"),
		level: need[int](a, "level"), args: a.list("extraArgs"),
		metadata: a.oneOf("metadata", "1", "1.0", "1.1", "1.2", "default", "ddf", "imsm")}
	a.borrow("extraArgs", r.args)
	if r.metadata == "" {
		r.metadata = "default"
	}
	if fewest, ok := levels[r.level]; !ok {
		a.bad("level", "%d is not 0, 1, 4, 5, 6 or 10", r.level)
	} else {
		a.atLeast("mdadm "+r.name, fewest, a.path, fmt.Sprintf("RAID level %d", r.level))
	}

	a.unique("RAID", r.name, a.at("name"))
	d.on, d.body = blockTarget{device: "/dev/md/" + r.name, name: r.name, at: a.path}, r
	r.content = a.content(d.on.device)
}

// fill makes or assembles the RAID, and fills it.
func (r *raid) fill(b *builder, on blockTarget) {
	members := b.members["mdadm "+r.name]
	on.size, on.sector = r.size(members), 512
	b.system.RAID = true
	switch b.together(on.at, "the RAID "+r.name, members) {
	case allNew:
		r.make(b, on, members)
	case allKept:
		on.keep, on.found = true, r.keep(b, on, members)
	case unseen:
		on.keep = true
		if b.facts == nil {
			b.open(blockTarget{}, "assemble the RAID "+r.name, on.device, "", r.assemble(on, members)...)
		}
	case mixed:
		on.keep = true
	}

	if on.found != nil {
		on.device, on.size = on.found.device(), int64(on.found.Size)
	}
	b.close("stop RAID "+r.name, on.device, "mdadm", "--stop", on.device)
	b.places["/dev/md/"+r.name] = on
	b.fill(r.content, on)
}

// assemble returns the command that assembles an existing RAID.
func (r *raid) assemble(on blockTarget, members []blockTarget) []string {
	argv := []string{"mdadm", "--assemble", on.device, "--homehost=any"}
	for _, m := range members {
		argv = append(argv, m.device)
	}
	return argv
}

// keep compares an existing RAID with the layout, and returns its device; nil if it has to be assembled first.
func (r *raid) keep(b *builder, on blockTarget, members []blockTarget) *placedDevice {
	var array *placedDevice
	for i, m := range members {
		// The name follows the name of the host that made the RAID (md(4)); old metadata has no name.
		if _, name, ok := strings.Cut(m.found.Label, ":"); ok && name != r.name {
			b.errorf(on.at, "%s is part of the RAID %q instead of %q", m.device, name, r.name)
			return nil
		}
		c := b.child(m.found, "raid")
		if i > 0 && (c != array || m.found.UUID != members[0].found.UUID) {
			b.errorf(on.at, "%s and %s are not parts of one RAID", members[0].device, m.device)
			return nil
		}
		array = c
	}

	if array == nil {
		b.open(blockTarget{}, "assemble the RAID "+r.name, on.device, "", r.assemble(on, members)...)
		return nil
	}
	if want := "raid" + strconv.Itoa(r.level); array.Type != want {
		b.errorf(on.at, "%s is a %s instead of %s", array.device(), array.Type, want)
	}

	// mdadm(8): 1 means 1.2, and default means whatever that mdadm was built with.
	want := cmp.Or(map[string]string{"1": "1.2", "default": members[0].found.FSVersion}[r.metadata], r.metadata)
	if has := members[0].found.FSVersion; has != "" && has != want {
		b.errorf(on.at, "the metadata of %s is %s instead of %s", array.device(), has, want)
	}
	if n := b.holders(array); n != len(members) {
		b.errorf(on.at, "%s has %d members instead of %d", array.device(), n, len(members))
	}
	return array
}

// holders counts the devices from which a device is made.
func (b *builder) holders(n *placedDevice) (count int) {
	for _, p := range b.devices {
		for i := range p.Children {
			if p.Children[i].device() == n.device() {
				count++
			}
		}
	}
	return count
}

// make adds the steps that make the RAID.
func (r *raid) make(b *builder, on blockTarget, members []blockTarget) {
	// --run: do not ask whether to continue if a member has old content.
	argv := []string{"mdadm", "--create", on.device, "--run", "--level=" + strconv.Itoa(r.level),
		"--raid-devices=" + strconv.Itoa(len(members)), "--metadata=" + r.metadata, "--force", "--homehost=any"}
	argv = append(argv, b.overwrite(r.args)...)
	for _, m := range members {
		argv = append(argv, m.device)
	}
	b.step("make the RAID "+r.name, on.device, argv...)
	b.names = append(b.names, uniqueName{"mdadm", r.name})
	b.reread(on.device)

	// Old content of the members appears again where the RAID's data begin.
	b.wipe(on)
	b.step("zero the start of "+on.device, on.device, zero(on.device)...)
}

// size returns the largest size that the RAID can have, in bytes; 0 if that is not known.
func (r *raid) size(members []blockTarget) int64 {
	if slices.ContainsFunc(members, func(m blockTarget) bool { return m.size == 0 }) {
		return 0
	}
	n := int64(len(members))
	smallestMember := int64(math.MaxInt64)
	sum := int64(0)
	for _, m := range members {
		smallestMember, sum = min(smallestMember, m.size), sum+m.size
	}
	switch r.level {
	case 0:
		return sum
	case 4, 5:
		return smallestMember * (n - 1)
	case 6:
		return smallestMember * (n - 2)
	case 10:
		return smallestMember * n / 2
	}

	return smallestMember
}
