package disko

import (
	"encoding/json"
	"slices"
	"testing"
)

// TestScript: disko's own script stands for the steps of the fresh way, and hooks may name
// store paths only then.
func TestScript(t *testing.T) {
	const content = "disk.main.content.partitions.root.content."
	l := mustParse(t, edit(t, readFile(t, "layouts/efi.json"), map[string]any{
		content + "postMountHook": "/nix/store/x/bin/y", content + "preUnmountHook": "/nix/store/x/bin/z", "disk.main.preCreateHook": "true",
	}))
	facts := mustFacts(t, machine(dev("sda", "disk", `,"fstype":"ext4"`)))
	for _, f := range []*Facts{nil, facts} {
		_, err := NewPlan(l, f, Options{})
		wantProblems(t, err, content+"postMountHook: names a path in /nix/store", content+"preUnmountHook: names a path in /nix/store")
	}
	p, err := NewPlan(l, facts, Options{Script: "/nix/store/x-disko"})
	if err != nil {
		t.Fatal(err)
	}
	equalLines(t, "script", argvs(p.Steps, StageDestroy), []string{"/nix/store/x-disko"})
	if len(p.Steps) != 1 || p.Steps[0].Destroys != "everything on /dev/sda (8 GiB): ext4 8 GiB" || len(p.Disks) != 1 || len(p.Unmount()) == 0 {
		t.Errorf("%+v", p)
	}
}

// TestHeld: whatever is mounted or open on the plan's disks is seen, and nothing else.
func TestHeld(t *testing.T) {
	p, err := NewPlan(mustParse(t, readFile(t, "layouts/efi.json")), mustFacts(t, machine(dev("sda", "disk", ""), dev("sdb", "disk", ""))), Options{})
	if err != nil {
		t.Fatal(err)
	}
	var f Facts
	if err := json.Unmarshal([]byte(machine(
		dev("sda", "disk", "", dev("sda1", "part", `,"mountpoints":["/mnt/boot","[SWAP]"]`), dev("sda2", "part", "", dev("c", "crypt", "")),
			dev("sda3", "part", `,"fstype":"zfs_member","label":"tank"`), dev("sda4", "part", `,"fstype":"zfs_member","label":"idle"`)),
		dev("sdb", "disk", "", dev("sdb1", "part", `,"mountpoints":["/home"]`), dev("d", "crypt", "")))), &f); err != nil {
		t.Fatal(err)
	}
	f.Pools, f.Mounts = []string{"tank", "other"}, []MountedAt{{Target: "/", Source: "overlay"}, {Target: "/mnt", Source: "none"}}
	want := []string{"/dev/mapper/c (crypt) is open", "/dev/sda1 is mounted at /mnt/boot", "/dev/sda1 is on as swap", "none is mounted at /mnt", "the pool tank is imported"}
	if got := p.Held(&f); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	closed := mustFacts(t, machine(dev("sda", "disk", "", dev("sda1", "part", `,"fstype":"vfat"`), dev("sda2", "part", `,"fstype":"crypto_LUKS"`))))
	if got := p.Held(closed); len(got) != 0 {
		t.Errorf("%q", got)
	}
}
