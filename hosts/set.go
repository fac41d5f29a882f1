package hosts

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"provision/internal/store"
)

// Change is what the operator changes of a host without a decision to erase anything.
type Change struct {
	// MACs replace the host's; or all of them begin with a sign, and are added (+) or removed (-). None: the MACs stay.
	MACs []string
	// Serial is that of the Raspberry Pi; empty: the next one that boots is bound; nil: it stays.
	Serial *string
	// Choices replace those choices of the host that are in Named, by their names in requests.
	Choices Choices
	Named   []string
}

// Alteration is what Set did: the host as it is now, what changed, and what the operator should know. The texts are for
// people.
type Alteration struct {
	Host  Host
	What  []string
	Notes []string
}

// Set changes a host. While the host has a permit, its MACs, image, board and serial number cannot change, as a permit
// is for one machine. A MAC of another host moves from there in the same transaction, unless that host has a permit. by
// says who asks for it, for people.
func (inv *Inventory) Set(name string, c Change, by string) (done Alteration, err error) {
	err = retryConflicts(func() error {
		done, err = inv.set(name, c, by)
		return err
	})
	if err == nil && len(c.MACs) > 0 {
		inv.seen.forget(done.Host.MACs)
	}
	return done, err
}

// set does one attempt of Set.
func (inv *Inventory) set(name string, c Change, by string) (Alteration, error) {
	before, version, err := inv.get(name)
	if err != nil {
		return Alteration{}, err
	}

	ev := Event{Host: name, Time: inv.now(), Kind: EventChanged, Change: &c}
	after, err := next(before, ev)
	if err != nil {
		return Alteration{Host: before}, err
	}

	if err := after.Check(); err != nil {
		return Alteration{Host: before}, err
	}

	done := Alteration{Host: after, What: differences(before, after)}
	if len(done.What) == 0 {
		return done, nil
	}
	expect, writes, notes, err := inv.moveMACs(before, after, by)
	if err != nil {
		return done, err
	}

	done.Notes = notes
	e, serial, err := inv.claimSerial(&before, &after)
	if err != nil {
		return done, err
	}

	ev.Message = by + " changed it: " + strings.Join(done.What, "; ")
	logged, err := inv.log(&after, ev)
	if err != nil {
		return done, err
	}

	done.Host = after
	expect = append(append(expect, e...), store.At(hostKey(name), version))
	return done, inv.store.Commit(expect, slices.Concat(writes, serial, logged))
}

// set applies a change to the host itself.
func set(h *Host, ev Event) error {
	old, c := *h, ev.Change
	macs, err := chosenMACs(*h, c.MACs)
	if err != nil {
		return err
	}

	if !slices.Equal(macs, old.MACs) {
		h.MACs = macs
		if !slices.ContainsFunc(macs, func(m string) bool { return slices.Contains(old.MACs, m) }) {
			h.otherMachine()
		}
	}

	h.Take(c.Choices, c.Named)
	if c.Serial != nil {
		h.Serial = *c.Serial
	}
	if h.Serial != "" && !boardSerial.MatchString(h.Serial) {
		return fmt.Errorf("serial number %q: write 8 hexadecimal digits in lower case, as the Raspberry Pi tells "+
			"it, or nothing",
			h.Serial)
	}
	machine := !slices.Equal(macs, old.MACs) || h.Image != old.Image || h.Board != old.Board || h.Serial != old.Serial
	if machine && h.Permit.Live(ev.Time) {
		return permitted(h.Name)
	}
	return nil
}

// boardSerial matches the serial number of a Raspberry Pi.
var boardSerial = regexp.MustCompile(`^[0-9a-f]{8}$`)

// permitted returns the error for a change of the machine of a host that has a permit.
func permitted(name string) error {
	return fmt.Errorf("%s has a permit, which is for the machine and the image that it was given for: %w; run "+
		"`provision cancel %s` first",
		name, ErrRefused, name)
}

// otherMachine drops what is known of the host's machine. On another machine, a name such as /dev/vda is another disk.
// The installed system stays known, as it is recognised by its key.
func (h *Host) otherMachine() {
	h.Boot = Boot{}
	h.Method = Method{}
	h.Machine = ""
	h.Serial = ""
	h.Owned = namedDisks(h.Owned)
}

// namedDisks returns the disks that can be recognised in any machine.
func namedDisks(disks []Disk) []Disk {
	return slices.DeleteFunc(slices.Clone(disks), func(d Disk) bool { return !d.claimable() })
}

// chosenMACs returns the host's MACs after a change, sorted.
func chosenMACs(h Host, args []string) ([]string, error) {
	if len(args) == 0 {
		return h.MACs, nil
	}
	var macs []string
	signed := strings.ContainsAny(args[0][:min(1, len(args[0]))], "+-")
	if signed {
		macs = slices.Clone(h.MACs)
	}
	for _, word := range args {
		sign := ""
		if word != "" && (word[0] == '+' || word[0] == '-') {
			sign = word[:1]
		}
		if (sign != "") != signed {
			return nil, errors.New("--mac: write + or - before each MAC, to add it or to take it away, or before none")
		}
		mac, err := ParseMAC(word[len(sign):])
		if err != nil {
			return nil, err
		}

		at := slices.Index(macs, mac)
		switch {
		case sign == "-" && at < 0:
			return nil, fmt.Errorf("--mac -%s: %s has no such MAC; it has %s", mac, h.Name, strings.Join(h.MACs, ", "))
		case sign == "-":
			macs = slices.Delete(macs, at, at+1)
		case at < 0:
			macs = append(macs, mac)
		}
	}

	slices.Sort(macs)
	return macs, nil
}

// moveMACs returns the writes that make the MACs lead to the host as it will be, and to no other. The logs of the hosts
// that lose MACs record that.
func (inv *Inventory) moveMACs(before, after Host, by string) (expect []store.Version, writes []store.Write,
	notes []string, err error) {
	for _, mac := range before.MACs {
		if !slices.Contains(after.MACs, mac) {
			writes = append(writes, store.Delete(macKey(mac)))
		}
	}

	if len(before.MACs) > 0 && len(after.MACs) == 0 {
		notes = append(notes, noMAC(after.Name))
	}
	losers := map[string][]string{} // the MACs that each host loses, by its name
	for _, mac := range after.MACs {
		if slices.Contains(before.MACs, mac) {
			continue
		}
		rec, err := inv.store.Get(macKey(mac))
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, nil, nil, err
		}
		if err == nil {
			losers[string(rec.Value)] = append(losers[string(rec.Value)], mac)
		}

		expect = append(expect, store.At(macKey(mac), rec.Version))
		writes = append(writes, store.Put(macKey(mac), []byte(after.Name)))
	}

	for loser, macs := range losers {
		e, w, n, err := inv.loseMACs(loser, macs, after.Name, by)
		if err != nil {
			return nil, nil, nil, err
		}
		expect = append(expect, e...)
		writes = append(writes, w...)
		notes = append(notes, n...)
	}

	slices.Sort(notes)
	return expect, writes, notes, nil
}

// loseMACs returns the writes that take MACs from a host that has no permit.
func (inv *Inventory) loseMACs(name string, macs []string,
	to, by string) ([]store.Version, []store.Write, []string, error) {
	before, version, err := inv.get(name)
	if err != nil {
		return nil, nil, nil, err
	}

	var signedMACs []string
	for _, mac := range macs {
		signedMACs = append(signedMACs, "-"+mac)
	}
	ev := Event{Host: name, Time: inv.now(), Kind: EventChanged, Change: &Change{MACs: signedMACs},
		Message: fmt.Sprintf("%s moved its MAC %s to %s", by, strings.Join(macs, ", "), to)}
	h, err := next(before, ev)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("take MAC %s from %s: %w", strings.Join(macs, ", "), name, err)
	}

	notes := []string{fmt.Sprintf("MAC %s was %s's", strings.Join(macs, ", "), name)}
	if len(h.MACs) == 0 {
		notes = append(notes, noMAC(name))
	}
	writes, err := inv.log(&h, ev)
	if err != nil {
		return nil, nil, nil, err
	}

	expect, serial, err := inv.claimSerial(&before, &h)
	return append(expect, store.At(hostKey(name), version)), append(writes, serial...), notes, err
}

// noMAC tells people that a host has no MAC.
func noMAC(name string) string {
	return fmt.Sprintf("%s has no MAC now: it cannot be installed before `provision set %s --mac MAC` gives it one", name, name)
}

// differences says, for people, what changed, such as "image a → b".
func differences(before, after Host) []string {
	var all []string
	differ := func(what, old, new string) {
		if old != new {
			all = append(all, fmt.Sprintf("%s %s → %s", what, orNone(old), orNone(new)))
		}
	}
	differ("MAC", strings.Join(before.MACs, ", "), strings.Join(after.MACs, ", "))
	differ("serial number", before.Serial, after.Serial)
	for _, ch := range AllChoices() {
		if ch.Set != "" {
			differ(ch.Set, ch.describe(before.Choices), ch.describe(after.Choices))
		}
	}

	return all
}

// orNone returns s, or "none" if it is empty.
func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
