package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"provision/internal/boards"
)

// firmwareExt ends the file names of the records of firmware trees. Records of images end differently.
const firmwareExt = ".firmware"

// Firmware is what a family of boards loads before anything of provision: a tree of files in the catalog. The files
// belong to their makers; the operator says where they come from.
type Firmware struct {
	Name string `json:"name"`
	// Files maps slash-separated paths in the tree to contents: "start4.elf", "overlays/vc4-kms-v3d.dtbo".
	Files map[string]File `json:"files"`
	// Licences are kept with the files, by the paths where they were found.
	Licences map[string]File `json:"licences"`
	From     string          `json:"from"`
	Added    time.Time       `json:"added"`
}

// Names returns the paths of the files in the tree, sorted.
func (f Firmware) Names() []string { return slices.Sorted(maps.Keys(f.Files)) }

// For returns those files of the tree that a board's firmware loads from medium m, by the names under which it asks for
// them.
func (f Firmware) For(b boards.Board, m boards.Medium) map[string]File {
	files := map[string]File{}
	for _, name := range b.Files(f.Names(), m) {
		files[name] = f.Files[name]
	}
	return files
}

// EEPROM returns the files with which a Raspberry Pi 4 or 5 rewrites its EEPROM as soon as it finds them. They may be
// served only if the operator wants exactly that.
func (f Firmware) EEPROM() map[string]File {
	files := map[string]File{}
	for name, file := range f.Files {
		if isEEPROM(name) {
			files[name] = file
		}
	}
	return files
}

// isEEPROM reports whether a path is that of such a file.
func isEEPROM(name string) bool {
	for _, pattern := range []string{"pieeprom*", "recovery.bin", "vl805*.bin", "vl805*.sig"} {
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
	}
	return false
}

// Size returns the total size of the files, in bytes.
func (f Firmware) Size() (size int64) {
	for _, file := range f.Files {
		size += file.Size
	}
	return size
}

// Firmware returns the tree with this name, or [ErrNotFound] with a text that says how to add it.
func (c *Catalog) Firmware(name string) (Firmware, error) {
	err := checkName(name) // checked before it becomes part of a path
	if err == nil {
		var f Firmware
		if f, err = c.readFirmware(name); !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	return Firmware{}, fmt.Errorf("%w: there is no firmware %q yet; add it with: provision images firmware add %s "+
		"--from DIR",
		ErrNotFound, name, boards.RaspberryPi)
}

// Firmwares returns all trees, sorted by name.
func (c *Catalog) Firmwares() ([]Firmware, error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, fmt.Errorf("list firmware: %w", err)
	}

	var all []Firmware
	for _, e := range entries { // ReadDir sorts by name
		name, ok := strings.CutSuffix(e.Name(), firmwareExt)
		if !ok || checkName(name) != nil {
			continue
		}
		f, err := c.readFirmware(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was removed since
		}
		if err != nil {
			return nil, err
		}

		all = append(all, f)
	}

	return all, nil
}

// readFirmware reads the record of a tree.
func (c *Catalog) readFirmware(name string) (f Firmware, err error) {
	file := filepath.Join(c.dir, name+firmwareExt)
	data, err := os.ReadFile(file)
	if err != nil {
		return f, fmt.Errorf("read firmware %s: %w", name, err)
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return f, fmt.Errorf("read firmware %s: %s: %w (delete that file and add the firmware again)", name, file, err)
	}
	f.Name = name
	return f, nil
}

// keepFirmware marks the content of all trees as used.
func (c *Catalog) keepFirmware(used map[string]bool) error {
	all, err := c.Firmwares()
	for _, f := range all {
		for _, files := range []map[string]File{f.Files, f.Licences} {
			for _, file := range files {
				used[file.SHA256] = true
			}
		}
	}
	return err
}

// VerifyFirmware reads the tree's files again and compares them with their digests. The error names each file that is
// damaged or missing; adding the firmware again from its source repairs it.
func (c *Catalog) VerifyFirmware(ctx context.Context, name string) error {
	f, err := c.Firmware(name)
	if err != nil {
		return err
	}
	var errs []error
	for _, files := range []map[string]File{f.Files, f.Licences} {
		for _, file := range slices.Sorted(maps.Keys(files)) {
			if err := c.verify(ctx, files[file]); err != nil {
				errs = append(errs, fmt.Errorf("verify firmware %s: %s: %w", name, file, err))
			}
		}
	}

	return errors.Join(errs...)
}

// RemoveFirmware removes a tree, and those of its files that nothing else has. inUse are the names of hosts that need
// it; if there are any, RemoveFirmware returns an error.
func (c *Catalog) RemoveFirmware(name string, inUse []string) error {
	if _, err := c.Firmware(name); err != nil {
		return err
	}
	if len(inUse) > 0 {
		return fmt.Errorf("remove firmware %s: needed by %s; to replace it, add it again; `provision set HOST "+
			"--board BOARD` says if a host has another board", name, strings.Join(inUse, ", "))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	err := os.Remove(filepath.Join(c.dir, name+firmwareExt))
	if err == nil {
		err = syncDir(c.dir)
	}
	if err != nil {
		return fmt.Errorf("remove firmware %s: %w", name, err)
	}
	return c.sweep(false)
}
