package nix

import (
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"provision/disko"
)

// keptAt is what a module such as impermanence keeps of a system that is new at each boot.
type keptAt struct {
	Root    string   `json:"root"` // where it is kept, below the path that it has in the system
	Files   []string `json:"files"`
	Folders []string `json:"folders"`
}

// DefaultHostKey is where sshd has its ed25519 key if nothing else is said.
const DefaultHostKey = "/etc/ssh/ssh_host_ed25519_key"

// HostKeyFiles are where the host's SSH key is to be written: where sshd looks for its ed25519 keys, or where these are
// kept. The layout may be nil.
func (c Config) HostKeyFiles(layout *disko.Layout) (files []string) {
	for _, name := range c.hostKeyPaths() {
		file, _ := c.Locate(name, layout)
		if !slices.Contains(files, file) {
			files = append(files, file)
		}
	}
	return files
}

// hostKeyPaths are the usual one, and those of sshd's ed25519 keys.
func (c Config) hostKeyPaths() []string {
	paths := []string{DefaultHostKey}
	for _, name := range c.Expected.HostKeys("ed25519") {
		if filepath.IsAbs(name) && filepath.Clean(name) == name && !slices.Contains(paths, name) {
			paths = append(paths, name)
		}
	}
	return paths
}

// Locate finds where a file is to be written, so that the running system finds it under its name. lost is the mount
// point that is new at each boot and takes the file with it; empty: it stays. The layout may be nil.
func (c Config) Locate(name string, layout *disko.Layout) (file, lost string) {
	mounts := c.mounts(layout)
	file = name
	for range 8 { // what is kept in one place may be mounted from another
		next := c.kept(file, mounts)
		if next == file {
			break
		}
		file = next
	}

	on := mountOf(file, mounts)
	if c.isNew(on) {
		lost = on.MountPoint
	}
	return file, lost
}

// mounts are those of the configuration, and those that only the layout has.
func (c Config) mounts(layout *disko.Layout) []disko.FileSystem {
	all := slices.Clone(c.Expected.FileSystems)
	if layout == nil {
		return all
	}
	for _, f := range layout.FileSystems() {
		same := func(o disko.FileSystem) bool { return path.Clean(o.MountPoint) == f.MountPoint }
		if !slices.ContainsFunc(all, same) {
			all = append(all, f)
		}
	}
	return all
}

// mountOf is the file system on which a file lies; zero if none is known.
func mountOf(file string, mounts []disko.FileSystem) (on disko.FileSystem) {
	for _, m := range mounts {
		if below(file, m.MountPoint) && len(path.Clean(m.MountPoint)) > len(on.MountPoint) {
			on = m
			on.MountPoint = path.Clean(m.MountPoint)
		}
	}
	return on
}

// below reports whether a path is in a folder, or the folder itself.
func below(name, dir string) bool {
	dir = path.Clean(dir)
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}

// kept is where a file lies instead of its own path: in what is mounted there from elsewhere, or in what keeps it.
func (c Config) kept(file string, mounts []disko.FileSystem) string {
	on := mountOf(file, mounts)
	if isBind(on) && filepath.IsAbs(on.Device) {
		return path.Join(on.Device, strings.TrimPrefix(file, on.MountPoint))
	}

	for _, k := range c.Expected.Kept {
		if !filepath.IsAbs(k.Root) || below(file, k.Root) {
			continue
		}
		in := func(dir string) bool { return filepath.IsAbs(dir) && below(file, dir) }
		if slices.Contains(k.Files, file) || slices.ContainsFunc(k.Folders, in) {
			return path.Join(k.Root, file)
		}
	}
	return file
}

// isBind reports whether a mount shows a folder that is elsewhere, too.
func isBind(m disko.FileSystem) bool {
	for _, option := range m.Options {
		for _, word := range strings.Split(option, ",") {
			if word == "bind" || word == "rbind" {
				return true
			}
		}
	}
	return false
}

// rollback matches what makes a root anew, in stage 1 or by a snapshot that a layout's hook takes for it.
var rollback = regexp.MustCompile(`(btrfs|bcachefs)(\s+-\S+)*\s+sub(v|vol|volume)?\s+(delete|del|snapshot|snap)\b` +
	`|zfs\s+rollback\b`)

// isNew reports whether a file system is empty, or as it was made, at each boot.
func (c Config) isNew(m disko.FileSystem) bool {
	switch m.Type {
	case "tmpfs", "ramfs":
		return true
	case "btrfs", "bcachefs", "zfs", "auto", "":
		rolledBack := rollback.Match(c.Devices) || slices.ContainsFunc(c.Expected.Stage1.Scripts, rollback.MatchString)
		return m.MountPoint == "/" && rolledBack
	}
	return false
}
