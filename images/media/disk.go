package media

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem"
	"github.com/diskfs/go-diskfs/filesystem/fat12"
	"github.com/diskfs/go-diskfs/filesystem/fat32"
	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/diskfs/go-diskfs/partition/mbr"
)

const (
	sector = 512
	mebi   = 1 << 20

	// fat32Min is the least size of a FAT32 file system: with fewer than 65525
	// clusters it would be taken for FAT16 (Microsoft's FAT specification, 1.03).
	fat32Min = 33 * mebi
)

// Disk writes the medium as a disk image to f, which is empty: a partition table
// and one FAT32 partition, an EFI system partition but for MBR.
func (m BootMedium) Disk(f *os.File) error {
	if err := m.check(); err != nil {
		return fmt.Errorf("make a boot medium: %w", err)
	}

	size := max(m.fatSize(), fat32Min)
	whole := size + 2*mebi // one for the table, one for its copy at the end
	if err := f.Truncate(whole); err != nil {
		return fmt.Errorf("make a boot medium: %w", err)
	}

	id, err := m.fat(f, mebi, size, true)
	if err != nil {
		return fmt.Errorf("make a boot medium: %w", err)
	}

	if m.MBR {
		err = writeMBR(f, id, mebi, size)
	} else {
		err = writeGPT(f, id, mebi, size, whole)
	}
	if err != nil {
		return fmt.Errorf("make a boot medium: %w", err)
	}
	return nil
}

// fatSize returns the size in bytes of a file system in which all files fit, in
// whole MiB.
func (m BootMedium) fatSize() int64 {
	size := int64(mebi) // directories and FATs
	for name, c := range m.Files {
		size += c.Size + c.Size/64 + 4096 // its share of the FATs; what it leaves of its last cluster
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			size += 4096
		}
	}
	return (size + mebi - 1) / mebi * mebi
}

// fat makes the file system in f, of size bytes from start: FAT32 if it is big,
// else FAT12. It returns the medium's identity.
func (m BootMedium) fat(f *os.File, start, size int64, big bool) ([]byte, error) {
	store := file.New(f, false)
	var fs filesystem.FileSystem
	var err error
	if big {
		fs, err = fat32.Create(store, size, start, sector, m.Label, true)
	} else {
		fs, err = fat12.Create(store, size, start, sector, m.Label, true)
	}
	if err != nil {
		return nil, fmt.Errorf("make a FAT file system: %w", err)
	}

	sums := map[string][]byte{}
	for _, name := range m.names() {
		if dir := path.Dir(name); dir != "." {
			if err := fs.Mkdir(dir); err != nil {
				return nil, fmt.Errorf("make folder %s: %w", dir, err)
			}
		}
		if sums[name], err = m.copyTo(fs, name); err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
	}

	id := m.identity(sums)
	return id, stampFAT(f, start, binary.LittleEndian.Uint32(id))
}

// copyTo writes one file into fs, and returns its SHA-256.
func (m BootMedium) copyTo(fs filesystem.FileSystem, name string) (sum []byte, err error) {
	in, err := m.Files[name].Open()
	if err != nil {
		return nil, err
	}
	defer in.Close()

	out, err := fs.OpenFile("/"+name, os.O_CREATE|os.O_RDWR)
	if err != nil {
		return nil, err
	}

	h := sha256.New()

	// Each write writes the FATs as well, so there are to be few.
	size := m.Files[name].Size
	limited := io.TeeReader(io.LimitReader(in, size+1), h) // one byte more shows that it is longer
	n, err := io.CopyBuffer(struct{ io.Writer }{out}, limited, make([]byte, min(size+1, 8*mebi)))
	if err == nil && n != size {
		err = fmt.Errorf("it has not %d bytes", size)
	}
	return h.Sum(nil), errors.Join(err, out.Close())
}

// uuidOf makes a UUID of 16 bytes (RFC 9562, version 8: for vendors' own use).
func uuidOf(b []byte) string {
	u := [16]byte(b)
	u[6] = u[6]&0x0f | 0x80 // the version
	u[8] = u[8]&0x3f | 0x80 // the variant
	return fmt.Sprintf("%X-%X-%X-%X-%X", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

// writeGPT writes a GPT with one EFI system partition. whole is the disk's size.
func writeGPT(f backend.WritableFile, id []byte, start, size, whole int64) error {
	partition := &gpt.Partition{
		Index: 1,
		Start: uint64(start / sector),
		End:   uint64((start+size)/sector - 1),
		Size:  uint64(size),
		Type:  gpt.EFISystemPartition,
		Name:  "provision",
		GUID:  uuidOf(id[16:]),
	}
	t := &gpt.Table{
		LogicalSectorSize:  sector,
		PhysicalSectorSize: sector,
		ProtectiveMBR:      true,
		GUID:               uuidOf(id[:16]),
		Partitions:         []*gpt.Partition{partition},
	}

	// The wrapping hides Sync, which it would call five times.
	if err := t.Write(struct{ backend.WritableFile }{f}, whole); err != nil {
		return fmt.Errorf("write the GPT: %w", err)
	}
	return nil
}

// writeMBR writes an MBR with one FAT32 partition (LBA). Its signature, by
// which Linux makes PARTUUIDs, is the identity's.
func writeMBR(f backend.WritableFile, id []byte, start, size int64) error {
	partition := &mbr.Partition{
		Bootable: true,
		Type:     mbr.Fat32LBA,
		Start:    uint32(start / sector),
		Size:     uint32(size / sector),
	}
	t := &mbr.Table{
		LogicalSectorSize:  sector,
		PhysicalSectorSize: sector,
		Partitions:         []*mbr.Partition{partition},
	}
	if err := t.Write(f, start+size); err != nil {
		return fmt.Errorf("write the MBR: %w", err)
	}
	if _, err := f.WriteAt(id[4:8], 440); err != nil {
		return fmt.Errorf("write the MBR: %w", err)
	}
	return nil
}
