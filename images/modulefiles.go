package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path"
	"strings"

	"github.com/diskfs/go-diskfs/backend/file"
	sqfs "github.com/diskfs/go-diskfs/filesystem/squashfs"

	"provision/internal/initrd"
)

// moduleFiles finds the files below lib/modules in an image's initrd: those in its archives, and those in the squashfs
// that the initrd of a NixOS installer holds. Stage 1 has few network drivers, as it needs none; the complete system
// has all.
type moduleFiles struct {
	c        *Catalog
	img      Image
	looked   bool     // the initrd has been read once
	squashed *os.File // the squashfs, in an unlinked file; nil: there is none
}

// close closes the copy of the squashfs.
func (m *moduleFiles) close() {
	if m.squashed != nil {
		m.squashed.Close()
	}
}

// each calls f with each file below lib/modules/VERSION, in whatever folder that is: in NixOS it is in the nix store.
func (m *moduleFiles) each(ctx context.Context, f func(version, name string, content io.Reader) error) error {
	in, err := m.c.OpenFile(m.img.Initrd)
	if err != nil {
		return err
	}
	defer in.Close()

	err = initrd.Walk(&meter{ctx: ctx, r: in}, func(file string, h initrd.Header, content io.Reader) error {
		if !h.Type().IsRegular() {
			return nil
		}
		if version, name, ok := cutModulePath(file); ok {
			return f(version, name, content)
		}
		if strings.HasSuffix(file, ".squashfs") && !m.looked && m.squashed == nil {
			return m.spool(content)
		}
		return nil
	})
	m.looked = true
	if err != nil || m.squashed == nil {
		return err
	}

	if err := m.eachSquashed(ctx, f); err != nil {
		return fmt.Errorf("the squashfs in its initrd: %w", err)
	}
	return nil
}

// spool copies a squashfs to a local file, for random access.
func (m *moduleFiles) spool(content io.Reader) error {
	f, err := os.CreateTemp(m.c.dir, tmpPrefix)
	if err != nil {
		return err
	}
	m.squashed = f
	_, err = io.Copy(f, content)
	return errors.Join(err, os.Remove(f.Name()))
}

// eachSquashed is each for the squashfs, whose root is the nix store.
func (m *moduleFiles) eachSquashed(ctx context.Context,
	f func(version, name string, content io.Reader) error) (err error) {
	defer func() { // go-diskfs trusts what it reads
		if p := recover(); p != nil {
			err = fmt.Errorf("it is damaged: %v", p)
		}
	}()
	info, err := m.squashed.Stat()
	if err != nil {
		return err
	}

	fs, err := sqfs.Read(file.New(m.squashed, true), info.Size(), 0, 0)
	if err != nil {
		return err
	}

	store, err := fs.ReadDir(".")
	if err != nil {
		return err
	}

	for _, p := range store {
		top := path.Join(p.Name(), "lib/modules")
		if p.Name() == "lib" { // of a system that is not NixOS
			top = "lib/modules"
		}

		// Such as HASH-linux-6.12.1-modules and HASH-kernel-modules. Examining each of the store's thousand paths would take
		// long.
		known := top == "lib/modules" || strings.Contains(p.Name(), "modules") || strings.Contains(p.Name(), "linux")
		if !known || !p.IsDir() {
			continue
		}
		if info, err := fs.Stat(top); err != nil || !info.IsDir() {
			continue
		}

		err := iofs.WalkDir(fs, top, func(name string, d iofs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}

			version, rest, ok := cutModulePath(name)
			if !ok {
				return nil
			}
			in := &lateFile{fs: fs, name: name}
			return errors.Join(f(version, rest, in), in.close())
		})
		if err != nil {
			return err
		}
	}

	return nil
}

// lateFile is opened when it is first read, as most files are not read.
type lateFile struct {
	fs   iofs.FS
	name string
	file iofs.File
}

func (l *lateFile) Read(p []byte) (int, error) {
	if l.file == nil {
		f, err := l.fs.Open(l.name)
		if err != nil {
			return 0, err
		}
		l.file = f
	}
	return l.file.Read(p)
}

func (l *lateFile) close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// cutModulePath splits a path that contains lib/modules/VERSION/NAME.
func cutModulePath(file string) (version, name string, ok bool) {
	_, rest, ok := strings.Cut("/"+file, "/lib/modules/")
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, "/")
}
