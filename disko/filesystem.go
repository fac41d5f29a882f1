package disko

import (
	"cmp"
	"path"
	"regexp"
	"slices"
	"strings"
)

// formats has the sizes of the smallest devices that mkfs accepts, for the versions that were tested (dosfstools 4.2,
// e2fsprogs 1.47, xfsprogs 6.1, btrfs-progs 6.2, f2fs-tools 1.15). With certain arguments, some accept smaller ones.
var formats = map[string]leastSize{
	"vfat": {32 << 10, 32 << 10}, "ext2": {64 << 10, 0}, "ext3": {64 << 10, 0}, "ext4": {64 << 10, 0},
	"xfs": {300 * mib, 16 * mib}, "btrfs": {109 * mib, 0}, "f2fs": {38 * mib, 0},
}

// leastSize has minimum sizes in bytes, without and with arguments; 0: not known.
type leastSize struct{ plain, withArgs int64 }

// of returns the minimum size for these arguments. Labels, UUIDs and force do not change it.
func (l leastSize) of(args []string) int64 {
	for i := 0; i < len(args); i++ {
		switch args[i] {
		case "-f", "-F", "-q", "--force", "--quiet":
		case "-L", "-U", "--label", "--uuid":
			i++
		default:
			return l.withArgs
		}
	}
	return l.plain
}

// kinds maps names of file systems that mkfs knows to those that lsblk shows, where they differ.
var kinds = map[string]string{"fat": "vfat", "msdos": "vfat", "ntfs3": "ntfs"}

// filesystem is a file system on one device, without parts of its own.
type filesystem struct {
	format, mountpoint string
	args, options      []string
}

// formatPattern restricts the format, which becomes part of a program's name (mkfs.FORMAT).
var formatPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_+-]*(\.[a-z0-9]+)*$`)

func parseFilesystem(a *attrs) deviceContent {
	return &filesystem{
		format:     a.matches("format", formatPattern, "what mkfs.FORMAT and mount -t know, such as ext4"),
		mountpoint: a.mountpoint(), options: a.list("mountOptions"), args: a.borrow("extraArgs", a.list("extraArgs")),
	}
}

func (f *filesystem) minimum() int64 { return formats[f.format].of(f.args) }

func (f *filesystem) fill(b *builder, on blockTarget) {
	if b.make(f, on, cmp.Or(kinds[f.format], f.format)) {
		argv := append([]string{"mkfs." + f.format}, b.overwrite(f.args)...)
		b.step("format "+on.name+" with "+f.format, on.device, append(argv, on.device)...)
	}
	b.mount(f.mountpoint, f.format, on.device, f.options)
	b.labelled(on, f.format, f.args)
}

// nodev is a file system without a device of its own: tmpfs and the like, or a bind mount.
type nodev struct {
	kind, mountpoint string
	options          []string
}

func parseNodev(d *topDevice, a *attrs, name string) {
	a.want("type", "nodev")
	n := &nodev{kind: a.matches("fsType", formatPattern, "what mount -t knows, such as tmpfs"), options: a.list("mountOptions"), mountpoint: a.mountpoint()}
	d.on = blockTarget{device: a.str("device"), name: name}
	switch {
	case n.bind():
		a.absolute("device", d.on.device)
	case d.on.device == "" || strings.HasPrefix(d.on.device, "-"):
		a.bad("device", "%q is not a name for mount; use the type's name, such as tmpfs", d.on.device)
	}
	d.body = n
}

// bind reports whether it is a bind mount.
func (n *nodev) bind() bool {
	return slices.ContainsFunc(n.options, func(o string) bool {
		options := strings.Split(o, ",")
		return slices.Contains(options, "bind") || slices.Contains(options, "rbind")
	})
}

// fill adds the mount. The source of a bind mount is a folder of the new system, which may have to be made.
func (n *nodev) fill(b *builder, on blockTarget) {
	if !n.bind() {
		b.mount(n.mountpoint, n.kind, on.device, n.options)
		return
	}
	source := path.Join(target, on.device)
	folder := Step{Stage: StageMount, Name: "make folder " + on.device, Device: source, Argv: []string{"mkdir", "-p", source}}
	b.mountAfter(path.Clean(on.device), n.mountpoint, n.kind, source, n.options, folder)
}
