package hosts

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"provision/internal/store"
)

// damagedPrefix begins the store keys of damaged records that were set aside as they were found.
const damagedPrefix = "damaged/"

// withdrawStale withdraws all permits and ends all boots if the store is stale, such as an old copy: since it was
// written, permits may have been burned, machines installed and disks given to other hosts.
func (inv *Inventory) withdrawStale() error {
	why, err := inv.store.Stale()
	if why == "" || err != nil {
		return err
	}

	why = "the permit was withdrawn: " + why
	all, err := inv.List()
	if err != nil {
		return err
	}

	var g errgroup.Group
	g.SetLimit(64) // concurrent commits share their waits for the disk
	for _, h := range all {
		if h.Permit.Issued.IsZero() || !h.Permit.Spent.IsZero() {
			continue
		}
		g.Go(func() error {
			_, err := inv.Apply(h.Name, Event{Kind: EventCancelled, Message: why, Error: why})
			return err
		})
	}

	if err := g.Wait(); err != nil {
		return fmt.Errorf("withdraw all permits of a store that is stale: %w", err)
	}
	return inv.store.Commit(nil, []store.Write{store.Delete(store.StaleKey), store.Delete(clockKey)})
}

// unreadable returns the host that List shows for a damaged record: failed, and without a permit.
func unreadable(key string) Host {
	return Host{
		Name:  strings.TrimPrefix(key, "host/"),
		State: StateFailed,
		Error: (&store.Damaged{Keys: []string{key}}).Error(),
	}
}

// SetAside moves a damaged record out of the way, so that the server can go on without it. If it is the record of a
// host, everything that belongs to the host is set aside too: the host is forgotten, with nothing known of it but its
// name, and Restore can take it back with its SSH key. by says who asks for it, for people. The error is [ErrRefused]
// if the record is not damaged.
func (inv *Inventory) SetAside(key, by string) error {
	return retryConflicts(func() error {
		rec, err := inv.store.Get(key)
		var damaged *store.Damaged
		switch {
		case err == nil:
			return fmt.Errorf("set %s aside: %w: it is whole", key, ErrRefused)
		case !errors.As(err, &damaged):
			return fmt.Errorf("set %s aside: %w", key, err)
		}

		if name, ok := strings.CutPrefix(key, "host/"); ok {
			return inv.putAside(name, by)
		}
		return inv.store.Commit([]store.Version{store.At(key, rec.Version)},
			[]store.Write{store.Put(damagedPrefix+key, rec.Value), store.Delete(key)})
	})
}

// takeOutDamaged is takeOut for a host whose record is damaged. As the record cannot tell them, it searches the indexes
// for entries that lead to the host.
func (inv *Inventory) takeOutDamaged(name string) (h Host, expect []store.Version, writes []store.Write, err error) {
	rec, err := inv.store.Get(hostKey(name))
	if !errors.As(err, new(*store.Damaged)) {
		return h, nil, nil, errors.Join(err, store.ErrConflict)
	}
	writes = []store.Write{store.Put(damagedPrefix+rec.Key, rec.Value), store.Delete(rec.Key)}
	for _, prefix := range []string{macKey(""), tokenKey(""), serialKey("")} {
		recs, err := inv.store.List(prefix, "")
		if err != nil {
			return h, nil, nil, err
		}
		for _, lead := range recs {
			if string(lead.Value) == name {
				writes = append(writes, store.Delete(lead.Key))
			}
		}
	}

	return Host{Name: name}, []store.Version{store.At(rec.Key, rec.Version)}, writes, nil
}
