package disko

import (
	"cmp"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// scratch is where btrfs and bcachefs are mounted while their subvolumes are made. It may be mounted already when a
// plan runs, if an earlier run was interrupted.
const scratch = "/run/provision/subvolumes"

// btrfs is a btrfs file system with its subvolumes.
type btrfs struct {
	args []string
	root subvolume
	subs []subvolume
}

// subvolume is a subvolume of btrfs or bcachefs, or the top level of the file system.
type subvolume struct {
	name, mountpoint string // the name is empty for the top level
	kept             bool   // it exists, and only lacks swap files
	args, options    []string
	swapfiles        []swapfile
}

// swapfile is a swap file on btrfs.
type swapfile struct {
	file, size string
	priority   *int
	options    []string
}

// swapfileSize matches the sizes that are accepted for swap files.
var swapfileSize = regexp.MustCompile(`^[1-9][0-9]*[KMGTP]$`)

func parseBtrfs(a *attrs) deviceContent {
	f := &btrfs{args: a.borrow("extraArgs", a.stringList("extraArgs")), root: parseSubvolume(a)}
	names, sets := a.sets("subvolumes")
	for _, name := range names {
		s := sets[name]
		s.want("type", "btrfs_subvol")
		sub := parseSubvolume(s)
		sub.args = s.stringList("extraArgs")
		sub.name = s.subvolumeName(a.path)
		s.done()
		f.subs = append(f.subs, sub)
	}

	sortSubvolumes(f.subs)
	return f
}

// subvolumeName reads the name of a subvolume. of is the path of the file system in the layout.
func (a *attrs) subvolumeName(of string) string {
	name := a.str("name")
	clean := path.Clean("/" + name)
	if clean == "/" || slices.Contains(strings.Split(name, "/"), "..") || strings.Contains(name, ",") {
		a.bad("name", "%q is not a name for a subvolume", name)
	}
	a.unique("subvolume", of+clean, a.at("name"))
	return name
}

// sortSubvolumes puts parents before their children, whatever their attributes are called.
func sortSubvolumes(subs []subvolume) {
	slices.SortFunc(subs, func(a, b subvolume) int {
		return cmp.Compare(path.Clean("/"+a.name), path.Clean("/"+b.name))
	})
}

// parseSubvolume reads the attributes that the top level and a subvolume have in common.
func parseSubvolume(a *attrs) subvolume {
	s := subvolume{mountpoint: a.mountpoint(), options: a.list("mountOptions")}
	names, files := a.sets("swap")
	for _, name := range names {
		f := files[name]
		file := swapfile{file: f.str("path"), size: f.str("size"), priority: f.priority(), options: f.list("options")}
		if file.file == "" || file.file == "." || file.file == ".." || strings.Contains(file.file, "/") {
			f.bad("path", "%q is not a plain file name; disko makes no folders for it", file.file)
		}
		f.unique("swap file", join(a.path, file.file), f.at("path"))
		if !swapfileSize.MatchString(file.size) {
			f.bad("size", "%q is not a number with K, M, G, T or P", file.size)
		}
		if s.mountpoint == "" {
			f.errorf(f.path, "a swap file needs a mountpoint; set %s", a.at("mountpoint"))
		}
		f.done()
		s.swapfiles = append(s.swapfiles, file)
	}

	return s
}

// minimum is that of mkfs.btrfs, or the size of all swap files, whose space is allocated when they are made.
func (f *btrfs) minimum() int64 {
	minimum := formats["btrfs"].of(f.args)
	if devicePattern.MatchString(strings.Join(f.args, " ")) {
		return minimum // the files may be on the other devices
	}
	files := int64(0)
	for _, s := range append([]subvolume{f.root}, f.subs...) {
		for _, file := range s.swapfiles {
			files = min(files+file.bytes(), 1<<60)
		}
	}
	return max(minimum, files)
}

// bytes returns the size in bytes, but at most 1 EiB, so that a few sizes can be added without overflow.
func (s swapfile) bytes() int64 {
	unit := strings.IndexByte("KMGTP", s.size[len(s.size)-1]) + 1
	n, err := strconv.ParseInt(s.size[:len(s.size)-1], 10, 64)
	if err != nil || n > 1<<(60-10*unit) {
		return 1 << 60
	}
	return n << (10 * unit)
}

// fill makes all subvolumes in one mount, while disko mounts once for each.
func (f *btrfs) fill(b *builder, on blockTarget) {
	if b.make(f, on, "btrfs") {
		b.step("format "+on.name+" with btrfs", on.device, append([]string{"mkfs.btrfs", on.device}, b.overwrite(f.args)...)...)
		f.makeInside(b, on, f.root.swapfiles, f.subs)
	} else if on.found != nil && on.found.holds() == "btrfs" {
		f.keepInside(b, on)
	}
	b.opening = append(b.opening, f.scan(on, StageMount)...)
	f.mount(b, on)
}

// scan returns the step that makes the kernel find all devices of a file system with several, since mount names only
// one of them. It returns none if there is only one device.
func (f *btrfs) scan(on blockTarget, stage Stage) []Step {
	if !devicePattern.MatchString(strings.Join(f.args, " ")) {
		return nil
	}
	return []Step{{Stage: stage, Name: "show the devices of " + on.name + " to the kernel", Argv: []string{"btrfs", "device", "scan"}, Device: on.device}}
}

// makeInside makes swap files in the top level, and subvolumes with their swap files.
func (f *btrfs) makeInside(b *builder, on blockTarget, files []swapfile, subs []subvolume) {
	if len(subs) == 0 && len(files) == 0 {
		return
	}
	b.step("make a folder to mount "+on.name, on.device, "mkdir", "-p", scratch)
	b.steps = append(b.steps, f.scan(on, b.stage)...)
	b.step("mount "+on.name+" to make its subvolumes", on.device,
		"mount", on.device, scratch, "-t", "btrfs", "-o", "subvol=/")
	subvolume{swapfiles: files}.makeSwapfiles(b, on, scratch)
	made := []string{scratch}
	for _, s := range subs {
		at := path.Join(scratch, s.name)
		if s.kept {
			s.makeSwapfiles(b, on, at)
			continue
		}
		made = append(made, at)
		b.parents(on, &made, at)
		b.step("make subvolume "+s.name+" on "+on.name, on.device,
			append([]string{"btrfs", "subvolume", "create", at}, s.args...)...)
		s.makeSwapfiles(b, on, at)
	}

	b.step("unmount "+on.name, on.device, "umount", scratch)
}

// parents makes the folder in which a subvolume is made, unless it has been made already.
func (b *builder) parents(on blockTarget, made *[]string, at string) {
	if dir := path.Dir(at); !slices.Contains(*made, dir) {
		*made = append(*made, dir)
		b.step("make folder "+strings.TrimPrefix(dir, scratch)+" on "+on.name, on.device, "mkdir", "-p", dir)
	}
}

// keepInside compares an existing btrfs with the layout, and makes what is missing. If the facts do not tell what is on
// it, it adds the paths to what the next probe has to look for.
func (f *btrfs) keepInside(b *builder, on blockTarget) {
	for _, arg := range f.args {
		for _, device := range devicePattern.FindAllString(arg, -1) {
			if p := b.places[device]; p.found != nil && p.found.UUID != on.found.UUID {
				b.errorf(on.at, "%s is not a part of the btrfs on %s", p.device, on.device)
			}
		}
	}

	var want []string
	for _, s := range append([]subvolume{f.root}, f.subs...) {
		if s.name != "" {
			want = append(want, s.path())
		}
		for _, file := range s.swapfiles {
			want = append(want, path.Join(s.path(), file.file))
		}
	}

	inside, looked := b.facts.Inside[on.found.device()]
	if len(want) == 0 {
		return
	}
	b.look[on.found.device()] = want
	if !looked {
		b.blind = true
		return
	}
	missing := func(at, kind string) bool {
		if got := inside[at]; got != "" {
			if got != kind {
				b.errorf(on.at, "%s on %s is no %s", at, on.device, kind)
			}
			return false
		}
		return b.lacks(on.at, "%s has no %s %s", on.device, kind, at)
	}
	lacks := func(s subvolume) (files []swapfile) {
		for _, file := range s.swapfiles {
			if missing(path.Join(s.path(), file.file), "file") {
				files = append(files, file)
			}
		}
		return files
	}
	var subs []subvolume
	for _, s := range f.subs {
		s.kept = !missing(s.path(), "subvolume")
		if s.swapfiles = lacks(s); !s.kept || len(s.swapfiles) > 0 {
			subs = append(subs, s)
		}
	}

	f.makeInside(b, on, lacks(f.root), subs)
}

// path returns the path of the subvolume from the top level.
func (s subvolume) path() string { return path.Clean("/" + s.name) }

// makeSwapfiles makes the subvolume's swap files below dir.
func (s subvolume) makeSwapfiles(b *builder, on blockTarget, dir string) {
	for _, f := range s.swapfiles {
		b.step("make swap file "+path.Join("/", s.name, f.file)+" on "+on.name, on.device,
			"btrfs", "filesystem", "mkswapfile", "--size", f.size, path.Join(dir, f.file))
	}
}

// mount mounts the top level and the subvolumes that have a mount point, and turns on their swap files.
func (f *btrfs) mount(b *builder, on blockTarget) {
	for _, s := range append([]subvolume{f.root}, f.subs...) {
		options := slices.Clone(s.options)
		if s.name != "" {
			options = append(options, "subvol="+s.name)
		}
		b.mount(s.mountpoint, "btrfs", on.device, options)
		for _, file := range s.swapfiles {
			b.swapOn(path.Join(target, s.mountpoint, file.file), file.priority, file.options)
		}
	}
	b.labelled(on, "btrfs", f.args)
}
