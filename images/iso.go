package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"

	"provision/internal/initrd"
)

// isISO reports whether a file is an ISO 9660 image (ECMA-119, 8.4.2: its first volume descriptor is in sector 16).
func isISO(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	id := make([]byte, 5)
	_, err = f.ReadAt(id, 16*2048+1)
	return err == nil && string(id) == "CD001"
}

// FromISO copies kernel and initrd of an ISO image into tmpdir, which the caller removes. The configuration of the boot
// loader (isolinux, GRUB) tells which files these are, and the command line. If the ISO needs its medium after the
// boot, FromISO returns an error, as a netbooted machine has no medium. progress, which may be nil, is called with
// numbers of bytes.
func FromISO(ctx context.Context, name, tmpdir string, progress func(done, total int64)) (src Source, err error) {
	defer func() {
		// go-diskfs may panic, as it trusts the data of a damaged image.
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: a damaged ISO image: %v", name, r)
		}
	}()
	b, err := file.OpenFromPath(name, true)
	if err != nil {
		return Source{}, err
	}
	defer b.Close()

	fsys, err := iso9660.Read(allThere{b}, 0, 0, 0)
	if err != nil {
		return Source{}, fmt.Errorf("%s: %w (was it downloaded in full?)", name, err)
	}

	m := isoImage{fsys}
	e, err := m.bootEntry()
	if err != nil {
		return Source{}, fmt.Errorf("%s: %w", name, err)
	}

	src = Source{Kernel: filepath.Join(tmpdir, "kernel"), Initrd: filepath.Join(tmpdir, "initrd"), Cmdline: e.cmdline}
	for from, to := range map[string]string{e.kernel: src.Kernel, e.initrd: src.Initrd} {
		limit := int64(maxInitrd)
		if to == src.Kernel {
			limit = maxKernel
		}
		if err := m.copy(ctx, from, to, limit, progress); err != nil {
			return Source{}, fmt.Errorf("%s: copy %s: %w (was it downloaded in full?)", name, from, err)
		}
	}

	if err := m.fromMemory(e, src.Initrd); err != nil {
		return Source{}, fmt.Errorf("%s: %w", name, err)
	}

	return src, nil
}

// allThere reports an error for data that are missing from an image, where go-diskfs would read zeros. It also refuses
// to read directories of absurd size.
type allThere struct{ backend.Storage }

func (s allThere) ReadAt(p []byte, offset int64) (int, error) {
	if len(p) > 64<<20 {
		return 0, errors.New("a directory of absurd size")
	}
	n, err := s.Storage.ReadAt(p, offset)
	switch {
	case n == len(p):
		return n, nil
	case err == nil, errors.Is(err, io.EOF):
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

// isoImage is the file system of an ISO image.
type isoImage struct{ *iso9660.FileSystem }

// find returns the path of a file as it is in the image, ignoring case: without Rock Ridge, names are in upper case and
// may end in ";1".
func (m isoImage) find(name string) (string, error) {
	at := "."
	for part := range strings.SplitSeq(strings.Trim(path.Clean("/"+name), "/"), "/") {
		entries, err := m.ReadDir(at)
		if err != nil {
			return "", err
		}
		i := slices.IndexFunc(entries, func(e fs.DirEntry) bool {
			plain, _, _ := strings.Cut(e.Name(), ";")
			return strings.EqualFold(strings.TrimSuffix(plain, "."), part)
		})
		if i < 0 {
			return "", fmt.Errorf("%s: %w", name, fs.ErrNotExist)
		}
		at = path.Join(at, entries[i].Name())
	}

	return at, nil
}

// open opens a regular file, and returns its size in bytes.
func (m isoImage) open(name string) (fs.File, int64, error) {
	at, err := m.find(name)
	if err != nil {
		return nil, 0, err
	}
	f, err := m.Open(at)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// copy copies a file of the image to a local file.
func (m isoImage) copy(ctx context.Context, from, to string, limit int64, progress func(done, total int64)) error {
	in, size, err := m.open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if size > limit {
		return fmt.Errorf("it has %d bytes; at most %d are taken", size, limit)
	}
	done := int64(0)
	return writeFile(to, &meter{ctx, in, func(n int) {
		done += int64(n)
		if progress != nil {
			progress(done, size)
		}
	}})
}

// bootEntry is an entry of a boot loader's menu.
type bootEntry struct{ kernel, initrd, cmdline string }

// bootEntry returns the entry that the medium boots: the first complete one of a NixOS system or, if there is none, the
// first complete one.
func (m isoImage) bootEntry() (bootEntry, error) {
	var found []bootEntry
	for _, name := range []string{"isolinux/isolinux.cfg", "boot/isolinux/isolinux.cfg", "syslinux/syslinux.cfg", "boot/syslinux/syslinux.cfg",
		"EFI/BOOT/grub.cfg", "boot/grub/grub.cfg", "boot/grub2/grub.cfg"} {
		f, _, err := m.open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return bootEntry{}, fmt.Errorf("%s: %w", name, err)
		}

		text, err := io.ReadAll(io.LimitReader(f, maxText))
		f.Close()
		if err != nil {
			return bootEntry{}, fmt.Errorf("%s: %w", name, err)
		}

		found = append(found, bootEntries(string(text))...)
	}

	if len(found) == 0 {
		return bootEntry{}, errors.New("no isolinux.cfg or grub.cfg in it names a kernel and an initrd: take them " +
			"out, and add them with --kernel, --initrd and --cmdline")
	}
	i := slices.IndexFunc(found, func(e bootEntry) bool { return strings.Contains(" "+e.cmdline, " init=") })
	return found[max(i, 0)], nil
}

// bootEntries reads the complete entries of a menu of isolinux or GRUB. Words with variables are left out.
func bootEntries(text string) []bootEntry {
	var all []bootEntry
	var e bootEntry
	end := func() {
		if e.kernel != "" && e.initrd != "" {
			all = append(all, e)
		}
		e = bootEntry{}
	}
	for line := range strings.Lines(text) {
		w := splitArgs(line)
		if len(w) == 0 {
			continue
		}
		args := slices.DeleteFunc(w[1:], func(s string) bool { return strings.Contains(s, "$") })
		switch strings.ToLower(w[0]) {
		case "label", "menuentry", "submenu":
			end()
		case "kernel", "linux", "linuxefi", "linux16":
			if len(args) > 0 {
				e.kernel = args[0]
				e.cmdline = cmp.Or(strings.Join(args[1:], " "), e.cmdline)
			}
		case "initrd", "initrdefi", "initrd16":
			e.initrd = strings.Join(args, ",")
		case "append":
			e.cmdline = strings.Join(args, " ")
			for _, a := range args {
				if file, is := strings.CutPrefix(a, "initrd="); is {
					e.initrd = cmp.Or(e.initrd, file)
				}
			}
		}
	}

	end()
	return all
}

// ofMedium matches words of a command line that make stage 1 look for the medium.
var ofMedium = regexp.MustCompile(`(?:^| )(root=(?:LABEL|UUID|PARTUUID|PARTLABEL|/dev/|live:)[^ ]*|findiso=[^ ]*|boot=live|boot=casper|archisolabel=[^ ]*)`)

// fromMemory returns an error if the system needs its medium after the boot.
func (m isoImage) fromMemory(e bootEntry, initrdFile string) error {
	if strings.Contains(e.initrd, ",") {
		return fmt.Errorf("it boots with several initrds (%s): put them into one, and add that with --initrd", e.initrd)
	}
	word := ofMedium.FindStringSubmatch(e.cmdline)
	squashfs := ""
	for _, name := range []string{"nix-store.squashfs", "nix-store.erofs"} {
		if _, err := m.find(name); err == nil {
			squashfs = name
		}
	}

	if word == nil && squashfs == "" {
		return nil
	}
	f, err := os.Open(initrdFile)
	if err != nil {
		return err
	}
	defer f.Close()

	inside := false
	err = initrd.Walk(f, func(name string, _ initrd.Header, _ io.Reader) error {
		inside = strings.HasSuffix(name, ".squashfs") || strings.HasSuffix(name, ".erofs")
		if inside {
			return fs.SkipAll
		}
		return nil
	})
	if err != nil || inside {
		return err
	}

	why := "its system is in " + squashfs + " on the medium"
	if word != nil {
		why = "its stage 1 looks for the medium (" + word[1] + ")"
	}
	return fmt.Errorf("this ISO cannot run from memory: %s, which a netbooted machine does not have; use the "+
		"netboot files of the same release, "+
		"bzImage-ARCH-linux (or Image-…), initrd-ARCH-linux and netboot-ARCH-linux.ipxe, or a kexec tarball: "+
		"https://github.com/nix-community/nixos-images/releases", why)
}
