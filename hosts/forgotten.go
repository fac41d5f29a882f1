package hosts

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"provision/internal/store"
)

// A forgotten host is removed from the inventory at once: its name and its MACs are free, and its machine is not
// enrolled. The server keeps its records for a while, sealed as they were, under separate keys, so that they do not mix
// with those of a new host of the same name. Its claims to disks are not moved: they protect the disks until the host
// is purged.

// ForgottenFor is how long a forgotten host can be taken back.
const ForgottenFor = 30 * 24 * time.Hour

// Forgotten is a host that was forgotten and can be taken back.
type Forgotten struct {
	Host  Host      `json:"host"`  // as it was; only the name if it was never enrolled
	Time  time.Time `json:"time"`  // when it was forgotten
	Until time.Time `json:"until"` // when it is purged
	By    string    `json:"by"`    // who asked to forget it, for people
}

// forgottenKey is the store key of a forgotten host. The stamp tells forgotten hosts of one name apart and sorts them
// by time.
func forgottenKey(name string, stamp time.Time) string {
	return fmt.Sprintf("forgotten/%s/%016x", name, stamp.UnixNano())
}

// asideKey is the key under which the record that had the given key is kept while its host is forgotten.
func asideKey(name string, stamp time.Time, key string) string {
	return fmt.Sprintf("aside/%s/%016x/%s", name, stamp.UnixNano(), key)
}

// belongings returns the prefixes of all records of a host that can be many, other than the host itself and the indexes
// that lead to it.
func belongings(name string) []string {
	return []string{"event/" + name + "/", "secret/" + name + "/", escrowPrefix(name)}
}

// belong returns the records that belong to a host. Their keys begin with before, which is empty unless the host is
// forgotten.
func (inv *Inventory) belong(before, name string) ([]store.Record, error) {
	var all []store.Record
	for _, prefix := range belongings(name) {
		recs, err := inv.store.List(before+prefix, "")
		if err != nil {
			return nil, err
		}
		all = append(all, recs...)
	}

	for _, key := range []string{factsKey(name), journalKey(name)} {
		rec, err := inv.store.Get(before + key)
		switch {
		case err == nil:
			all = append(all, rec)
		case !errors.Is(err, ErrNotFound):
			return nil, err
		}
	}

	return all, nil
}

// retryConflicts calls do again as long as it fails with [store.ErrConflict], which means that something else changed
// the same records at the same time.
func retryConflicts(do func() error) error {
	for {
		if err := do(); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// Forget removes a host and its permit from the inventory. The server keeps its records for [ForgottenFor], and Restore
// takes it back until then. by says who asks for it, for people.
func (inv *Inventory) Forget(name, by string) error {
	h, err := inv.Get(name)
	if err == nil && h.Permit.Spent.IsZero() && !h.Connected {
		// What was prepared for another install is undone, as when an install is cancelled.
		_, err = inv.Apply(name, Event{Kind: EventCancelled, Message: "the permit was withdrawn: the host is " +
			"forgotten"})
		if errors.Is(err, ErrRefused) {
			err = nil // there was no permit to withdraw
		}
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	return retryConflicts(func() error { return inv.putAside(name, by) })
}

// putAside moves the records of a host to the keys of a forgotten one, in one transaction.
func (inv *Inventory) putAside(name, by string) error {
	h, expect, writes, err := inv.takeOut(name)
	if err != nil {
		return err
	}

	recs, err := inv.belong("", name)
	if err != nil {
		return err
	}

	now, err := inv.freeStamp(name)
	if err != nil {
		return err
	}

	for _, rec := range recs {
		writes = append(writes, store.Put(asideKey(name, now, rec.Key), rec.Value), store.Delete(rec.Key))
	}
	data, err := json.Marshal(Forgotten{Host: h, Time: now, Until: now.Add(ForgottenFor), By: by})
	if err != nil {
		return err
	}

	key := forgottenKey(name, now)
	return inv.store.Commit(append(expect, store.Absent(key)), append(writes, store.Put(key, data)))
}

// freeStamp returns the present time, or the next nanosecond at which no host of this name was forgotten.
func (inv *Inventory) freeStamp(name string) (time.Time, error) {
	for now := inv.now(); ; now = now.Add(time.Nanosecond) {
		_, err := inv.store.Get(forgottenKey(name, now))
		if errors.Is(err, ErrNotFound) {
			return now, nil
		}
		if err != nil {
			return now, err
		}
	}
}

// takeOut returns the writes that remove a host and the indexes that lead to it, but not the records that belong to it.
// A host that was never enrolled has no record but its SSH key; then there is nothing to remove.
func (inv *Inventory) takeOut(name string) (h Host, expect []store.Version, writes []store.Write, err error) {
	if err := CheckName(name); err != nil {
		return Host{}, nil, nil, err
	}
	h, version, err := inv.get(name)
	if errors.Is(err, ErrNotFound) {
		key, keyErr := inv.store.Get(secretKey(name, SecretHostKey))
		if errors.Is(keyErr, ErrNotFound) {
			return h, nil, nil, err
		}
		return Host{Name: name}, []store.Version{store.Absent(hostKey(name)),
			store.At(secretKey(name, SecretHostKey), key.Version)}, nil, keyErr
	}
	if errors.As(err, new(*store.Damaged)) {
		return inv.takeOutDamaged(name)
	}
	if err != nil {
		return h, nil, nil, err
	}

	if h.Connected {
		return h, nil, nil, fmt.Errorf("%s is being installed: %w; run `provision cancel %s` first", name, ErrRefused, name)
	}
	writes = []store.Write{store.Delete(hostKey(name))}
	for _, mac := range h.MACs {
		writes = append(writes, store.Delete(macKey(mac)))
	}
	for _, token := range h.Tokens {
		writes = append(writes, store.Delete(tokenKey(token)))
	}
	if id := h.DUID(); id != "" {
		writes = append(writes, store.Delete(duidKey(id)))
	}
	expect, serial, err := inv.dropSerial(&h)
	return h, append(expect, store.At(hostKey(name), version)), append(writes, serial...), err
}

// Forgotten lists the hosts that can be restored, by name, and hosts of one name with the oldest first.
func (inv *Inventory) Forgotten() ([]Forgotten, error) {
	all, err := inv.forgotten("forgotten/")
	if err != nil {
		return nil, err
	}
	now := inv.now()
	return slices.DeleteFunc(all, func(f Forgotten) bool { return !now.Before(f.Until) }), nil
}

// forgotten returns the forgotten hosts whose keys begin with prefix, also those whose time has passed.
func (inv *Inventory) forgotten(prefix string) ([]Forgotten, error) {
	recs, err := inv.store.List(prefix, "")
	if err != nil {
		return nil, err
	}
	all := make([]Forgotten, len(recs))
	for i, rec := range recs {
		if err := json.Unmarshal(rec.Value, &all[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", rec.Key, err)
		}
	}
	return all, nil
}

// Restore takes a forgotten host back, without a permit. If several hosts had the name, forgotten chooses one by the
// second in which it was forgotten; zero means the last. The error is ErrRefused if another host has the name or one of
// the MACs now. For a host that was never enrolled, Restore takes the SSH key back and returns a Host with only its
// name.
func (inv *Inventory) Restore(name string, forgotten time.Time, by string) (h Host, err error) {
	err = retryConflicts(func() error {
		h, err = inv.takeBack(name, forgotten, by)
		return err
	})
	return h, err
}

// takeBack does one attempt of Restore, in one transaction.
func (inv *Inventory) takeBack(name string, forgotten time.Time, by string) (Host, error) {
	f, err := inv.kept(name, forgotten)
	if err != nil {
		return Host{}, err
	}

	expect, err := inv.unclaimed(f.Host)
	if err != nil {
		return Host{}, err
	}

	h := f.Host
	writes := []store.Write{store.Delete(forgottenKey(name, f.Time))}
	if h.State != "" {
		ev := Event{Host: name, Time: inv.now(), Kind: EventRestored,
			Message: fmt.Sprintf("restored by %s; %s forgot it on %s", by, f.By, f.Time.Format(time.RFC3339))}
		if h, err = next(h, ev); err != nil {
			return Host{}, err
		}

		e, w, err := inv.lead(&h)
		if err != nil {
			return Host{}, err
		}

		logged, err := inv.log(&h, ev)
		if err != nil {
			return Host{}, err
		}

		expect, writes = append(expect, e...), slices.Concat(writes, w, logged)
	}

	before := asideKey(name, f.Time, "")
	recs, err := inv.belong(before, name)
	if err != nil {
		return Host{}, err
	}

	var back []store.Write
	for _, rec := range recs {
		back = append(back, store.Put(strings.TrimPrefix(rec.Key, before), rec.Value), store.Delete(rec.Key))
	}
	return h, inv.store.Commit(expect, append(back, writes...))
}

// kept returns the forgotten host that Restore's arguments mean, or ErrNotFound.
func (inv *Inventory) kept(name string, forgotten time.Time) (Forgotten, error) {
	if err := CheckName(name); err != nil {
		return Forgotten{}, err
	}
	all, err := inv.forgotten("forgotten/" + name + "/")
	if err != nil {
		return Forgotten{}, err
	}

	now := inv.now()
	for _, f := range slices.Backward(all) {
		switch {
		case !forgotten.IsZero() && !f.Time.Truncate(time.Second).Equal(forgotten.Truncate(time.Second)):
			continue
		case !now.Before(f.Until):
			return f, fmt.Errorf("restore %s: %w: it was kept until %s", name, ErrNotFound, f.Until.Format(time.RFC3339))
		}
		return f, nil
	}

	return Forgotten{}, fmt.Errorf("restore %s: %w: no forgotten host of this name is kept; `provision restore` "+
		"lists those that are",
		name, ErrNotFound)
}

// unclaimed returns an error if another host has the name or one of the MACs of h now.
func (inv *Inventory) unclaimed(h Host) (expect []store.Version, err error) {
	recs, err := inv.belong("", h.Name)
	if err != nil {
		return nil, err
	}

	other, err := inv.Get(h.Name)
	switch {
	case err == nil:
		return nil, fmt.Errorf("restore %s: %w: another host with this name was enrolled meanwhile (MAC %s)",
			h.Name, ErrRefused, strings.Join(other.MACs, ", "))
	case !errors.Is(err, ErrNotFound):
		return nil, err
	case len(recs) > 0:
		return nil, fmt.Errorf("restore %s: %w: another SSH key was made for this name meanwhile; `provision "+
			"forget %s` puts that aside",
			h.Name, ErrRefused, h.Name)
	}

	expect = []store.Version{store.Absent(hostKey(h.Name)), store.Absent(secretKey(h.Name, SecretHostKey))}
	for _, mac := range h.MACs {
		rec, err := inv.store.Get(macKey(mac))
		if err == nil {
			return nil, fmt.Errorf("restore %s: %w: its MAC %s is %s's now; %s",
				h.Name, ErrRefused, mac, rec.Value, freeMAC(mac, string(rec.Value)))
		}
		if !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		expect = append(expect, store.Absent(macKey(mac)))
	}

	return expect, nil
}

// freeMAC says, for people, how to take a MAC from the host that has it.
func freeMAC(mac, owner string) string {
	return fmt.Sprintf("`provision set %s --mac=-%s` takes it from there", owner, mac)
}

// lead returns the writes that make MACs and serial number lead to the host again. If another machine told the serial
// number meanwhile, the host gives it up: a Raspberry Pi tells its number again at its next boot.
func (inv *Inventory) lead(h *Host) (expect []store.Version, writes []store.Write, err error) {
	for _, mac := range h.MACs {
		writes = append(writes, store.Put(macKey(mac), []byte(h.Name)))
	}
	if _, err := inv.BySerial(h.Serial); err == nil {
		h.Serial = ""
	}
	e, w, err := inv.claimSerial(&Host{}, h)
	return e, append(writes, w...), err
}

// Purge destroys at once everything that the server holds of a host and of forgotten hosts of the same name.
func (inv *Inventory) Purge(name string) error {
	return retryConflicts(func() error {
		kept, err := inv.forgotten("forgotten/" + name + "/")
		if err != nil {
			return err
		}

		_, expect, writes, err := inv.takeOut(name)
		if errors.Is(err, ErrNotFound) && len(kept) > 0 {
			expect, err = []store.Version{store.Absent(hostKey(name))}, nil
		}
		if err != nil {
			return err
		}

		writes = append(writes, store.Delete(factsKey(name)), store.Delete(journalKey(name)))
		for _, prefix := range belongings(name) {
			writes = append(writes, store.DeletePrefix(prefix))
		}
		for _, f := range kept {
			writes = append(writes, destroy(f)...)
		}
		e, free, err := inv.freeDisks(name, nil)
		if err != nil {
			return err
		}
		return inv.store.Commit(append(expect, e...), append(writes, free...))
	})
}

// destroy returns the writes that remove the records of a forgotten host.
func destroy(f Forgotten) []store.Write {
	return []store.Write{
		store.Delete(forgottenKey(f.Host.Name, f.Time)),
		store.DeletePrefix(asideKey(f.Host.Name, f.Time, "")),
	}
}

// PurgeForgotten destroys the records of forgotten hosts whose time has passed.
func (inv *Inventory) PurgeForgotten(now time.Time) error {
	all, err := inv.forgotten("forgotten/")
	errs := []error{err}
	for _, f := range all {
		if !now.Before(f.Until) {
			errs = append(errs, retryConflicts(func() error { return inv.purgeOne(f) }))
		}
	}
	return errors.Join(errs...)
}

// purgeOne destroys the records of a forgotten host. Disks for which a permit of a present host of the same name, or of
// another forgotten one, was burned stay claimed.
func (inv *Inventory) purgeOne(f Forgotten) error {
	name := f.Host.Name
	key := forgottenKey(name, f.Time)
	rec, err := inv.store.Get(key)
	if errors.Is(err, ErrNotFound) {
		return nil // it was restored or purged since
	}
	if err != nil {
		return err
	}

	living, version, err := inv.get(name)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}

	namesakes, err := inv.forgotten("forgotten/" + name + "/")
	if err != nil {
		return err
	}

	keep := slices.Clone(living.Owned)
	for _, n := range namesakes {
		if !n.Time.Equal(f.Time) {
			keep = append(keep, n.Host.Owned...)
		}
	}

	expect, free, err := inv.freeDisks(name, keep)
	if err != nil {
		return err
	}

	expect = append(expect, store.At(key, rec.Version), store.At(hostKey(name), version))
	return inv.store.Commit(expect, append(destroy(f), free...))
}
