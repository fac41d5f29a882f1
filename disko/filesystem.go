package disko

import (
	"slices"
	"strconv"
	"strings"
)

// Smallest devices that mkfs accepts, rounded up (btrfs-progs 6, xfsprogs 6).
var formats = map[string]int64{
	"vfat": mib, "ext2": mib, "ext3": 4 * mib, "ext4": 4 * mib, "xfs": 300 * mib, "btrfs": 114 * mib,
}

type filesystem struct {
	format, mountpoint string
	args, options      []string
}

func parseFilesystem(a *attrs) content {
	f := &filesystem{format: a.str("format"), mountpoint: a.mountpoint(), options: a.list("mountOptions")}
	f.args = a.formatArgs(a.list("extraArgs"))
	if _, ok := formats[f.format]; !ok {
		a.bad("format", "%q is not supported yet; supported are btrfs, ext2, ext3, ext4, vfat, xfs", f.format)
	}
	return f
}

func (f *filesystem) minimum() int64 { return formats[f.format] }

func (f *filesystem) create(b *builder, on place) {
	argv := append([]string{"mkfs." + f.format}, f.args...)
	b.step("format "+on.name+" with "+f.format, on.device, append(argv, on.device)...)
}

func (f *filesystem) mount(m *mounts, on place) {
	m.fs(f.mountpoint, f.format, on.device, f.options)
}

type swap struct {
	discard       string
	priority      *int
	args, options []string
}

func parseSwap(a *attrs) content {
	s := &swap{discard: a.optional("discardPolicy"), args: a.words("extraArgs"), options: a.list("mountOptions")}
	if !slices.Contains([]string{"", "once", "pages", "both"}, s.discard) {
		a.bad("discardPolicy", "%q is not once, pages or both", s.discard)
	}
	s.priority = a.priority()
	a.formatArgs(s.args)
	a.off("put the swap inside luks", "randomEncryption")
	// NixOS resumes from it; making it is the same.
	a.ignore("resumeDevice")
	return s
}

func (a *attrs) priority() *int {
	p, ok := take[int](a, "priority")
	if !ok {
		return nil
	}
	if p < 0 || p > 32767 {
		a.bad("priority", "%d is not between 0 and 32767", p)
	}
	return &p
}

func (s *swap) minimum() int64 { return mib }

func (s *swap) create(b *builder, on place) {
	argv := append([]string{"mkswap"}, s.args...)
	b.step("format "+on.name+" as swap", on.device, append(argv, on.device)...)
}

func (s *swap) mount(m *mounts, on place) {
	var flags []string
	switch s.discard {
	case "":
	case "both":
		flags = []string{"--discard"}
	default:
		flags = []string{"--discard=" + s.discard}
	}
	m.swap(on.device, s.priority, s.options, flags...)
}

// swapon adds what a swap device and a swap file have in common.
func swapon(device string, priority *int, options []string, flags ...string) []string {
	argv := append([]string{"swapon"}, flags...)
	if priority != nil {
		argv = append(argv, "--priority="+strconv.Itoa(*priority))
	}
	if len(options) > 0 {
		argv = append(argv, "--options="+strings.Join(options, ","))
	}
	return append(argv, device)
}
