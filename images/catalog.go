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

// Catalog is the images in one folder. Its methods are safe for concurrent use; only one process at a time may have the
// folder open.
type Catalog struct {
	// Build runs nix to build attributes of a flake, and returns the store paths. It makes links whose names begin with
	// root, which keep the paths from the garbage collector. With refresh, nix ignores its cached versions of the inputs.
	Build func(ctx context.Context, flake, root string, refresh bool, attrs ...string) ([]string, error)

	dir  string
	http downloader
	mu   sync.Mutex // held while records and content change, but not while content is copied

	first   sync.Mutex                 // held while a first stage is made
	program func(Arch) ([]byte, error) // returns the compressed program for first stages
}

// partialDays is for how many days a partial download can be resumed.
const partialDays = 7

// Open opens the catalog in the folder dir, and makes the folder if there is none. It removes temporary files that
// killed processes left there, and partial downloads that are older than partialDays.
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

// Get returns the image with this name, or [ErrNotFound].
func (c *Catalog) Get(name string) (Image, error) {
	err := checkName(name) // checked before it becomes part of a path
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

// List returns all images, sorted by name.
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
			continue // it was removed since
		}
		if err != nil {
			return nil, err
		}

		all = append(all, img)
	}

	slices.SortFunc(all, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// read reads the record of an image.
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

// Verify reads the image's files again and compares them with their digests. The error names each file that is damaged
// or missing; adding the image again from its source repairs it.
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

// verify does that for one file.
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

// OpenFile opens a file of an image for reading. Names of files are digests, so f cannot name anything outside the
// catalog. An open file stays readable when its image is replaced or removed; opening it again then fails with
// [fs.ErrNotExist].
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

// Remove removes an image, and those of its files that no other image has. inUse are the names of hosts that use the
// image; if there are any, Remove returns an error.
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

// sweep removes content that nothing refers to. With temps, it also removes temporary files, which is allowed only
// while nothing is being added.
func (c *Catalog) sweep(temps bool) error {
	_, err := c.clean(temps)
	return err
}

// clean is sweep, and returns what it removed.
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

// isDigest reports whether s is a SHA-256 digest in lower-case hex.
func isDigest(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}

// syncDir makes renames and removals in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
