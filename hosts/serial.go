package hosts

import (
	"cmp"
	"errors"
	"fmt"

	"provision/internal/store"
)

// A Raspberry Pi asks for its files in a folder that is named after its serial number. An index leads from serial
// numbers to hosts. A host gets its entry as soon as its machine tells a number when it asks for a boot, but loses it
// to another host whose machine tells the same number. Once the number is bound to a host (Host.bind), it is refused to
// others as long as the host is enrolled.

// serialKey is the store key that leads from a serial number to a host.
func serialKey(serial string) string { return "serial/" + serial }

// BySerial returns the host whose machine told this serial number last, or ErrNotFound.
func (inv *Inventory) BySerial(serial string) (Host, error) { return inv.via(serialKey(serial)) }

// leadsBySerial returns the serial number by which the host is found; "" if there is none.
func (h *Host) leadsBySerial() string { return cmp.Or(h.Serial, h.Boot.Serial) }

// claimSerial moves the serial number index from the host as it was to the host as it will be. The error is a
// [SerialClash] if the serial number is bound to another host.
func (inv *Inventory) claimSerial(before, after *Host) (expect []store.Version, writes []store.Write, err error) {
	had, has := before.leadsBySerial(), after.leadsBySerial()
	if had == has && before.Serial == after.Serial && before.Boot.Token == after.Boot.Token {
		return nil, nil, nil
	}
	if had != has {
		if expect, writes, err = inv.dropSerial(before); err != nil {
			return nil, nil, err
		}
	}

	if has == "" {
		return expect, writes, nil
	}
	rec, err := inv.store.Get(serialKey(has))
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, nil, err
	}

	if owner := string(rec.Value); owner != "" && owner != after.Name {
		other, err := inv.Get(owner)
		switch {
		case err == nil && other.Serial == has:
			return nil, nil, SerialClash{has, owner, after.Name}
		case err != nil && !errors.Is(err, ErrNotFound):
			return nil, nil, err
		}
	}

	expect = append(expect, store.At(serialKey(has), rec.Version))
	return expect, append(writes, store.Put(serialKey(has), []byte(after.Name))), nil
}

// dropSerial returns the write that removes the index entry of the host's serial number, if that leads to this host.
func (inv *Inventory) dropSerial(h *Host) ([]store.Version, []store.Write, error) {
	key := serialKey(h.leadsBySerial())
	rec, err := inv.store.Get(key)
	if errors.Is(err, ErrNotFound) || err == nil && string(rec.Value) != h.Name {
		return nil, nil, nil
	}
	return []store.Version{store.At(key, rec.Version)}, []store.Write{store.Delete(key)}, err
}

// SerialClash is the error for two hosts whose machines tell the same serial number. It wraps ErrRefused.
type SerialClash struct {
	Serial   string
	Has, Too string // names of the host that has it and the one that wants it
}

// Error says how to give the board to the other host.
func (e SerialClash) Error() string {
	return fmt.Sprintf("the Raspberry Pi of %s tells the serial number %s, which that of %s told: %v; if the board "+
		"is %s's now, run `provision set %s --serial=`",
		e.Too, e.Serial, e.Has, ErrRefused, e.Too, e.Has)
}

// Unwrap returns ErrRefused.
func (e SerialClash) Unwrap() error { return ErrRefused }

// NameBoard records a serial number that a machine tells only after its boot began, as the bootcode.bin of a Raspberry
// Pi 3B does, whose ROM tells none. If another number was told before, it is unknown whose boot it is, and the boot
// binds the host to neither. b must be the current boot.
func (inv *Inventory) NameBoard(name string, b Boot, serial string) (Host, error) {
	h, err := inv.Get(name)
	if err != nil {
		return h, err
	}
	ev := Event{Kind: EventFetched, Boot: &b, Address: h.Address}
	if b.Serial == "" {
		b.Serial = serial
		ev.Message = "it is the Raspberry Pi with the serial number " + serial
	} else {
		b.Several, ev.Stranger = true, true
		ev.Message = fmt.Sprintf("Raspberry Pis with two serial numbers, %s and %s, asked for one boot with the "+
			"same MAC; "+
			"if there is one only, somebody forges packets", b.Serial, serial)
	}

	return inv.Apply(name, ev)
}
