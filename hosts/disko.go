package hosts

import (
	"cmp"
	"fmt"
	"slices"
)

// DiskoMode is how a host's disks are made.
type DiskoMode string

// The ways of disko.Way, and the flake's own script.
const (
	Fresh  DiskoMode = "fresh"  // erased, and all made
	Format DiskoMode = "format" // what is missing is made, nothing is erased
	Mount  DiskoMode = "mount"  // nothing is made
	Script DiskoMode = "script" // erased, and all made, by config.system.build.diskoScript
)

// Words are all ways.
func (d *DiskoMode) Words() []string { return stringsOf(Fresh, Format, Mount, Script) }

// UnmarshalText reads a way; empty is [Fresh].
func (d *DiskoMode) UnmarshalText(text []byte) error {
	return choose(d, "--disko", "a way to make disks", text, d.Words())
}

// MarshalText implements [encoding.TextMarshaler].
func (d DiskoMode) MarshalText() ([]byte, error) { return []byte(cmp.Or(d, Fresh)), nil }

// choose reads the value of an option that is one of all, or nothing.
func choose[T ~string](to *T, option, what string, text []byte, all []string) error {
	word := string(text)
	if word != "" && !slices.Contains(all, word) {
		return fmt.Errorf("%s %s: not %s; choose one of %v", option, word, what, all)
	}
	*to = T(word)
	return nil
}

func stringsOf[T ~string](all ...T) (list []string) {
	for _, w := range all {
		list = append(list, string(w))
	}
	return list
}

// Preset is a disk layout by its name in disko.Presets; empty: the layout that the flake has.
type Preset string

// noPreset is said in the place of a name for the layout that the flake has.
const noPreset = "none"

// UnmarshalText reads a name, or none.
func (p *Preset) UnmarshalText(text []byte) error {
	*p = Preset(text)
	if *p == noPreset {
		*p = ""
	}
	return nil
}

// MarshalText implements [encoding.TextMarshaler].
func (p Preset) MarshalText() ([]byte, error) { return []byte(cmp.Or(p, noPreset)), nil }

// Erases tells whether what is on the disks is lost.
func (d DiskoMode) Erases() bool { return d != Format && d != Mount }
