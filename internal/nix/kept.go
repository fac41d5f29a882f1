package nix

import (
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"provision/disko"
)

// keptAt is what a module such as impermanence keeps of a system whose root is new at each boot.
type keptAt struct {
	Root    string   `json:"root"` // where it is kept, under the path that it has in the system
	Files   []string `json:"files"`
	Folders []string `json:"folders"`
}

// DefaultHostKey is where sshd has its ed25519 key by default.
const DefaultHostKey = "/etc/ssh/ssh_host_ed25519_key"

// HostKeyFiles returns the paths to which the host's SSH key has to be written: where sshd looks for its ed25519 keys
// or, if these are kept elsewhere, there. layout may be nil.
func (c Config) HostKeyFiles(layout *disko.Layout) (files []string) {
	for _, name := range c.hostKeyPaths() {
		file, _ := c.Locate(name, layout)
		if !slices.Contains(files, file) {
			files = append(files, file)
		}
	}
	return files
}

// hostKeyPaths returns the default path and those of sshd's ed25519 keys.
func (c Config) hostKeyPaths() []string {
	paths := []string{DefaultHostKey}
	for _, name := range c.Expected.HostKeys("ed25519") {
		if filepath.IsAbs(name) && filepath.Clean(name) == name && !slices.Contains(paths, name) {
			paths = append(paths, name)
		}
	}
	return paths
}

// Locate returns the path to which a file has to be written so that the running system finds it under the given name.
// lost is the mount point of the file system that holds it, if that is new at each boot, so that the file is lost;
// empty: it persists. layout may be nil.
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

// mounts returns the file systems of the configuration, and those that only the layout has.
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

// mountOf returns the file system that a file is on; zero if none is known.
func mountOf(file string, mounts []disko.FileSystem) (on disko.FileSystem) {
	for _, m := range mounts {
		if below(file, m.MountPoint) && len(path.Clean(m.MountPoint)) > len(on.MountPoint) {
			on = m
			on.MountPoint = path.Clean(m.MountPoint)
		}
	}
	return on
}

// below reports whether a path is in a folder, or is the folder itself.
func below(name, dir string) bool {
	dir = path.Clean(dir)
	return name == dir || strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/")
}

// kept returns the path where a file really is: on the source of a bind mount, or in the folder where it is kept. It
// returns the file's own path if neither applies.
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

// isBind reports whether a mount is a bind mount, which shows a folder from elsewhere.
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

// rollback matches commands that reset the root at boot, in stage 1, or that make the snapshot for that, in a hook of
// the layout.
var rollback = regexp.MustCompile(`(btrfs|bcachefs)(\s+-\S+)*\s+sub(v|vol|volume)?\s+(delete|del|snapshot|snap)\b` +
	`|zfs\s+rollback\b`)

// isNew reports whether a file system is empty, or reset, at each boot.
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
