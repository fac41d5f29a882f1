package images

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// Board is what is known of a kind of machine before anything of it is seen.
type Board struct {
	Name  string // as in enroll --board
	Words string // for people
	Arch  Arch
	// Firmware names the tree that the board's own firmware loads its next stage from, see
	// [Catalog.Firmware]; empty: what it boots from needs none.
	Firmware string
	// Memory is what the smallest of these boards has, in bytes; 0: nothing is known.
	Memory int64
	// Table is how the firmware finds its partition on a disk.
	Table Table
	// Mountpoints are where hosts usually mount the firmware's FAT partition, the likeliest first.
	Mountpoints []string

	uboot []string // that start it from its disk, the best first
	wants []want
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

// want is what a firmware asks for: by patterns of path.Match, any of which will do.
type want struct {
	patterns []string
	needed   Medium // where it does not start without
	asked    Medium // where it is loaded if it is there
}

func needed(patterns ...string) want { return want{patterns, TFTP | FAT, TFTP | FAT} }

func optional(m Medium, patterns ...string) want { return want{patterns: patterns, asked: m} }

// RaspberryPi is the name of the tree of all Raspberry Pis.
const RaspberryPi = "raspberrypi"

const gib = 1 << 30

// boards are all that are known. What Raspberry Pis load: raspberrypi.com/documentation, boot
// flow, and logs of real ones. Device trees of mainline Linux have other names for the Pi 3.
func boards() []Board {
	overlays := optional(TFTP|FAT, "overlays/*.dtbo", "overlays/*.dtb", "overlays/README")
	firmware := []string{"/boot/firmware", "/boot", "/firmware"}
	return []Board{
		{Name: "pc", Words: "PC, with UEFI or BIOS", Arch: X86_64, Table: TablePC, Mountpoints: []string{"/boot", "/boot/efi", "/efi"}},
		{Name: "uefi-aarch64", Words: "64-bit ARM with UEFI", Arch: AArch64, Table: TableUEFI, Mountpoints: []string{"/boot", "/boot/efi", "/efi"}},
		{Name: "rpi3", Words: "Raspberry Pi 3B, 3B+ or CM3", Arch: AArch64, Firmware: RaspberryPi, Memory: gib, Table: TableMBR,
			Mountpoints: firmware, uboot: []string{"u-boot-rpi3.bin", "u-boot-rpi-arm64.bin"},
			wants: []want{
				needed("bootcode.bin"), needed("start.elf"), needed("fixup.dat"),
				needed("bcm2710-rpi-3-*.dtb", "bcm2837-rpi-3-*.dtb", "bcm2710-rpi-cm3.dtb", "bcm2837-rpi-cm3*.dtb"),
				overlays, optional(TFTP, "start_*.elf", "fixup_*.dat"), optional(TFTP|FAT, "armstub8.bin"),
			}},
		{Name: "rpi4", Words: "Raspberry Pi 4, 400 or CM4", Arch: AArch64, Firmware: RaspberryPi, Memory: gib, Table: TableAny,
			Mountpoints: firmware, uboot: []string{"u-boot-rpi4.bin", "u-boot-rpi-arm64.bin"},
			wants: []want{
				needed("start4.elf"), needed("fixup4.dat"), needed("bcm2711-*.dtb"),
				overlays, optional(TFTP, "start4*.elf", "fixup4*.dat"), optional(TFTP|FAT, "armstub8-gic.bin"),
			}},
		{Name: "rpi5", Words: "Raspberry Pi 5, 500 or CM5", Arch: AArch64, Firmware: RaspberryPi, Memory: gib, Table: TableAny,
			Mountpoints: firmware, uboot: []string{"u-boot-rpi-arm64.bin"},
			wants: []want{
				// Its start program is in the EEPROM. Boards with D0 silicon need overlays/bcm2712d0.dtbo.
				needed("bcm2712*-rpi-*.dtb"), overlays, optional(TFTP|FAT, "armstub8-2712.bin"),
			}},
	}
}

// ParseBoard returns the board of that name; the error lists those that there are.
func ParseBoard(name string) (Board, error) {
	all := boards()
	i := slices.IndexFunc(all, func(b Board) bool { return b.Name == name })
	if i < 0 {
		return Board{}, fmt.Errorf("unknown board %q: it is one of %s", name, strings.Join(BoardNames(), ", "))
	}
	return all[i], nil
}

// BoardNames are those of all boards.
func BoardNames() (names []string) {
	for _, b := range boards() {
		names = append(names, b.Name)
	}
	return names
}

// String is the board in words.
func (b Board) String() string { return b.Name + " (" + b.Words + ")" }

// Files are the files of the tree that the board's firmware loads from m if they are there, by
// the names that it asks for, and for FAT U-Boot. What reflashes an EEPROM is never among them.
func (b Board) Files(f Firmware, m Medium) map[string]File {
	files := map[string]File{}
	for name, file := range f.Files {
		if slices.ContainsFunc(b.wants, func(w want) bool { return w.asked&m != 0 && w.match(name) }) {
			files[name] = file
		}
	}
	if name := b.UBoot(f); name != "" && m&FAT != 0 {
		files[name] = f.Files[name]
	}
	return files
}

// Missing says what the tree lacks for the board to start from m, a file or a pattern each; nil:
// nothing. A board that needs no tree lacks nothing.
func (b Board) Missing(f Firmware, m Medium) (lacks []string) {
	for _, w := range b.wants {
		if w.needed&m != 0 && !slices.ContainsFunc(slices.Collect(maps.Keys(f.Files)), w.match) {
			lacks = append(lacks, strings.Join(w.patterns[:min(2, len(w.patterns))], " or "))
		}
	}
	if m&FAT != 0 && b.Firmware != "" && b.UBoot(f) == "" {
		lacks = append(lacks, strings.Join(b.uboot, " or "))
	}
	return lacks
}

// Started tells whether any of the files, by their names in the firmware's partition, is one that
// the board cannot start without: then what it starts with is there, whoever put it there.
func (b Board) Started(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool {
		return slices.ContainsFunc(b.wants, func(w want) bool { return w.needed&FAT != 0 && w.match(name) })
	})
}

// ConfigTxt is the file that tells a Raspberry Pi's firmware what to start.
const ConfigTxt = "config.txt"

// Config is what the firmware partition's [ConfigTxt] says, where U-Boot starts the system.
func (b Board) Config(f Firmware) string {
	lines := []string{"# Written by provision: U-Boot starts the system.", "arm_64bit=1", "enable_uart=1", "kernel=" + b.UBoot(f)}
	has := func(pattern string) bool {
		return slices.ContainsFunc(slices.Collect(maps.Keys(f.Files)), want{patterns: []string{pattern}}.match)
	}
	if b.Name == "rpi3" && !has("bcm2710-*.dtb") {
		lines = append(lines, "upstream_kernel=1") // it looks for bcm2837-*.dtb then
	}
	if b.Name == "rpi4" && has("armstub8-gic.bin") {
		lines = append(lines, "enable_gic=1", "armstub=armstub8-gic.bin")
	}
	return strings.Join(lines, "\n") + "\n"
}

// UBoot is the name in the tree of the U-Boot for the board; empty if there is none.
func (b Board) UBoot(f Firmware) string {
	has := ""
	for _, name := range slices.Backward(b.uboot) {
		if _, ok := f.Files[name]; ok {
			has = name
		}
	}
	return has
}

func (w want) match(name string) bool {
	return slices.ContainsFunc(w.patterns, func(p string) bool {
		ok, _ := path.Match(p, name) // the patterns are ours
		return ok
	})
}
