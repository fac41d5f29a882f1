package hosts

import (
	"errors"
	"fmt"
)

// A Raspberry Pi asks for its files in a folder that is called after its serial
// number. That of the machine that boots is its host's until another host's
// machine tells it, which is refused while the first is enrolled.

func serialKey(serial string) string { return "serial/" + serial }

// BySerial returns the host whose machine told this serial number last, or
// ErrNotFound.
func (inv *Inventory) BySerial(serial string) (Host, error) { return inv.via(serialKey(serial)) }

// claimSerial moves the index from the host as it was to as it will be. The
// error is ErrRefused if the serial number is another host's, and names both.
func (inv *Inventory) claimSerial(before, after *Host) (expect []Version, writes []Write, err error) {
	if before.Serial == after.Serial {
		return nil, nil, nil
	}
	if before.Serial != "" {
		writes = append(writes, Write{serialKey(before.Serial), nil})
	}
	if after.Serial == "" {
		return nil, writes, nil
	}
	rec, err := inv.store.Get(serialKey(after.Serial))
	switch {
	case err == nil && string(rec.Value) != after.Name:
		return nil, nil, SerialClash{after.Serial, string(rec.Value), after.Name}
	case err != nil && !errors.Is(err, ErrNotFound):
		return nil, nil, err
	}
	expect = append(expect, Version{serialKey(after.Serial), rec.Version})
	return expect, append(writes, Write{serialKey(after.Serial), []byte(after.Name)}), nil
}

// SerialClash is that two hosts' machines tell the same serial number. It is an
// ErrRefused.
type SerialClash struct {
	Serial   string
	Has, Too string // names of hosts
}

func (e SerialClash) Error() string {
	return fmt.Sprintf("the Raspberry Pi of %s tells the serial number %s, which that of %s told: %v; if the board is %s's now, run `provision set %s --serial=`",
		e.Too, e.Serial, e.Has, ErrRefused, e.Too, e.Has)
}

// Unwrap makes it an ErrRefused.
func (e SerialClash) Unwrap() error { return ErrRefused }

// NameBoard keeps what a machine tells of itself only after its boot began: as
// the bootcode.bin of a Raspberry Pi 3B, whose ROM tells nothing. The boot of b
// must be the one under way.
func (inv *Inventory) NameBoard(name string, b Boot) (Host, error) {
	h, err := inv.Get(name)
	if err != nil {
		return h, err
	}
	ev := Event{Kind: Fetched, Boot: &b, Address: h.Address, Message: fmt.Sprintf("it is the Raspberry Pi with the serial number %s", b.Serial)}
	return inv.apply(name, ev, func(before, after *Host) ([]Version, []Write, error) { return inv.claimSerial(before, after) })
}
