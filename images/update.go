package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Update adds an image again from its source, and reports whether it is different now; if the digests are the same,
// nothing changes. If digests were given for the image, sha256 must have those of the new one (see [Request]);
// otherwise it may be nil. For the rest, see [Catalog.From].
func (c *Catalog) Update(ctx context.Context, name string, sha256 map[string]string,
	progress func(Progress)) (img Image, changed bool, err error) {
	old, err := c.Get(name)
	switch {
	case err != nil:
		return Image{}, false, err
	case old.From == "":
		return Image{}, false, fmt.Errorf("update image %s: it was added from single files: add it again with "+
			"--kernel, --initrd and --cmdline", name)
	case len(old.SHA256) > 0 && len(sha256) == 0:
		return Image{}, false, fmt.Errorf("update image %s: it is pinned by the digests that were given for it, so "+
			"nothing else may come: "+
			"give the new ones with --sha256", name)
	}

	if img, err = c.From(ctx, Request{
		Name:   name,
		Arch:   old.Arch,
		From:   old.From,
		SHA256: sha256,
		fresh:  true,
	}, progress); err != nil {
		return Image{}, false, err
	}
	return img, !img.same(old), nil
}

// same reports whether two images boot the same files with the same command line.
func (img Image) same(other Image) bool {
	return img.Arch == other.Arch && img.Kernel == other.Kernel && img.Initrd == other.Initrd &&
		img.Cmdline == other.Cmdline
}

// Freed counts what was removed.
type Freed struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

// GC removes content that no image, firmware or board needs, and partial downloads that were interrupted. Downloads in
// progress are left alone.
func (c *Catalog) GC() (Freed, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	freed, err := c.clean(false)
	if err != nil {
		return freed, fmt.Errorf("clean the image folder: %w", err)
	}
	err = c.dropPartials(&freed, time.Now())
	return freed, err
}

// dropPartials removes partial downloads that nobody is continuing and that were last written before the given time.
func (c *Catalog) dropPartials(freed *Freed, before time.Time) error {
	partials, err := filepath.Glob(filepath.Join(c.dir, partialPrefix+"*"))
	if err != nil {
		return err
	}
	for _, name := range partials {
		if info, e := os.Stat(name); e == nil && info.ModTime().After(before) {
			continue
		}
		if rest, isState := strings.CutSuffix(name, stateSuffix); !isState {
			err = errors.Join(err, freed.partial(name))
		} else if _, gone := os.Stat(rest); errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, freed.remove(name))
		}
	}

	return err
}

// partial removes a partial download, unless it is in progress.
func (f *Freed) partial(name string) error {
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	if lockPartial(file) != nil {
		return nil
	}
	return errors.Join(f.remove(name+stateSuffix), f.remove(name))
}

// remove removes a file or folder, if it exists, and counts it if it is a file.
func (f *Freed) remove(name string) error {
	info, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.RemoveAll(name); err != nil {
		return err
	}
	if info.Mode().IsRegular() {
		f.Files++
		f.Bytes += info.Size()
	}
	return nil
}
