package disko

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestRandom: random valid layouts are planned, no two partitions overlap, parents are
// mounted first, nothing but the layout's disks is written to, what is made of members
// comes after all of them, and what is opened is closed again, the last first. What they
// made is as the layout says, and what is lost of it is made again.
func TestRandom(t *testing.T) {
	for seed := range uint64(300) {
		g := &generator{rnd: rand.New(rand.NewPCG(seed, 4)), mounts: []string{"/", "/a", "/a/b", "/a/b/c", "/a b", "/var", "/var/log", "/srv"}}
		data, err := json.Marshal(g.layout())
		if err != nil {
			t.Fatal(err)
		}
		l, err := Parse(data)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, data)
		}
		facts := blank(t, l)
		facts.BlockDevices = append(facts.BlockDevices, BlockDevice{Path: "/dev/sdz", Name: "sdz", Type: "disk", Size: 1 << 40})
		p, err := NewPlan(l, facts, Options{})
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, data)
		}
		checkPlan(t, p)
		checkDisks(t, p)
		for _, d := range p.Tables() {
			used, err := arrange(p.tables[d.Device].(*gptTable).parts, d.Size, d.SectorSize)
			for i, a := range used {
				for _, b := range used[:i] {
					if err != nil || a.first <= b.last && b.first <= a.last {
						t.Fatalf("seed %d: %v overlaps %v, %v", seed, a, b, err)
					}
				}
			}
		}
		checkOrder(t, p)
		checkPicture(t, p)
		m := newSim(t, facts)
		keeps(t, m, l)
		lost(t, m, l)
	}
}

// checkOrder: a device is made before it is used, and closed in the opposite order.
func checkOrder(t *testing.T, p *Plan) {
	t.Helper()
	made := map[string]bool{}
	var opened, closed []string
	for _, s := range p.Steps {
		if s.Stage != StageCreate {
			continue
		}
		for _, arg := range s.Argv[1:] {
			if strings.HasPrefix(arg, "/dev/mapper/") || strings.HasPrefix(arg, "/dev/md/") || strings.HasPrefix(arg, "/dev/vg/") {
				if !made[arg] && s.Argv[0] != "mdadm" {
					t.Fatalf("%q comes before %s is made", s.Argv, arg)
				}
			}
		}
		switch s.Argv[0] {
		case "cryptsetup":
			if s.Argv[1] == "open" {
				made["/dev/mapper/"+s.Argv[3]] = true
				opened = append(opened, s.Argv[3])
			}
		case "mdadm":
			made[s.Argv[2]] = true
			opened = append(opened, s.Argv[2])
		case "vgcreate":
			opened = append(opened, s.Argv[1])
		case "zpool":
			opened = append(opened, s.Argv[3])
		case "lvcreate":
			made["/dev/vg/"+s.Argv[slices.Index(s.Argv, "-n")+1]] = true
		}
	}
	for _, s := range slices.Backward(p.Unmount()) {
		if tool := s.Argv[0]; tool == "cryptsetup" || tool == "mdadm" || tool == "vgchange" || tool == "zpool" {
			closed = append(closed, s.Argv[len(s.Argv)-1])
		}
	}
	if !slices.Equal(opened, closed) {
		t.Fatalf("opened %q, closes backwards %q", opened, closed)
	}
}

// generator makes random layouts.
type generator struct {
	rnd    *rand.Rand
	mounts []string
	crypts int
	uses   map[string]bool
}

type object = map[string]any

func (g *generator) layout() object {
	g.uses = map[string]bool{}
	disks, doc := object{}, object{}
	for i := range 1 + g.rnd.IntN(4) {
		name := string(rune('a' + i))
		device, parts := "/dev/sd"+name, object{}
		for n := range 1 + g.rnd.IntN(5) {
			part := part(name, fmt.Sprint("p", n), object{})
			part["end"] = fmt.Sprintf("+%dG", 1+g.rnd.IntN(8))
			part["priority"] = g.rnd.IntN(3)
			part["content"] = g.content(part["device"].(string), true)
			parts[fmt.Sprint("p", n)] = part
		}
		disks["d"+name] = object{"type": "disk", "device": device, "destroy": true,
			"content": object{"type": "gpt", "device": device, "efiGptPartitionFirst": true, "partitions": parts}}
	}
	doc["disk"] = disks
	if g.uses["mdraid"] {
		var inside any = object{"type": "lvm_pv", "device": "/dev/md/m", "vg": "vg"}
		if g.rnd.IntN(2) == 0 {
			inside = g.content("/dev/md/m", false)
		} else {
			g.uses["lvm_pv"] = true
		}
		doc["mdadm"] = object{"m": object{"type": "mdadm", "name": "m", "level": 1, "content": inside}}
	}
	if g.uses["lvm_pv"] {
		lvs := object{}
		for i := range g.rnd.IntN(4) {
			name := fmt.Sprint("v", i)
			lvs[name] = object{"name": name, "size": "200M", "priority": g.rnd.IntN(3), "content": g.content("/dev/vg/"+name, false)}
		}
		doc["lvm_vg"] = object{"vg": object{"type": "lvm_vg", "name": "vg", "lvs": lvs}}
	}
	if g.uses["zfs"] {
		doc["zpool"] = object{"tank": object{"type": "zpool", "name": "tank", "mode": "", "rootFsOptions": object{"mountpoint": "none"}, "datasets": object{
			"x": object{"type": "zfs_fs", "name": "x", "mountpoint": g.mountpoint()}}}}
	}
	nodev := object{"bind": object{"type": "nodev", "fsType": "none", "device": "/var/log/x", "mountpoint": "/zz", "mountOptions": []string{"bind"}}}
	for _, m := range g.mounts { // "/" must be somewhere
		nodev[m] = object{"type": "nodev", "fsType": "tmpfs", "device": "tmpfs", "mountpoint": m}
	}
	doc["nodev"] = nodev
	return doc
}

// mountpoint returns one that is free, or nil.
func (g *generator) mountpoint() any {
	if len(g.mounts) == 0 {
		return nil
	}
	i := g.rnd.IntN(len(g.mounts))
	m := g.mounts[i]
	g.mounts = slices.Delete(g.mounts, i, i+1)
	return m
}

// content returns what may be on a device; members only where they cannot make a cycle.
func (g *generator) content(device string, members bool) any {
	kinds := []string{"filesystem", "btrfs", "swap", "luks", ""}
	if members {
		kinds = append(kinds, "mdraid", "lvm_pv", "zfs")
	}
	c := object{"type": kinds[g.rnd.IntN(len(kinds))], "device": device}
	switch kind := c["type"].(string); kind {
	case "":
		return nil
	case "filesystem":
		c["format"], c["mountpoint"] = "ext4", g.mountpoint()
	case "btrfs":
		c["subvolumes"] = object{"s": object{"type": "btrfs_subvol", "name": "x/s", "mountpoint": g.mountpoint()}}
	case "luks":
		g.crypts++
		name := fmt.Sprint("c", g.crypts)
		c["name"], c["passwordFile"], c["content"] = name, "/tmp/k", g.content("/dev/mapper/"+name, members)
	case "mdraid":
		c["name"] = "m"
	case "lvm_pv":
		c["vg"] = "vg"
	case "zfs":
		c["pool"] = "tank"
	}
	g.uses[c["type"].(string)] = true
	return c
}
