package disko

import (
	"slices"
	"strings"
)

// nameDisk sets the Disk of the steps, if every one of them affects only that disk. Hooks may do anything. LVM and RAID
// examine all disks. The cost of a LUKS key is chosen so that deriving it takes two seconds on this machine
// (cryptsetup-luksFormat(8), --iter-time), so a key that is derived at the same time as others would be weaker; and
// each takes up to 1 GiB of memory.
func nameDisk(steps []Step, disk string) {
	if slices.ContainsFunc(steps, func(s Step) bool { return !onlyItsDisk(s) }) {
		return
	}
	for i := range steps {
		steps[i].Disk = disk
	}
}

// onlyItsDisk reports whether a step affects no other disk than that of its device.
func onlyItsDisk(s Step) bool {
	return s.Hook == "" && s.Stdin == "" && (strings.HasPrefix(s.Argv[0], "mkfs.") ||
		slices.Contains([]string{"sgdisk", "sfdisk", "parted", "partprobe", "udevadm", "wipefs", "dd", "mkswap"}, s.Argv[0]))
}

// Concurrent splits steps into groups that must run one after the other. Each group is a list of sequences, one for
// each disk, or a single one; the sequences of a group may run concurrently.
func Concurrent(steps []Step) (all [][][]Step) {
	for i := 0; i < len(steps); {
		n := 1
		for i+n < len(steps) && steps[i].Disk != "" && steps[i+n].Disk != "" && steps[i+n].Stage == steps[i].Stage {
			n++
		}
		lanes := byDisk(steps[i : i+n])
		i += n
		if last := len(all) - 1; len(lanes) == 1 && last >= 0 && len(all[last]) == 1 {
			all[last][0] = append(all[last][0], lanes[0]...)
			continue
		}
		all = append(all, lanes)
	}

	return all
}

// byDisk splits steps into one sequence for each disk, each in the order of the steps.
func byDisk(steps []Step) (lanes [][]Step) {
	of := map[string]int{}
	for _, s := range steps {
		i, known := of[s.Disk]
		if !known {
			i = len(lanes)
			of[s.Disk], lanes = i, append(lanes, nil)
		}
		lanes[i] = append(lanes[i], s)
	}
	return lanes
}
