package hosts

import (
	"fmt"
	"slices"
	"strings"
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

// Diskos are all of them, the first being what is done if nothing is said.
var diskos = []string{string(Fresh), string(Format), string(Mount), string(Script)}

// ParseDisko reads a way; empty is [Fresh].
func ParseDisko(s string) (Disko, error) {
	if s == "" {
		return Fresh, nil
	}
	if !slices.Contains(diskos, s) {
		return "", fmt.Errorf("--disko %s: not a way to make disks; choose one of %s", s, strings.Join(diskos, ", "))
	}
	return Disko(s), nil
}

// Erases tells whether what is on the disks is lost.
func (d Disko) Erases() bool { return d != Format && d != Mount }
