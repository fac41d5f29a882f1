package disko

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Before anything is erased, names on disks that stay are compared with the names that the layout gives, and devices
// that are on disks that stay as well as on disks that are erased are found.

// checkNodes records errors for everything that prevents taking the disks.
func (p *Plan) checkNodes(r *reader, nodes []*placedDevice) {
	for _, n := range nodes {
		if root := p.erasedRoot(n); root != "" {
			p.checkHolds(r, p.at(root), root, n)
		} else {
			p.checkOther(r, n)
		}
	}
	p.checkMembers(r, nodes)
	p.checkGroups(r, nodes)
	p.checkPaths(r)
}

// erasedRoot returns a disk that the plan erases and that the device is on; empty if there is none.
func (p *Plan) erasedRoot(n *placedDevice) string {
	if i := slices.IndexFunc(n.roots, p.erased); i >= 0 {
		return n.roots[i]
	}
	return ""
}

// at returns the attribute path of a disk of the plan.
func (p *Plan) at(device string) string {
	return p.takes[slices.IndexFunc(p.Disks, func(d Disk) bool { return d.Device == device })].on.at
}

// checkHolds records errors for uses of a disk (root) that is to be erased by a device n on it.
func (p *Plan) checkHolds(r *reader, at, root string, n *placedDevice) {
	for _, point := range n.mountpoints() {
		if point != "[SWAP]" && !ours(point) {
			r.errorf(at, "%s is in use by the running system: %s is mounted at %s", root, n.device(), point)
		}
	}

	stays := func(root string) bool { return !p.erased(root) }
	switch how := n.holder(); {
	case how == holdsUnknown:
		r.errorf(at, "%s is in use by %s of type %q, which is not supported yet; remove that first", root, n.device(), n.Type)
	case how == holdsNothing:
	case slices.ContainsFunc(n.roots, stays):
		r.errorf(at, "%s holds a part of %s, which is also on %s; the layout does not take all of these: take it "+
			"apart by hand (%s), or take all of them",
			root, n.device(), strings.Join(n.roots, ", "), n.byHand(root))
	case how == holdsPaths && len(n.roots) > 1:
		r.errorf(at, "%s are paths to one disk, %s, and the layout would take it more than once; take one, and "+
			"disable the other paths (multipath -f %s)",
			strings.Join(n.roots, ", "), n.device(), quoted(n.Name))
	}

	up := func(d BlockDevice) bool { return drbdName.MatchString(d.kname()) && d.Size > 0 }
	if i := slices.IndexFunc(p.facts.BlockDevices, up); i >= 0 && n.FSType == "drbd" {
		r.errorf(at, "%s holds a part of DRBD, which is in use (%s); take it down first: drbdadm down all", n.device(), p.facts.BlockDevices[i].device())
	}
}

// checkPaths records errors for disks of the plan that are the same disk.
func (p *Plan) checkPaths(r *reader) {
	for i, d := range p.Disks {
		for _, o := range p.Disks[:i] {
			same := d.Device != o.Device && d.WWN != "" && d.WWN == o.WWN && d.Serial == o.Serial && d.Size == o.Size
			if same && (p.erased(d.Device) || p.erased(o.Device)) {
				r.errorf(p.at(d.Device), "%s has the WWN %s, serial number and size of %s: they are two paths to "+
					"one disk, and the layout would take it twice",
					d.Device, d.WWN, o.Device)
			}
		}
	}
}

// Members with a file system in sharedUUID have a common UUID. For those in noUUID, lsblk shows nothing that tells
// which belong together.
var (
	sharedUUID = []string{"btrfs", "bcachefs", "linux_raid_member", "zfs_member", "ddf_raid_member"}
	noUUID     = []string{"isw_raid_member", "ddf_raid_member", "stratis", "bcache"}
)

// checkMembers records errors for content on several devices of which only some are erased.
func (p *Plan) checkMembers(r *reader, nodes []*placedDevice) {
	for _, n := range nodes {
		root := p.erasedRoot(n)
		if root == "" {
			continue
		}
		for _, other := range nodes {
			if p.erasedRoot(other) != "" || other.FSType != n.FSType {
				continue
			}
			switch {
			case n.UUID != "" && slices.Contains(sharedUUID, n.FSType):
				if n.UUID == other.UUID {
					r.errorf(p.at(root), "%s holds a part of the %s on %s too; the layout does not take all of its "+
						"disks: remove that disk, or wipe %s by hand (wipefs --all %[4]s)",
						root, n.FSType, other.device(), n.device())
				}
			case slices.Contains(noUUID, n.FSType) && len(n.Children) == 0:
				r.errorf(p.at(root), "%s and %s both hold a part of a %s, and nothing tells whether of the same; "+
					"the layout takes only the first: if that is none of the other, wipe it by hand (wipefs --all %s)",
					n.device(), other.device(), n.FSType, n.device())
			}
		}
	}
}

// checkGroups records errors for volume groups, active or not, that are partly on disks that stay, or whose name the
// layout gives to another group.
func (p *Plan) checkGroups(r *reader, nodes []*placedDevice) {
	if p.facts == nil {
		return
	}
	seen := map[string]bool{} // groups with an active volume are checked by checkHolds and checkOther
	for _, n := range nodes {
		if n.Type == "lvm" && (p.erasedRoot(n) == "" ||
			slices.ContainsFunc(n.roots, func(root string) bool { return !p.erased(root) })) {
			seen[groupOf(n.Name)] = true
		}
	}

	for _, pv := range p.facts.PhysicalVolumes {
		if pv.Group == "" || seen[pv.Group] {
			continue
		}
		var erased, stays []*placedDevice
		for _, other := range p.facts.PhysicalVolumes {
			n := p.facts.lookUp(nodes, other.Device)
			switch {
			case n == nil || other.Group != pv.Group: // of a disk that is not in the machine
			case p.erasedRoot(n) != "":
				erased = append(erased, n)
			default:
				stays = append(stays, n)
			}
		}

		seen[pv.Group] = true
		switch group := quoted(printable(pv.Group)); {
		case len(stays) == 0:
		case len(erased) > 0:
			root := p.erasedRoot(erased[0])
			r.errorf(p.at(root), "%s holds a part of the volume group %s, which is on %s too; the layout does not "+
				"take all of its disks: take %s out of the group (vgreduce %[2]s %[4]s), remove the group "+
				"(vgremove %[2]s), or take all of its disks",
				root, group, stays[0].device(), erased[0].device())
		default:
			p.clash(r, stays[0], uniqueName{"lvm", pv.Group})
		}
	}
}

// lookUp finds a device by any of its names; nil if there is none.
func (f *Facts) lookUp(nodes []*placedDevice, device string) *placedDevice {
	i := slices.IndexFunc(nodes, func(n *placedDevice) bool {
		return n.device() == device || "/dev/"+n.kname() == device || n.device() == f.Links[device] || "/dev/"+n.kname() == f.Links[device]
	})
	if i < 0 {
		return nil
	}
	return nodes[i]
}

// checkOther records errors if a device on a disk that stays has a name that the layout gives.
func (p *Plan) checkOther(r *reader, n *placedDevice) {
	for _, has := range p.namesOf(n) {
		p.clash(r, n, has)
	}
	if path, ok := p.labels[n.PartLabel]; ok && !p.taken(n.roots[0]) {
		r.errorf(path, "%q is the label of %s too, which the layout does not take; the installed system could pick "+
			"the wrong one: wipe that disk or choose another name", n.PartLabel, n.device())
	}
}

// namesOf returns those names of a device that may exist only once on a machine.
func (p *Plan) namesOf(n *placedDevice) (names []uniqueName) {
	add := func(kind, word string) {
		if word != "" && !slices.Contains(names, uniqueName{kind, word}) {
			names = append(names, uniqueName{kind, word})
		}
	}
	switch {
	case n.Type == "lvm":
		add("lvm", groupOf(n.Name))
	case n.ofMapper() || n.Type == "crypt":
		add("crypt", n.Name)
	}

	switch n.FSType {
	case "zfs_member":
		add("zfs_member", n.Label)
	case "linux_raid_member": // the name follows the name of the host that made it, see md(4)
		_, word, ok := strings.Cut(n.Label, ":")
		if !ok {
			word = n.Label
		}
		add("mdadm", word)
	default:
		add("label", n.Label)
	}

	add("partuuid", strings.ToLower(n.PartUUID))
	if p.facts != nil && n.holder() == holdsMD {
		for link, to := range p.facts.Links {
			if word, ok := strings.CutPrefix(link, "/dev/md/"); ok && (to == n.device() || to == "/dev/"+n.kname()) {
				add("mdadm", word)
			}
		}
	}

	return names
}

// clash records an error if the layout gives a name that a device which stays has already.
func (p *Plan) clash(r *reader, n *placedDevice, has uniqueName) {
	if !slices.Contains(p.names, has) {
		return
	}
	word := quoted(has.name)
	about := map[string]struct{ what, mend string }{
		"crypt":      {"container", "close it (cryptsetup close " + word + ")"},
		"lvm":        {"volume group", "rename it (vgrename " + word + " NEW), wipe its disks"},
		"zfs_member": {"pool", "rename it (zpool import " + word + " NEW), wipe its disks"},
		"mdadm": {"RAID", "rename it (mdadm --assemble --update=name --name=NEW /dev/md/NEW MEMBERS), wipe " +
			"its disks"},
	}
	switch a, ok := about[has.kind]; {
	case ok && has.kind == "crypt" && n.Type != "crypt":
		r.errorf("disk", "a device %q of device mapper is there already on %s, which the layout does not take; "+
			"remove it (dmsetup remove %s) or choose another name", has.name, n.roots[0], word)
	case ok:
		r.errorf("disk", "a %s %q is there already on %s, which the layout does not take; %s, or choose another name", a.what, has.name, n.roots[0], a.mend)
	case has.kind == "partuuid":
		r.errorf("disk", "the partition %s, which the layout does not take, has the UUID %s that the layout gives; "+
			"the installed system could pick the wrong one: wipe that disk, or give the partition another (sgdisk "+
			"--partition-guid)", n.device(), has.name)
	default:
		r.errorf("disk", "%q is the label of the %s on %s too, which the layout does not take; the installed "+
			"system could mount the wrong one: %s or choose another label",
			has.name, cmp.Or(n.FSType, "file system"), n.device(), relabel(n))
	}
}

// relabel says, for people, how the label of a file system is changed.
func relabel(n *placedDevice) string {
	commands := map[string]string{
		"ext2": "e2label %s NEW", "ext3": "e2label %s NEW", "ext4": "e2label %s NEW", "vfat": "fatlabel %s NEW", "exfat": "exfatlabel %s NEW",
		"btrfs": "btrfs filesystem label %s NEW", "xfs": "xfs_admin -L NEW %s", "swap": "swaplabel -L NEW %s", "ntfs": "ntfslabel %s NEW",
	}
	if command, ok := commands[n.FSType]; ok {
		return "change it (" + fmt.Sprintf(command, n.device()) + "), wipe that disk"
	}
	return "wipe that disk"
}
