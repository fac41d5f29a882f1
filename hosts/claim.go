package hosts

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
)

// A disk with a serial number belongs to the host that a permit was burned for it for last:
// its claim is that host's name, and goes when the host is forgotten.

// madeUp are serial numbers that tell no disk from another: those that QEMU gives to disks
// that were given none, and those of USB adapters.
var madeUp = regexp.MustCompile(`^(QM\d{5}|0+|0*123456789(ABCDEF|0)?\d*)$`)

// claimKey is the key of a disk's claim, empty if it can have none.
func claimKey(d Disk) string {
	if d.Serial == "" || madeUp.MatchString(d.Serial) {
		return ""
	}
	return "disk/" + url.PathEscape(d.Model) + "/" + url.PathEscape(d.Serial)
}

// claimant returns the host that has claimed a disk, empty if none has.
func (inv *Inventory) claimant(d Disk) (name string, version uint64, err error) {
	key := claimKey(d)
	if key == "" {
		return "", 0, nil
	}
	rec, err := inv.store.Get(key)
	if errors.Is(err, ErrNotFound) {
		return "", 0, nil
	}
	return string(rec.Value), rec.Version, err
}

// Owners tells for each of the disks whose it is: the name of the host that has claimed it,
// or h's own if nobody has and an earlier permit of h was burned for it; empty if it is
// nobody's.
func (inv *Inventory) Owners(h Host, disks []Disk) ([]string, error) {
	owners := make([]string, len(disks))
	for i, d := range disks {
		owner, _, err := inv.claimant(d)
		if err != nil {
			return nil, fmt.Errorf("look up whose %s is: %w", d.Device, err)
		}
		if owner == "" && slices.ContainsFunc(h.Owned, d.Same) {
			owner = h.Name
		}
		owners[i] = owner
	}
	return owners, nil
}

// claimDisks claims the disks that a permit is burned for, in the same transaction. A disk of
// another host is only taken if the operator said so, and the other host's log tells.
func (inv *Inventory) claimDisks(name string, disks []Disk) (expect []Version, writes []Write, err error) {
	lost := map[string][]Disk{} // by the host that loses them
	for _, d := range disks {
		owner, version, err := inv.claimant(d)
		switch {
		case err != nil:
			return nil, nil, err
		case claimKey(d) == "" || owner == name:
			continue
		case owner != "" && !d.Wipe:
			return nil, nil, fmt.Errorf("%s belongs to %s: %w; if it is this host's now, enroll it with --wipe %s",
				diskNames([]Disk{d}), owner, ErrRefused, d.Serial)
		case owner != "":
			lost[owner] = append(lost[owner], d)
		}
		expect = append(expect, Version{claimKey(d), version})
		writes = append(writes, Write{claimKey(d), []byte(name)})
	}
	for owner, disks := range lost {
		e, w, err := inv.tellOwner(owner, "claimed by "+name+" now, as its operator said (--wipe): "+diskNames(disks))
		if err != nil {
			return nil, nil, err
		}
		expect, writes = append(expect, e...), append(writes, w...)
	}
	return expect, writes, nil
}

// tellOwner writes a note into the log of a host, if that is still there.
func (inv *Inventory) tellOwner(name, message string) ([]Version, []Write, error) {
	h, version, err := inv.get(name)
	if errors.Is(err, ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	writes, err := log(&h, Event{Host: name, Time: inv.now(), Kind: Noted, Message: message})
	return []Version{{hostKey(name), version}}, writes, err
}

// freeDisks gives up the claims of a host.
func (inv *Inventory) freeDisks(h Host) (expect []Version, writes []Write, err error) {
	for _, d := range h.Owned {
		owner, version, err := inv.claimant(d)
		if err != nil {
			return nil, nil, err
		}
		if owner == h.Name {
			expect = append(expect, Version{claimKey(d), version})
			writes = append(writes, Write{claimKey(d), nil})
		}
	}
	return expect, writes, nil
}
