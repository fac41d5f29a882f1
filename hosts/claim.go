package hosts

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"provision/internal/store"
)

// A disk that can be told from all others belongs to the host that a permit was burned for it for last: its claim is
// that host's name, and goes when the host is forgotten.

// Owner is whose a disk is, as far as that is known.
type Owner struct {
	Host string // empty: nobody's, or not certain
	// Doubt says, for people, why the disk may be somebody's; empty if nothing speaks for that.
	Doubt string
}

// claim is a record that a disk is a host's.
type claim struct {
	key     string
	version uint64
	host    string
	disk    Disk
	old     bool // by model and serial number alone, as versions before this one stored it
}

const claimPrefix = "disk/"

// claimKey is the key of a disk's claim, empty if it can have none.
func claimKey(d Disk) string {
	if !d.claimable() {
		return ""
	}
	fields := []string{url.PathEscape(d.Model), url.PathEscape(d.Serial), url.PathEscape(d.WWN),
		strconv.FormatInt(d.Size, 10)}
	return claimPrefix + strings.Join(fields, "/")
}

// readClaim reads a record. What is not understood is a claim to no disk.
func readClaim(rec store.Record) claim {
	c := claim{key: rec.Key, version: rec.Version, host: string(rec.Value)}
	fields := strings.Split(strings.TrimPrefix(rec.Key, claimPrefix), "/")
	for i, w := range fields {
		fields[i], _ = url.PathUnescape(w)
	}
	switch len(fields) {
	case 2:
		c.old = true
		c.disk = Disk{Model: fields[0], Serial: fields[1]}
	case 4:
		c.disk = Disk{Model: fields[0], Serial: fields[1], WWN: fields[2]}
		c.disk.Size, _ = strconv.ParseInt(fields[3], 10, 64)
	}

	return c
}

// claims returns those that may be about the disk, those that surely are first, and of these those that know all of it.
func (inv *Inventory) claims(d Disk) ([]claim, error) {
	recs, err := inv.store.List(claimPrefix, "")
	if err != nil {
		return nil, fmt.Errorf("look up whose %s is: %w", d.Device, err)
	}

	var all []claim
	for _, rec := range recs {
		c := readClaim(rec)
		if c.old && c.disk.Serial == d.Serial && c.disk.Model == d.Model {
			c.disk, err = inv.complete(c, d)
			if err != nil {
				return nil, err
			}
		}

		// Records of older versions may be about disks whose serial numbers are not theirs alone.
		if c.disk.resembles(d) || c.old && c.disk.same(d) {
			all = append(all, c)
		}
	}

	rank := func(c claim) int {
		switch {
		case !c.surely(d):
			return 2
		case c.old:
			return 1
		}
		return 0
	}
	slices.SortStableFunc(all, func(a, b claim) int { return cmp.Compare(rank(a), rank(b)) })
	return all, nil
}

// surely tells whether the claim is about this disk and no other.
func (c claim) surely(d Disk) bool { return d.claimable() && c.disk.same(d) && c.disk.resembles(d) }

// complete finds the rest of what an old claim was about among the disks of its host: the disk d, if it may be that
// one.
func (inv *Inventory) complete(c claim, d Disk) (Disk, error) {
	h, _, err := inv.get(c.host)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return c.disk, err
	}
	found := Disk{Model: d.Model, Serial: d.Serial, Size: d.Size} // nothing says otherwise
	for _, o := range h.Owned {
		if o.Model != d.Model || o.Serial != d.Serial {
			continue
		}
		found = o
		if o.Size == d.Size {
			break
		}
	}

	return found, nil
}

// Owners tells for each of the disks whose it is: the host that has claimed it, or h if nobody has and an earlier
// permit of h was burned for it.
func (inv *Inventory) Owners(h Host, disks []Disk) ([]Owner, error) {
	owners := make([]Owner, len(disks))
	for i, d := range disks {
		claims, err := inv.claims(d)
		if err != nil {
			return nil, err
		}
		owners[i] = h.ownerOf(d, claims)
	}
	return owners, nil
}

// ownerOf judges by the claims that may be about a disk.
func (h *Host) ownerOf(d Disk, claims []claim) Owner {
	mine, maybe := h.owns(d)
	switch {
	case len(claims) > 0 && claims[0].surely(d):
		return Owner{Host: claims[0].host}
	case mine:
		return Owner{Host: h.Name}
	case len(claims) > 0:
		return Owner{Doubt: claims[0].doubt(h.Name, d)}
	case d.Twins > 0 && maybe:
		return Owner{Doubt: "other disks of the machine say the same of themselves, and no permit was burned for all of them"}
	case maybe:
		return Owner{Doubt: "a permit of this host was burned for another disk that has its serial number or WWN"}
	}

	return Owner{}
}

// doubt says what a claim has in common with a disk, and what not.
func (c claim) doubt(host string, d Disk) string {
	whose, has := "the host "+c.host+" has claimed", "its serial number"
	if c.host == host {
		whose = "this host has claimed"
	}
	if d.Serial == "" || c.disk.Serial != d.Serial {
		has = "its WWN"
	}
	switch o := c.disk; {
	case o.Size != d.Size:
		return fmt.Sprintf("%s a disk with %s and another size (%.1f GB)", whose, has, float64(o.Size)/1e9)
	case o.name() != "" && d.name() != "" && o.name() != d.name():
		return fmt.Sprintf("%s a disk with %s and another WWN (%s)", whose, has, o.WWN)
	case o.Model != d.Model || o.Serial != d.Serial:
		return fmt.Sprintf("%s a disk with %s that calls itself %s", whose, has, strings.TrimSpace(o.Model+" "+o.Serial))
	}

	return fmt.Sprintf("%s a disk with %s, which is not one disk's alone", whose, has)
}

// claimDisks claims the disks that a permit of the host is burned for, in the same transaction. A disk of another host
// is only taken if the operator said so, and the other host's log tells.
func (inv *Inventory) claimDisks(h *Host, disks []Disk) (expect []store.Version, writes []store.Write, err error) {
	lost := map[string][]Disk{} // by the host that loses them
	for _, d := range apart(disks) {
		claims, err := inv.claims(d)
		if err != nil {
			return nil, nil, err
		}

		if owner := h.ownerOf(d, claims).Host; owner != "" && owner != h.Name && !d.Wipe {
			return nil, nil, fmt.Errorf("%s belongs to %s: %w; if it is this host's now, enroll it with --wipe %s",
				diskNames([]Disk{d}), owner, ErrRefused, d.word())
		}
		key := claimKey(d)
		if key == "" {
			continue
		}
		if len(claims) > 0 && claims[0].surely(d) && claims[0].host != h.Name {
			lost[claims[0].host] = append(lost[claims[0].host], d)
		}
		before := store.Absent(key)
		for _, c := range claims {
			switch {
			case c.key == key:
				before.Version = c.version
			case c.surely(d) && !c.old: // it knew less of the disk
				expect = append(expect, store.At(c.key, c.version))
				writes = append(writes, store.Delete(c.key))
			}
		}

		expect = append(expect, before)
		writes = append(writes, store.Put(key, []byte(h.Name)))
	}

	for owner, disks := range lost {
		e, w, err := inv.tellOwner(owner, "claimed by "+h.Name+" now, as its operator said (--wipe): "+diskNames(disks))
		if err != nil {
			return nil, nil, err
		}
		expect, writes = append(expect, e...), append(writes, w...)
	}

	return expect, writes, nil
}

// takeDisks claims the disks of a burned permit, and ends what was kept for what stood on them.
func (inv *Inventory) takeDisks(before, after *Host, ev Event) ([]store.Version, []store.Write, error) {
	expect, claims, err := inv.claimDisks(before, ev.Disks)
	if err != nil {
		return nil, nil, err
	}
	identity, err := inv.settleIdentity(before, after)
	return expect, append(claims, identity...), err
}

// tellOwner writes a note into the log of a host, if that is still there.
func (inv *Inventory) tellOwner(name, message string) ([]store.Version, []store.Write, error) {
	h, version, err := inv.get(name)
	if errors.Is(err, ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	writes, err := inv.log(&h, Event{Host: name, Time: inv.now(), Kind: EventNote, Message: message})
	return []store.Version{store.At(hostKey(name), version)}, writes, err
}

// freeDisks gives up the claims of a host, but for those that may be about one of the disks to keep.
func (inv *Inventory) freeDisks(name string, keep []Disk) (expect []store.Version, writes []store.Write, err error) {
	recs, err := inv.store.List(claimPrefix, "")
	if err != nil {
		return nil, nil, err
	}
	for _, rec := range recs {
		kept := slices.ContainsFunc(keep, readClaim(rec).disk.resembles)
		if string(rec.Value) == name && !kept {
			expect = append(expect, store.At(rec.Key, rec.Version))
			writes = append(writes, store.Delete(rec.Key))
		}
	}
	return expect, writes, nil
}
