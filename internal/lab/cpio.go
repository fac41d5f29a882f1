package lab

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// An archive writes a cpio archive in the kernel's "newc" format, as initramfs archives are
// (Documentation/driver-api/early-userspace/buffer-format.rst). All entries belong to root.
type archive struct {
	w     io.Writer
	n     int64
	inode int
}

// add writes one entry: mode holds the Unix type bits as well.
func (a *archive) add(name string, mode uint32, data []byte) error {
	a.inode++
	head := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		a.inode, mode, 0, 0, 1, 1, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	for _, part := range [][]byte{[]byte(head), data} {
		if err := a.write(part); err != nil {
			return fmt.Errorf("write %s to the archive: %w", name, err)
		}
	}
	return nil
}

// write writes b and pads to four bytes.
func (a *archive) write(b []byte) error {
	a.n += int64(len(b))
	if _, err := a.w.Write(b); err != nil {
		return err
	}
	pad := make([]byte, -a.n&3)
	a.n += int64(len(pad))
	_, err := a.w.Write(pad)
	return err
}

// file writes a regular file, or an executable if mode says so.
func (a *archive) file(name string, mode fs.FileMode, data []byte) error {
	return a.add(name, 0o100000|uint32(mode.Perm()), data)
}

// folder writes a folder, which must come before what is in it.
func (a *archive) folder(name string) error { return a.add(name, 0o040755, nil) }

// tree writes all of the folder root below prefix ("" is the archive's root).
func (a *archive) tree(root, prefix string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name := filepath.Join(prefix, strings.TrimPrefix(path, root+"/"))
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return a.add(name, 0o040000|uint32(info.Mode().Perm()), nil)
		case d.Type() == fs.ModeSymlink:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return a.add(name, 0o120777, []byte(to))
		case d.Type().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return a.file(name, info.Mode(), data)
		}
		return nil // device nodes and sockets are made at boot
	})
}

// close ends the archive.
func (a *archive) close() error { return a.add("TRAILER!!!", 0, nil) }
