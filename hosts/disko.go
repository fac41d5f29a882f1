package hosts

import (
	"fmt"
	"slices"
)

// Disko is how a host's disks are made.
type Disko string

// The ways of disko.Way, and the flake's own script.
const (
	Fresh  Disko = "fresh"  // erased, and all made
	Format Disko = "format" // what is missing is made, nothing is erased
	Mount  Disko = "mount"  // nothing is made
	Script Disko = "script" // erased, and all made, by config.system.build.diskoScript
)

// NoLayout is said in the place of a preset's name for the layout that the flake has.
const NoLayout = "none"

// ParseDisko reads a way; empty is [Fresh].
func ParseDisko(s string) (Disko, error) {
	return choose("--disko", "a way to make disks", s, Fresh, Fresh, Format, Mount, Script)
}

// choose reads the value of an option that is one of all; empty is otherwise.
func choose[T ~string](option, what, s string, otherwise T, all ...T) (T, error) {
	if s == "" {
		return otherwise, nil
	}
	if !slices.Contains(all, T(s)) {
		return "", fmt.Errorf("%s %s: not %s; choose one of %v", option, s, what, all)
	}
	return T(s), nil
}

// Erases tells whether what is on the disks is lost.
func (d Disko) Erases() bool { return d != Format && d != Mount }
