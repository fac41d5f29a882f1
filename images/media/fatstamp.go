package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// stampFAT finishes a FAT file system that go-diskfs has just made.
//
// It makes it independent of the time. go-diskfs takes the dates of all entries
// from the clock, and only an environment variable of the whole process changes
// that.
//
// It also corrects what Microsoft's FAT specification (1.03) and fsck.vfat want
// otherwise: the clusters of empty files and of FAT12's root directory are freed,
// ".." of a folder in the root names cluster 0, and the volume says where it is on
// its disk and how much of it is free.
func stampFAT(f *os.File, start int64, serial uint32) error {
	v, err := openFAT(f, start)
	if err != nil {
		return fmt.Errorf("read the FAT file system back: %w", err)
	}
	if err := v.folder(v.root, 0); err != nil {
		return fmt.Errorf("set the dates on FAT: %w", err)
	}
	if err := errors.Join(v.sweep(), v.describe(serial)); err != nil {
		return fmt.Errorf("finish the FAT file system: %w", err)
	}
	return nil
}

// A fatVolume knows where the parts of a FAT12 or FAT32 file system are.
type fatVolume struct {
	f        *os.File
	start    int64  // of the file system in f; all offsets are from there
	boot     []byte // the boot sector
	cluster  int64  // bytes
	fat      []byte // a copy of the first FAT
	fatAt    int64
	rootDir  int64 // offset of FAT12's root directory, behind the last FAT
	rootSize int64
	data     int64  // offset of cluster 2
	root     uint32 // cluster of FAT32's root directory; 0: this is FAT12
	used     []bool // by cluster
}

func openFAT(f *os.File, start int64) (*fatVolume, error) {
	v := &fatVolume{f: f, start: start, boot: make([]byte, sector)}
	if _, err := f.ReadAt(v.boot, start); err != nil {
		return nil, err
	}

	le := binary.LittleEndian
	sectorSize := int64(le.Uint16(v.boot[11:]))
	fatSize := int64(le.Uint16(v.boot[22:])) * sectorSize
	if fatSize == 0 { // FAT32
		fatSize = int64(le.Uint32(v.boot[36:])) * sectorSize
		v.root = le.Uint32(v.boot[44:])
	}
	v.cluster = sectorSize * int64(v.boot[13])
	v.fatAt = int64(le.Uint16(v.boot[14:])) * sectorSize
	v.rootDir = v.fatAt + int64(v.boot[16])*fatSize
	v.rootSize = int64(le.Uint16(v.boot[17:])) * 32
	v.data = v.rootDir + v.rootSize
	if sectorSize != sector || v.cluster == 0 || fatSize <= 0 || fatSize > 1<<28 {
		return nil, errors.New("its boot sector is damaged")
	}

	v.fat = make([]byte, fatSize)
	sectors := int64(le.Uint16(v.boot[19:]))
	if sectors == 0 {
		sectors = int64(le.Uint32(v.boot[32:]))
	}
	entries := fatSize / 4
	if v.root == 0 { // FAT12 has entries of 12 bits
		entries = fatSize * 2 / 3
	}
	clusters := max(0, (sectors*sector-v.data)/v.cluster+2) // the first has the number 2
	v.used = make([]bool, min(clusters, entries))
	_, err := f.ReadAt(v.fat, start+v.fatAt)
	return v, err
}

// sweep frees the clusters that nothing uses, in all FATs.
func (v *fatVolume) sweep() error {
	for c := 2; c < len(v.used); c++ {
		if !v.used[c] {
			v.free(uint32(c))
		}
	}
	for at := v.fatAt; at < v.rootDir; at += int64(len(v.fat)) {
		if _, err := v.f.WriteAt(v.fat, v.start+at); err != nil {
			return err
		}
	}
	return nil
}

// free marks a cluster as free in the copy of the FAT.
func (v *fatVolume) free(c uint32) {
	le := binary.LittleEndian
	if v.root != 0 {
		le.PutUint32(v.fat[4*c:], 0)
		return
	}

	// Two bytes hold the entry, and half a byte of the entry of a neighbour.
	pair := v.fat[c+c/2:]
	keep := uint16(0xf000)
	if c%2 == 1 {
		keep = 0x000f
	}
	le.PutUint16(pair, le.Uint16(pair)&keep)
}

// describe sets the volume's serial number and, on FAT32, its place on the disk
// and its free clusters; both boot sectors and both FSInfo sectors have them.
func (v *fatVolume) describe(serial uint32) error {
	le := binary.LittleEndian
	write := func(at int64, values ...uint32) error {
		var b []byte
		for _, n := range values {
			b = le.AppendUint32(b, n)
		}
		_, err := v.f.WriteAt(b, v.start+at)
		return err
	}
	if v.root == 0 {
		return write(39, serial)
	}

	free, next := uint32(0), uint32(0)
	for c := 2; c < len(v.used); c++ {
		if !v.used[c] {
			free++
			if next == 0 {
				next = uint32(c)
			}
		}
	}

	info := int64(le.Uint16(v.boot[48:])) * sector
	backup := int64(le.Uint16(v.boot[50:])) * sector
	var errs []error
	for _, boot := range []int64{0, backup} {
		errs = append(errs,
			write(boot+28, uint32(v.start/sector)),
			write(boot+67, serial),
			write(boot+info+488, free, next))
	}

	return errors.Join(errs...)
}

// next is the cluster after c in its chain; 0 at the end.
func (v *fatVolume) next(c uint32) uint32 {
	if v.root != 0 {
		if n := binary.LittleEndian.Uint32(v.fat[4*c:]) & 0x0fffffff; n < 0x0ffffff8 {
			return n
		}
		return 0
	}

	n := binary.LittleEndian.Uint16(v.fat[c+c/2:])
	if c%2 == 1 {
		n >>= 4
	}
	n &= 0xfff
	if n < 0xff8 {
		return uint32(n)
	}
	return 0
}

// chain marks the clusters from c on as used, and calls f, which may be nil, with
// the offset of each.
func (v *fatVolume) chain(c uint32, f func(at int64) error) error {
	for c != 0 {
		if c < 2 || int(c) >= len(v.used) || v.used[c] {
			return fmt.Errorf("cluster %d is out of place", c)
		}
		v.used[c] = true
		if f != nil {
			if err := f(v.data + int64(c-2)*v.cluster); err != nil {
				return err
			}
		}
		c = v.next(c)
	}

	return nil
}

// folder stamps the entries of the folder at cluster c (0: FAT12's root), which is
// depth folders below the root, and of those in it.
func (v *fatVolume) folder(c uint32, depth int) error {
	if c == 0 {
		return v.entries(v.rootDir, v.rootSize, depth)
	}
	return v.chain(c, func(at int64) error { return v.entries(at, v.cluster, depth) })
}

// fatDate is 2000-01-01, the date of all files.
const fatDate = (2000-1980)<<9 | 1<<5 | 1

// A fatEntry is what entries goes on to: a file or a folder.
type fatEntry struct {
	cluster uint32 // the first
	folder  bool
}

// entries stamps the entries in the size bytes from at on, and the folders among
// them.
func (v *fatVolume) entries(at, size int64, depth int) error {
	buf := make([]byte, size)
	if _, err := v.f.ReadAt(buf, v.start+at); err != nil {
		return err
	}

	var inside []fatEntry
	for e := buf; len(e) >= 32 && e[0] != 0; e = e[32:] {
		if in, ok := stampEntry(e[:32], depth); ok {
			inside = append(inside, in)
		}
	}

	if _, err := v.f.WriteAt(buf, v.start+at); err != nil {
		return err
	}

	for _, in := range inside {
		var err error
		if in.folder {
			err = v.folder(in.cluster, depth+1)
		} else {
			err = v.chain(in.cluster, nil)
		}
		if err != nil {
			return err
		}
	}

	return nil
}

// stampEntry sets the dates of one entry (FAT specification, section 6), which is
// depth folders below the root. ok is false if it has no clusters of its own.
func stampEntry(e []byte, depth int) (in fatEntry, ok bool) {
	const (
		deleted = 0xe5

		attributes = 11
		longName   = 0x0f
		label      = 0x08
		folder     = 0x10

		created      = 13 // tenths of a second, time, date
		accessed     = 18 // date
		clusterHigh  = 20
		modified     = 22 // time, date
		clusterLow   = 26
		sizeOfFile   = 28
		thisFolder   = ".          "
		parentFolder = "..         "
	)
	if e[0] == deleted || e[attributes]&0x3f == longName {
		return fatEntry{}, false
	}

	le := binary.LittleEndian
	copy(e[created:], []byte{0, 0, 0, fatDate & 0xff, fatDate >> 8})
	le.PutUint16(e[accessed:], fatDate)
	copy(e[modified:], []byte{0, 0, fatDate & 0xff, fatDate >> 8})

	noCluster := func() {
		le.PutUint16(e[clusterHigh:], 0)
		le.PutUint16(e[clusterLow:], 0)
	}
	in = fatEntry{
		cluster: uint32(le.Uint16(e[clusterHigh:]))<<16 | uint32(le.Uint16(e[clusterLow:])),
		folder:  e[attributes]&folder != 0,
	}
	switch name := string(e[:11]); {
	case e[attributes]&label != 0, name == thisFolder:
		return fatEntry{}, false
	case name == parentFolder:
		if depth == 1 {
			noCluster()
		}
		return fatEntry{}, false
	case !in.folder && le.Uint32(e[sizeOfFile:]) == 0:
		noCluster()
		return fatEntry{}, false
	}

	return in, true
}
