// Package disko turns a disk layout (disko's data model) into the steps that make it.
//
// It is pure: the state of the machine comes in as [Facts], and what is to be done goes out as a [Plan] of [Step]s,
// which use the same tools as disko itself, so that the result is the same. See https://github.com/nix-community/disko.
package disko

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// Layout is a checked disk layout, as [Parse] returns it.
type Layout struct {
	devices  []*topDevice // in the order in which they are made: members first
	warnings []Problem
}

// Problems returns warnings about the layout itself, independent of the machine. It may be called on nil, which has
// none.
func (l *Layout) Problems() []Problem {
	if l == nil {
		return nil
	}
	return slices.Clone(l.warnings)
}

// topDevice is a top-level device of the layout: a disk, something that is made of several devices, or a file system
// without a device.
type topDevice struct {
	path  string      // "disk.main"
	on    blockTarget // with the names of the layout
	hooks *hooks
	body  filler
	needs []*topDevice // what must be made before it
}

// filler adds what has to be done with a device to a plan.
type filler interface {
	fill(b *builder, on blockTarget)
}

// deviceContent is what fills a block device.
type deviceContent interface {
	filler
	// minimum returns the size of the smallest device, in bytes, that the tools accept.
	minimum() int64
}

// blockTarget is a device that is to be filled.
type blockTarget struct {
	device string        // as commands name it
	name   string        // for people
	at     string        // attribute path at which problems with its size are reported
	start  int64         // of a partition, in bytes from the start of the disk
	size   int64         // bytes; 0: not known
	sector int64         // logical sector size in bytes; 0: not known
	kernel bool          // whether device is the kernel's own name
	found  *placedDevice // the existing device, if it is kept; nil: not visible, as in a closed container
	title  string        // of a disk: name and size, for people
	keep   bool          // existing content stays, if it is as the layout says
}

// Parse reads an evaluated config.disko.devices as JSON, without disko's internal and function-valued options (`nix
// eval --json … --apply` with strip-apply.nix).
//
// Everything that is unknown or impossible is an error that names the attribute. All errors are reported at once,
// sorted and joined. A layout that Parse accepts can be planned.
func Parse(data []byte) (*Layout, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("disk layout is not JSON of disko.devices: %w", err)
	}

	if raw == nil {
		return nil, errors.New("disk layout is null; does the host use disko?")
	}
	r := newReader()
	top := &attrs{reader: r, raw: raw, unread: map[string]bool{}}
	devices := map[string]*topDevice{}
	for _, group := range []struct {
		name  string
		parse func(*topDevice, *attrs, string)
	}{
		{"bcachefs_filesystems", parseBcachefs}, {"disk", parseDisk}, {"lvm_vg", parseVolumeGroup},
		{"mdadm", parseRAID}, {"nodev", parseNodev}, {"zpool", parseZpool},
	} {
		names, sets := top.sets(group.name)
		for _, name := range names {
			a := sets[name]
			d := &topDevice{path: a.path, hooks: a.hooks()}
			r.owner = d
			group.parse(d, a, name)
			a.done()
			devices[group.name+" "+name] = d
		}
	}

	top.done()
	l := &Layout{devices: r.link(devices), warnings: r.warned()}
	if len(l.disks()) == 0 {
		r.errorf("disk", "the layout has no disks")
	}
	if _, ok := r.seen[`mountpoint "/"`]; !ok && len(r.problems) == 0 {
		r.errorf("disk", `nothing is mounted at "/"; give one file system the mountpoint "/"`)
	}
	if len(r.problems) == 0 {
		// A plan for no machine in particular finds what no machine could satisfy.
		b := &builder{reader: r, mode: Fresh}
		l.fill(b, nil)
		b.mountSteps()
	}

	if err := r.err(); err != nil {
		return nil, err
	}

	return l, nil
}

// link connects members to what they are part of, and returns the devices in the order that disko uses: by group and
// name, but each after those that it needs.
func (r *reader) link(devices map[string]*topDevice) []*topDevice {
	for key, members := range r.members {
		group, name, _ := strings.Cut(key, " ")
		for _, m := range members {
			if d := devices[key]; d != nil {
				d.needs = append(d.needs, m.owner)
			} else {
				r.errorf(m.path, "there is no %s; define it or correct the name", join(group, name))
			}
		}
	}

	for key, fewest := range r.fewest {
		if n := len(r.members[key]); n < fewest.n {
			r.errorf(fewest.path, "has %d members in the layout, and %s needs %d at least", n, fewest.what, fewest.n)
		}
	}

	for _, want := range r.borrows {
		b := r.blocks[want.name]
		switch {
		case b == nil:
			r.errorf(want.path, "%s is no device of this layout; name one of its partitions, containers or volumes", want.name)
		case !b.empty:
			r.errorf(want.path, "%s has content of its own, which would be overwritten", want.name)
		case b.owner != want.owner:
			want.owner.needs = append(want.owner.needs, b.owner)
		}
		r.unique("empty device", want.name, want.path)
	}

	var order []*topDevice
	state := map[*topDevice]int{} // 1: being visited, 2: in order
	var visit func(d *topDevice)
	visit = func(d *topDevice) {
		if state[d] == 1 {
			r.errorf(d.path, "is made of itself, through its members")
		}
		if state[d] > 0 {
			return
		}
		state[d] = 1
		slices.SortStableFunc(d.needs, func(a, b *topDevice) int { return strings.Compare(a.path, b.path) })
		for _, n := range d.needs {
			visit(n)
		}
		state[d] = 2
		order = append(order, d)
	}
	for _, key := range slices.Sorted(maps.Keys(devices)) {
		visit(devices[key])
	}
	return order
}

// content reads the attribute "content" of the given device; nil if it is null.
func (a *attrs) content(device string) deviceContent {
	raw, _ := take[json.RawMessage](a, "content")
	var c *attrs
	if raw != nil {
		c = a.set(a.at("content"), raw)
	}
	if device != "" {
		a.unique("device", device, a.at("device"))
	}
	a.blocks[device] = &block{a.owner, c == nil}
	if c == nil {
		return nil
	}
	h := c.hooks()
	if dev := c.str("device"); dev != device {
		c.bad("device", "%q differs from %q, where the content is; that is not supported", dev, device)
	}
	var read deviceContent
	switch kind := c.str("type"); kind {
	case "bcachefs":
		read = parseBcachefsMember(c)
	case "btrfs":
		read = parseBtrfs(c)
	case "filesystem":
		read = parseFilesystem(c)
	case "gpt":
		read = parseGPT(c)
	case "luks":
		read = parseLUKS(c)
	case "lvm_pv":
		read = parseMember(c, "lvm_vg", "vg")
	case "mdraid":
		read = parseMember(c, "mdadm", "name")
	case "swap":
		read = parseSwap(c)
	case "table":
		read = parseTable(c, device)
	case "zfs":
		read = parseMember(c, "zpool", "pool")
	default:
		c.bad("type", "%q is not a known type of content", kind)
		return nil
	}

	c.done()
	if h != nil {
		return hooked{read, h}
	}
	return read
}

// volume reads content where a partition table is not allowed: the kernel shows no partitions inside partitions or on
// device-mapper devices.
func (a *attrs) volume(device string) deviceContent {
	c := a.content(device)
	switch bare(c).(type) {
	case *gptTable, *partedTable:
		a.bad("content", "a partition table cannot be here; use lvm_pv")
	}
	return c
}

// memberDevice is a device that is part of a RAID, volume group, pool or file system.
type memberDevice struct {
	key  string // "GROUP NAME" of that
	kind string // the name that lsblk has for such a member
}

// memberKinds are the names that lsblk has for members, by the layout's group.
var memberKinds = map[string]string{
	"bcachefs_filesystems": "bcachefs", "lvm_vg": "LVM2_member", "mdadm": "linux_raid_member", "zpool": "zfs_member",
}

// parseMember reads content that is a member. attribute holds the name of what it belongs to.
func parseMember(a *attrs, group, attribute string) deviceContent {
	return &memberDevice{a.member(group, attribute), memberKinds[group]}
}

// member records the device as a member, and returns the key of what it belongs to.
func (a *attrs) member(group, attribute string) (key string) {
	name := a.str(attribute)
	key = group + " " + name
	if a.unread[attribute] {
		return key
	}
	a.members[key] = append(a.members[key], claim{name, a.at(attribute), a.owner})
	return key
}

// minimum is pv_min_size of LVM, and SPA_MINDEVSIZE of ZFS.
func (m *memberDevice) minimum() int64 {
	return map[string]int64{"LVM2_member": 2 * mib, "zfs_member": 64 * mib}[m.kind]
}

func (m *memberDevice) fill(b *builder, on blockTarget) {
	if !b.make(m, on, m.kind) {
		b.members[m.key] = append(b.members[m.key], on)
		return
	}
	on.keep = false
	if m.kind == "LVM2_member" {
		b.step("make "+on.name+" a physical volume", on.device, "pvcreate", on.device)
	}
	b.members[m.key] = append(b.members[m.key], on)
}

// disks returns the devices that are disks, in byte order of their paths.
func (l *Layout) disks() []*topDevice {
	disks := slices.DeleteFunc(slices.Clone(l.devices),
		func(d *topDevice) bool { _, ok := d.body.(*wholeDisk); return !ok })
	slices.SortFunc(disks, func(a, b *topDevice) int { return strings.Compare(a.path, b.path) })
	return disks
}

// wholeDisk is a disk of the machine.
type wholeDisk struct {
	content deviceContent
	destroy bool // whether mode Fresh erases it
}

func parseDisk(d *topDevice, a *attrs, name string) {
	dev := a.str("device")
	d.on = blockTarget{device: dev, name: name, at: a.at("device")}
	a.absolute("device", dev)
	a.want("type", "disk")
	// Only disko's image builder needs these, and the names of partitions, which have been evaluated already.
	a.ignore("name", "imageName", "imageSize")
	d.body = &wholeDisk{destroy: older(a, "destroy", true), content: a.content(dev)}
}

func (d *wholeDisk) fill(b *builder, on blockTarget) { b.fill(d.content, on) }

// absolute records an error if an attribute's value is not an absolute path.
func (a *attrs) absolute(name, value string) {
	if !strings.HasPrefix(value, "/") {
		a.bad(name, "%q is not an absolute path", value)
	}
}

// want records an error if an attribute does not have the given value.
func (a *attrs) want(name, value string) {
	if v := a.str(name); v != value {
		a.bad(name, "is %q, must be %q", v, value)
	}
}

// mountpoint reads an absolute mount point and returns it clean; empty if null.
func (a *attrs) mountpoint() string {
	v := a.file("mountpoint")
	if v == "" {
		return ""
	}
	clean := path.Clean(v)
	if slices.Contains(strings.Split(v, "/"), "..") {
		a.bad("mountpoint", "%q must not have .. in it", v)
	}
	a.unique("mountpoint", clean, a.at("mountpoint"))
	return clean
}
