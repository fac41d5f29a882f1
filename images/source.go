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
)

// Source is where an image is added from: two files, and the kernel command
// line that belongs to them.
type Source struct {
	Kernel, Initrd string // paths
	Cmdline        string
}

// From adds an image from what from names: a folder ([FromDir]) or a kexec
// tarball ([FromTarball]); the rest is as with [Catalog.Add]. Of a tarball,
// progress tells first how much is unpacked and then, from zero again, how much
// is stored.
func (c *Catalog) From(ctx context.Context, name string, arch Arch, from string, progress func(done, total int64)) (Image, error) {
	img, err := c.from(ctx, name, arch, from, progress)
	if err != nil {
		return Image{}, fmt.Errorf("add image %s: %w", name, err)
	}
	return img, nil
}

func (c *Catalog) from(ctx context.Context, name string, arch Arch, from string, progress func(done, total int64)) (Image, error) {
	if err := checkName(name); err != nil { // before unpacking much
		return Image{}, err
	}
	info, err := os.Stat(from)
	switch {
	case err == nil:
	case strings.Contains(from, "://"):
		return Image{}, fmt.Errorf("from %s: URLs are not supported yet: download it first", from)
	case strings.ContainsAny(from, "#:"):
		return Image{}, fmt.Errorf("from %s: flakes are not supported yet: nix build it first, and give ./result", from)
	default:
		return Image{}, fmt.Errorf("from: %w", err)
	}
	var src Source
	if info.IsDir() {
		src, err = FromDir(from, arch)
	} else {
		var tmp string
		if tmp, err = os.MkdirTemp(c.dir, tmpPrefix); err != nil {
			return Image{}, err
		}
		defer os.RemoveAll(tmp)
		src, err = FromTarball(ctx, from, tmp, progress)
	}
	if err != nil {
		return Image{}, err
	}
	return c.add(ctx, name, arch, src, progress)
}

// FromDir finds an image in a folder: the netboot files of a nixos-images
// release (bzImage-x86_64-linux or Image-aarch64-linux, initrd-…,
// netboot-….ipxe), the output of a netboot build (bzImage or Image, initrd, and
// netboot.ipxe or kernel-params), or an unpacked kexec tarball
// (kexec/{bzImage,initrd,run}). Arch chooses among several and may else be empty.
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
		return Source{}, fmt.Errorf("no image in %s: looked for bzImage, Image, kexec/bzImage, and bzImage-ARCH, Image-ARCH with ARCH %s; "+
			"name the files with --kernel, --initrd and --cmdline", dir, arches)
	case 1:
		return found[0], nil
	}
	return Source{}, fmt.Errorf("%s holds images for x86_64 and for aarch64: say which with --arch", dir)
}

// findImage returns the image whose files end in the first of the suffixes that
// any kernel in dir has, or none.
func findImage(dir string, suffixes ...string) ([]Source, error) {
	for _, suffix := range suffixes {
		for _, name := range []string{"bzImage", "Image"} {
			src := Source{Kernel: filepath.Join(dir, name+suffix), Initrd: filepath.Join(dir, "initrd"+suffix)}
			if !exists(src.Kernel) {
				continue
			}
			if !exists(src.Initrd) {
				return nil, fmt.Errorf("%s is there and %s is not: put it beside, or name the files with --kernel, --initrd and --cmdline",
					src.Kernel, src.Initrd)
			}
			var err error
			src.Cmdline, err = findCmdline(dir, suffix)
			return []Source{src}, err
		}
	}
	return nil, nil
}

func findCmdline(dir, suffix string) (string, error) {
	ipxe, run, params := filepath.Join(dir, "netboot"+suffix+".ipxe"), filepath.Join(dir, "run"), filepath.Join(dir, "kernel-params")
	var file, cmdline string
	var err error
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
		return "", fmt.Errorf("%s is missing, which holds the kernel's command line: put it beside, or name the files with --kernel, --initrd and --cmdline", ipxe)
	}
	if err != nil {
		return "", fmt.Errorf("command line from %s: %w", file, err)
	}
	return cmdline, nil
}

func fileCmdline(file string, parse func(string) (string, error)) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	return parse(string(data))
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// FromTarball unpacks the kernel, the initrd and the run script of a kexec
// tarball of nix-community/nixos-images (tar, plain or compressed with gzip, xz
// or zstd) into tmpdir, which the caller removes, and finds the image there.
// Progress, which may be nil, is called with bytes of the tarball.
func FromTarball(ctx context.Context, file, tmpdir string, progress func(done, total int64)) (Source, error) {
	in, err := openInput("tarball", file)
	if err != nil {
		return Source{}, err
	}
	defer in.Close()
	done := int64(0)
	out, err := decompress(&meter{ctx, in, func(n int) {
		if done += int64(n); progress != nil {
			progress(done, in.before.Size())
		}
	}})
	if err != nil {
		return Source{}, fmt.Errorf("unpack %s: %w", file, err)
	}
	defer out.Close()
	var src Source
	if err = unpack(out, tmpdir); err == nil {
		src, err = FromDir(tmpdir, "")
	}
	if err != nil {
		return Source{}, fmt.Errorf("unpack %s: %w (is it a kexec tarball of nixos-images, downloaded in full?)", file, err)
	}
	return src, nil
}

// unpack writes the three files we want of a kexec tarball to dir, under names
// of our own, and reads the rest, so that the compression's checksum is checked.
func unpack(r io.Reader, dir string) error {
	limits := map[string]int64{"kexec/bzImage": 1 << 30, "kexec/initrd": 16 << 30, "kexec/run": 1 << 20} // bytes
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
