package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	tmpPrefix = ".tmp-"
	recordExt = ".json"
)

// Catalog is the images of one state folder. Its methods may be called at the
// same time; one process at a time may have the folder open.
type Catalog struct {
	// Build has nix build attributes of a flake, and returns the store paths; links whose names begin with root keep
	// them from the garbage collector. refresh has nix look for what is new.
	Build func(ctx context.Context, flake, root string, refresh bool, attrs ...string) ([]string, error)

	dir  string
	http downloader
	mu   sync.Mutex // held while records and content change, not while content is copied

	first   sync.Mutex                 // held while a first stage is made
	program func(Arch) ([]byte, error) // of a first stage
}

// partialDays is for how many days a partial download can be continued.
const partialDays = 7

// Open opens the catalog in dir, makes the folder if there is none, and removes
// what killed adds have left in it, and partial downloads that are a week old.
func Open(dir string) (*Catalog, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the image folder: %w", err)
	}
	c := &Catalog{dir: dir, http: newDownloader(), program: firstStageProgram}
	err := errors.Join(c.sweep(true), c.dropPartials(new(Freed), time.Now().AddDate(0, 0, -partialDays)))
	if err != nil {
		return nil, fmt.Errorf("open the image folder: %w", err)
	}
	return c, nil
}

// Get returns the image of that name, or [ErrNotFound].
func (c *Catalog) Get(name string) (Image, error) {
	err := checkName(name) // before it becomes part of a path
	if err == nil {
		var img Image
		if img, err = c.read(name); !errors.Is(err, fs.ErrNotExist) {
			return img, err
		}
	}
	all, err := c.List()
	if err != nil {
		return Image{}, err
	}
	return Image{}, notFound(name, all)
}

// List returns all images, by name.
func (c *Catalog) List() ([]Image, error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}

	var all []Image
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), recordExt)
		if !ok || checkName(name) != nil {
			continue
		}
		img, err := c.read(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since
		}
		if err != nil {
			return nil, err
		}

		all = append(all, img)
	}

	slices.SortFunc(all, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func (c *Catalog) read(name string) (Image, error) {
	path := filepath.Join(c.dir, name+recordExt)
	data, err := os.ReadFile(path)
	if err != nil {
		return Image{}, fmt.Errorf("read image %s: %w", name, err)
	}
	var img Image
	if err := json.Unmarshal(data, &img); err != nil {
		return Image{}, fmt.Errorf("read image %s: %s: %w (delete that file and add the image again)", name, path, err)
	}
	img.Name = name
	return img, nil
}

// Verify reads the image's files again and compares them with their digests.
// The error names each file that is damaged or gone; adding the image again
// from its source mends it.
func (c *Catalog) Verify(ctx context.Context, name string) error {
	img, err := c.Get(name)
	if err != nil {
		return err
	}
	verify := func(what string, f File) error {
		if err := c.verify(ctx, f); err != nil {
			return fmt.Errorf("verify image %s: its %s: %w", name, what, err)
		}
		return nil
	}
	return errors.Join(verify("kernel", img.Kernel), verify("initrd", img.Initrd))
}

func (c *Catalog) verify(ctx context.Context, f File) error {
	in, err := c.OpenFile(f)
	if err != nil {
		return err
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.Copy(h, &meter{ctx: ctx, r: in}); err != nil {
		return fmt.Errorf("read %s: %w", in.Name(), err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != f.SHA256 {
		return fmt.Errorf("%s is damaged: its sha256 is now %s; add the image again from its source", in.Name(), got)
	}
	return nil
}

// OpenFile opens a file of an image for reading. The digest is looked up, so
// that it cannot name anything outside the catalog. The open file stays whole
// when its image is replaced or removed meanwhile; opening it anew then fails
// with [fs.ErrNotExist].
func (c *Catalog) OpenFile(f File) (*os.File, error) {
	if !isDigest(f.SHA256) {
		return nil, fmt.Errorf("open image file %q: not a sha256 digest: %w", f.SHA256, fs.ErrNotExist)
	}
	file, err := os.Open(filepath.Join(c.dir, f.SHA256))
	if err != nil {
		return nil, fmt.Errorf("open image file: %w", err)
	}
	info, err := file.Stat()
	if err == nil && info.Size() != f.Size {
		err = fmt.Errorf("%s is damaged: it has %d bytes, not %d; add the image again from its source", file.Name(), info.Size(), f.Size)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// Remove removes an image, and its files when no other image has them. It is
// refused while hosts use the image; inUse are their names.
func (c *Catalog) Remove(name string, inUse []string) error {
	if _, err := c.Get(name); err != nil {
		return err
	}
	if len(inUse) > 0 {
		return fmt.Errorf("remove image %s: used by %s; `provision set HOST --image NAME` gives them another",
			name, strings.Join(inUse, ", "))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := os.Remove(filepath.Join(c.dir, name+recordExt)); err != nil {
		return fmt.Errorf("remove image %s: %w", name, err)
	}
	if err := syncDir(c.dir); err != nil {
		return fmt.Errorf("remove image %s: %w", name, err)
	}
	return c.sweep(false)
}

// sweep removes content that no image has, and with temps also what is half
// done: right only while no add runs.
func (c *Catalog) sweep(temps bool) error {
	_, err := c.clean(temps)
	return err
}

func (c *Catalog) clean(temps bool) (Freed, error) {
	var freed Freed
	all, err := c.List()
	if err != nil {
		return freed, err
	}

	used := c.firstStages(all)
	for _, img := range all {
		used[img.Kernel.SHA256], used[img.Initrd.SHA256] = true, true
	}
	if err := errors.Join(c.keepFirmware(used), c.keepKernels(used)); err != nil {
		return freed, err
	}

	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return freed, fmt.Errorf("clean the image folder: %w", err)
	}

	var errs []error
	for _, e := range entries {
		half := temps && strings.HasPrefix(e.Name(), tmpPrefix)
		ours := isDigest(strings.TrimSuffix(e.Name(), firstExt))
		if half || ours && !used[e.Name()] {
			errs = append(errs, freed.remove(filepath.Join(c.dir, e.Name())))
		}
	}

	return freed, errors.Join(errs...)
}

func isDigest(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}

// syncDir makes the renames and removals in dir last through a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
