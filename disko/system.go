package disko

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// System holds the options that an installed NixOS needs for a layout, which disko's own module would set. Its JSON
// form is what the configuration of a host evaluates to.
type System struct {
	FileSystems []FileSystem `json:"fileSystems"`
	LUKS        []Unlocked   `json:"luks"`  // boot.initrd.luks.devices
	Swaps       []string     `json:"swaps"` // swapDevices.*.device, without those with random encryption
	Resume      string       `json:"-"`     // boot.resumeDevice
	RAID        bool         `json:"-"`     // boot.swraid.enable
	GRUB        []string     `json:"-"`     // boot.loader.grub.devices

	labels map[string]string // of file systems and swap, by device
}

// FileSystem is an entry of fileSystems.
type FileSystem struct {
	MountPoint string   `json:"mountPoint"`
	Device     string   `json:"device"` // empty: not set
	Type       string   `json:"fsType"` // "auto": detected when it is mounted
	Options    []string `json:"options"`
}

// Unlocked is a LUKS container that stage 1 unlocks.
type Unlocked struct {
	Name     string `json:"name"`
	Device   string `json:"device"`
	Discards bool   `json:"-"` // allowDiscards
}

// system returns the options for a layout, for no machine in particular.
func (l *Layout) system() System {
	b := &builder{reader: &reader{seen: map[string]string{}}, mode: Mount}
	l.fill(b, nil)
	return b.system
}

// FileSystems returns the file systems that an installed system mounts.
func (l *Layout) FileSystems() []FileSystem { return l.system().FileSystems }

// labelled records the label that mkfs, or mkswap, is told to set.
func (b *builder) labelled(on blockTarget, format string, args []string) {
	label := labelOf(format, args)
	if label == "" {
		return
	}
	if b.system.labels == nil {
		b.system.labels = map[string]string{}
	}
	b.system.labels[on.device] = label
	if !on.keep {
		b.names = append(b.names, uniqueName{"label", label})
	}
}

// labelOf returns the label in the arguments of a mkfs; empty if there is none.
func labelOf(format string, args []string) (label string) {
	option := cmp.Or(map[string]string{"vfat": "-n", "fat": "-n", "msdos": "-n", "exfat": "-n", "f2fs": "-l"}[format], "-L")
	for i, arg := range args {
		long, isLong := strings.CutPrefix(arg, "--label=")
		short, isShort := strings.CutPrefix(arg, option)
		switch {
		case isLong:
			label = long
		case isShort && short != "":
			label = short
		case (isShort || arg == "--label") && i+1 < len(args):
			label = args[i+1]
		}
	}

	return label
}

// Nix returns the options as a NixOS module, for a host without disko.
func (s System) Nix() string {
	var b strings.Builder
	b.WriteString("{\n")
	inMemory := slices.ContainsFunc(s.FileSystems, func(f FileSystem) bool { return f.MountPoint == "/" && f.Type == "tmpfs" })
	for _, f := range s.sorted() {
		fmt.Fprintf(&b, "  fileSystems.%s = {\n    device = %s;\n    fsType = %s;\n    options = %s;\n", quoteNix(f.MountPoint), quoteNix(s.lasting(f.Device)), quoteNix(f.Type), listNix(f.Options))
		if inMemory && !slices.Contains([]string{"/", "/boot", "/nix"}, f.MountPoint) {
			b.WriteString("    neededForBoot = true;\n")
		}
		b.WriteString("  };\n")
	}

	for _, u := range s.LUKS {
		fmt.Fprintf(&b, "  boot.initrd.luks.devices.%s = {\n    device = %s;\n    allowDiscards = %t;\n  };\n", quoteNix(u.Name), quoteNix(s.lasting(u.Device)), u.Discards)
	}
	if len(s.Swaps) > 0 {
		b.WriteString("  swapDevices = [\n")
		for _, swap := range s.Swaps {
			fmt.Fprintf(&b, "    { device = %s; }\n", quoteNix(s.lasting(swap)))
		}
		b.WriteString("  ];\n")
	}

	if s.Resume != "" {
		fmt.Fprintf(&b, "  boot.resumeDevice = %s;\n", quoteNix(s.lasting(s.Resume)))
	}
	if s.RAID {
		b.WriteString("  boot.swraid.enable = true;\n")
	}
	if len(s.GRUB) > 0 {
		fmt.Fprintf(&b, "  boot.loader.grub.devices = %s;\n", listNix(s.GRUB))
	}
	b.WriteString("}\n")
	return b.String()
}

// sorted returns the file systems sorted by mount point.
func (s System) sorted() []FileSystem {
	return slices.SortedFunc(slices.Values(s.FileSystems),
		func(a, b FileSystem) int { return cmp.Compare(a.MountPoint, b.MountPoint) })
}

// lasting returns a name for a device that does not depend on the disk: the names of a legacy table's partitions
// contain that of their disk, so the label is used instead.
func (s System) lasting(device string) string {
	if label := s.labels[device]; label != "" && ofDisk.MatchString(device) {
		return "/dev/disk/by-label/" + label
	}
	return device
}

// ofDisk matches names that begin with the name of their disk.
var ofDisk = regexp.MustCompile(`^/dev/([^/]*[0-9]|disk/by-(id|path)/.*-part[0-9]+)$`)

// names returns the names by which an installed system can find a device of the layout.
func (s System) names(device string) []string {
	names := []string{device}
	if label := s.labels[device]; label != "" {
		names = append(names, "/dev/disk/by-label/"+label)
	}
	if group, volume, ok := strings.Cut(strings.TrimPrefix(device, "/dev/"), "/"); ok && !slices.Contains([]string{"disk", "mapper", "md"}, group) {
		double := strings.NewReplacer("-", "--")
		names = append(names, "/dev/mapper/"+double.Replace(group)+"-"+double.Replace(volume))
	}
	return names
}

// Differences lists, for people, where a host's configuration (have) differs from the layout, so that the installed
// system would not mount what was made. Device names that have a meaning only on one machine (/dev/sda2) are not
// compared.
func (s System) Differences(have System) (lines []string) {
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	other := func(attr, device, has string) {
		if names := s.names(device); telling(has) && !slices.Contains(names, spelledOut(has)) {
			say("%s is %s and should be %s", attr, cmp.Or(has, "not said"), strings.Join(names, " or "))
		}
	}
	for _, f := range s.sorted() {
		attr := "fileSystems." + quoteNix(f.MountPoint)
		i := slices.IndexFunc(have.FileSystems, func(h FileSystem) bool { return path.Clean("/"+h.MountPoint) == f.MountPoint })
		if i < 0 {
			say("%s is missing", attr)
			continue
		}
		h := have.FileSystems[i]
		if h.Type != "auto" && h.Type != "" && h.Type != f.Type {
			say("%s.fsType is %s and should be %s", attr, h.Type, f.Type)
		} else if strings.HasPrefix(f.Device, "/dev/") {
			other(attr+".device", f.Device, h.Device)
		}

		if has, want := subvolumeOf(h.Options), subvolumeOf(f.Options); has != want {
			say("%s.options has %s and should have %s", attr, cmp.Or(has, "no subvolume"), cmp.Or(want, "no subvolume"))
		}
	}

	for _, u := range s.LUKS {
		attr := "boot.initrd.luks.devices." + u.Name
		i := slices.IndexFunc(have.LUKS, func(h Unlocked) bool { return h.Name == u.Name })
		if i < 0 {
			say("%s is missing", attr)
			continue
		}
		other(attr+".device", u.Device, have.LUKS[i].Device)
	}

	for _, swap := range s.Swaps {
		if !slices.ContainsFunc(have.Swaps, func(h string) bool {
			return !telling(h) ||
				slices.Contains(s.names(swap), spelledOut(h))
		}) {
			say("swapDevices lacks %s", strings.Join(s.names(swap), " or "))
		}
	}

	return lines
}

// telling reports whether the meaning of a device name is the same on any machine.
func telling(device string) bool {
	for _, dir := range []string{"/dev/disk/by-label/", "/dev/disk/by-partlabel/", "/dev/disk/by-partuuid/", "/dev/disk/by-uuid/", "/dev/mapper/", "/dev/md/"} {
		if strings.HasPrefix(spelledOut(device), dir) {
			return true
		}
	}
	return device == ""
}

// spelledOut returns the path for a name such as LABEL=nixos, which mount(8) knows too.
func spelledOut(device string) string {
	tag, value, ok := strings.Cut(device, "=")
	if !ok || !slices.Contains([]string{"LABEL", "PARTLABEL", "UUID", "PARTUUID"}, tag) {
		return device
	}
	return "/dev/disk/by-" + strings.ToLower(tag) + "/" + strings.Trim(value, `"`)
}

// subvolumeOf returns the mount option subvol=NAME of btrfs, without the slash that NAME may begin with; empty if there
// is none.
func subvolumeOf(options []string) string {
	for _, option := range options {
		for _, word := range strings.Split(option, ",") {
			if name, ok := strings.CutPrefix(word, "subvol="); ok {
				return "subvol=" + strings.Trim(name, "/")
			}
		}
	}
	return ""
}

// escapeNix escapes text for a string in Nix.
var escapeNix = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "${", `\${`)

// quoteNix returns s as a string in Nix.
func quoteNix(s string) string { return `"` + escapeNix.Replace(s) + `"` }

// listNix returns a list of strings in Nix.
func listNix(list []string) string {
	tokens := []string{"["}
	for _, s := range list {
		tokens = append(tokens, quoteNix(s))
	}
	return strings.Join(append(tokens, "]"), " ")
}
