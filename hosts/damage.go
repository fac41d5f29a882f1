package hosts

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"
)

// damagedPrefix begins the keys of what was damaged and put aside, as it was found.
const damagedPrefix = "damaged/"

// Stale says why a store does not know all that has happened, so that New withdraws all permits in it; empty: it does.
func Stale(store Store) (why string, err error) {
	rec, err := store.Get(staleKey)
	switch {
	case errors.Is(err, ErrNotFound):
		return "", nil
	case errors.As(err, new(*Damaged)):
		return "the store is a copy", nil
	}
	return string(rec.Value), err
}

// withdrawStale withdraws all permits, and closes all boots, if the store is stale: meanwhile permits may have been
// burned, machines installed and disks given to others.
func (inv *Inventory) withdrawStale() error {
	why, err := Stale(inv.store)
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
			_, err := inv.Apply(h.Name, Event{Kind: Cancelled, Message: why, Error: why})
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("withdraw all permits of a store that is stale: %w", err)
	}
	return inv.store.Commit(nil, []Write{{staleKey, nil}, {clockKey, nil}})
}

// unreadable is a host whose record is damaged, as it is listed: it has no permit.
func unreadable(key string) Host {
	return Host{
		Name:  strings.TrimPrefix(key, "host/"),
		State: Failed,
		Error: (&Damaged{[]string{key}}).Error(),
	}
}

// SetAside puts a record aside that is damaged, so that the rest goes on without it. Of a host that is all that belongs
// to it: it is forgotten by its name alone, and can be taken back so, with its SSH key. by is who wants it, for people.
func (inv *Inventory) SetAside(key, by string) error {
	return retryConflicts(func() error {
		rec, err := inv.store.Get(key)
		var damaged *Damaged
		switch {
		case err == nil:
			return fmt.Errorf("set %s aside: %w: it is whole", key, ErrRefused)
		case !errors.As(err, &damaged):
			return fmt.Errorf("set %s aside: %w", key, err)
		}
		if name, ok := strings.CutPrefix(key, "host/"); ok {
			return inv.putAside(name, by)
		}
		return inv.store.Commit([]Version{{key, rec.Version}}, []Write{{damagedPrefix + key, rec.Value}, {key, nil}})
	})
}

// takeOutDamaged is takeOut for a host whose record is damaged: what leads to it is looked for.
func (inv *Inventory) takeOutDamaged(name string) (h Host, expect []Version, writes []Write, err error) {
	rec, err := inv.store.Get(hostKey(name))
	if !errors.As(err, new(*Damaged)) {
		return h, nil, nil, errors.Join(err, ErrConflict)
	}
	writes = []Write{{damagedPrefix + rec.Key, rec.Value}, {rec.Key, nil}}
	for _, prefix := range []string{macKey(""), tokenKey(""), serialKey("")} {
		recs, err := inv.store.List(prefix, "")
		if err != nil {
			return h, nil, nil, err
		}
		for _, lead := range recs {
			if string(lead.Value) == name {
				writes = append(writes, Write{lead.Key, nil})
			}
		}
	}
	return Host{Name: name}, []Version{{rec.Key, rec.Version}}, writes, nil
}
