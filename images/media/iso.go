package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
)

// ISO writes the medium as a CD image to f, which is empty: ISO 9660 with an El
// Torito boot image for UEFI. In the system area that ISO 9660 leaves free is a
// GPT, whose one partition is that boot image, so that the same file starts from a
// stick. Its files must fit on FAT12: 15 MiB.
func (m BootMedium) ISO(f *os.File) error {
	if err := m.iso(f); err != nil {
		return fmt.Errorf("make a boot CD: %w", err)
	}
	return nil
}

func (m BootMedium) iso(f *os.File) error {
	if err := m.check(); err != nil {
		return err
	}

	// The boot image is smaller than the smallest FAT32, which has more sectors than
	// El Torito can count. On removable media UEFI reads FAT12, too (UEFI 2.10,
	// section 13.3).
	size := m.fatSize()
	if size > 16*mebi || m.MBR {
		return errors.New("its files are too many for a CD's boot image; make a disk image, .img")
	}

	work, err := os.MkdirTemp(filepath.Dir(f.Name()), "iso-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)

	id, err := m.bootImage(filepath.Join(work, "EFI.IMG"), size)
	if err != nil {
		return err
	}

	out := &strict{Storage: file.New(f, false), f: f}
	cd, err := iso9660.Create(out, 0, 0, isoBlock, work)
	if err != nil {
		return err
	}

	boot := &iso9660.ElTorito{
		HideBootCatalog: true, // it would be a file with the present time
		Entries: []*iso9660.ElToritoEntry{
			{Platform: iso9660.EFI, Emulation: iso9660.NoEmulation, BootFile: "EFI.IMG"},
		},
	}
	err = cd.Finalize(iso9660.FinalizeOptions{VolumeIdentifier: m.Label, ElTorito: boot})
	if err := errors.Join(err, out.err); err != nil {
		return err
	}

	at, whole, err := stampISO(f)
	if err != nil {
		return fmt.Errorf("set the dates on ISO 9660: %w", err)
	}

	// The GPT's copy is at the end, where a CD needs padding anyway.
	whole = (whole + 64<<10 + mebi - 1) / mebi * mebi
	if err := f.Truncate(whole); err != nil {
		return err
	}

	return writeGPT(f, id, at, size, whole)
}

// bootImage makes the FAT file system in a file of its own.
func (m BootMedium) bootImage(name string, size int64) (id []byte, err error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	err = f.Truncate(size)
	if err == nil {
		id, err = m.fat(f, 0, size, false)
	}
	return id, errors.Join(err, f.Close())
}

// strict keeps the first error of writing, which go-diskfs ignores.
type strict struct {
	backend.Storage
	f   *os.File
	err error
}

// Writable implements backend.Storage.
func (s *strict) Writable() (backend.WritableFile, error) { return strictFile{s.f, s}, nil }

type strictFile struct {
	*os.File
	s *strict
}

func (f strictFile) WriteAt(p []byte, at int64) (int, error) {
	n, err := f.File.WriteAt(p, at)
	if f.s.err == nil {
		f.s.err = err
	}
	return n, err
}

// isoBlock is the size of a sector of a CD, in bytes.
const isoBlock = 2048

// stampISO makes an ISO 9660 file system that go-diskfs has just made, with
// nothing but EFI.IMG in its root, independent of the time and of the time zone.
// It returns where that file is and the size of the whole, in bytes.
func stampISO(f *os.File) (at, whole int64, err error) {
	// The primary volume descriptor (ECMA-119, section 8.4).
	pvd := make([]byte, isoBlock)
	if _, err := f.ReadAt(pvd, 16*isoBlock); err != nil {
		return 0, 0, err
	}

	const created, expires = 813, 847 // the dates of change and of validity follow each
	const year2000, none = "2000010100000000\x00", "0000000000000000\x00"
	copy(pvd[created:], year2000+year2000)
	copy(pvd[expires:], none+none)

	// The records of the root directory: in the descriptor, and in itself.
	date := []byte{100, 1, 1, 0, 0, 0, 0} // section 9.1.5
	le := binary.LittleEndian
	root := pvd[156:190]
	copy(root[18:], date)
	dir := make([]byte, isoBlock)
	dirAt := int64(le.Uint32(root[2:])) * isoBlock
	if _, err := f.ReadAt(dir, dirAt); err != nil {
		return 0, 0, err
	}

	for r := dir; len(r) > 33 && r[0] > 33 && int(r[0]) <= len(r); r = r[r[0]:] {
		copy(r[18:], date)
		if r[25]&2 == 0 { // the one that is not a folder
			at = int64(le.Uint32(r[2:])) * isoBlock
		}
	}

	if at == 0 {
		return 0, 0, errors.New("it does not hold EFI.IMG")
	}

	if _, err := f.WriteAt(pvd, 16*isoBlock); err != nil {
		return 0, 0, err
	}

	_, err = f.WriteAt(dir, dirAt)
	return at, int64(le.Uint32(pvd[80:])) * isoBlock, err
}
