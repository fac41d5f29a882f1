// Package bootable says whether a board starts from a disk layout.
//
// It compares what the board's row says about disks with the partitions that the layout makes, before anything is
// changed. It imports internal/boards and disko, and nothing else of ours.
package bootable

import (
	"fmt"
	"slices"
	"strings"

	"provision/disko"
	"provision/internal/boards"
)

// Problems says what keeps a board from starting from the layout's disks, and what is doubtful.
func Problems(l *disko.Layout, b boards.Board) []disko.Problem {
	c := &check{
		Board: b,
		parts: l.Partitions(),
		bare:  l.Bare(),
	}
	switch b.Table {
	case boards.TablePC:
		c.pc()
	case boards.TableUEFI:
		c.uefi()
	case boards.TableMBR, boards.TableAny:
		c.firmware()
	}

	return c.problems
}

// check is of one layout against one board.
type check struct {
	boards.Board
	parts    []disko.Part
	bare     []disko.Part // disks and RAIDs without partitions
	problems []disko.Problem
}

// stop notes what keeps the board from starting.
func (c *check) stop(path, format string, args ...any) {
	text := c.Name + ": " + fmt.Sprintf(format, args...)
	c.problems = append(c.problems, disko.Problem{Stops: true, Path: path, Text: text})
}

// warn notes what may keep it from starting.
func (c *check) warn(path, format string, args ...any) {
	text := c.Name + ": " + fmt.Sprintf(format, args...)
	c.problems = append(c.problems, disko.Problem{Path: path, Text: text})
}

// pc checks for what UEFI starts, or a BIOS.
func (c *check) pc() {
	mbr := slices.ContainsFunc(c.parts, func(p disko.Part) bool { return !p.GPT })
	switch {
	case slices.ContainsFunc(c.parts, disko.Part.ESP):
		c.espMounted()
	case mbr, slices.ContainsFunc(c.parts, disko.Part.BIOSBoot):

		// GRUB is in the gap behind the MBR, or in the partition that is for it.
	case c.fatMounted() || len(c.parts) == 0:
		// GRUB fits into some file systems.
		c.warn("", "its firmware may not find what to start: UEFI looks for a partition of type EF00, "+
			"and a BIOS needs one of type EF02 and 1M for GRUB")
	default:
		c.stop("", "nothing in the layout starts it: add an EFI system partition (type EF00, vfat, mounted at /boot), "+
			"or for a BIOS a partition of type EF02 and 1M for GRUB")
	}
}

// fatMounted reports whether a FAT is mounted anywhere, as boot loaders for UEFI need.
func (c *check) fatMounted() bool {
	return slices.ContainsFunc(slices.Concat(c.parts, c.bare), mountedFAT)
}

// mountedFAT reports whether a partition holds a FAT file system that the host mounts.
func mountedFAT(p disko.Part) bool { return p.FAT() && len(p.Mountpoints) > 0 }

// uefi checks for an EFI system partition.
func (c *check) uefi() {
	const format = "UEFI starts from an EFI system partition, and the layout has none: %s type EF00%s"
	switch {
	case slices.ContainsFunc(c.parts, disko.Part.ESP):
		c.espMounted()
	case c.fatMounted():
		c.warn("", format, "the partition with the FAT should be of", "")
	default:
		c.stop("", format, "add one of", " with vfat, mounted at "+c.Mountpoints[0])
	}
}

// espMounted warns of an EFI system partition into which no boot loader can be put.
func (c *check) espMounted() {
	var first *disko.Part
	for _, p := range c.parts {
		if !p.ESP() {
			continue
		}
		// One that is part of a RAID has no file system of its own, and is mounted from there.
		if mountedFAT(p) || p.Format == "" {
			return
		}
		if first == nil {
			first = &p
		}
	}

	if first != nil {
		c.warn(first.Path, "this EFI system partition holds no vfat that is mounted: without a mount point (%s) "+
			"no boot loader gets into it", c.Mountpoints[0])
	}
}

// fatTypes are the partition types of an MBR by which each boot ROM finds a FAT.
var fatTypes = []byte{0x0b, 0x0c, 0x0e}

// firmware checks the partition that the board's own firmware reads, and the one that U-Boot does.
func (c *check) firmware() {
	fw, ok := firmwarePartition(c.parts, c.Board)
	if !ok {
		c.warn("", "the layout has no FAT partition for its firmware (vfat, mounted at %s): "+
			"it starts only if the firmware is on another disk, such as an SD card", c.Mountpoints[0])
		return
	}

	c.partitionType(fw)

	for _, p := range c.parts {
		if p.Disk == fw.Disk && p.FAT() && p.Number < fw.Number {
			c.warn(fw.Path, "the firmware takes the first FAT partition of the disk, which is %s: "+
				"put this one before it", p.Path)
			break
		}
	}

	c.uboot(fw)
	if c.NoUBootNVMe != "" && strings.Contains(fw.Device, "nvme") {
		c.warn(fw.Path, "U-Boot does not read NVMe on this board: %s", c.NoUBootNVMe)
	}
}

// partitionType checks whether the firmware finds its partition by the type that it has in the partition table.
func (c *check) partitionType(fw disko.Part) {
	onlyGPT := fw.GPT && fw.MBR == 0
	switch {
	case c.Table == boards.TableMBR && onlyGPT:
		c.stop(fw.Path, `its boot ROM reads no GPT: use a table of type "table" and format "msdos", `+
			`or put this partition into a hybrid MBR too: hybrid.mbrPartitionType = "0x0c"`)
	case c.Table == boards.TableMBR && !slices.Contains(fatTypes, fw.MBR):
		c.stop(fw.Path, "its boot ROM looks for an MBR partition of type 0x0b, 0x0c or 0x0e, "+
			"and this one is of type %#02x: %s", fw.MBR, mbrRemedy(fw))
	case !fw.GPT && !slices.Contains(fatTypes, fw.MBR) && fw.MBR != 0x06 && fw.MBR != 0xef:
		c.stop(fw.Path, `its firmware looks for an MBR partition of a FAT type, `+
			`and this one is of type %#02x: set fs-type = "fat32"`, fw.MBR)
	case onlyGPT && !fw.ESP() && !fw.BasicData():
		c.stop(fw.Path, `on a GPT its firmware looks for a partition of type 0700 (basic data) or EF00: set type = "0700"`)
	case onlyGPT && c.GPTSince != "":
		c.warn(fw.Path, "its firmware reads a GPT from %s on", c.GPTSince)
	}
}

// mbrRemedy says how a partition gets a FAT type in the MBR.
func mbrRemedy(p disko.Part) string {
	if p.GPT {
		return `set hybrid.mbrPartitionType = "0x0c"`
	}
	return `set fs-type = "fat32", without the flag esp`
}

// uboot warns where U-Boot does not find the kernel: it looks only at the partitions that are marked bootable, as EFI
// system partitions are, or at the first one if none is.
func (c *check) uboot(fw disko.Part) {
	boot, ok := mountedAt(c.parts, "/boot", "/")
	if !ok || boot.Disk != fw.Disk || boot.Path == fw.Path {
		return
	}

	marked := func(p disko.Part) bool { return p.Bootable || p.ESP() }
	if marked(boot) || boot.Number == 1 && !slices.ContainsFunc(c.parts, marked) {
		return
	}

	remedy := "set bootable = true"
	if boot.GPT { // U-Boot reads the GPT of a hybrid table, too
		remedy = "set attributes = [ 2 ]"
	}
	c.warn(boot.Path, "/boot is here, and U-Boot looks only at partitions that are marked bootable, "+
		"or at the first if none is: %s (not needed where the host's own boot loader is not U-Boot)", remedy)
}

// FirmwarePartition is the partition that the board's firmware reads: the FAT that is mounted where hosts usually
// mount it, or else the first that is mounted. Ok is false if the layout has none.
func FirmwarePartition(l *disko.Layout, b boards.Board) (p disko.Part, ok bool) {
	return firmwarePartition(l.Partitions(), b)
}

func firmwarePartition(parts []disko.Part, b boards.Board) (p disko.Part, ok bool) {
	var fat []disko.Part
	for _, part := range parts {
		if mountedFAT(part) {
			fat = append(fat, part)
		}
	}

	if p, ok = mountedAt(fat, b.Mountpoints...); ok {
		return p, true
	}
	if len(fat) > 0 {
		return fat[0], true
	}
	return disko.Part{}, false
}

// mountedAt is the partition with the first of the mount points that any has.
func mountedAt(parts []disko.Part, points ...string) (p disko.Part, ok bool) {
	for _, point := range points {
		for _, part := range parts {
			if slices.Contains(part.Mountpoints, point) {
				return part, true
			}
		}
	}
	return disko.Part{}, false
}
