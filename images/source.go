package images

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"provision/internal/initrd"
)

// Source is where an image is added from: two files, and the kernel command line that belongs to them.
type Source struct {
	Kernel, Initrd string // paths
	Cmdline        string
	cmdlineFile    string // the file that Cmdline was read from, if there is one
}

// Request says which image to add, and from where.
type Request struct {
	Name string
	Arch Arch // empty: that of the kernel
	// From is the path of a folder ([FromDir]), a kexec tarball ([FromTarball]) or an ISO; a URL (http, https) of a
	// tarball, an ISO, or a folder with the files of a nixos-images release; or a flake reference, FLAKE#ATTR, which nix
	// builds: an output with such files, or a nixosConfiguration with the netboot module of nixpkgs.
	From string
	// SHA256 are the digests (64 lower-case hex digits) that files must have, by file name. If there is only one file, its
	// name may be "".
	SHA256 map[string]string

	fresh bool // nix looks for newer inputs
}

// Progress says how far one of the operations that make an image has come.
type Progress struct {
	Doing       string // "downloading initrd-x86_64-linux"
	Done, Total int64  // bytes; Total is 0 if not known
}

// From adds an image, with the same guarantees as [Catalog.Add]. progress, which may be nil, is called often, on this
// goroutine.
//
// A download that was interrupted is resumed, also by a later call. A download must come over https, or its digest must
// be in r. If a digest is published next to the file (FILE.sha256, SHA256SUMS), it is compared too.
func (c *Catalog) From(ctx context.Context, r Request, progress func(Progress)) (Image, error) {
	if progress == nil {
		progress = func(Progress) {}
	}
	img, err := c.from(ctx, r, progress)
	if err != nil {
		return Image{}, fmt.Errorf("add image %s: %w", r.Name, err)
	}
	return img, nil
}

// from adds an image in a temporary folder that it removes.
func (c *Catalog) from(ctx context.Context, r Request, progress func(Progress)) (Image, error) {
	if err := checkName(r.Name); err != nil { // before much is unpacked
		return Image{}, err
	}
	given, err := newDigests(r.SHA256)
	if err != nil {
		return Image{}, err
	}

	tmp, err := os.MkdirTemp(c.dir, tmpPrefix)
	if err != nil {
		return Image{}, err
	}
	defer os.RemoveAll(tmp)

	a := adding{c, r, given, tmp, progress}
	img, err := a.run(ctx)
	if err != nil { // the paths in the temporary folder mean nothing to the caller
		err = renamed{err, tmp + "/", ""}
	}
	return img, err
}

// adding is an image that is being added.
type adding struct {
	c        *Catalog
	r        Request
	given    *digests
	tmp      string // folder for what is downloaded and unpacked
	progress func(Progress)
}

// run decides what kind of source it is, and adds the image.
func (a adding) run(ctx context.Context) (Image, error) {
	switch {
	case strings.Contains(a.r.From, "#") && strings.Contains(a.r.From, "://"):
		return a.fromFlake(ctx)
	case strings.HasPrefix(a.r.From, "http://"), strings.HasPrefix(a.r.From, "https://"):
		return a.fromURL(ctx)
	case strings.Contains(a.r.From, "://") && !isFlake(a.r.From):
		return Image{}, fmt.Errorf("from %s: give a URL with https, or the path of a file or folder", a.r.From)
	}

	info, err := os.Stat(a.r.From)
	if err != nil && isFlake(a.r.From) {
		return a.fromFlake(ctx)
	}
	if err != nil {
		return Image{}, fmt.Errorf("from: %w", err)
	}

	if info.IsDir() {
		return a.fromFolder(ctx, a.r.From, Image{From: a.r.From})
	}
	if err := a.given.check(ctx, a.r.From); err != nil {
		return Image{}, err
	}
	return a.fromFile(ctx, a.r.From, Image{From: a.r.From})
}

// fromURL downloads the files at the URL. They are kept only if the download is incomplete, so that the next attempt
// can resume it.
func (a adding) fromURL(ctx context.Context) (img Image, err error) {
	u, err := parseURL(a.r.From)
	if err != nil {
		return Image{}, err
	}

	f := &fetch{
		c:        a.c,
		given:    a.given,
		dir:      a.tmp,
		progress: a.progress,
		texts:    map[string]string{},
		checked:  len(checks) - 1,
	}
	if isFile(u) {
		err = f.file(ctx, u, path.Base(u.Path), maxInitrd)
	} else if err = a.given.named(); err == nil {
		err = f.folder(ctx, u, a.r.Arch)
	}

	var broken errBroken
	if err != nil {
		return Image{}, errors.Join(err, f.close(ctx.Err() != nil || errors.As(err, &broken)))
	}
	defer func() { err = errors.Join(err, f.close(ctx.Err() != nil)) }()

	origin := Image{From: a.r.From, Checked: checks[f.checked]}
	if isFile(u) {
		return a.fromFile(ctx, filepath.Join(a.tmp, path.Base(u.Path)), origin)
	}
	return a.fromFolder(ctx, a.tmp, origin)
}

// fromFile adds the image in a tarball or ISO.
func (a adding) fromFile(ctx context.Context, file string, origin Image) (Image, error) {
	unpack := FromTarball
	if isISO(file) {
		unpack = FromISO
	}
	src, err := unpack(ctx, file, a.tmp, a.doing("unpacking"))
	if err != nil {
		return Image{}, err
	}
	return a.add(ctx, src, origin)
}

// fromFolder adds the image in a folder.
func (a adding) fromFolder(ctx context.Context, dir string, origin Image) (Image, error) {
	src, err := FromDir(dir, a.r.Arch)
	if err == nil {
		err = a.given.named()
	}
	for _, file := range []string{src.Kernel, src.Initrd, src.cmdlineFile} {
		if err == nil && origin.Checked == "" && file != "" {
			err = a.given.check(ctx, file)
		}
	}
	if err != nil {
		return Image{}, err
	}
	return a.add(ctx, src, origin)
}

// add adds the image, once all given digests have been used.
func (a adding) add(ctx context.Context, src Source, origin Image) (Image, error) {
	if err := a.given.unused(); err != nil {
		return Image{}, err
	}
	if len(a.r.SHA256) > 0 {
		origin.Checked, origin.SHA256 = checks[len(checks)-1], a.r.SHA256
	}
	origin.Name, origin.Arch = a.r.Name, a.r.Arch
	return a.c.add(ctx, origin, src, a.doing("storing"))
}

// doing returns a function that reports the progress of an operation.
func (a adding) doing(what string) func(done, total int64) {
	return func(done, total int64) { a.progress(Progress{what, done, total}) }
}

// renamed is an error in whose text a path is replaced.
type renamed struct {
	error
	old, new string
}

func (r renamed) Error() string { return strings.ReplaceAll(r.error.Error(), r.old, r.new) }
func (r renamed) Unwrap() error { return r.error }

// FromDir finds an image in a folder: the netboot files of a nixos-images release (bzImage-x86_64-linux or
// Image-aarch64-linux, initrd-…, netboot-….ipxe), the output of a netboot build (bzImage or Image, initrd, and
// netboot.ipxe or kernel-params), or an unpacked kexec tarball (kexec/{bzImage,initrd,run}). If it holds images for
// several architectures, arch chooses one; else it may be empty.
func FromDir(dir string, arch Arch) (Source, error) {
	arches := []Arch{X86_64, AArch64}
	if arch != "" {
		arches = []Arch{arch}
	}
	var found []Source
	for _, a := range arches {
		src, err := findImage(dir, "-"+string(a)+"-linux", "-"+string(a))
		if err != nil {
			return Source{}, err
		}
		found = append(found, src...)
	}

	for _, d := range []string{dir, filepath.Join(dir, "kexec")} {
		if len(found) == 0 {
			var err error
			if found, err = findImage(d, ""); err != nil {
				return Source{}, err
			}
		}
	}

	switch len(found) {
	case 0:
		return Source{}, fmt.Errorf("no image in %s: looked for bzImage, Image, kexec/bzImage, and bzImage-ARCH, "+
			"Image-ARCH with ARCH %s; "+
			"name the files with --kernel, --initrd and --cmdline", dir, arches)
	case 1:
		return found[0], nil
	}

	return Source{}, fmt.Errorf("%s holds images for x86_64 and for aarch64: say which with --arch", dir)
}

// findImage returns the image in dir whose files end in the first suffix for which there is a kernel, or none.
func findImage(dir string, suffixes ...string) ([]Source, error) {
	for _, suffix := range suffixes {
		for _, name := range []string{"bzImage", "Image"} {
			src := Source{Kernel: filepath.Join(dir, name+suffix), Initrd: filepath.Join(dir, "initrd"+suffix)}
			if !exists(src.Kernel) {
				continue
			}
			if !exists(src.Initrd) {
				return nil, fmt.Errorf("%s is there and %s is not: put it beside, or name the files with --kernel, "+
					"--initrd and --cmdline",
					src.Kernel, src.Initrd)
			}
			var err error
			src.Cmdline, src.cmdlineFile, err = findCmdline(dir, suffix)
			return []Source{src}, err
		}
	}

	return nil, nil
}

// findCmdline returns the command line for the image with this suffix, and the file that it was read from.
func findCmdline(dir, suffix string) (cmdline, file string, err error) {
	ipxe := filepath.Join(dir, "netboot"+suffix+".ipxe")
	run := filepath.Join(dir, "run")
	params := filepath.Join(dir, "kernel-params")
	switch {
	case exists(ipxe):
		file = ipxe
		cmdline, err = fileCmdline(ipxe, ipxeCmdline)
	case suffix == "" && exists(run):
		file = run
		cmdline, err = fileCmdline(run, runCmdline)
	case suffix == "" && exists(params):
		file = params
		cmdline, err = paramsCmdline(params)
	default:
		return "", "", fmt.Errorf("%s is missing, which holds the kernel's command line: put it beside, or name "+
			"the files with --kernel, --initrd and --cmdline", ipxe)
	}
	if err != nil {
		return "", "", fmt.Errorf("command line from %s: %w", file, err)
	}
	return cmdline, file, nil
}

// fileCmdline parses the contents of a file.
func fileCmdline(file string, parse func(string) (string, error)) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	return parse(string(data))
}

// exists reports whether a file exists.
func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// FromTarball unpacks kernel, initrd and run script of a kexec tarball of nix-community/nixos-images (tar, uncompressed
// or compressed by gzip, xz or zstd) into tmpdir, which the caller removes, and finds the image there. progress, which
// may be nil, is called with bytes of the tarball.
func FromTarball(ctx context.Context, file, tmpdir string, progress func(done, total int64)) (Source, error) {
	in, err := openInput("tarball", file)
	if err != nil {
		return Source{}, err
	}
	defer in.Close()

	done := int64(0)
	out, err := initrd.Decompress(&meter{ctx, in, func(n int) {
		done += int64(n)
		if progress != nil {
			progress(done, in.before.Size())
		}
	}})
	if err != nil {
		return Source{}, fmt.Errorf("unpack %s: %w", file, err)
	}
	defer out.Close()

	var src Source
	if err = unpackInto(out, tmpdir); err == nil {
		src, err = FromDir(tmpdir, "")
	}
	if err != nil {
		return Source{}, fmt.Errorf("unpack %s: %w (is it a kexec tarball of nixos-images, downloaded in full?)", file, err)
	}
	return src, nil
}

// unpackInto writes the three files that are needed from a kexec tarball to dir, and reads the rest so that the
// checksum of the compression is verified.
func unpackInto(r io.Reader, dir string) error {
	limits := map[string]int64{"kexec/bzImage": 1 << 30, "kexec/initrd": 16 << 30, "kexec/run": 1 << 20} // largest sizes in bytes
	if err := os.Mkdir(filepath.Join(dir, "kexec"), 0o755); err != nil {
		return err
	}

	r = io.LimitReader(r, 32<<30)
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return err
		}

		name := path.Clean(h.Name)
		limit, wanted := limits[name]
		switch {
		case !wanted:
		case h.Typeflag != tar.TypeReg || h.Size > limit:
			return fmt.Errorf("its %s is not a file of at most %d bytes", name, limit)
		default:
			if err := writeFile(filepath.Join(dir, name), t); err != nil {
				return err
			}
		}
	}
}

// writeFile writes a new file; an existing one is an error.
func writeFile(file string, r io.Reader) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("it holds %s twice", filepath.Base(file))
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}
