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

// firmwareNames are the files of a Raspberry Pi's firmware, but for device trees and U-Boot.
var firmwareNames = []string{
	"bootcode.bin", "start*.elf", "fixup*.dat", "armstub*.bin",
	"pieeprom*.bin", "pieeprom*.upd", "pieeprom*.sig", "recovery.bin", "vl805*.bin", "vl805*.sig",
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$`)

// treeName is where in the tree a file belongs, by its path where it was found; empty: nowhere.
// [unknownUBoot] is a U-Boot for a board that the path does not tell.
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

// unknownUBoot is what U-Boot is called whatever board it was built for.
const unknownUBoot = "u-boot.bin"

// ubootName is the tree's name for a U-Boot, by the path or the name that it was found by.
func ubootName(where string) string { return cmp.Or(boards.UBootFile(where), unknownUBoot) }

func isLicence(file string) bool {
	base := strings.ToLower(filepath.Base(file))
	return base == "copyright" || strings.HasPrefix(base, "licence") || strings.HasPrefix(base, "license") || strings.HasPrefix(base, "copying")
}

// headWriter keeps the first bytes of what is written.
type headWriter struct{ data []byte }

func (h *headWriter) Write(p []byte) (int, error) {
	if room := 16 - len(h.data); room > 0 {
		h.data = append(h.data, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

// checkFirmware refuses what is not what the tree's name for it says. head are its first bytes.
func checkFirmware(name string, head []byte, size int64) error {
	elf := strings.HasPrefix(string(head), "\x7fELF")
	switch ext := path.Ext(name); {
	case name != "" && size == 0:
		return errors.New("it is empty: was it downloaded in full?")
	case ext == ".dtb", ext == ".dtbo": // devicetree specification, 5.2
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
