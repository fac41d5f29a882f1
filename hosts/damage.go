package hosts

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"provision/internal/store"
)

// damagedPrefix begins the keys of what was damaged and put aside, as it was found.
const damagedPrefix = "damaged/"

// withdrawStale withdraws all permits, and closes all boots, if the store is stale: meanwhile permits may have been
// burned, machines installed and disks given to others.
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
	g.SetLimit(64) // they share their waits for the disk
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

// unreadable is a host whose record is damaged, as it is listed: it has no permit.
func unreadable(key string) Host {
	return Host{
		Name:  strings.TrimPrefix(key, "host/"),
		State: StateFailed,
		Error: (&store.Damaged{Keys: []string{key}}).Error(),
	}
}

// SetAside puts a record aside that is damaged, so that the rest goes on without it. Of a host that is all that belongs
// to it: it is forgotten by its name alone, and can be taken back so, with its SSH key. by is who wants it, for people.
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

// takeOutDamaged is takeOut for a host whose record is damaged: what leads to it is looked for.
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
