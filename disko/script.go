package disko

import "strings"

// script returns the step that runs disko's own script, which erases the disks, makes everything and mounts it.
func (p *Plan) script(path string) []Step {
	var loses []string
	for i, d := range p.Disks {
		if p.takes[i].body.(*wholeDisk).destroy {
			loses = append(loses, d.loses())
		}
	}

	return []Step{{
		Stage:    StageDestroy,
		Name:     "run disko's own script",
		Argv:     []string{path},
		Device:   p.Disks[0].Device,
		Destroys: strings.Join(loses, "; "),
	}}
}

// checkHooks records an error for hooks that use programs in /nix/store, which the installer does not have.
func (r *reader) checkHooks(steps []Step) {
	for _, s := range steps {
		if s.Hook != "" && strings.Contains(s.Argv[3], "/nix/store/") { // Argv is bash -efu -c SCRIPT …
			r.errorf(s.Hook, "names a path in /nix/store, which nothing copies to the installer; use commands that "+
				"the installer has, or let disko's own script make the disks (--disko script)")
		}
	}
}
