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

// firmwareExt ends the names of the records of firmware trees: other than an image's.
const firmwareExt = ".firmware"

// Firmware is what a family of boards loads before anything of ours: a tree of files in the
// catalog. It belongs to its makers, and came from what the operator named.
type Firmware struct {
	Name string `json:"name"`
	// Files by their slash paths in the tree: "start4.elf", "overlays/vc4-kms-v3d.dtbo".
	Files map[string]File `json:"files"`
	// Licences are kept beside, by where they were found.
	Licences map[string]File `json:"licences"`
	From     string          `json:"from"`
	Added    time.Time       `json:"added"`
}

// Names returns the slash paths of the files in the tree, sorted.
func (f Firmware) Names() []string { return slices.Sorted(maps.Keys(f.Files)) }

// For returns the files that a board's firmware loads from m if they are there, by the names that it asks for.
func (f Firmware) For(b boards.Board, m boards.Medium) map[string]File {
	files := map[string]File{}
	for _, name := range b.Files(f.Names(), m) {
		files[name] = f.Files[name]
	}
	return files
}

// EEPROM are the tree's files that make a Raspberry Pi 4 or 5 write its EEPROM anew when it
// finds them: to be served only where the operator wants just that.
func (f Firmware) EEPROM() map[string]File {
	files := map[string]File{}
	for name, file := range f.Files {
		if isEEPROM(name) {
			files[name] = file
		}
	}
	return files
}

func isEEPROM(name string) bool {
	for _, pattern := range []string{"pieeprom*", "recovery.bin", "vl805*.bin", "vl805*.sig"} {
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
	}
	return false
}

// Size is that of all files, in bytes.
func (f Firmware) Size() (size int64) {
	for _, file := range f.Files {
		size += file.Size
	}
	return size
}

// Firmware returns the tree of that name, or [ErrNotFound], which tells how to add it.
func (c *Catalog) Firmware(name string) (Firmware, error) {
	err := checkName(name) // before it becomes part of a path
	if err == nil {
		var f Firmware
		if f, err = c.readFirmware(name); !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	return Firmware{}, fmt.Errorf("%w: there is no firmware %q yet; add it with: provision images firmware add %s --from DIR",
		ErrNotFound, name, boards.RaspberryPi)
}

// Firmwares returns all trees, by name.
func (c *Catalog) Firmwares() ([]Firmware, error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, fmt.Errorf("list firmware: %w", err)
	}

	var all []Firmware
	for _, e := range entries { // ReadDir sorts
		name, ok := strings.CutSuffix(e.Name(), firmwareExt)
		if !ok || checkName(name) != nil {
			continue
		}
		f, err := c.readFirmware(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since
		}
		if err != nil {
			return nil, err
		}

		all = append(all, f)
	}

	return all, nil
}

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

// VerifyFirmware reads the tree's files again and compares them with their digests. The error
// names each that is damaged or gone; adding the firmware again from its source mends it.
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

// RemoveFirmware removes a tree, and its files when nothing else has them. It is refused while
// hosts need it; inUse are their names.
func (c *Catalog) RemoveFirmware(name string, inUse []string) error {
	if _, err := c.Firmware(name); err != nil {
		return err
	}
	if len(inUse) > 0 {
		return fmt.Errorf("remove firmware %s: needed by %s; to replace it, add it again; `provision set HOST --board BOARD` says if a host has another board", name, strings.Join(inUse, ", "))
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
