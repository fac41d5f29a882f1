package disko

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Active devices keep the disks that they are on busy. Before these disks are erased, the devices are stopped, the
// innermost first.

// holder is a kind of device that is made from others, and tells how it is stopped.
type holder string

// The kinds of holders.
const (
	holdsNothing holder = ""        // a disk, or a partition of one
	holdsCrypt   holder = "crypt"   // LUKS and other encryption
	holdsLVM     holder = "lvm"     // a volume, which is stopped with its volume group
	holdsMD      holder = "md"      // Linux RAID, which includes DDF and Intel RAIDs
	holdsPaths   holder = "mpath"   // multipath: several paths to one disk
	holdsMapper  holder = "dm"      // any other device-mapper device
	holdsBcache  holder = "bcache"  // a bcache device
	holdsUnknown holder = "unknown" // anything else, which this package cannot stop
)

var (
	mdName     = regexp.MustCompile(`^md(_d)?[0-9]+$|^md/`)
	dmName     = regexp.MustCompile(`^dm-[0-9]+$`)
	bcacheName = regexp.MustCompile(`^bcache[0-9]+$`)
	drbdName   = regexp.MustCompile(`^drbd[0-9]+$`)
)

// mapperTypes are the types that lsblk shows for device-mapper devices, which are the first word of their UUID; "dm" if
// they have none.
var mapperTypes = []string{"dm", "dmraid", "stratis", "vdo", "ceph"}

// kname returns the kernel's name of the device, such as dm-0.
func (d *BlockDevice) kname() string { return cmp.Or(d.KName, d.kernelName()) }

// ofMapper reports whether it is a device-mapper device.
func (d *BlockDevice) ofMapper() bool {
	return strings.HasPrefix(d.device(), "/dev/mapper/") || dmName.MatchString(d.kname()) || slices.Contains(mapperTypes, d.Type)
}

// holder returns what kind of holder the device is.
func (n *placedDevice) holder() holder {
	switch {
	case n.depth == 0, n.Type == "part" && !n.ofMapper():
		return holdsNothing
	case n.Type == "crypt", n.Type == "lvm", n.Type == "mpath":
		return holder(n.Type)
	case strings.HasPrefix(n.Type, "raid"), n.Type == "md", mdName.MatchString(n.kname()):
		return holdsMD
	case bcacheName.MatchString(n.kname()):
		return holdsBcache
	case n.ofMapper():
		return holdsMapper
	}

	return holdsUnknown
}

// stopBcache is a shell script that stops bcache on a device and waits until it is stopped: the kernel does that when
// nothing uses it any more. It is constant; its argument is the kernel name of the device.
const stopBcache = `at=/sys/class/block/$0/bcache
for file in "$at/stop" "$at/set/stop"; do
	[ ! -e "$file" ] || echo 1 >"$file"
done
tries=100
while [ -e "$at" ] && [ "$tries" -gt 0 ]; do
	sleep 0.1
	tries=$((tries - 1))
done
! [ -e "$at" ]`

// stop adds the steps that stop the devices, which are given with the innermost first.
func stop(b *builder, inUse []*placedDevice) {
	last := map[string]*placedDevice{} // the volume of each group after which the group is deactivated
	for _, n := range inUse {
		if n.Type == "lvm" {
			last[groupOf(n.Name)] = n
		}
	}

	for _, n := range inUse {
		dev, vg := n.device(), groupOf(n.Name)
		switch n.holder() {
		case holdsCrypt:
			b.step("close "+n.Name, dev, "cryptsetup", "close", n.Name)
		case holdsLVM:
			if last[vg] == n {
				b.step("deactivate volume group "+vg, dev, "vgchange", "--activate", "n", vg)
			}
		case holdsMD:
			b.step("stop RAID "+dev, dev, "mdadm", "--stop", dev)
		case holdsPaths:
			b.step("remove the multipath device "+n.Name, dev, "sh", "-c", `multipath -f "$0" || dmsetup remove --retry -- "$0"`, n.Name)
		case holdsMapper:
			b.step("remove the mapping "+n.Name, dev, "dmsetup", "remove", "--retry", "--", n.Name)
		}

		// The kernel also claims bcache members from which no device was made.
		if n.FSType == "bcache" {
			b.step("stop bcache on "+dev, dev, "sh", "-c", stopBcache, n.kname())
		}
	}
}

// innermost sorts devices in the order in which they are stopped. Containers of firmware RAIDs have no size, and are
// stopped after the RAIDs in them, which lsblk shows at the same level.
func innermost(inUse []*placedDevice) {
	slices.SortStableFunc(inUse, func(a, b *placedDevice) int {
		return cmp.Or(cmp.Compare(b.depth, a.depth), cmp.Compare(b.Size, a.Size))
	})
}

// byHand returns the commands with which an operator stops a device that is also on a disk that stays, so that the disk
// root can be wiped.
func (n *placedDevice) byHand(root string) string {
	member := root
	switch n.holder() {
	case holdsLVM:
		vg := groupOf(n.Name)
		return fmt.Sprintf("vgchange --activate n %[1]s, then vgreduce %[1]s to keep the rest of it, or vgremove %[1]s", quoted(vg))
	case holdsMD:
		return fmt.Sprintf("mdadm --stop %s, then wipefs --all %s", n.device(), member)
	case holdsPaths:
		return fmt.Sprintf("multipath -f %s, and unplug or disable all paths but one", quoted(n.Name))
	case holdsBcache:
		return fmt.Sprintf("echo 1 >/sys/block/%s/bcache/stop, then wipefs --all %s", n.kname(), member)
	}

	return "dmsetup remove " + quoted(n.Name)
}

// maxHung bounds how many devices hang adds.
const maxHung = 10000

// hang adds to lsblk's tree the devices that lsblk leaves out because they have no size, such as a RAID that cannot
// start for lack of members. They keep their disks busy all the same.
func (f *Facts) hang() error {
	left := maxHung
	var below func(devices []BlockDevice, above []string)
	below = func(devices []BlockDevice, above []string) {
		for i := range devices {
			d := &devices[i]
			path := append(slices.Clip(above), d.kname())
			for _, h := range f.Holders {
				there := func(c BlockDevice) bool { return c.kname() == h.Holder }
				if h.Device != d.kname() || slices.ContainsFunc(d.Children, there) || slices.Contains(path, h.Holder) || left == 0 {
					continue
				}
				if child, ok := h.child(); ok {
					left--
					d.Children = append(slices.Clip(d.Children), child)
				}
			}

			below(d.Children, path)
		}
	}
	below(f.BlockDevices, nil)
	if left == 0 {
		return fmt.Errorf("the machine has more than %d devices without a size that lie on others", maxHung)
	}
	return nil
}

// child returns the device as lsblk would show it; false if it does not matter.
func (h Holder) child() (BlockDevice, bool) {
	child := BlockDevice{Name: cmp.Or(h.Mapping, h.Holder), KName: h.Holder, Path: "/dev/" + h.Holder, Type: "md"}
	switch {
	case h.Mapping != "":
		child.Type, child.Path = "dm", "/dev/mapper/"+h.Mapping
	case !mdName.MatchString(h.Holder):
		return child, false
	}
	return child, true
}
