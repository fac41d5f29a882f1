package images

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
)

// stampFAT makes a FAT file system that go-diskfs has just made independent of
// the time: go-diskfs takes the dates of all entries from the clock, with no
// other way in than an environment variable of the whole process. It sets the
// volume's serial number, too, and what Microsoft's FAT specification (1.03) asks
// for and go-diskfs leaves: where the volume is on its disk, how much is free, and
// that ".." of a folder in the root names cluster 0.
func stampFAT(f *os.File, start int64, serial uint32) error {
	v, err := openFAT(f, start)
	if err != nil {
		return fmt.Errorf("read the FAT file system back: %w", err)
	}
	if err := v.describe(serial); err != nil {
		return fmt.Errorf("finish the FAT file system: %w", err)
	}
	if err := v.folder(v.root, v.root == 0, 0); err != nil {
		return fmt.Errorf("set the dates on FAT: %w", err)
	}
	return nil
}

// fatVolume is where the parts of a FAT12 or FAT32 file system are.
type fatVolume struct {
	f        *os.File
	start    int64  // of the file system in f; all offsets are from there
	boot     []byte // the boot sector
	cluster  int64  // bytes
	fat      []byte // the first FAT
	rootDir  int64  // offset of FAT12's root directory
	rootSize int64
	data     int64  // offset of cluster 2
	root     uint32 // cluster of FAT32's root directory; 0: this is FAT12
	clusters int
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
	fatAt := int64(le.Uint16(v.boot[14:])) * per
	v.rootDir = fatAt + int64(v.boot[16])*fatSize
	v.rootSize = int64(le.Uint16(v.boot[17:])) * 32
	v.data = v.rootDir + v.rootSize
	if per != sector || v.cluster == 0 || fatSize <= 0 || fatSize > 1<<28 {
		return nil, errors.New("its boot sector is damaged")
	}
	v.fat = make([]byte, fatSize)
	if v.clusters = int(fatSize / 4); v.root == 0 {
		v.clusters = int(fatSize * 2 / 3)
	}
	_, err := f.ReadAt(v.fat, start+fatAt)
	return v, err
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
	data := (int64(le.Uint32(v.boot[32:]))*sector - v.data) / v.cluster
	free, next := uint32(0), uint32(0)
	for c := uint32(2); int64(c) < data+2 && int(c) < v.clusters; c++ {
		if le.Uint32(v.fat[4*c:])&0x0fffffff == 0 {
			if free++; next == 0 {
				next = c
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

// next is the cluster after c; 0 at the end.
func (v *fatVolume) next(c uint32) uint32 {
	if int(c) >= v.clusters-1 {
		return 0
	}
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

// folder stamps the entries of a folder and of those in it. fixed: it is FAT12's
// root directory.
func (v *fatVolume) folder(c uint32, fixed bool, depth int) error {
	if fixed {
		return v.entries(v.rootDir, v.rootSize, depth)
	}
	for n := 0; c >= 2; n++ {
		if n > v.clusters {
			return errors.New("a folder has no end")
		}
		if err := v.entries(v.data+int64(c-2)*v.cluster, v.cluster, depth); err != nil {
			return err
		}
		c = v.next(c)
	}
	return nil
}

// fatDate is 2000-01-01, the date of all files.
const fatDate = (2000-1980)<<9 | 1<<5 | 1

// entries stamps those in size bytes from at, which belong to a folder that is
// depth folders below the root.
func (v *fatVolume) entries(at, size int64, depth int) error {
	if depth > 16 {
		return errors.New("folders are nested too deep")
	}
	buf := make([]byte, size)
	if _, err := v.f.ReadAt(buf, v.start+at); err != nil {
		return err
	}
	le := binary.LittleEndian
	var inside []uint32
	for e := buf; len(e) >= 32 && e[0] != 0; e = e[32:] {
		const long, folder = 0x0f, 0x10
		if e[0] == 0xe5 || e[11]&0x3f == long {
			continue
		}
		copy(e[13:20], make([]byte, 7)) // tenths and time of creation, date of it, date of access
		le.PutUint16(e[16:], fatDate)
		le.PutUint16(e[18:], fatDate)
		le.PutUint16(e[22:], 0)
		le.PutUint16(e[24:], fatDate)
		c := uint32(le.Uint16(e[20:]))<<16 | uint32(le.Uint16(e[26:]))
		switch {
		case e[11]&folder == 0 || string(e[:11]) == ".          ":
		case string(e[:11]) == "..         ":
			if depth == 1 {
				le.PutUint16(e[20:], 0)
				le.PutUint16(e[26:], 0)
			}
		default:
			inside = append(inside, c)
		}
	}
	if _, err := v.f.WriteAt(buf, v.start+at); err != nil {
		return err
	}
	for _, c := range inside {
		if err := v.folder(c, false, depth+1); err != nil {
			return err
		}
	}
	return nil
}
