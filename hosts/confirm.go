package hosts

import (
	"fmt"
	"slices"
	"strings"
)

// Confirmed is what an operator agreed to when a permit was given, or when a failed install
// was let go on: the disks that the install takes, and which of them are erased. The permit
// is not burned for a plan that goes beyond it.
//
// Of a machine that was seen, it names the disks themselves. Of one that never was, nobody
// could know them: then it names them as the layout or --disk do, and whatever disk has that
// name when the machine comes is the one that was meant. What speaks against taking it
// (Windows, another host's claim) stops the install in both cases.
//
// Of a disk that is erased all is lost, also what came onto it after the confirmation.
type Confirmed struct {
	Digest string  `json:"digest"`
	Disks  []Taken `json:"disks"`
}

// Taken is a disk that an install takes. Its size is 0 if the machine was not seen; its device
// is then the same as Named.
type Taken struct {
	Disk
	Name   string `json:"name"`             // in the layout
	Named  string `json:"named"`            // what the layout or --disk calls the disk: a path, serial:SERIAL, largest
	Erased bool   `json:"erased,omitempty"` // all that is on it goes
}

// String names the disk for people, and what is done with it.
func (t Taken) String() string {
	about := []string{"size not known"}
	if t.Size > 0 {
		about[0] = fmt.Sprintf("%.1f GB", float64(t.Size)/1e9)
	}
	if t.Model != "" {
		about = append(about, t.Model)
	}
	if t.Serial != "" {
		about = append(about, "serial "+t.Serial)
	}
	text := fmt.Sprintf("%s (%s)", t.Device, strings.Join(about, ", "))
	if !t.Erased {
		text += ", which is not erased"
	}
	return text
}

// Beyond says how an install that takes these disks goes beyond what was confirmed, a sentence
// each; none if it does not.
func (c Confirmed) Beyond(takes []Taken) (why []string) {
	for _, t := range takes {
		if slices.ContainsFunc(c.Disks, func(d Taken) bool { return d.covers(t) }) {
			continue
		}
		was := "no disk"
		if i := slices.IndexFunc(c.Disks, func(d Taken) bool { return d.Name == t.Name }); i >= 0 {
			was = c.Disks[i].String()
		}
		why = append(why, fmt.Sprintf("for %s it takes %s; confirmed was %s", t.Name, t, was))
	}
	return why
}

// covers tells whether somebody who confirmed d confirmed taking t.
func (d Taken) covers(t Taken) bool {
	if t.Erased && !d.Erased {
		return false
	}
	if d.Size == 0 {
		return d.Named == t.Named
	}
	return d.confirms(t.Disk)
}

// confirms reports whether o is the disk that was confirmed as d. The two may have been seen by
// different systems: a running one, and the installer. These do not always tell the same of a
// disk (an older kernel has no WWN, a system without udev cuts the model short), so what only
// one of them tells is not compared. Where nothing that tells disks apart is common to both, the
// device's name has to be the same.
func (d Disk) confirms(o Disk) bool {
	if d.Size != o.Size || !sameModel(d.Model, o.Model) {
		return false
	}
	known := false
	if d.name() != "" && o.name() != "" {
		if d.name() != o.name() {
			return false
		}
		known = true
	}

	if d.Serial != "" && o.Serial != "" {
		if d.Serial != o.Serial {
			return false
		}
		known = known || tells(d.Serial) && !d.Vague && !o.Vague
	}

	return known && d.Twins == 0 && o.Twins == 0 || d.Device == o.Device
}

// Known tells whether the disk says enough of itself to be told from others, whatever its
// device is called.
func (d Disk) Known() bool { return d.claimable() }

// sameModel compares models as two systems spell them: udev writes blanks as underscores, and
// SCSI's short answer has 16 characters.
func sameModel(a, b string) bool {
	a = strings.TrimSpace(strings.ReplaceAll(a, "_", " "))
	b = strings.TrimSpace(strings.ReplaceAll(b, "_", " "))
	return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
}

// CheckConfirmed refuses an install that would go beyond what was confirmed. Permits that were
// given before there were confirmations refuse nothing.
func (h *Host) CheckConfirmed(takes []Taken) error {
	c := h.Permit.Confirmed
	if c == nil {
		return nil
	}
	beyond := c.Beyond(takes)
	if len(beyond) == 0 {
		return nil
	}
	message := "the install would go beyond what was confirmed: " + strings.Join(beyond, "; ")
	if h.Permit.Burned.IsZero() {
		message = "nothing was changed. " + message
	}
	return fmt.Errorf("%s: %w. If that is meant, see the plan and confirm it with `provision retry %s`; "+
		"if not, run `provision cancel %s`, and mend the layout or choose the disk with --disk",
		message, ErrRefused, h.Name, h.Name)
}
