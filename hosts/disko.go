package hosts

import (
	"cmp"
	"fmt"
	"slices"
)

// DiskoMode says what is done with a host's disks.
type DiskoMode string

// The modes: those of disko.Mode, and the flake's own script.
const (
	Fresh  DiskoMode = "fresh"  // erased, and everything created
	Format DiskoMode = "format" // what is missing is created, nothing is erased
	Mount  DiskoMode = "mount"  // nothing is created
	Script DiskoMode = "script" // erased, and everything created, by config.system.build.diskoScript
)

// Words returns all modes, for error messages and completion.
func (d *DiskoMode) Words() []string { return stringsOf(Fresh, Format, Mount, Script) }

// UnmarshalText reads a mode; the empty text means [Fresh].
func (d *DiskoMode) UnmarshalText(text []byte) error {
	return choose(d, "--disko", "a way to make disks", text, d.Words())
}

// MarshalText implements [encoding.TextMarshaler].
func (d DiskoMode) MarshalText() ([]byte, error) { return []byte(cmp.Or(d, Fresh)), nil }

// choose sets to from the text of an option, which must be one of all, or empty. what names the kind of value in the
// error.
func choose[T ~string](to *T, option, what string, text []byte, all []string) error {
	word := string(text)
	if word != "" && !slices.Contains(all, word) {
		return fmt.Errorf("%s %s: not %s; choose one of %v", option, word, what, all)
	}
	*to = T(word)
	return nil
}

// stringsOf returns the values as plain strings.
func stringsOf[T ~string](all ...T) (list []string) {
	for _, w := range all {
		list = append(list, string(w))
	}
	return list
}

// Preset is the name of a disk layout in disko.Presets; empty: the flake's own layout.
type Preset string

// noPreset is the word for the flake's own layout.
const noPreset = "none"

// UnmarshalText reads a name; "none" means the flake's own layout. Names are not checked here.
func (p *Preset) UnmarshalText(text []byte) error {
	*p = Preset(text)
	if *p == noPreset {
		*p = ""
	}
	return nil
}

// MarshalText implements [encoding.TextMarshaler].
func (p Preset) MarshalText() ([]byte, error) { return []byte(cmp.Or(p, noPreset)), nil }

// Erases reports whether the data on the disks is lost.
func (d DiskoMode) Erases() bool { return d != Format && d != Mount }
