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

// A claim records which host a disk belongs to: the last host whose burned permit named the disk. Only a disk that can
// be told from all others has one. The claim is removed when that host is purged.

// Owner says which host a disk belongs to, as far as that is known.
type Owner struct {
	Host string // empty: the disk is nobody's, or its owner is not certain
	// Doubt says, for people, why the disk may belong to a host; empty if nothing suggests that.
	Doubt string
}

// claim is a stored record that a disk belongs to a host.
type claim struct {
	key     string // in the store
	version uint64 // of the record in the store
	host    string
	disk    Disk
	old     bool // it names the disk by model and serial number alone, as older versions stored it
}

// claimPrefix begins the store keys of claims.
const claimPrefix = "disk/"

// claimKey returns the store key of a disk's claim; empty if the disk cannot have one.
func claimKey(d Disk) string {
	if !d.claimable() {
		return ""
	}
	fields := []string{url.PathEscape(d.Model), url.PathEscape(d.Serial), url.PathEscape(d.WWN),
		strconv.FormatInt(d.Size, 10)}
	return claimPrefix + strings.Join(fields, "/")
}

// readClaim decodes a record. If the key cannot be decoded, the claim matches no disk.
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

// claims returns the claims that may be about the disk: first those that certainly are, and of these the complete ones
// before those that older versions stored.
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

		// Older versions also claimed disks whose serial numbers are not unique.
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

// surely reports whether the claim is about exactly this disk.
func (c claim) surely(d Disk) bool { return d.claimable() && c.disk.same(d) && c.disk.resembles(d) }

// complete returns the disk that an old claim (model and serial number alone) is about, completed from the disks of its
// host. Where these do not have it, d is taken for it.
func (inv *Inventory) complete(c claim, d Disk) (Disk, error) {
	h, _, err := inv.get(c.host)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return c.disk, err
	}
	found := Disk{Model: d.Model, Serial: d.Serial, Size: d.Size} // assumed unless the host's disks say otherwise
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

// Owners returns the owner of each disk: the host that has claimed it or, if no host has, h where an earlier permit of
// h was burned for it.
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

// ownerOf returns the owner of a disk, given the claims that may be about it.
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
		return Owner{Doubt: "other disks of the machine say the same of themselves, and no permit was burned for " +
			"all of them"}
	case maybe:
		return Owner{Doubt: "a permit of this host was burned for another disk that has its serial number or WWN"}
	}

	return Owner{}
}

// doubt says, for people, what a claim and a disk have in common and how they differ.
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

// claimDisks returns the writes that claim the disks for which a permit of the host is burned. A disk of another host
// is taken only if the operator named it with --wipe; the loss is then written into the other host's log.
func (inv *Inventory) claimDisks(h *Host, disks []Disk) (expect []store.Version, writes []store.Write, err error) {
	lost := map[string][]Disk{} // by the name of the host that loses them
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
			case c.surely(d) && !c.old: // an older, less complete claim to the same disk
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

// takeDisks claims the disks of a burned permit, and removes the SSH key that was kept for the system that these disks
// held.
func (inv *Inventory) takeDisks(before, after *Host, ev Event) ([]store.Version, []store.Write, error) {
	expect, claims, err := inv.claimDisks(before, ev.Disks)
	if err != nil {
		return nil, nil, err
	}
	identity, err := inv.settleIdentity(before, after)
	return expect, append(claims, identity...), err
}

// tellOwner returns the writes that add a note to the log of a host; none if the host does not exist any more.
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

// freeDisks returns the writes that remove the claims of a host, except claims that may be about one of the disks in
// keep.
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
