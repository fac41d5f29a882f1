package disko

import (
	"fmt"
	"slices"
)

// Held lists, for people, what is mounted or open on the plan's disks according to the facts. The list is empty after
// [Plan.Close].
func (p *Plan) Held(f *Facts) []string {
	var holders []string
	for _, m := range f.Mounts {
		if m.Target == target { // this includes a root without a disk, such as a tmpfs
			holders = append(holders, fmt.Sprintf("%s is mounted at %s", m.Source, m.Target))
		}
	}

	for _, n := range f.nodes() {
		if !slices.ContainsFunc(n.roots, p.taken) {
			continue
		}
		for _, point := range n.mountpoints() {
			if point == "[SWAP]" {
				holders = append(holders, n.device()+" is on as swap")
			} else {
				holders = append(holders, fmt.Sprintf("%s is mounted at %s", n.device(), point))
			}
		}

		if n.holder() != holdsNothing {
			holders = append(holders, fmt.Sprintf("%s (%s) is open", n.device(), n.Type))
		}
		if n.FSType == "zfs_member" && slices.Contains(f.Pools, n.Label) {
			holders = append(holders, fmt.Sprintf("the pool %s is imported", n.Label))
		}
	}

	slices.Sort(holders)
	return slices.Compact(holders)
}
