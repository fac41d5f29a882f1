package images

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/tinkerbell/ipxedust/binary"
)

// Names of boot programs: iPXE, as firmware loads it. SNP and UNDI programs
// use the network driver of the firmware, native ones bring drivers of their
// own; where one hangs, the other may not.
const (
	ProgramUNDI        = "undionly.kpxe" // BIOS
	ProgramBIOS        = "ipxe.pxe"      // BIOS, native
	ProgramSNP         = "snponly.efi"
	ProgramNative      = "ipxe.efi"
	ProgramSNPArm64    = "snponly-arm64.efi"
	ProgramNativeArm64 = "ipxe-arm64.efi"
)

// Where a folder may hold each program: by our name, or as iPXE's own builds
// and releases lay them out.
var programFiles = map[string][]string{
	ProgramUNDI:        {ProgramUNDI, "x86-pcbios/undionly.kpxe"},
	ProgramBIOS:        {ProgramBIOS, "x86-pcbios/ipxe.pxe"},
	ProgramSNP:         {ProgramSNP, "x86_64-efi/snponly.efi"},
	ProgramNative:      {ProgramNative, "x86_64-efi/ipxe.efi"},
	ProgramSNPArm64:    {ProgramSNPArm64, "arm64-efi/snponly.efi", "snponly_arm64.efi"},
	ProgramNativeArm64: {ProgramNativeArm64, "arm64-efi/ipxe.efi", "ipxe_arm64.efi"},
}

// Programs returns the boot programs by name: those that are built in
// (tinkerbell/ipxedust has no x86-64 SNP and no native arm64 one), and in
// their place or beside them those in the folder dir, if that is given. Those that
// are built in start a script of ours, where it can be put in (embedded.ipxe).
func Programs(dir string) (map[string][]byte, error) {
	all, err := OriginalPrograms(dir)
	for name, builtIn := range map[string][]byte{ProgramNative: binary.IpxeEFI, ProgramSNPArm64: binary.SNP} {
		if err == nil && bytes.Equal(all[name], builtIn) {
			all[name] = quickened(builtIn)
		}
	}
	return all, err
}

// OriginalPrograms returns the programs of [Programs] as they come: without a script of ours.
func OriginalPrograms(dir string) (map[string][]byte, error) {
	all := map[string][]byte{
		ProgramUNDI:     binary.Undionly,
		ProgramNative:   binary.IpxeEFI,
		ProgramSNPArm64: binary.SNP,
	}
	if dir == "" {
		return all, nil
	}
	found := false
	for name, files := range programFiles {
		for _, file := range files {
			data, err := os.ReadFile(filepath.Join(dir, file))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = checkProgram(name, data)
			}
			if err != nil {
				return nil, fmt.Errorf("boot program %s: %w", filepath.Join(dir, file), err)
			}

			all[name], found = data, true
			break
		}
	}

	if !found {
		var names []string
		for name := range programFiles {
			names = append(names, name)
		}
		slices.Sort(names)
		return nil, fmt.Errorf("no boot program in %s: looked for %v", dir, names)
	}

	return all, nil
}

// checkProgram refuses an EFI program for another processor: firmware would
// only say that it cannot load it.
func checkProgram(name string, data []byte) error {
	if filepath.Ext(name) != ".efi" {
		return nil
	}
	want := X86_64
	if name == ProgramSNPArm64 || name == ProgramNativeArm64 {
		want = AArch64
	}
	got, err := kernelArch(data)
	if err != nil || len(data) < 2 || string(data[:2]) != "MZ" {
		return errors.New("it is not an EFI program for x86_64 or aarch64")
	}
	if got != want {
		return fmt.Errorf("it is for %s, and is to be for %s", got, want)
	}
	return nil
}
