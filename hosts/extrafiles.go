package hosts

import (
	"fmt"
	"io/fs"
	"path/filepath"
)

// CheckExtraFiles returns an error if the folder holds files that cannot be copied to another machine: sockets, which
// tar does not support, pipes, and devices, which are not regular files there. It is better to learn that now than when
// the disks are erased.
func CheckExtraFiles(dir string) error {
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("extra files %s: write an absolute path", dir)
	}
	top, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("extra files: %w", err)
	}

	err = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		kind := ""
		switch d.Type() {
		case 0, fs.ModeDir, fs.ModeSymlink:
		case fs.ModeSocket:
			kind = "a socket"
		case fs.ModeNamedPipe:
			kind = "a pipe"
		default:
			kind = "a device"
		}

		switch {
		case path == top && !d.IsDir():
			return fmt.Errorf("%s is not a folder", path)
		case kind != "":
			return fmt.Errorf("%s is %s, which cannot be copied: take it out of the folder", path, kind)
		}

		return nil
	})
	if err != nil {
		return fmt.Errorf("extra files: %w", err)
	}

	return nil
}
