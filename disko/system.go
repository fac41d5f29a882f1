package disko

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// System is what an installed NixOS has to be told of a layout: the options that disko's own module sets. Its JSON form
// is what a host's configuration has of them.
type System struct {
	FileSystems []FileSystem `json:"fileSystems"`
	LUKS        []Unlocked   `json:"luks"`  // boot.initrd.luks.devices
	Swaps       []string     `json:"swaps"` // swapDevices.*.device, but those with random encryption
	Resume      string       `json:"-"`     // boot.resumeDevice
	RAID        bool         `json:"-"`     // boot.swraid.enable
	GRUB        []string     `json:"-"`     // boot.loader.grub.devices

	labels map[string]string // by device, of what is on it
}

// FileSystem is one of fileSystems.
type FileSystem struct {
	MountPoint string   `json:"mountPoint"`
	Device     string   `json:"device"` // empty: not said
	Type       string   `json:"fsType"` // "auto": found out
	Options    []string `json:"options"`
}

// Unlocked is a LUKS container that stage 1 opens.
type Unlocked struct {
	Name     string `json:"name"`
	Device   string `json:"device"`
	Discards bool   `json:"-"` // allowDiscards
}

// system is that of a layout on no machine in particular.
func (l *Layout) system() System {
	b := &builder{reader: &reader{seen: map[string]string{}}, mode: Mount}
	l.fill(b, nil)
	return b.system
}

// FileSystems are what the layout has an installed system mount.
func (l *Layout) FileSystems() []FileSystem { return l.system().FileSystems }

// labelled notes the label that mkfs of a format, or mkswap, is told to give.
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

// labelOf finds the label among the arguments of a mkfs.
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

// Nix is the options as a NixOS module, for a host without disko.
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

func (s System) sorted() []FileSystem {
	return slices.SortedFunc(slices.Values(s.FileSystems),
		func(a, b FileSystem) int { return cmp.Compare(a.MountPoint, b.MountPoint) })
}

// lasting is a name of a device that is the same on any disk: a legacy table's partitions have the disk's name in
// theirs.
func (s System) lasting(device string) string {
	if label := s.labels[device]; label != "" && ofDisk.MatchString(device) {
		return "/dev/disk/by-label/" + label
	}
	return device
}

// ofDisk matches names that begin with their disk's.
var ofDisk = regexp.MustCompile(`^/dev/([^/]*[0-9]|disk/by-(id|path)/.*-part[0-9]+)$`)

// names are those under which an installed system finds a device of the layout.
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

// Differences are what a host's configuration has otherwise than the layout, so that the installed system would not
// mount what was made. A device's name that only the machine can tell (/dev/sda2) is none.
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

// telling tells whether a name says on any machine what is meant.
func telling(device string) bool {
	for _, dir := range []string{"/dev/disk/by-label/", "/dev/disk/by-partlabel/", "/dev/disk/by-partuuid/", "/dev/disk/by-uuid/", "/dev/mapper/", "/dev/md/"} {
		if strings.HasPrefix(spelledOut(device), dir) {
			return true
		}
	}
	return device == ""
}

// spelledOut is the path of what mount(8) also knows as LABEL=nixos and so on.
func spelledOut(device string) string {
	tag, value, ok := strings.Cut(device, "=")
	if !ok || !slices.Contains([]string{"LABEL", "PARTLABEL", "UUID", "PARTUUID"}, tag) {
		return device
	}
	return "/dev/disk/by-" + strings.ToLower(tag) + "/" + strings.Trim(value, `"`)
}

// subvolumeOf returns btrfs's option subvol=NAME without the slash that NAME may begin with.
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

var escapeNix = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "${", `\${`)

func quoteNix(s string) string { return `"` + escapeNix.Replace(s) + `"` }

func listNix(list []string) string {
	tokens := []string{"["}
	for _, s := range list {
		tokens = append(tokens, quoteNix(s))
	}
	return strings.Join(append(tokens, "]"), " ")
}
