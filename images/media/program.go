package media

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/tinkerbell/ipxedust/binary"

	"provision/images"
)

// autoexec is the script that iPXE runs when it was started from a file system
// that has it in its root, unless another is embedded.
const autoexec = "autoexec.ipxe"

// Program returns the iPXE for media of an architecture: that of the folder dir,
// if it has one that will do, else the one that is built in.
//
// A true snponly.efi will not do: it knows no network card but the one that it
// was loaded over. The program for arm64 that is built in is snp.efi, which
// takes any that the firmware drives. Nor will an iPXE that is older than 2021,
// which does not look for a script beside it.
func Program(dir string, arch images.Arch) ([]byte, error) {
	// The script that is embedded in ipxedust's programs boots by what DHCP says. In
	// the place that it keeps for such lines, it is told to run ours, which iPXE has
	// read by then. A failure lets UEFI go on to the next boot option.
	runOurs := []byte("imgexec " + autoexec + " ||\nexit 1")

	name, builtIn := images.ProgramNative, binary.IpxeEFI
	if arch == images.AArch64 {
		name, builtIn = images.ProgramNativeArm64, binary.SNP
	}
	if dir != "" {
		all, err := images.OriginalPrograms(dir)
		if err != nil {
			return nil, err
		}
		if given := all[name]; bytes.Contains(given, []byte(autoexec)) {
			return binary.Patch(given, runOurs) // unchanged, if it is not ipxedust's
		}
	}

	program, err := binary.Patch(builtIn, runOurs)
	if err == nil && bytes.Equal(program, builtIn) {
		err = errors.New("it has no place for a script")
	}
	if err != nil {
		return nil, fmt.Errorf("the iPXE that is built in: %w", err)
	}
	return program, nil
}
