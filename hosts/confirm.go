package hosts

import (
	"fmt"
	"slices"
	"strings"
)

// Confirmed is what an operator agreed to when a permit was given, or when a failed install was retried: the disks that
// the install takes, and which of them are erased. The permit is not burned for a plan that goes beyond it.
//
// If the machine had been seen, Confirmed names the disks themselves. If it had not, nobody could know them: then
// Confirmed names them as the layout or --disk does, and whatever disk has that name when the machine boots is the one
// that was meant. In both cases, the install stops at a disk that must not be taken without --wipe (Windows, another
// host's claim).
//
// Everything on an erased disk is lost, including what was written to it after the confirmation.
type Confirmed struct {
	Digest string  `json:"digest"`
	Disks  []Taken `json:"disks"`
}

// Taken is a disk that an install takes. If the machine was not seen, Size is 0 and Device is the same as Named.
type Taken struct {
	Disk
	Name   string `json:"name"`             // of the disk in the layout
	Named  string `json:"named"`            // what the layout or --disk calls the disk: a path, serial:SERIAL, largest
	Erased bool   `json:"erased,omitempty"` // everything on it is lost
}

// String names the disk for people, and says if it is not erased.
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

// Beyond says how an install that takes these disks goes beyond what was confirmed, one sentence for each disk. It
// returns none if the install does not.
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

// covers reports whether a confirmation of d includes taking t.
func (d Taken) covers(t Taken) bool {
	if t.Erased && !d.Erased {
		return false
	}
	if d.Size == 0 {
		return d.Named == t.Named
	}
	return d.confirms(t.Disk)
}

// confirms reports whether o is the disk that was confirmed as d. The two may have been seen by different systems, the
// running one and the installer, and these do not always report the same about a disk: an older kernel has no WWN, a
// system without udev truncates the model. So a property that only one of them reports is not compared. If no unique
// property is known to both, the device names have to be equal.
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

// Known reports whether the disk's properties tell it from all others, whatever its device is called.
func (d Disk) Known() bool { return d.claimable() }

// sameModel compares models as two systems spell them: udev writes spaces as underscores, and the SCSI INQUIRY response
// truncates the model to 16 characters.
func sameModel(a, b string) bool {
	a = strings.TrimSpace(strings.ReplaceAll(a, "_", " "))
	b = strings.TrimSpace(strings.ReplaceAll(b, "_", " "))
	return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
}

// CheckConfirmed returns an error if an install that takes these disks would go beyond what was confirmed. Permits of
// versions without confirmations allow every plan.
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
