// Package media makes boot media: sticks and CDs for machines that cannot
// netboot.
//
// A [BootMedium] is a small tree of files. [BootMedium.Disk] writes it as the
// image of a disk, for a stick or an SD card, and [BootMedium.ISO] as that of a
// CD. It holds no installer and no secret, only what asks the server, as if the
// machine had netbooted. There are two kinds:
//
//	ForUEFI   the firmware starts iPXE, which runs Script: it asks over HTTP
//	ForBoard  the board's own firmware starts U-Boot, which asks over TFTP
//
// The same files give the same bytes, so that a medium can be compared with what
// the server would make now. go-diskfs writes the file systems; stampFAT and
// stampISO then set the dates and identifiers, which it takes from the clock.
//
// This package imports images, which has the boards' firmware and the programs
// of iPXE, and internal/boards, which knows what boards load of that firmware.
// It is imported by what hands media out, internal/api.
package media

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"provision/images"
)

// A BootMedium is a stick or a CD for machines that cannot netboot: a tree of
// files on FAT, from which firmware starts.
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

// Bytes returns content that is in memory.
func Bytes(data []byte) Content {
	return Content{
		Size: int64(len(data)),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
	}
}

// A Purpose says whom a medium is for, and which servers it asks.
type Purpose struct {
	Host    string   // empty: any machine
	MACs    []string // of the host
	Servers []string // base URLs, such as http://10.0.0.1:8080, asked in this order
}

// whose names the machines that a medium is for, in words.
func (p Purpose) whose() string {
	if p.Host == "" {
		return "any machine that is enrolled"
	}
	return p.Host + ", which has the network card " + strings.Join(p.MACs, " or ")
}

// fallback is where UEFI looks for a program on removable media (UEFI 2.10,
// section 3.5.1.1).
var fallback = map[images.Arch]string{
	images.X86_64:  "EFI/BOOT/BOOTX64.EFI",
	images.AArch64: "EFI/BOOT/BOOTAA64.EFI",
}

// ForUEFI returns a medium from which UEFI starts iPXE, which runs the script.
// See [Program] and [Script].
func ForUEFI(arch images.Arch, program, script []byte) BootMedium {
	return BootMedium{Label: "PROVISION", Files: map[string]Content{
		fallback[arch]: Bytes(program),
		autoexec:       Bytes(script),
	}}
}

// names are the paths of all files, sorted.
func (m BootMedium) names() []string { return slices.Sorted(maps.Keys(m.Files)) }

// check refuses what FAT cannot hold, or not in the same way everywhere.
func (m BootMedium) check() error {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"
	if m.Label == "" || len(m.Label) > 11 || strings.Trim(m.Label, letters) != "" {
		return fmt.Errorf("volume label %q: use 1 to 11 of A-Z, 0-9 and '-'", m.Label)
	}

	folded := map[string]string{}
	for _, name := range m.names() {
		outside := name != path.Clean(name) || path.IsAbs(name) || strings.HasPrefix(name, "..")
		if outside || strings.ContainsAny(name, "\\:*?\"<>|\x00") {
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

// identity returns 32 bytes that are the same for the same medium. Its
// identifiers are made of them. sums are the SHA-256 of all files.
func (m BootMedium) identity(sums map[string][]byte) []byte {
	h := sha256.New()
	fmt.Fprintf(h, "provision boot medium 1 %s %v\n", m.Label, m.MBR)
	for _, name := range m.names() {
		fmt.Fprintf(h, "%q %x\n", name, sums[name])
	}
	return h.Sum(nil)
}
