package images

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/tinkerbell/ipxedust/binary"
)

// BootMedium is a stick or a CD for machines that cannot netboot: a tree of
// files on FAT, from which firmware starts. [BootMedium.Disk] and
// [BootMedium.ISO] make it. The same files give the same bytes.
type BootMedium struct {
	Label string             // of the FAT file system: 1 to 11 of A-Z, 0-9 and '-'
	Files map[string]Content // by slash path
	MBR   bool               // the firmware wants an MBR and reads no GPT
}

// Content is a file of a [BootMedium].
type Content struct {
	Size int64 // bytes
	Open func() (io.ReadCloser, error)
}

// Bytes is content in memory.
func Bytes(data []byte) Content {
	return Content{int64(len(data)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }}
}

// autoexec is what iPXE runs that was started from a file system, if it is in
// its root and no other script is embedded.
const autoexec = "autoexec.ipxe"

// fallback is where UEFI looks for a program on removable media (UEFI 2.10,
// section 3.5.1.1).
var fallback = map[Arch]string{X86_64: "EFI/BOOT/BOOTX64.EFI", AArch64: "EFI/BOOT/BOOTAA64.EFI"}

// IPXEMedium is a medium from which UEFI starts iPXE, which runs the script;
// see [MediumScript].
func IPXEMedium(arch Arch, program, script []byte) BootMedium {
	return BootMedium{Label: "PROVISION", Files: map[string]Content{
		fallback[arch]: Bytes(program),
		autoexec:       Bytes(script),
	}}
}

// MediumProgram is the iPXE for media of an architecture: that of the folder
// dir, if it has one that will do, else the one that is built in.
//
// A true snponly.efi will not do: it knows no network card but the one that it
// was loaded over. The program for arm64 that is built in is snp.efi, which
// takes any that the firmware drives. Nor will an iPXE that is older than 2021,
// which does not look for a script beside it.
func MediumProgram(dir string, arch Arch) ([]byte, error) {
	// The script that is embedded in ipxedust's programs boots by what DHCP says; in
	// the place that it keeps for such lines, it is told to run ours, which iPXE has
	// read by then. A failure lets UEFI go on to the next boot option.
	runOurs := []byte("imgexec " + autoexec + " ||\nexit 1")
	name, builtIn := ProgramNative, binary.IpxeEFI
	if arch == AArch64 {
		name, builtIn = ProgramNativeArm64, binary.SNP
	}
	if dir != "" {
		all, err := programs(dir)
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

// names are the paths of all files, sorted.
func (m BootMedium) names() []string { return slices.Sorted(maps.Keys(m.Files)) }

// check refuses what FAT cannot hold, or not in the same way everywhere.
func (m BootMedium) check() error {
	if m.Label == "" || len(m.Label) > 11 || strings.Trim(m.Label, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" {
		return fmt.Errorf("volume label %q: use 1 to 11 of A-Z, 0-9 and '-'", m.Label)
	}
	folded := map[string]string{}
	for _, name := range m.names() {
		if name != path.Clean(name) || path.IsAbs(name) || strings.HasPrefix(name, "..") || strings.ContainsAny(name, "\\:*?\"<>|\x00") {
			return fmt.Errorf("file name %q cannot be on FAT", name)
		}
		if other, ok := folded[strings.ToLower(name)]; ok {
			return fmt.Errorf("files %s and %s are one on FAT", other, name)
		}
		folded[strings.ToLower(name)] = name
		if size := m.Files[name].Size; size < 0 || size >= 4<<30 {
			return fmt.Errorf("file %s has %d bytes; FAT holds less than 4 GiB", name, size)
		}
	}
	return nil
}

// identity is 32 bytes that are the same for the same medium, from which its
// identifiers come. sums are the SHA-256 of all files.
func (m BootMedium) identity(sums map[string][]byte) []byte {
	h := sha256.New()
	fmt.Fprintf(h, "provision boot medium 1 %s %v\n", m.Label, m.MBR)
	for _, name := range m.names() {
		fmt.Fprintf(h, "%q %x\n", name, sums[name])
	}
	return h.Sum(nil)
}
