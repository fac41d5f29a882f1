package disko

import (
	"cmp"
	"slices"
	"strings"
)

// ours reports whether a mount point is one that plans use.
func ours(point string) bool {
	return point == target || strings.HasPrefix(point, target+"/") || point == scratch
}

// taken reports whether the plan takes the whole disk with this device name.
func (p *Plan) taken(device string) bool {
	return slices.ContainsFunc(p.Disks, func(d Disk) bool { return d.Device == device })
}

// erased reports whether the plan erases the whole disk with this device name.
func (p *Plan) erased(device string) bool {
	i := slices.IndexFunc(p.Disks, func(d Disk) bool { return d.Device == device })
	return i >= 0 && p.Mode == Fresh && p.takes[i].body.(*wholeDisk).destroy
}

// destroy returns the steps that empty the disks that the plan erases.
func (p *Plan) destroy(nodes []*placedDevice) []Step {
	b := &builder{stage: StageDestroy}
	p.release(b, nodes, p.erased)
	for i, d := range p.Disks {
		if p.takes[i].body.(*wholeDisk).destroy {
			from := len(b.steps)
			erase(b, d, nodes)
			nameDisk(b.steps[from:], d.Device)
		}
	}
	return b.steps
}

// Close returns the steps that unmount and close everything on the plan's disks that the facts show. It is for a plan
// that failed half-way, and for what remains after [Plan.Unmount].
func (p *Plan) Close(f *Facts) []Step {
	b := &builder{stage: StageUnmount}
	p.release(b, f.nodes(), p.taken)
	return b.steps
}

// release adds the steps that stop all uses of the chosen disks: turn off swap, unmount, and close containers and
// volumes, the innermost first.
func (p *Plan) release(b *builder, nodes []*placedDevice, which func(string) bool) {
	var inUse []*placedDevice
	for _, n := range nodes {
		if slices.ContainsFunc(n.roots, which) {
			inUse = append(inUse, n)
		}
	}

	for _, n := range nodes {
		// The kernel shows a pool's volumes as separate disks.
		if slices.Contains(n.mountpoints(), "[SWAP]") && (n.isZvol() || slices.Contains(inUse, n)) {
			b.step("turn off swap on "+n.device(), n.device(), "swapoff", n.device())
		}
	}

	unmount(b, nodes)
	if p.hiddenRoot {
		// lsblk shows neither tmpfs nor ZFS mounts. The shell scripts in these steps are constant.
		b.step("unmount "+target+" if it is mounted", target, "sh", "-c", `! mountpoint -q -- "$0" || umount --recursive -- "$0"`, target)
	}
	var pools []string
	for _, n := range inUse {
		if n.FSType == "zfs_member" && n.Label != "" && !slices.Contains(pools, n.Label) {
			pools = append(pools, n.Label)
			b.step("export the pool "+n.Label+" if it is imported", n.device(), "sh", "-c", `! zpool list -- "$0" >/dev/null 2>&1 || zpool export -f -- "$0"`, n.Label)
		}
	}

	innermost(inUse)
	stop(b, inUse)
}

// unmount adds the steps that unmount what an earlier plan mounted, on whatever disk that is.
func unmount(b *builder, nodes []*placedDevice) {
	type mounted struct{ point, device string }
	var list []mounted
	seen := map[string]bool{}
	swapfiles := false
	for _, n := range nodes {
		// All devices of one btrfs show the same mounts. If one device shows a mount point twice, it is mounted twice.
		key := n.UUID
		if key == "" {
			key = n.device()
		}
		if seen[key] {
			continue
		}
		for _, point := range n.mountpoints() {
			if ours(point) {
				seen[key] = true
				list = append(list, mounted{point, n.device()})
				swapfiles = swapfiles || n.FSType == "btrfs" || n.FSType == ""
			}
		}
	}

	slices.SortStableFunc(list, func(a, b mounted) int { return cmp.Compare(b.point, a.point) })
	if swapfiles {
		// lsblk does not show swap files (nor file systems, without udev), and swapoff fails for a file that is not in use.
		// So all swap is turned off.
		b.step("turn off swap files", list[0].device, "swapoff", "--all")
	}

	for _, m := range list {
		b.step("unmount "+m.point, m.device, "umount", "--recursive", m.point)
	}
}

// erase removes all signatures and the boot code from the disk, and all signatures from its partitions.
func erase(b *builder, d Disk, nodes []*placedDevice) {
	for _, n := range nodes {
		if n.Type == "part" && n.depth == 1 && n.roots[0] == d.Device {
			b.destroy("wipe "+n.device(), n.device(), n.describe(), "wipefs", "--all", "--force", n.device())
		}
	}
	b.destroy("wipe "+d.Device, d.Device, d.loses(), "wipefs", "--all", "--force", d.Device)
	b.destroy("zero the start of "+d.Device, d.Device, "the partition table and boot code of "+d.Device, zero(d.Device)...)
	b.settle(d.Device)
}

// loses says, for people, what is lost when the disk is erased.
func (d Disk) loses() string {
	if d.Size == 0 {
		return "everything on " + d.Device
	}
	return "everything on " + d.String() + ": " + d.Content
}

// zero returns the command that overwrites the first MiB of a device. wipefs leaves the boot code and the entries of a
// table, and sgdisk --zap-all sleeps for a second.
func zero(device string) []string {
	return []string{"dd", "if=/dev/zero", "of=" + device, "bs=1M", "count=1", "conv=fsync", "status=none"}
}

// groupOf returns the volume group in the device-mapper name of a volume: group, a hyphen, volume, where hyphens inside
// the names are doubled.
func groupOf(name string) string {
	for i := 0; i < len(name); i++ {
		if name[i] != '-' {
			continue
		}
		if i+1 < len(name) && name[i+1] == '-' {
			i++
			continue
		}
		return strings.ReplaceAll(name[:i], "--", "-")
	}
	return name
}
