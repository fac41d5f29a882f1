package installer

import (
	"fmt"
	"slices"
	"strings"

	"provision/disko"
	"provision/images"
)

// BoardProblems says what keeps a board from starting from the layout's disks.
func BoardProblems(l *disko.Layout, b images.Board) []disko.Problem {
	c := &boardCheck{Board: b, parts: l.Partitions(), bare: l.Bare()}
	switch b.Table {
	case images.TablePC:
		c.pc()
	case images.TableUEFI:
		c.uefi()
	case images.TableMBR, images.TableAny:
		c.pi()
	}
	return c.problems
}

type boardCheck struct {
	images.Board
	parts    []disko.Part
	bare     []disko.Part // disks and RAIDs without partitions
	problems []disko.Problem
}

func (c *boardCheck) stop(path, format string, args ...any) {
	c.problems = append(c.problems, disko.Problem{Stops: true, Path: path, Text: c.Name + ": " + fmt.Sprintf(format, args...)})
}

func (c *boardCheck) warn(path, format string, args ...any) {
	c.problems = append(c.problems, disko.Problem{Path: path, Text: c.Name + ": " + fmt.Sprintf(format, args...)})
}

func (c *boardCheck) pc() {
	mbr := slices.ContainsFunc(c.parts, func(p disko.Part) bool { return !p.GPT })
	switch {
	case slices.ContainsFunc(c.parts, disko.Part.ESP):
		c.espMounted()
	case mbr, slices.ContainsFunc(c.parts, disko.Part.BIOSBoot):
	case c.fatSomewhere() || len(c.parts) == 0: // GRUB fits into some file systems
		c.warn("", "its firmware may not find what to start: UEFI looks for a partition of type EF00, and a BIOS needs one of type EF02 and 1M for GRUB")
	default:
		c.stop("", "nothing in the layout starts it: add an EFI system partition (type EF00, vfat, mounted at /boot), or for a BIOS a partition of type EF02 and 1M for GRUB")
	}
}

// fatSomewhere tells whether a FAT is mounted, as boot loaders for UEFI need.
func (c *boardCheck) fatSomewhere() bool {
	return slices.ContainsFunc(slices.Concat(c.parts, c.bare), func(p disko.Part) bool { return p.FAT() && len(p.Mountpoints) > 0 })
}

func (c *boardCheck) uefi() {
	const what = "UEFI starts from an EFI system partition, and the layout has none: %s type EF00%s"
	switch {
	case slices.ContainsFunc(c.parts, disko.Part.ESP):
		c.espMounted()
	case c.fatSomewhere():
		c.warn("", what, "the partition with the FAT should be of", "")
	default:
		c.stop("", what, "add one of", " with vfat, mounted at "+c.Mountpoints[0])
	}
}

// espMounted warns of an EFI system partition into which no boot loader can be put. One that is
// part of a RAID is mounted from there.
func (c *boardCheck) espMounted() {
	for _, p := range c.parts {
		if p.ESP() && (p.FAT() && len(p.Mountpoints) > 0 || p.Format == "") {
			return
		}
	}
	for _, p := range c.parts {
		if p.ESP() {
			c.warn(p.Path, "this EFI system partition holds no vfat that is mounted: without a mount point (%s) no boot loader gets into it", c.Mountpoints[0])
			return
		}
	}
}

// pi checks the partition that a Raspberry Pi's firmware reads, and the one that U-Boot does.
func (c *boardCheck) pi() {
	fw, ok := firmwarePart(c.parts, c.Board)
	if !ok {
		c.warn("", "the layout has no FAT partition for its firmware (vfat, mounted at %s): it starts only if the firmware is on another disk, such as an SD card", c.Mountpoints[0])
		return
	}
	mbr := []byte{0x0b, 0x0c, 0x0e}
	switch {
	case c.Table == images.TableMBR && fw.GPT && fw.MBR == 0:
		c.stop(fw.Path, `its boot ROM reads no GPT: use a table of type "table" and format "msdos", or put this partition into a hybrid MBR too: hybrid.mbrPartitionType = "0x0c"`)
	case c.Table == images.TableMBR && !slices.Contains(mbr, fw.MBR):
		c.stop(fw.Path, "its boot ROM looks for an MBR partition of type 0x0b, 0x0c or 0x0e, and this one is of type %#02x: %s", fw.MBR, mbrRemedy(fw))
	case !fw.GPT && !slices.Contains(append(mbr, 0x06, 0xef), fw.MBR):
		c.stop(fw.Path, `its firmware looks for an MBR partition of a FAT type, and this one is of type %#02x: set fs-type = "fat32"`, fw.MBR)
	case fw.GPT && fw.MBR == 0 && !fw.ESP() && !fw.BasicData():
		c.stop(fw.Path, `on a GPT its firmware looks for a partition of type 0700 (basic data) or EF00: set type = "0700"`)
	case c.Name == "rpi4" && fw.GPT && fw.MBR == 0:
		c.warn(fw.Path, "its firmware reads a GPT from the EEPROM of September 2020 on")
	}
	for _, p := range c.parts {
		if p.Disk == fw.Disk && p.FAT() && p.Number < fw.Number {
			c.warn(fw.Path, "the firmware takes the first FAT partition of the disk, which is %s: put this one before it", p.Path)
			break
		}
	}
	c.uboot(fw)
	if c.Name == "rpi5" && strings.Contains(fw.Device, "nvme") {
		c.warn(fw.Path, "U-Boot does not read NVMe on this board: the host has to put its kernel there itself, as nixos-raspberrypi does")
	}
}

func mbrRemedy(p disko.Part) string {
	if p.GPT {
		return `set hybrid.mbrPartitionType = "0x0c"`
	}
	return `set fs-type = "fat32", without the flag esp`
}

// uboot warns where U-Boot does not find the kernel: of the partitions it looks at those that
// are marked bootable (an EFI system partition is), or else at the first alone.
func (c *boardCheck) uboot(fw disko.Part) {
	boot, ok := mountedAt(c.parts, "/boot", "/")
	if !ok || boot.Disk != fw.Disk || boot.Path == fw.Path {
		return
	}
	marked := func(p disko.Part) bool { return p.Bootable || p.ESP() }
	if marked(boot) || boot.Number == 1 && !slices.ContainsFunc(c.parts, marked) {
		return
	}
	how := "set bootable = true"
	if boot.GPT { // which it reads of a hybrid table, too
		how = "set attributes = [ 2 ]"
	}
	c.warn(boot.Path, "/boot is here, and U-Boot looks only at partitions that are marked bootable, or at the first if none is: %s (not needed where the host's own boot loader is not U-Boot)", how)
}

// firmwarePart is the partition that the board's firmware reads: the FAT that is mounted where
// hosts usually do, or else the first that is mounted.
func firmwarePart(parts []disko.Part, b images.Board) (disko.Part, bool) {
	var fat []disko.Part
	for _, p := range parts {
		if p.FAT() && len(p.Mountpoints) > 0 {
			fat = append(fat, p)
		}
	}
	if p, ok := mountedAt(fat, b.Mountpoints...); ok {
		return p, true
	}
	if len(fat) > 0 {
		return fat[0], true
	}
	return disko.Part{}, false
}

// mountedAt is the partition with the first of the mount points that any has.
func mountedAt(parts []disko.Part, points ...string) (disko.Part, bool) {
	for _, point := range points {
		for _, p := range parts {
			if slices.Contains(p.Mountpoints, point) {
				return p, true
			}
		}
	}
	return disko.Part{}, false
}
