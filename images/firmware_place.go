package images

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"provision/internal/boards"
)

// firmwareNames are patterns for the firmware files of Raspberry Pis, other than device trees and U-Boot.
var firmwareNames = []string{
	"bootcode.bin", "start*.elf", "fixup*.dat", "armstub*.bin",
	"pieeprom*.bin", "pieeprom*.upd", "pieeprom*.sig", "recovery.bin", "vl805*.bin", "vl805*.sig",
}

// plainName matches the file names that a tree can have.
var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$`)

// treeName returns the path that a file has in the tree, given the path where it was found; empty if it does not belong
// there. It returns [unknownUBoot] for a U-Boot if the path does not say for which board it is.
func treeName(file string) string {
	dir, base := path.Split(filepath.ToSlash(file))
	parent := path.Base(dir)
	matches := func(pattern string) bool { ok, _ := path.Match(pattern, base); return ok }
	switch {
	case !plainName.MatchString(base):
		return ""
	case parent == "overlays" && (matches("*.dtbo") || matches("*.dtb") || base == "README"):
		return "overlays/" + base
	case matches("bcm2*-rpi-*.dtb"), slices.ContainsFunc(firmwareNames, matches):
		return base
	case base == unknownUBoot:
		return ubootName(dir)
	case matches("u-boot-rpi*.bin"):
		return ubootName(base)
	}

	return ""
}

// unknownUBoot is the file name of a U-Boot as it is built, for whatever board.
const unknownUBoot = "u-boot.bin"

// ubootName returns the tree's name for a U-Boot, given the path or name under which it was found.
func ubootName(where string) string { return cmp.Or(boards.UBootFile(where), unknownUBoot) }

// isLicence reports whether a file is a licence, by its name.
func isLicence(file string) bool {
	base := strings.ToLower(filepath.Base(file))
	return base == "copyright" || strings.HasPrefix(base, "licence") || strings.HasPrefix(base, "license") || strings.HasPrefix(base, "copying")
}

// headWriter keeps the first 16 bytes that are written to it.
type headWriter struct{ data []byte }

func (h *headWriter) Write(p []byte) (int, error) {
	if room := 16 - len(h.data); room > 0 {
		h.data = append(h.data, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

// checkFirmware returns an error if a file is not what its name in the tree says. head holds its first bytes.
func checkFirmware(name string, head []byte, size int64) error {
	elf := strings.HasPrefix(string(head), "\x7fELF")
	switch ext := path.Ext(name); {
	case name != "" && size == 0:
		return errors.New("it is empty: was it downloaded in full?")
	case ext == ".dtb", ext == ".dtbo": // see the Devicetree Specification, section 5.2
		if len(head) < 8 || string(head[:4]) != "\xd0\x0d\xfe\xed" {
			return errors.New("it is not a device tree")
		}
		if total := int64(binary.BigEndian.Uint32(head[4:])); total > size {
			return fmt.Errorf("it has %d of its %d bytes: was it downloaded in full?", size, total)
		}
	case ext == ".elf" && !elf:
		return errors.New("it is not an ELF program, as all start files are")
	case strings.HasPrefix(name, "u-boot") && elf:
		return errors.New("it is an ELF file: the firmware starts u-boot.bin")
	}

	return nil
}
