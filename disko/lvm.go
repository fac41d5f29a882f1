package disko

import (
	"cmp"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// extentSize is LVM's default unit of allocation, in bytes.
const extentSize = 4 * mib

// volumeGroup is made of lvm_pv members, and divided into volumes.
type volumeGroup struct {
	path, name string
	volumes    []logicalVolume // in the order in which they are made
}

// logicalVolume is a volume of a group.
type logicalVolume struct {
	path, name, size string
	kind, pool       string // kind is lvm_type; pool is the thin pool of a thinlv
	args             []string
	priority         int
	content          deviceContent
}

// Names and sizes as lvm(8) has them. Names that begin with snapshot or pvmove are reserved by LVM.
var (
	lvmName = regexp.MustCompile(`^[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,126}$`)
	lvmSize = regexp.MustCompile(`^\+?([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:([bBsS])|([kKmMgGtTpPeE])(?:[iI]?[bB]?))?$`)
	// LVM ignores the case. A size of "100%" in disko means the free space.
	lvmPercent = regexp.MustCompile(`(?i)^\+?([0-9]{1,4})%(|F|FREE|V|VG|P|PVS|O|ORIGIN)$`)
)

// lvmName reads a name of a volume group or volume.
func (a *attrs) lvmName(name string) string {
	v := a.matches(name, lvmName, "up to 127 letters, digits and +_.- not beginning with -")
	if v == "." || v == ".." || strings.HasPrefix(v, "snapshot") || strings.HasPrefix(v, "pvmove") {
		a.bad(name, "%q is reserved by LVM", v)
	}
	return v
}

func parseVolumeGroup(d *topDevice, a *attrs, _ string) {
	a.want("type", "lvm_vg")
	g := &volumeGroup{path: a.path, name: a.lvmName("name")}
	a.unique("volume group", g.name, a.at("name"))
	d.on, d.body = blockTarget{device: "/dev/" + g.name, name: g.name, at: a.path}, g
	a.atLeast("lvm_vg "+g.name, 1, a.path, "a volume group")
	names, sets := a.sets("lvs")
	for i, name := range names {
		g.volumes = append(g.volumes, parseVolume(sets[name], g.name, i))
	}

	// As in disko: in order of priority, and those of equal priority in byte order of the attributes.
	slices.SortStableFunc(g.volumes, func(a, b logicalVolume) int { return cmp.Compare(a.priority, b.priority) })
	pools := map[string]bool{}
	for _, v := range g.volumes {
		if v.kind == "thinlv" && !pools[v.pool] {
			a.errorf(v.path, "its pool %q is not a thin-pool of %s that is made before it", v.pool, g.name)
		}
		pools[v.name] = v.kind == "thin-pool"
	}
}

// parseVolume reads the nth volume of a group, in byte order of the attributes.
func parseVolume(a *attrs, group string, n int) logicalVolume {
	v := logicalVolume{path: a.path, name: a.lvmName("name"), pool: a.optional("pool"),
		kind: a.oneOf("lvm_type", "mirror", "raid0", "raid1", "raid4", "raid5", "raid6", "thin-pool", "thinlv"),
		size: a.str("size"), args: a.stringList("extraArgs")}
	switch n, _ := v.percent(); {
	case !lvmSize.MatchString(v.size) && !lvmPercent.MatchString(v.size):
		const allowed = "%q is not allowed; allowed are a number with K, M, G, T or P, or a percentage such as " +
			"100%%FREE or 20%%VG"
		a.bad("size", allowed, v.size)
	case n == 0 && v.bytes() == 0:
		a.bad("size", "%q is nothing", v.size)
	}

	// disko before 1.4 has no priorities. It makes the volumes without 100% first, the last one of them first, since its
	// comparison orders each of them before anything else; then those with 100%.
	oldPriority := -n
	if strings.Contains(v.size, "100%") {
		oldPriority = 1
	}
	v.priority = older(a, "priority", oldPriority)
	a.unique("volume", group+"/"+v.name, a.at("name"))
	switch percent := strings.Contains(v.size, "%"); {
	case v.kind == "thinlv" && percent:
		a.bad("size", "%q must be a number; a thin volume is not part of the free space", v.size)
	case v.kind != "thinlv" && v.pool != "":
		a.bad("pool", "is only for lvm_type thinlv")
	}

	v.content = a.volume("/dev/" + group + "/" + v.name)
	if v.kind == "thin-pool" && v.content != nil {
		a.bad("content", "a thin-pool has volumes instead")
	}
	a.done()
	return v
}

// bytes returns the size, rounded up to whole extents; 0 if it is a percentage.
func (v logicalVolume) bytes() int64 {
	m := lvmSize.FindStringSubmatch(v.size)
	if m == nil {
		return 0
	}
	f, _ := strconv.ParseFloat(m[1], 64)
	switch unit := strings.ToLower(m[2] + m[3]); unit {
	case "b":
	case "s":
		f *= 512
	case "":
		f *= mib
	default:
		for range strings.Index("kmgtpe", unit) + 1 {
			f *= 1024
		}
	}

	if f > 1<<60 {
		return 1 << 60
	}
	return (int64(f) + extentSize - 1) / extentSize * extentSize
}

// fill makes or opens the volume group, and fills its volumes.
func (g *volumeGroup) fill(b *builder, on blockTarget) {
	members := b.members["lvm_vg "+g.name]
	switch g.state(b, members) {
	case allNew:
		g.makeAll(b, on, members)
	case allKept:
		g.keepVolumes(b, on)
	case unseen:
		if b.facts == nil {
			b.open(blockTarget{}, "activate volume group "+g.name, on.device, "", "vgchange", "--activate", "y", g.name)
		}
		fallthrough
	case mixed:
		for _, v := range g.volumes {
			b.places[v.device(g)] = blockTarget{device: v.device(g), name: v.name, at: v.path, keep: true}
		}
	}

	b.close("deactivate volume group "+g.name, on.device, "vgchange", "--activate", "n", g.name)
	for _, v := range g.volumes {
		b.fill(v.content, b.places[v.device(g)])
	}
}

// device returns the path of the volume.
func (v logicalVolume) device(g *volumeGroup) string { return "/dev/" + g.name + "/" + v.name }

// state compares the members that exist with the volume group that is on them.
func (g *volumeGroup) state(b *builder, members []blockTarget) memberState {
	if s := stateOf(members); s == unseen || b.facts == nil {
		return s
	}
	members = slices.Clone(members)
	for i, m := range members {
		if !m.keep {
			continue
		}
		switch group := b.groupOf(m.found); group {
		case g.name:
		case "":
			members[i].keep = false // a physical volume that is in no group yet
			if !b.lacks(g.path, "%s is in no volume group, and the layout has it in %s", m.device, g.name) {
				return mixed
			}
		default:
			b.errorf(g.path, "%s is in the volume group %s instead of %s", m.device, group, g.name)
			return mixed
		}
	}

	s := b.together(g.path, "the volume group "+g.name, members)
	for _, pv := range b.facts.PhysicalVolumes {
		n := b.there(pv.Device)
		ofLayout := slices.ContainsFunc(members, func(m blockTarget) bool { return m.found == n })
		if s == allKept && pv.Group == g.name && !ofLayout {
			b.errorf(g.path, "the volume group %s is on %s too, which the layout does not have in it", g.name, pv.Device)
		}
	}

	return s
}

// groupOf returns the volume group that a device is in; empty if it is in none.
func (b *builder) groupOf(n *placedDevice) string {
	for _, pv := range b.facts.PhysicalVolumes {
		if b.there(pv.Device) == n {
			return pv.Group
		}
	}
	return ""
}

// keepVolumes compares the existing volumes with the layout, and makes missing ones.
func (g *volumeGroup) keepVolumes(b *builder, on blockTarget) {
	closed := false
	for _, v := range g.volumes {
		at := blockTarget{device: v.device(g), name: v.name, at: v.path, sector: 512, size: v.bytes()}
		i := slices.IndexFunc(b.facts.LogicalVolumes,
			func(lv LogicalVolume) bool { return lv.Group == g.name && lv.Name == v.name })
		if i < 0 {
			if b.lacks(v.path, "the volume group %s has no volume %s", g.name, v.name) {
				b.step("make the volume "+v.name+" in "+g.name, on.device, v.lvcreate(g.name)...)
			} else {
				at.keep = true
			}
			b.places[v.device(g)] = at
			continue
		}

		lv := b.facts.LogicalVolumes[i]
		v.compare(b, lv)
		at.keep, at.size = true, int64(lv.Size)
		if at.found = b.found["/dev/mapper/"+mapperOf(g.name)+"-"+mapperOf(v.name)]; at.found != nil {
			at.device = at.found.device()
		} else if v.kind != "thin-pool" {
			closed = true
		}

		b.places[v.device(g)] = at
	}

	if closed {
		b.open(blockTarget{}, "activate volume group "+g.name, on.device, "", "vgchange", "--activate", "y", g.name)
	}
}

// mapperOf returns a name as device mapper writes it, with hyphens doubled.
func mapperOf(name string) string { return strings.ReplaceAll(name, "-", "--") }

// compare records errors for the differences between an existing volume and the layout. LVM rounds sizes up to whole
// extents on each of its devices, so a volume may be somewhat larger.
func (v logicalVolume) compare(b *builder, lv LogicalVolume) {
	kind := cmp.Or(map[string]string{"thinlv": "thin"}[v.kind], v.kind, "linear")
	if kind == "linear" && lv.Type == "striped" { // on several devices, by its arguments
		kind = lv.Type
	}

	// For raid5 and raid6, lvs appends the parity layout to the type.
	if lv.Type != kind && !strings.HasPrefix(lv.Type, kind+"_") {
		b.errorf(v.path, "the volume %s is of type %s instead of %s", v.name, lv.Type, kind)
	}
	if kind == "thin" && lv.Pool != v.pool {
		b.errorf(v.path, "the volume %s is in the pool %s instead of %s", v.name, lv.Pool, v.pool)
	}
	const most = 16 * extentSize
	if want := v.bytes(); want > 0 && (int64(lv.Size) < want || int64(lv.Size) > want+most) {
		b.errorf(v.path, "the volume %s has %s instead of %s", v.name, human(int64(lv.Size)), human(want))
	}
}

// makeAll makes the volume group and all its volumes.
func (g *volumeGroup) makeAll(b *builder, on blockTarget, members []blockTarget) {
	modules := []string{"dm-snapshot"}
	for _, v := range g.volumes {
		if module := "dm-" + v.kind; v.kind != "" && v.kind != "thinlv" && !slices.Contains(modules, module) {
			modules = append(modules, module)
		}
	}

	for _, m := range modules {
		b.step("load the kernel module "+m, on.device, "modprobe", m)
	}
	argv := []string{"vgcreate", g.name}
	for _, m := range members {
		argv = append(argv, m.device)
	}
	b.step("make the volume group "+g.name, on.device, argv...)
	b.names = append(b.names, uniqueName{"lvm", g.name})
	r := newRoom(members)
	for _, v := range g.volumes {
		b.step("make the volume "+v.name+" in "+g.name, on.device, v.lvcreate(g.name)...)
		at := blockTarget{device: v.device(g), name: v.name, at: v.path, sector: 512}
		at.size = r.allocate(b, v)
		b.places[at.device] = at
	}
}

// lvcreate returns the command that makes the volume. With --yes, it wipes signatures at the volume's start without
// asking.
func (v logicalVolume) lvcreate(group string) []string {
	argv := []string{"lvcreate", "--yes"}
	size := strings.TrimPrefix(v.size, "+") // only lvextend gives a meaning to +, and -V refuses it
	if strings.HasSuffix(size, "%") {
		size += "FREE"
	}
	switch {
	case v.kind == "thinlv":
		argv = append(argv, "-V", size)
	case strings.Contains(size, "%"):
		argv = append(argv, "-l", size)
	default:
		argv = append(argv, "-L", size)
	}

	argv = append(argv, "-n", v.name)
	switch v.kind {
	case "":
	case "thinlv":
		argv = append(argv, "--thinpool="+v.pool)
	default:
		argv = append(argv, "--type="+v.kind)
	}

	return append(append(argv, v.args...), group)
}
