// Package boards knows the kinds of machines: one row a board.
//
// A row is data. It says what the board is called, how its firmware netboots and what that tells of itself, which files
// it loads, which disks it starts from, and where U-Boot falls short on it. Whoever has to do one thing for this board
// and another for that one reads the row, and never compares names: a new board is a new row in rows.go, and a layout
// preset of the same name in package disko if the board starts from a disk in its own way.
//
// The board's firmware is a tree of files that the operator adds to the catalog of package images. Here a tree is the
// list of the slash paths in it, such as "start4.elf" and "overlays/vc4-kms-v3d.dtbo".
//
// This package imports nothing of ours.
package boards

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Board is what is known of a kind of machine before anything of it is seen.
type Board struct {
	// Name is what people and records call the board, as in enroll --board.
	Name string
	// Description says in words which machines these are.
	Description string
	// Arch is the processor architecture, in nix's and uname's words: x86_64 or aarch64.
	Arch string
	// Generic boards are what a machine of that architecture is taken for that netboots by PXE or UEFI HTTP boot,
	// which tell no more than the architecture.
	Generic bool

	// Firmware names the tree that the board's own firmware loads its next stage from; empty: it needs none, and starts
	// what UEFI and BIOS start. The firmware netboots by files over TFTP.
	Firmware string
	// Memory is what all of these boards have, in bytes; 0: it differs.
	Memory int64
	// Models are told by the board's revision code.
	Models []Model
	// Digit is what follows "RPi" in DHCP option 97 of the board's EEPROM; 0: that tells no such word.
	Digit byte
	// ROM is how a boot ROM that tells nothing of itself is recognised; nil: there is none.
	ROM *ROM
	// TFTPBlock is the block size that the firmware asks for at least, in bytes.
	TFTPBlock int64
	// NoARP is set where the firmware answers no ARP request while it loads.
	NoARP bool

	// Table is how the firmware finds its partition on a disk.
	Table Table
	// GPTSince is the firmware from which on a GPT is read; empty: all that read GPTs at all do.
	GPTSince string
	// Mountpoints are where hosts usually mount the firmware's FAT partition, the likeliest first.
	Mountpoints []string

	// NoUBootNetwork is set where U-Boot has no driver for the network card, and says how the board netboots instead.
	NoUBootNetwork string
	// NoUBootNVMe is set where U-Boot does not read NVMe disks, and says what the host has to do instead.
	NoUBootNVMe string

	loads  []load
	uboots []uboot // the best first
	config []setting
	names  []string // pairs: part of a file's name in mainline Linux, what the firmware asks for
}

// Model is a model of a board that tells its revision code.
type Model struct {
	Code byte   // bits 4 to 11 of a revision code of the new style
	Name string // in words
	Tree string // the device tree that the firmware asks for; empty: that depends on what the module is plugged into
}

// ROM is what the DHCP requests of a boot ROM are recognised by.
type ROM struct {
	XID uint32 // transaction ID of all its requests, and of those of the program that it loads
	ID  uint32 // word that its option 97 repeats
}

// Table is which partition tables a board's firmware reads.
type Table int

// The tables.
const (
	TableUEFI Table = iota + 1 // GPT or MBR with an EFI system partition
	TablePC                    // that, or a BIOS boot partition or an MBR that GRUB is in
	TableMBR                   // MBR with a FAT partition of type 0x0b, 0x0c or 0x0e; a hybrid one does
	TableAny                   // GPT or MBR, with a FAT partition
)

// Medium is where a board's firmware loads files from.
type Medium int

// The media.
const (
	TFTP Medium = 1 << iota
	FAT         // the firmware partition of its disk, where U-Boot is what starts the system
)

// load is a file that a firmware asks for: by patterns of [path.Match], any of which will do.
type load struct {
	patterns []string
	needed   Medium // where it does not start without
	asked    Medium // where it is loaded if it is there
}

func (l load) match(name string) bool {
	return slices.ContainsFunc(l.patterns, func(pattern string) bool { return match(pattern, name) })
}

// uboot is a build of U-Boot that starts a board from its disk.
type uboot struct {
	file    string   // its name in the tree
	configs []string // what the configuration is called that it is built with, in lower case, with "_" for "-"
}

// setting is lines of the firmware's configuration that depend on what the tree has.
type setting struct {
	has   string // a pattern; empty: it does not matter
	lacks string // a pattern; empty: it does not matter
	lines []string
}

// All returns all boards that are known.
func All() []Board { return slices.Clone(rows) }

// Find returns the first board that is as wanted.
func Find(wanted func(Board) bool) (b Board, ok bool) {
	i := slices.IndexFunc(rows, wanted)
	if i < 0 {
		return Board{}, false
	}
	return rows[i], true
}

// Parse returns the board of that name; the error lists those that there are.
func Parse(name string) (Board, error) {
	b, ok := Find(func(b Board) bool { return b.Name == name })
	if !ok {
		return Board{}, fmt.Errorf("unknown board %q: it is one of %s", name, strings.Join(Names(), ", "))
	}
	return b, nil
}

// Names returns the names of all boards.
func Names() []string {
	var names []string
	for _, b := range rows {
		names = append(names, b.Name)
	}
	return names
}

// String is the board in words.
func (b Board) String() string { return b.Name + " (" + b.Description + ")" }

// Files returns the files of the tree that the board's firmware loads from m, and for FAT U-Boot. What rewrites an
// EEPROM is never among them.
func (b Board) Files(tree []string, m Medium) []string {
	program := ""
	if m&FAT != 0 {
		program = b.UBoot(tree)
	}
	var files []string
	for _, name := range tree {
		loaded := slices.ContainsFunc(b.loads, func(l load) bool { return l.asked&m != 0 && l.match(name) })
		if loaded || name == program {
			files = append(files, name)
		}
	}
	return files
}

// Missing says what the tree lacks for the board to start from m, a file or a pattern each; nil: nothing. A board that
// needs no tree lacks nothing.
func (b Board) Missing(tree []string, m Medium) []string {
	var lacks []string
	for _, l := range b.loads {
		if l.needed&m != 0 && !slices.ContainsFunc(tree, l.match) {
			lacks = append(lacks, strings.Join(l.patterns[:min(2, len(l.patterns))], " or "))
		}
	}

	if m&FAT != 0 && b.Firmware != "" && b.UBoot(tree) == "" {
		var files []string
		for _, u := range b.uboots {
			files = append(files, u.file)
		}
		lacks = append(lacks, strings.Join(files, " or "))
	}

	return lacks
}

// Starts reports whether any of the files, by their names in the firmware's partition, is one that the board cannot
// start without: then what it starts with is there, whoever put it there.
func (b Board) Starts(files []string) bool {
	return slices.ContainsFunc(b.loads, func(l load) bool {
		return l.needed&FAT != 0 && slices.ContainsFunc(files, l.match)
	})
}

// AskedName is the name by which the board's firmware asks for a device tree that mainline Linux calls differently.
func (b Board) AskedName(file string) string { return strings.NewReplacer(b.names...).Replace(file) }

// ConfigTxt is the file that tells a Raspberry Pi's firmware what to start.
const ConfigTxt = "config.txt"

// Config is what the firmware partition's [ConfigTxt] says, where U-Boot starts the system.
func (b Board) Config(tree []string) string {
	lines := []string{
		"# Written by provision: U-Boot starts the system.",
		"arm_64bit=1",
		"enable_uart=1",
		"kernel=" + b.UBoot(tree),
	}
	has := func(pattern string) bool {
		return slices.ContainsFunc(tree, func(name string) bool { return match(pattern, name) })
	}
	for _, s := range b.config {
		if (s.has == "" || has(s.has)) && (s.lacks == "" || !has(s.lacks)) {
			lines = append(lines, s.lines...)
		}
	}

	return strings.Join(lines, "\n") + "\n"
}

// UBoot is the name in the tree of the best U-Boot for the board; empty if there is none.
func (b Board) UBoot(tree []string) string {
	for _, u := range b.uboots {
		if slices.Contains(tree, u.file) {
			return u.file
		}
	}
	return ""
}

// UBootFiles returns the names that trees have for builds of U-Boot, the best of each board.
func UBootFiles() []string {
	var files []string
	for _, b := range rows {
		if len(b.uboots) > 0 && !slices.Contains(files, b.uboots[0].file) {
			files = append(files, b.uboots[0].file)
		}
	}
	return files
}

// UBootFile is the name that a tree has for a U-Boot, by the name of the configuration that it was built with, which
// is somewhere in the path where it was found: Debian has rpi_4/u-boot.bin, nixpkgs a path like
// …-uboot-rpi_4_defconfig-2025.01. It is empty if the path does not tell.
func UBootFile(where string) string {
	where = strings.ReplaceAll(strings.ToLower(where), "-", "_")
	for _, b := range rows {
		// What suits more boards comes first.
		for _, u := range slices.Backward(b.uboots) {
			if slices.ContainsFunc(u.configs, func(config string) bool { return strings.Contains(where, config) }) {
				return u.file
			}
		}
	}
	return ""
}

func match(pattern, name string) bool {
	ok, _ := path.Match(pattern, name) // the patterns are ours, and a test reads them all
	return ok
}
