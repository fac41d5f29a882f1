package installer

import (
	"context"
	"fmt"
	"slices"

	"provision/disko"
)

// resyncFile holds, on the machine, how fast RAIDs were synced before the install, in KiB/s.
const resyncFile = "/run/provision.resync"

// slowResync makes the kernel sync new RAIDs as slowly as it can (md(4): speed_limit_max; no less than
// speed_limit_min). The disks are busy with the install, and the installed system goes on with it, at its own speed:
// a member is not trusted before it was synced, and md keeps how far that is.
func (d *Disks) slowResync(ctx context.Context) error {
	if !d.mayHaveRAID() {
		return nil
	}

	// The setting is there once the module is.
	const script = `modprobe -q md_mod || :
max=/proc/sys/dev/raid/speed_limit_max
test -w "$max" || exit 0
test -e "$0" || { cat "$max" >"$0.part" && mv -- "$0.part" "$0"; }
cat /proc/sys/dev/raid/speed_limit_min >"$max"`
	if _, err := d.session().run(ctx, nil, exclusiveLock("sh", "-c", script, resyncFile)...); err != nil {
		return fmt.Errorf("hold the sync of RAIDs back: %w", err)
	}
	return nil
}

// mayHaveRAID reports whether the layout has md RAIDs, or LVM, whose RAIDs are md's too (lvmraid(7)).
func (d *Disks) mayHaveRAID() bool {
	return slices.ContainsFunc(d.plan.Unmount(), func(s disko.Step) bool { return s.Argv[0] == "mdadm" || s.Argv[0] == "vgchange" })
}

// restoreResync lets RAIDs be synced as before.
func (d *Disks) restoreResync(ctx context.Context) error {
	if !d.mayHaveRAID() {
		return nil
	}
	const script = `test -e "$0" || exit 0
cat -- "$0" >/proc/sys/dev/raid/speed_limit_max && rm -f -- "$0"`
	if _, err := d.session().run(ctx, nil, exclusiveLock("sh", "-c", script, resyncFile)...); err != nil {
		return fmt.Errorf("let RAIDs be synced as before: %w", err)
	}
	return nil
}
