package disko

import (
	"slices"
	"strings"
)

// nameDisk marks the steps of a disk that are only about it, if all of them are. Hooks may do anything. LVM and
// RAID look at all disks. A LUKS key is derived as often as the machine manages in two seconds
// (cryptsetup-luksFormat(8), --iter-time), so with others beside it the key would be weaker; and it
// takes up to a GiB of memory.
func nameDisk(steps []Step, disk string) {
	if slices.ContainsFunc(steps, func(s Step) bool { return !onlyItsDisk(s) }) {
		return
	}
	for i := range steps {
		steps[i].Disk = disk
	}
}

func onlyItsDisk(s Step) bool {
	return s.Hook == "" && s.Stdin == "" && (strings.HasPrefix(s.Argv[0], "mkfs.") ||
		slices.Contains([]string{"sgdisk", "sfdisk", "parted", "partprobe", "udevadm", "wipefs", "dd", "mkswap"}, s.Argv[0]))
}

// Concurrent splits steps into those that run one after the other. Each of these is one list of steps,
// or several, one for each of several disks, which may run at a time.
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

// byDisk keeps the order that the steps of each disk have.
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
