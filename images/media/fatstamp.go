package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// stampFAT finishes a FAT file system that go-diskfs has just made. It becomes
// independent of the time: go-diskfs takes the dates of all entries from the
// clock, with no other way in than an environment variable of the whole process.
// And it becomes what Microsoft's FAT specification (1.03) asks for, and fsck.vfat,
// in what go-diskfs does otherwise: clusters of empty files and of FAT12's root
// directory are freed, ".." of a folder in the root names cluster 0, and the volume
// says where it is on its disk and how much of it is free.
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

// fatVolume is where the parts of a FAT12 or FAT32 file system are.
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
	per := int64(le.Uint16(v.boot[11:]))
	fatSize := int64(le.Uint16(v.boot[22:])) * per
	if fatSize == 0 {
		fatSize, v.root = int64(le.Uint32(v.boot[36:]))*per, le.Uint32(v.boot[44:])
	}
	v.cluster = per * int64(v.boot[13])
	v.fatAt = int64(le.Uint16(v.boot[14:])) * per
	v.rootDir = v.fatAt + int64(v.boot[16])*fatSize
	v.rootSize = int64(le.Uint16(v.boot[17:])) * 32
	v.data = v.rootDir + v.rootSize
	if per != sector || v.cluster == 0 || fatSize <= 0 || fatSize > 1<<28 {
		return nil, errors.New("its boot sector is damaged")
	}
	v.fat = make([]byte, fatSize)
	sectors := int64(le.Uint16(v.boot[19:]))
	if sectors == 0 {
		sectors = int64(le.Uint32(v.boot[32:]))
	}
	entries := fatSize / 4
	if v.root == 0 {
		entries = fatSize * 2 / 3
	}
	v.used = make([]bool, min(max(0, (sectors*sector-v.data)/v.cluster+2), entries))
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

func (v *fatVolume) free(c uint32) {
	le := binary.LittleEndian
	if v.root != 0 {
		le.PutUint32(v.fat[4*c:], 0)
		return
	}
	pair, keep := v.fat[c+c/2:], uint16(0xf000) // of the cluster after it
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
			if free++; next == 0 {
				next = uint32(c)
			}
		}
	}
	info, backup := int64(le.Uint16(v.boot[48:]))*sector, int64(le.Uint16(v.boot[50:]))*sector
	var errs []error
	for _, boot := range []int64{0, backup} {
		errs = append(errs, write(boot+28, uint32(v.start/sector)), write(boot+67, serial), write(boot+info+488, free, next))
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
	if n &= 0xfff; n < 0xff8 {
		return uint32(n)
	}
	return 0
}

// chain marks the clusters from c on as used, and calls f, which may be nil, with
// where each is.
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

// entries stamps those in size bytes from at.
func (v *fatVolume) entries(at, size int64, depth int) error {
	buf := make([]byte, size)
	if _, err := v.f.ReadAt(buf, v.start+at); err != nil {
		return err
	}
	le := binary.LittleEndian
	type start struct {
		cluster uint32
		folder  bool
	}
	var inside []start
	for e := buf; len(e) >= 32 && e[0] != 0; e = e[32:] {
		const long, folder, label = 0x0f, 0x10, 0x08
		if e[0] == 0xe5 || e[11]&0x3f == long {
			continue
		}
		copy(e[13:18], []byte{0, 0, 0, fatDate & 0xff, fatDate >> 8}) // made
		le.PutUint16(e[18:], fatDate)                                 // read
		copy(e[22:26], []byte{0, 0, fatDate & 0xff, fatDate >> 8})    // changed
		nowhere := func() { copy(e[20:22], "\x00\x00"); copy(e[26:28], "\x00\x00") }
		c := uint32(le.Uint16(e[20:]))<<16 | uint32(le.Uint16(e[26:]))
		switch {
		case e[11]&label != 0, string(e[:11]) == ".          ":
		case string(e[:11]) == "..         ":
			if depth == 1 {
				nowhere()
			}
		case e[11]&folder == 0 && le.Uint32(e[28:]) == 0:
			nowhere()
		default:
			inside = append(inside, start{c, e[11]&folder != 0})
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
