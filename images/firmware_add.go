package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"provision/internal/boards"
)

// Limits of a tree, far above what exists. The largest files are start4db.elf and the device trees of kernels;
// raspberrypifw has about 300 overlays.
const (
	maxFirmwareFile  = 64 << 20 // bytes
	maxFirmwareFiles = 5000
	maxFirmwareWalk  = 200_000 // files that are looked at in a folder
	maxDeb           = 1 << 30 // bytes of a downloaded package; that of a kernel has about 100 MB
)

// AddFirmware stores the tree of a family of boards ([boards.RaspberryPi]). Each element of from is a folder, a Debian
// package (raspi-firmware, linux-image-*-arm64, u-boot-rpi) or its URL, or a flake reference that nix builds
// (nixpkgs#raspberrypifw). If several have the same file, the last one wins. The tree replaces an earlier one, and
// either all of this happens or nothing.
//
// A tree from which no board can start is an error. notes say, for people, what was left out and why. progress, which
// may be nil, is called with bytes, for one package after the other.
func (c *Catalog) AddFirmware(
	ctx context.Context, name string, from []string, progress func(done, total int64),
) (f Firmware, notes []string, err error) {
	var lines []string
	for _, source := range from {
		lines = append(lines, sourceWords(source))
	}
	g := &gathering{c: c, ctx: ctx, progress: progress, Firmware: Firmware{
		Name: name, From: strings.Join(lines, ", "), Added: time.Now().UTC().Truncate(time.Second),
		Files: map[string]File{}, Licences: map[string]File{},
	}}
	defer g.discard()
	if f, err = g.add(from); err != nil {
		return Firmware{}, nil, fmt.Errorf("add firmware %s: %w", name, err)
	}
	return f, g.notes, nil
}

// gathering is a tree that is being put together.
type gathering struct {
	Firmware
	c        *Catalog
	ctx      context.Context // of the call of AddFirmware
	progress func(done, total int64)
	blobs    []blob
	notes    []string
	has      map[string]string // files of the current source: paths in the tree, and where they were found
}

// add gathers the files of all sources, and commits the tree.
func (g *gathering) add(from []string) (Firmware, error) {
	if g.Name != boards.RaspberryPi {
		return Firmware{}, fmt.Errorf("no board needs firmware of that name: it is %s", boards.RaspberryPi)
	}
	if len(from) == 0 {
		return Firmware{}, errors.New("say where it is: --from DIR, a .deb, or a flake reference")
	}
	for _, source := range from {
		g.has = map[string]string{}
		if err := g.from(source); err != nil {
			return Firmware{}, fmt.Errorf("from %s: %w", sourceWords(source), err)
		}
		if len(g.has) == 0 {
			return Firmware{}, fmt.Errorf("from %s: nothing of a Raspberry Pi's firmware is in it: looked for "+
				"start4.elf, bootcode.bin, bcm2711-*.dtb, overlays/*.dtbo, u-boot.bin and so on", sourceWords(source))
		}
	}

	if err := g.goodForSome(); err != nil {
		return Firmware{}, err
	}

	if len(g.Licences) == 0 {
		g.notes = append(g.notes, "no licence was found beside the files (LICENCE.broadcom, copyright): Broadcom's "+
			"wants to go with them wherever they go")
	}
	return g.c.commitFirmware(g.Firmware, g.blobs)
}

// sourceWords returns a source without what may be secret in a URL.
func sourceWords(source string) string {
	u, err := url.Parse(source)
	switch {
	case err != nil || u.Host == "":
		return source
	case u.Scheme == "http", u.Scheme == "https":
		return plainURL(u)
	}
	u.User = nil
	return u.String()
}

// from gathers the files of one source.
func (g *gathering) from(source string) error {
	info, err := os.Stat(source)
	u, urlErr := url.Parse(source)
	switch {
	case urlErr == nil && u.User != nil && !strings.HasSuffix(u.Scheme, "ssh"): // a user name for ssh (git@) is not secret
		return errors.New("a name or password in a URL ends up in logs and in the list of processes: download it " +
			"yourself, and add the files")
	case err == nil && info.IsDir():
		return g.folder(source)
	case err == nil:
		return g.deb(source)
	case !strings.Contains(source, "#") && (strings.HasPrefix(source, "http://") || strings.HasPrefix(source, "https://")):
		return g.url(source)
	case !strings.ContainsAny(source, "#:"):
		return err
	}

	return g.flake(source)
}

// flake gathers the files of what nix builds from a flake reference.
func (g *gathering) flake(ref string) error {
	tmp, err := os.MkdirTemp(g.c.dir, tmpPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	flake, attr, _ := strings.Cut(ref, "#")
	outs, err := g.c.Build(g.ctx, flake, filepath.Join(tmp, "result"), false, attr)
	for i := 0; err == nil && i < len(outs); i++ {
		err = g.folder(outs[i])
	}
	return err
}

// url downloads a package and gathers its files. An incomplete download is kept, so that the next call can resume it.
func (g *gathering) url(source string) error {
	u, err := parseURL(source)
	if err != nil {
		return err
	}

	name := path.Base(u.Path)
	if !strings.HasSuffix(name, ".deb") {
		return errors.New("a URL must be one of a Debian package, NAME.deb: download the files into a folder")
	}
	tmp, err := os.MkdirTemp(g.c.dir, tmpPrefix)
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)

	f := &fetch{c: g.c, given: &digests{}, dir: tmp, texts: map[string]string{}, checked: len(checks) - 1,
		progress: func(p Progress) {
			if g.progress != nil {
				g.progress(p.Done, p.Total)
			}
		}}
	err = f.file(g.ctx, u, name, maxDeb)
	var open errOpen
	if errors.As(err, &open) {
		err = errors.New("anyone on the way can change what comes over plain http, and boards trust their " +
			"firmware: use https, or download it yourself and check it")
	}

	var broken errBroken
	keep := g.ctx.Err() != nil || errors.As(err, &broken)
	if err == nil {
		err = g.deb(filepath.Join(tmp, name))
	}

	return errors.Join(err, f.close(keep))
}

// folder gathers the files that are anywhere below a folder.
func (g *gathering) folder(dir string) error {
	dir, err := filepath.EvalSymlinks(dir) // dir may be a link, such as ./result
	if err != nil {
		return err
	}

	seen := 0
	return filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err == nil {
			err = g.ctx.Err()
		}
		if seen++; err == nil && seen > maxFirmwareWalk {
			err = fmt.Errorf("it holds more than %d files: name the folder with the firmware", maxFirmwareWalk)
		}
		if err != nil || d.IsDir() || treeName(file) == "" && !isLicence(file) {
			return err
		}

		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}

		in, err := openInput(rel, file) // files in nix profiles are links
		if err != nil {
			return err
		}
		defer in.Close()

		return g.take(file, rel, in, in.before.Size())
	})
}

// take stores a file of a source, if it has a place in the tree or is a licence. file is the path that decides about
// the place, and where is the path for messages.
func (g *gathering) take(file, where string, r io.Reader, size int64) error {
	name := treeName(file)
	switch {
	case name == "" && isLicence(file) && size <= 4<<20:
		return g.takeLicence(where, r, size)
	case name == "":
		return nil
	case name == unknownUBoot:
		known := boards.UBootFiles()
		last := len(known) - 1
		g.note("%s is left out: its name does not say for which board it is; call it %s or %s",
			where, strings.Join(known[:last], ", "), known[last])
		return nil
	case size > maxFirmwareFile:
		return fmt.Errorf("%s has %d bytes; no firmware file has more than %d", where, size, maxFirmwareFile)
	case len(g.Files) >= maxFirmwareFiles:
		return fmt.Errorf("more than %d files", maxFirmwareFiles)
	}

	stored, err := g.store(where, name, r, size)
	if err != nil {
		return err
	}

	if before, twice := g.has[name]; twice && g.Files[name] != stored {
		return fmt.Errorf("it holds %s twice, and not the same: %s and %s; name the folder of one of them", name, before, where)
	}
	g.has[name], g.Files[name] = where, stored
	return nil
}

// takeLicence stores a licence.
func (g *gathering) takeLicence(where string, r io.Reader, size int64) error {
	if len(g.Licences) >= 100 {
		return nil
	}
	stored, err := g.store(where, "", r, size)
	if err != nil {
		return err
	}
	base := strings.TrimPrefix(filepath.ToSlash(where), "usr/share/doc/")
	name := base
	for n := 2; g.Licences[name] != (File{}) && g.Licences[name] != stored; n++ { // of another source
		name = fmt.Sprintf("%s-%d", base, n)
	}
	g.Licences[name] = stored
	return nil
}

// store copies a file into the catalog's folder. A file that is not what its name says is an error, as a Raspberry Pi
// with it would only stay dark.
func (g *gathering) store(where, name string, r io.Reader, size int64) (File, error) {
	h := sha256.New()
	var head headWriter
	tmp, n, err := g.c.writeTemp(func(w io.Writer) (int64, error) {
		return io.Copy(io.MultiWriter(w, h, &head), &meter{ctx: g.ctx, r: io.LimitReader(r, size+1)})
	})
	if err != nil {
		return File{}, fmt.Errorf("copy %s: %w", where, err)
	}
	b := blob{File{hex.EncodeToString(h.Sum(nil)), n}, tmp}
	g.blobs = append(g.blobs, b)
	if n != size {
		return File{}, fmt.Errorf("copy %s: it has %d bytes, not %d: did it change while it was read?", where, n, size)
	}
	if err := checkFirmware(name, head.data, size); err != nil {
		return File{}, fmt.Errorf("%s: %w", where, err)
	}
	return b.File, nil
}

// note adds a note for people.
func (g *gathering) note(format string, args ...any) {
	g.notes = append(g.notes, fmt.Sprintf(format, args...))
}

// discard removes temporary files that were not committed.
func (g *gathering) discard() {
	for _, b := range g.blobs {
		os.Remove(b.tmp)
	}
}

// goodForSome returns an error if no board can start from the tree.
func (g *gathering) goodForSome() error {
	fit := g.Fitness(boards.TFTP)
	if slices.ContainsFunc(fit, func(b Fit) bool { return len(b.Missing) == 0 }) {
		return nil
	}
	var lacks []string
	for _, b := range fit {
		lacks = append(lacks, b.Board+" needs "+strings.Join(b.Missing, ", "))
	}
	return fmt.Errorf("it is not enough for any board: %s (give all sources at once, each with its own --from)", strings.Join(lacks, "; "))
}

// Fit says what a tree lacks for a board.
type Fit struct {
	Board   string   `json:"board"`
	Missing []string `json:"missing"` // files that are missing; empty: the board can start
}

// Fitness says for each board of the tree's family what it lacks to start from medium m.
func (f Firmware) Fitness(m boards.Medium) []Fit {
	var all []Fit
	for _, b := range boards.All() {
		if b.Firmware == f.Name {
			missing := append([]string{}, b.Missing(f.Names(), m)...)
			all = append(all, Fit{Board: b.Name, Missing: missing})
		}
	}
	return all
}

// FitWords says for people for which boards a tree is enough: "enough for rpi4, rpi5; rpi3 needs bootcode.bin".
func FitWords(fit []Fit) string {
	var enough, lacks []string
	for _, b := range fit {
		if len(b.Missing) == 0 {
			enough = append(enough, b.Board)
		} else {
			lacks = append(lacks, b.Board+" needs "+strings.Join(b.Missing, ", "))
		}
	}
	if len(enough) > 0 {
		lacks = append([]string{"enough for " + strings.Join(enough, ", ")}, lacks...)
	}
	return strings.Join(lacks, "; ")
}

// commitFirmware publishes the tree with its blobs, and removes the content that only the replaced tree had.
func (c *Catalog) commitFirmware(f Firmware, blobs []blob) (Firmware, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, err := c.readFirmware(f.Name); err == nil {
		same := old
		same.Added = f.Added
		if reflect.DeepEqual(same, f) {
			f = old
		}
	}
	err := c.placeAs(f.Name+firmwareExt, f, blobs)
	return f, errors.Join(err, c.sweep(false))
}
