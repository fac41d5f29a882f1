package disko

import (
	"cmp"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// scratch is where btrfs and bcachefs are mounted while their subvolumes are made. Plans may meet it
// mounted, when an earlier one was cut short.
const scratch = "/run/provision/subvolumes"

type btrfs struct {
	args []string
	root subvolume
	subs []subvolume
}

type subvolume struct {
	name, mountpoint string // the name is empty for the top level
	kept             bool   // is there, and only lacks swap files
	args, options    []string
	swapfiles        []swapfile
}

type swapfile struct {
	file, size string
	priority   *int
	options    []string
}

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

// subvolumeName reads the name of a subvolume of what is at a path.
func (a *attrs) subvolumeName(of string) string {
	name := a.str("name")
	clean := path.Clean("/" + name)
	if clean == "/" || slices.Contains(strings.Split(name, "/"), "..") || strings.Contains(name, ",") {
		a.bad("name", "%q is not a name for a subvolume", name)
	}
	a.unique("subvolume", of+clean, a.at("name"))
	return name
}

// sortSubvolumes puts parents before their children, whatever the attributes are called.
func sortSubvolumes(subs []subvolume) {
	slices.SortFunc(subs, func(a, b subvolume) int {
		return cmp.Compare(path.Clean("/"+a.name), path.Clean("/"+b.name))
	})
}

// parseSubvolume reads what the top level and a subvolume have in common.
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

// minimum is mkfs's, or what the swap files need: they have all of their extents at once.
func (f *btrfs) minimum() int64 {
	minimum := formats["btrfs"].of(f.args)
	if devicePattern.MatchString(strings.Join(f.args, " ")) {
		return minimum // on other devices, too
	}
	files := int64(0)
	for _, s := range append([]subvolume{f.root}, f.subs...) {
		for _, file := range s.swapfiles {
			files = min(files+file.bytes(), 1<<60)
		}
	}
	return max(minimum, files)
}

// bytes is at most an exbibyte, so that some of them can be added.
func (s swapfile) bytes() int64 {
	unit := strings.IndexByte("KMGTP", s.size[len(s.size)-1]) + 1
	n, err := strconv.ParseInt(s.size[:len(s.size)-1], 10, 64)
	if err != nil || n > 1<<(60-10*unit) {
		return 1 << 60
	}
	return n << (10 * unit)
}

// fill makes the subvolumes in one mount; disko has one for each.
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

// scan shows the kernel the devices of a file system that has several: mount names one.
func (f *btrfs) scan(on blockTarget, stage Stage) []Step {
	if !devicePattern.MatchString(strings.Join(f.args, " ")) {
		return nil
	}
	return []Step{{Stage: stage, Name: "show the devices of " + on.name + " to the kernel", Argv: []string{"btrfs", "device", "scan"}, Device: on.device}}
}

// makeInside makes files of the top level, and subvolumes with theirs.
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

// parents makes the folders that a subvolume lies in, unless they are made already.
func (b *builder) parents(on blockTarget, made *[]string, at string) {
	if dir := path.Dir(at); !slices.Contains(*made, dir) {
		*made = append(*made, dir)
		b.step("make folder "+strings.TrimPrefix(dir, scratch)+" on "+on.name, on.device, "mkdir", "-p", dir)
	}
}

// keepInside compares a btrfs that is kept, once it was looked into, and makes what is missing.
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

// path is the subvolume's, from the top level.
func (s subvolume) path() string { return path.Clean("/" + s.name) }

func (s subvolume) makeSwapfiles(b *builder, on blockTarget, dir string) {
	for _, f := range s.swapfiles {
		b.step("make swap file "+path.Join("/", s.name, f.file)+" on "+on.name, on.device,
			"btrfs", "filesystem", "mkswapfile", "--size", f.size, path.Join(dir, f.file))
	}
}

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
