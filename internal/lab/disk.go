package lab

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
)

// A Disk is a sparse raw file on the host.
type Disk struct {
	Path   string
	Serial string // what the machine sees as the disk's serial number, at most 20 characters
	Bus    string // "virtio" (the default: /dev/vda …), "nvme" (/dev/nvme0n1 …), "sata" (/dev/sda …), "usb" (a stick), "cd" (a DVD drive)
}

// NewDisk makes an empty disk of size bytes at path; what was there is lost.
func NewDisk(path string, size int64, serial string) (Disk, error) {
	f, err := os.Create(path)
	if err != nil {
		return Disk{}, fmt.Errorf("make a disk: %w", err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		return Disk{}, fmt.Errorf("make disk %s: %w", path, err)
	}
	return Disk{Path: path, Serial: serial}, nil
}

// PartitionTable returns a hash of the first MiB (protective MBR, GPT header and entries, and the gap before the first
// partition) and of the last 33 sectors of 512 bytes (the backup GPT): as long as it stays the same, not one byte of
// the partition table has changed.
func (d Disk) PartitionTable() (string, error) {
	const head, backup = 1 << 20, 33 * 512
	f, err := os.Open(d.Path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if info.Size() < head+backup {
		return "", fmt.Errorf("disk %s of %d bytes is too small for a partition table", d.Path, info.Size())
	}
	sum := sha256.New()
	for _, part := range []*io.SectionReader{
		io.NewSectionReader(f, 0, head), io.NewSectionReader(f, info.Size()-backup, backup),
	} {
		if _, err := io.Copy(sum, part); err != nil {
			return "", fmt.Errorf("read partition table of %s: %w", d.Path, err)
		}
	}
	return fmt.Sprintf("%x", sum.Sum(nil)), nil
}
