package installer

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"provision/disko"
	"provision/hosts"
)

// missing says which files of boot.initrd.secrets nothing brings. NixOS copies them into the initrd when the bootloader
// is installed, and fails there without them, when the disks are erased.
func (c Config) missing(host string, o hosts.Choices, layout *disko.Layout) (told []string) {
	if o.Disko != "" && !o.Disko.Erases() { // the disks may hold it
		return nil
	}
	for _, file := range c.Expected.Stage1.Secrets {
		if file = filepath.Clean(file); !filepath.IsAbs(file) || c.brings(file, o, layout) {
			continue
		}
		told = append(told, fmt.Sprintf("boot.initrd.secrets of %s takes %s when the bootloader is installed, and nothing brings it, "+
			"so that the install will fail there: give it with --secret %s=FILE, or in the folder of --extra-files", host, file, file))
	}
	return told
}

// brings reports whether a file will be on the new system, or whether that cannot be told.
func (c Config) brings(file string, o hosts.Choices, layout *disko.Layout) bool {
	for _, made := range []string{"/nix/store/", "/run/", "/dev/", "/proc/", "/sys/"} {
		if strings.HasPrefix(file, made) {
			return true
		}
	}
	if slices.Contains(c.hostKeyFiles(layout), file) || bytes.Contains(c.Devices, []byte(file)) { // a hook of the layout
		return true
	}
	for _, secret := range o.Secrets {
		at, _ := c.place(secret.Path, layout)
		if at == file || strings.HasPrefix(at, file+"/") {
			return true
		}
	}
	if o.ExtraFiles == "" {
		return false
	}
	_, err := os.Lstat(filepath.Join(o.ExtraFiles, file))
	return err == nil
}
