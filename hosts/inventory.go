package hosts

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"provision/internal/store"
	"provision/internal/text"
)

// MaxEvents bounds how many events are kept for a host; the newest are kept. Events that anybody on the network can
// cause displace others only as long as they are at most a fifth of all.
const MaxEvents = 500

// MaxMessage bounds the message of an event, and thus the error of a host, in bytes. Of a longer message, the beginning
// and the end are kept.
const MaxMessage = 16 << 10
const (
	strangersShare = MaxEvents / 5
	eventsAtOnce   = MaxEvents / 10 // how many are dropped together, as dropping reads them all
)

// Inventory holds all hosts, on top of a store. It is safe for concurrent use.
type Inventory struct {
	store records
	vault *Vault
	now   func() time.Time
	seen  sightings
	notes noteLimits
}

// The functions below return keys in the store.
func hostKey(name string) string            { return "host/" + name }
func macKey(mac string) string              { return "mac/" + mac }
func tokenKey(token string) string          { return "boot/" + token }
func eventKey(name string, n uint64) string { return fmt.Sprintf("event/%s/%016x", name, n) }
func factsKey(name string) string           { return "facts/" + name }
func journalKey(name string) string         { return "journal/" + name }
func secretKey(name, secret string) string  { return "secret/" + name + "/" + secret }

// New opens the inventory. now is the clock, which should never go back; see [Clock]. If the store is stale, such as an
// old copy, all permits are withdrawn.
func New(db store.Store, vault *Vault, now func() time.Time) (*Inventory, error) {
	inv := &Inventory{
		store: records{db},
		vault: vault,
		now:   now,
		notes: noteLimits{recorded: make(map[noteKey]noted)},
	}
	if err := inv.withdrawStale(); err != nil {
		return nil, err
	}

	rec, err := inv.store.Get(discoveredKey)
	switch {
	case errors.Is(err, ErrNotFound):
		return inv, nil
	case errors.As(err, new(*store.Damaged)): // machines will be discovered again
		return inv, inv.SetAside(discoveredKey, "the server")
	case err == nil:
		err = inv.seen.load(rec.Value)
	}
	if err != nil {
		return nil, fmt.Errorf("read discovered machines: %w", err)
	}
	return inv, nil
}

// Run saves discovered machines every five seconds and the time every minute, and both once more when ctx ends. At the
// start and then every hour, it destroys the records of forgotten hosts whose time has passed.
func (inv *Inventory) Run(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Second)
	minute := time.NewTicker(time.Minute)
	hour := time.NewTicker(time.Hour)
	defer tick.Stop()

	defer minute.Stop()

	defer hour.Stop()

	_ = inv.PurgeForgotten(inv.now()) // the error is dropped for the same reason as below
	for {
		select {
		case <-ctx.Done():
			return errors.Join(inv.saveSeen(), inv.saveClock())
		case <-minute.C:
			_ = inv.saveClock()
		case <-hour.C:
			_ = inv.PurgeForgotten(inv.now())
		case <-tick.C:
		}

		// A full disk must not end the server. Saving is tried again, and the error of the last attempt, when ctx ends, is
		// returned.
		_ = inv.saveSeen()
	}
}

// saveSeen saves the discovered machines if they changed.
func (inv *Inventory) saveSeen() error {
	data, err := inv.seen.save()
	if err == nil && data != nil {
		err = inv.store.Commit(nil, []store.Write{store.Put(discoveredKey, data)})
	}
	if err != nil {
		inv.seen.forget(nil) // marks them as changed again
		return fmt.Errorf("save discovered machines: %w", err)
	}
	return nil
}

// See records a machine that is not enrolled, and sets its times.
func (inv *Inventory) See(d Discovered) {
	d.First, d.Last = inv.now(), inv.now()
	inv.seen.see(d)
}

// Discovered lists the machines that asked and are not enrolled, the last seen first.
func (inv *Inventory) Discovered() []Discovered { return inv.seen.list() }

// Get returns a host, or ErrNotFound.
func (inv *Inventory) Get(name string) (Host, error) {
	h, _, err := inv.get(name)
	return h, err
}

// get returns a host and the version of its record.
func (inv *Inventory) get(name string) (h Host, version uint64, err error) {
	rec, err := inv.store.Get(hostKey(name))
	if err == nil {
		err = h.UnmarshalJSON(rec.Value) // json.Unmarshal would read the record once more
	}
	if err != nil {
		return Host{}, rec.Version, fmt.Errorf("host %s: %w", name, err)
	}
	return h, rec.Version, nil
}

// ByMAC returns the host of the machine with this MAC, or ErrNotFound.
func (inv *Inventory) ByMAC(mac string) (Host, error) { return inv.via(macKey(mac)) }

// ByToken returns the host that a boot token was made for, whether the boot is still valid or not, or ErrNotFound.
func (inv *Inventory) ByToken(token string) (Host, error) { return inv.via(tokenKey(token)) }

// via returns the host whose name is stored under an index key.
func (inv *Inventory) via(key string) (Host, error) {
	rec, err := inv.store.Get(key)
	if err != nil {
		return Host{}, err
	}
	return inv.Get(string(rec.Value))
}

// List returns all hosts, sorted by name. A host whose record is damaged is listed as failed and without a permit.
func (inv *Inventory) List() ([]Host, error) {
	recs, err := inv.store.List("host/", "")
	var damaged *store.Damaged
	if err != nil && !errors.As(err, &damaged) {
		return nil, err
	}

	all := make([]Host, len(recs))
	for i, rec := range recs {
		if err := json.Unmarshal(rec.Value, &all[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", rec.Key, err)
		}
	}

	if damaged != nil {
		for _, key := range damaged.Keys {
			all = append(all, unreadable(key))
		}
		slices.SortFunc(all, func(a, b Host) int { return cmp.Compare(a.Name, b.Name) })
	}

	return all, nil
}

// Watch sends the name of each host that changes, until ctx ends.
func (inv *Inventory) Watch(ctx context.Context) <-chan string {
	names := make(chan string)
	keys := inv.store.db.Watch(ctx, "host/")
	go func() {
		defer close(names)
		for key := range keys {
			select {
			case names <- strings.TrimPrefix(key, "host/"):
			case <-ctx.Done():
			}
		}
	}()
	return names
}

// Events returns the kept events of a host whose numbers are greater than after.
func (inv *Inventory) Events(name string, after uint64) ([]Event, error) {
	recs, err := inv.store.List("event/"+name+"/", eventKey(name, after))
	if err != nil && !errors.As(err, new(*store.Damaged)) { // the readable events are still useful
		return nil, err
	}
	events := make([]Event, len(recs))
	for i, rec := range recs {
		if err := json.Unmarshal(rec.Value, &events[i]); err != nil {
			return nil, fmt.Errorf("%s: %w", rec.Key, err)
		}
	}
	return events, nil
}

// Apply is the only way to change a host, apart from Set and Restore. It looks the event up in the table of
// transitions, and writes the host and the event in one transaction. The error is ErrRefused if the event may not
// follow the host's state.
func (inv *Inventory) Apply(name string, ev Event) (Host, error) {
	return inv.apply(name, ev, nil)
}

// Check returns the error with which Apply would refuse the event in the host's present state. It changes nothing.
func (inv *Inventory) Check(name string, ev Event) error {
	before, err := inv.Get(name)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	ev.Host, ev.Time = name, inv.now()
	_, err = next(before, ev)
	return err
}

// apply retries while others change the host. extra returns further writes, besides those of the event's row in the
// table. When there were too many events to record this one, it changes the host all the same.
func (inv *Inventory) apply(name string, ev Event, extra writeFunc) (Host, error) {
	ev.Stranger = ev.Stranger || transitions[ev.Kind].stranger
	if !inv.notes.allow(name, ev, inv.now()) {
		if ev.Kind == EventNote {
			return inv.Get(name)
		}
		ev.unrecorded = true
	}

	for {
		h, err := inv.try(name, ev, extra)
		if !errors.Is(err, store.ErrConflict) {
			return h, err
		}
	}
}

// try does one attempt of apply.
func (inv *Inventory) try(name string, ev Event, extra writeFunc) (Host, error) {
	before, version, err := inv.get(name)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return before, err
	}

	ev.Host = name
	ev.Time = inv.now()
	ev.Message = text.Short(ev.Message, MaxMessage)
	after, err := next(before, ev)
	if err != nil {
		return before, err
	}

	writes, err := inv.log(&after, ev)
	if err != nil {
		return before, err
	}

	expect, serial, err := inv.claimSerial(&before, &after)
	if err != nil {
		return before, err
	}

	expect, writes = append(expect, store.At(hostKey(name), version)), append(writes, serial...)
	for _, more := range []writeFunc{transitions[ev.Kind].beside, extra} {
		if more == nil {
			continue
		}
		e, w, err := more(inv, &before, &after, ev)
		if err != nil {
			return before, err
		}
		expect, writes = append(expect, e...), append(writes, w...)
	}

	if err := inv.store.Commit(expect, writes); err != nil {
		return before, err
	}

	return after, nil
}

// log numbers the event and returns the writes of the host and the event. EventAdvanced is kept in the host alone: it
// is frequent, and only the newest counts.
func (inv *Inventory) log(h *Host, ev Event) ([]store.Write, error) {
	var writes []store.Write
	if ev.Kind != EventAdvanced && !ev.unrecorded {
		var err error
		if writes, err = inv.makeRoom(h); err != nil {
			return nil, err
		}

		h.LastEvent++
		h.Events++
		ev.Number, ev.State = h.LastEvent, h.State
		data, err := json.Marshal(ev)
		if err != nil {
			return nil, err
		}

		writes = append(writes, store.Put(eventKey(h.Name, ev.Number), data))
	}

	// Tokens are forgotten completely except for the last four.
	for len(h.Tokens) > 4 {
		writes = append(writes, store.Delete(tokenKey(h.Tokens[0])))
		h.Tokens = h.Tokens[1:]
	}

	data, err := json.Marshal(h)
	return append(writes, store.Put(hostKey(h.Name), data)), err
}

// makeRoom returns the writes that drop old events of a host if there is no room for another one.
func (inv *Inventory) makeRoom(h *Host) (writes []store.Write, err error) {
	if h.Events == 0 { // written by a version that did not count them
		h.Events = int(min(h.LastEvent, MaxEvents))
	}
	if h.Events < MaxEvents {
		return nil, nil
	}
	all, err := inv.Events(h.Name, 0)
	if err != nil {
		return nil, err
	}
	for _, number := range expendable(all, eventsAtOnce) {
		writes = append(writes, store.Delete(eventKey(h.Name, number)))
	}
	h.Events = len(all) - len(writes)
	return writes, nil
}

// expendable returns the numbers of the n events to drop first: the oldest of those that strangers caused beyond their
// share, then the oldest of all.
func expendable(all []Event, n int) (numbers []uint64) {
	beyond := -strangersShare
	for _, ev := range all {
		if ev.Stranger {
			beyond++
		}
	}

	var rest []uint64
	for _, ev := range all {
		if ev.Stranger && beyond > 0 {
			beyond--
			numbers = append(numbers, ev.Number)
		} else {
			rest = append(rest, ev.Number)
		}
	}

	numbers = append(numbers, rest...)
	return numbers[:min(n, len(numbers))]
}

// noteLimits keeps notes, and events that strangers can cause, from flooding the log: at most ten of a kind in a
// minute, and the same note once in ten minutes. Those that strangers cause are counted separately.
type noteLimits struct {
	mu       sync.Mutex
	recorded map[noteKey]noted
}

// noteKey is what is counted together.
type noteKey struct {
	host     string
	kind     Kind
	stranger bool
}

// noted is what was recorded of a noteKey in the current minute.
type noted struct {
	last   map[string]time.Time // times of notes, by their text
	minute time.Time            // when the counted minute began
	count  int                  // how many were recorded in it
}

// allow reports whether an event is to be recorded, and counts it if so.
func (l *noteLimits) allow(host string, ev Event, now time.Time) bool {
	if ev.Kind != EventNote && !ev.Stranger {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()

	key := noteKey{host, ev.Kind, ev.Stranger}
	n := l.recorded[key]
	if now.Sub(n.minute) > time.Minute {
		n.minute, n.count = now, 0
		maps.DeleteFunc(n.last, func(_ string, t time.Time) bool { return now.Sub(t) > 10*time.Minute })
	}
	if _, again := n.last[ev.Message]; again || n.count >= 10 {
		return false
	}
	n.count++
	if ev.Kind == EventNote {
		if n.last == nil {
			n.last = make(map[string]time.Time)
		}
		n.last[ev.Message] = now
	}

	l.recorded[key] = n
	return true
}
