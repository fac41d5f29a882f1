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

// Names of boot programs, which are builds of iPXE that firmware loads. SNP and UNDI programs use the network driver of
// the firmware, native ones have drivers of their own. Where one hangs, the other may work.
const (
	ProgramUNDI        = "undionly.kpxe" // BIOS
	ProgramBIOS        = "ipxe.pxe"      // BIOS, native drivers
	ProgramSNP         = "snponly.efi"
	ProgramNative      = "ipxe.efi"
	ProgramSNPArm64    = "snponly-arm64.efi"
	ProgramNativeArm64 = "ipxe-arm64.efi"
)

// programFiles says which files in a folder may hold each program: our name, or the names in iPXE's own builds and
// releases.
var programFiles = map[string][]string{
	ProgramUNDI:        {ProgramUNDI, "x86-pcbios/undionly.kpxe"},
	ProgramBIOS:        {ProgramBIOS, "x86-pcbios/ipxe.pxe"},
	ProgramSNP:         {ProgramSNP, "x86_64-efi/snponly.efi"},
	ProgramNative:      {ProgramNative, "x86_64-efi/ipxe.efi"},
	ProgramSNPArm64:    {ProgramSNPArm64, "arm64-efi/snponly.efi", "snponly_arm64.efi"},
	ProgramNativeArm64: {ProgramNativeArm64, "arm64-efi/ipxe.efi", "ipxe_arm64.efi"},
}

// Programs returns the boot programs by name: those that are built in (tinkerbell/ipxedust has no x86-64 SNP and no
// native arm64 one), and those in the folder dir, if it is not empty, which replace them. Where possible, the built-in
// ones run a script of ours (embedded.ipxe).
func Programs(dir string) (map[string][]byte, error) {
	all, err := OriginalPrograms(dir)
	for name, builtIn := range map[string][]byte{ProgramNative: binary.IpxeEFI, ProgramSNPArm64: binary.SNP} {
		if err == nil && bytes.Equal(all[name], builtIn) {
			all[name] = quickened(builtIn)
		}
	}
	return all, err
}

// OriginalPrograms returns the same programs unchanged, without a script of ours.
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

// checkProgram returns an error for an EFI program for another processor. Firmware would only say that it cannot load
// it.
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
