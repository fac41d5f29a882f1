package disko

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/diskfs/go-diskfs/partition/gpt"
	"github.com/diskfs/go-diskfs/partition/mbr"
)

// ErrNoTable means that a disk has neither a GPT header at one of its ends nor an MBR.
var ErrNoTable = errors.New("no partition table")

// Table is a disk's GPT or MBR as read from its first and last sectors.
type Table struct {
	DiskGUID   string      `json:"disk_guid"`   // upper case; empty if it has only an MBR
	Size       int64       `json:"size"`        // of the disk, in bytes
	SectorSize int64       `json:"sector_size"` // logical, in bytes
	Partitions []Partition `json:"partitions"`  // of the GPT, by number
	MBR        []MBREntry  `json:"mbr,omitempty"`
}

// MBREntry is a used entry of the MBR, other than the protective entry of a GPT.
type MBREntry struct {
	Number   int   `json:"number"` // 1 to 4
	Type     byte  `json:"type"`
	Bootable bool  `json:"bootable"`
	First    int64 `json:"first"`   // sector
	Sectors  int64 `json:"sectors"` // number of sectors
}

// Partition is one used entry of a GPT (UEFI 2.10, section 5.3.3).
type Partition struct {
	Number     int    `json:"number"` // from 1
	Label      string `json:"label"`
	Type       string `json:"type"` // GUID, upper case
	GUID       string `json:"guid"` // upper case
	Attributes uint64 `json:"attributes"`
	First      uint64 `json:"first"` // sector
	Last       uint64 `json:"last"`  // last sector, inclusive
}

// TableBytes returns how many bytes of each end of a disk [ReadTable] needs: protective MBR, header and entries at the
// head, entries and header at the tail.
func TableBytes(sectorSize int64) (head, tail int64) {
	const entries = tableEntries * tableEntrySize
	return 2*sectorSize + entries, sectorSize + entries
}

// ReadTable reads the partition table of a disk of size bytes from its first and last bytes, at least as many as
// [TableBytes] returns. Both copies of a GPT must have correct checksums and agree with each other. If the disk has
// neither GPT nor MBR, the error is [ErrNoTable].
func ReadTable(head, tail []byte, size, sectorSize int64) (*Table, error) {
	needHead, needTail := TableBytes(sectorSize)
	switch {
	case sectorSize != 512 && sectorSize != 4096:
		return nil, fmt.Errorf("sectors of %d bytes are not supported", sectorSize)
	case int64(len(head)) < needHead || int64(len(tail)) < needTail:
		return nil, fmt.Errorf("%d and %d bytes of the disk's ends are too few; needed are %d and %d", len(head), len(tail), needHead, needTail)
	case size%sectorSize != 0 || size < int64(len(head)) || size < int64(len(tail)) || size < needHead+needTail:
		return nil, fmt.Errorf("a disk of %d bytes cannot have a partition table", size)
	}

	last := uint64(size/sectorSize) - 1
	entries := uint64(tableEntries*tableEntrySize) / uint64(sectorSize)
	primary := head[sectorSize : 2*sectorSize]
	backup := tail[int64(len(tail))-sectorSize:]
	signature := []byte("EFI PART")
	if !bytes.HasPrefix(primary, signature) && !bytes.HasPrefix(backup, signature) {
		entries := readMBR(head, size)
		if entries == nil {
			return nil, ErrNoTable
		}
		return &Table{Size: size, SectorSize: sectorSize, MBR: entries}, nil
	}

	if err := checkHeader(primary, 1, last, 2); err != nil {
		return nil, fmt.Errorf("primary partition table: %w", err)
	}
	if err := checkHeader(backup, last, 1, last-entries); err != nil {
		return nil, fmt.Errorf("backup partition table: %w", err)
	}

	// go-diskfs verifies the checksums, but reads the backup only if the primary is broken. So it is called twice, the
	// second time with the primary erased.
	ends := &diskEnds{head: bytes.Clone(head), tail: tail, size: size}
	t, err := gpt.Read(ends, int(sectorSize), int(sectorSize))
	if err != nil {
		return nil, fmt.Errorf("read partition table: %w", err)
	}

	if t.RecoveredFromBackup {
		return nil, errors.New("primary partition table: wrong checksum")
	}
	clear(ends.head[sectorSize : 2*sectorSize])
	ends.at = 0
	second, err := gpt.Read(ends, int(sectorSize), int(sectorSize))
	if err != nil {
		return nil, fmt.Errorf("backup partition table: %w", err)
	}

	if !t.Equal(second) {
		return nil, errors.New("primary and backup partition table differ")
	}
	table := newTable(t, size, sectorSize)
	table.MBR = readMBR(head, size)
	return table, nil
}

// readMBR returns the used entries of the MBR; nil if there is no MBR or none is used.
func readMBR(head []byte, size int64) (entries []MBREntry) {
	t, err := mbr.Read(&diskEnds{head: head, size: size}, 512, 512)
	if err != nil {
		return nil
	}
	for i, p := range t.Partitions {
		if p.Type != mbr.Empty && p.Type != mbr.GPTProtective {
			entries = append(entries, MBREntry{i + 1, byte(p.Type), p.Bootable, int64(p.Start), int64(p.Size)})
		}
	}
	return entries
}

// checkHeader returns an error if the header has other positions, entry sizes or entry counts than those that all tools
// write. go-diskfs would follow them beyond the data.
func checkHeader(h []byte, self, other, entries uint64) error {
	le := binary.LittleEndian
	switch {
	case !bytes.HasPrefix(h, []byte("EFI PART")):
		return errors.New("missing")
	case le.Uint32(h[80:]) != tableEntries || le.Uint32(h[84:]) != tableEntrySize:
		return fmt.Errorf("%d entries of %d bytes are not supported", le.Uint32(h[80:]), le.Uint32(h[84:]))
	case le.Uint64(h[24:]) != self || le.Uint64(h[32:]) != other || le.Uint64(h[72:]) != entries:
		return errors.New("does not lie at the ends of this disk; was the disk resized?")
	}
	return nil
}

// newTable converts a table of go-diskfs.
func newTable(t *gpt.Table, size, sectorSize int64) *Table {
	table := &Table{DiskGUID: t.GUID, Size: size, SectorSize: sectorSize}
	for _, p := range t.Partitions {
		table.Partitions = append(table.Partitions, Partition{
			Number: p.Index, Label: p.Name, Type: string(p.Type), GUID: p.GUID,
			Attributes: p.Attributes, First: p.Start, Last: p.End,
		})
	}
	return table
}

// diskEnds is a disk of which only both ends are known. It implements backend.File for go-diskfs.
type diskEnds struct {
	head, tail []byte
	size, at   int64
}

func (d *diskEnds) ReadAt(p []byte, off int64) (int, error) {
	end := off + int64(len(p))
	tail := d.size - int64(len(d.tail))
	switch {
	case off >= 0 && end <= int64(len(d.head)):
		return copy(p, d.head[off:end]), nil
	case off >= tail && end <= d.size:
		return copy(p, d.tail[off-tail:]), nil
	}
	return 0, io.ErrUnexpectedEOF
}

func (d *diskEnds) Seek(off int64, whence int) (int64, error) {
	d.at = off + []int64{0, d.at, d.size}[whence]
	return d.at, nil
}

func (d *diskEnds) Read([]byte) (int, error)   { return 0, errors.ErrUnsupported }
func (d *diskEnds) Stat() (fs.FileInfo, error) { return nil, errors.ErrUnsupported }
func (d *diskEnds) Close() error               { return nil }

// Verify returns an error that lists how the table of a device differs from the plan: number and order of the
// partitions, labels, types, attributes, explicit UUIDs and sizes, and the entries of a hybrid MBR. Sizes must be exact
// where the layout sets one; where it says "the rest", the end may differ by 1 MiB. What parted made may differ by 2
// MiB.
func (p *Plan) Verify(device string, t *Table) error {
	r := &reader{}
	switch table := p.tables[device].(type) {
	case *partedTable:
		table.verify(r, device, t)
		return r.err()
	case *gptTable:
		return table.verify(r, device, t)
	}
	return fmt.Errorf("verify %s: the plan makes no table there", device)
}

// verify compares a GPT with the layout.
func (g *gptTable) verify(r *reader, device string, t *Table) error {
	parts := g.parts
	want, err := arrange(parts, t.Size, t.SectorSize)
	if err != nil {
		return fmt.Errorf("verify %s: %w", device, err)
	}

	if len(parts) != len(t.Partitions) {
		r.errorf(device, "has %d partitions instead of %d", len(t.Partitions), len(parts))
	}
	for n := range min(len(parts), len(t.Partitions)) {
		parts[n].verify(r, n+1, t.Partitions[n], want[n], uint64(t.SectorSize))
	}
	for n, a := range t.Partitions {
		for _, b := range t.Partitions[n+1:] {
			if a.First <= b.Last && b.First <= a.Last {
				r.errorf(device, "partitions %d and %d overlap", a.Number, b.Number)
			}
		}
	}

	if len(t.MBR) != len(g.hybrids) {
		r.errorf(device, "the MBR has %d partitions instead of %d", len(t.MBR), len(g.hybrids))
	}
	for i := range min(len(t.MBR), len(g.hybrids)) {
		if n := g.hybrids[i]; n <= len(t.Partitions) {
			parts[n-1].hybrid.verify(r, parts[n-1].path, t.MBR[i], t.Partitions[n-1])
		}
	}

	return r.err()
}

// verify compares an entry of a hybrid MBR with the layout.
func (h *hybrid) verify(r *reader, path string, got MBREntry, part Partition) {
	if uint64(got.First) != part.First || uint64(got.Sectors) != part.Last-part.First+1 {
		r.errorf(path, "entry %d of the MBR has %d sectors from %d on, which are not the "+
			"partition's", got.Number, got.Sectors, got.First)
	}
	if want, err := strconv.ParseUint(strings.TrimPrefix(strings.ToLower(h.typeCode), "0x"), 16, 8); err == nil &&
		byte(want) != got.Type {
		r.errorf(path, "entry %d of the MBR has type %#02x instead of %s", got.Number, got.Type, h.typeCode)
	}
	if h.bootable != got.Bootable {
		r.errorf(path, "entry %d of the MBR is bootable: %v instead of %v", got.Number, got.Bootable, h.bootable)
	}
}

// verify compares what parted made, with a tolerance of 2 MiB, since parted aligns in its own way.
func (t *partedTable) verify(r *reader, device string, got *Table) {
	type entry struct {
		number     int
		start, end int64 // in bytes
	}
	var have []entry
	for _, p := range got.Partitions {
		have = append(have, entry{p.Number, int64(p.First) * got.SectorSize, int64(p.Last+1) * got.SectorSize})
	}
	if t.format == "msdos" {
		have = nil
		for _, e := range got.MBR {
			have = append(have, entry{e.Number, e.First * got.SectorSize, (e.First + e.Sectors) * got.SectorSize})
		}
	}

	if (t.format == "gpt") != (got.DiskGUID != "") {
		r.errorf(device, "the table is not of the format %s", t.format)
	}
	if len(have) != len(t.parts) {
		r.errorf(device, "has %d partitions instead of %d", len(have), len(t.parts))
	}
	for i := range min(len(have), len(t.parts)) {
		p, e := t.parts[i], have[i]
		if e.number != i+1 {
			r.errorf(p.path, "partition number is %d instead of %d", e.number, i+1)
		}
		t.compareBounds(r, p, got.Size, e.start, e.end)
		if t.format == "gpt" && got.Partitions[i].Label != udevName(p.name) {
			r.errorf(p.path, "label is %s instead of %s", got.Partitions[i].Label, udevName(p.name))
		}
		if t.format == "msdos" && got.MBR[i].Bootable != slices.Contains(p.flags, "boot") {
			r.errorf(p.path, "is bootable: %v", got.MBR[i].Bootable)
		}
	}
}

// attributeMask returns the attributes as the bit mask in a GPT entry.
func (p partition) attributeMask() (mask uint64) {
	for _, bit := range p.attributes {
		mask |= 1 << bit
	}
	return mask
}

// verify records errors for the differences between an entry of a GPT and the layout. want is where sgdisk puts it.
func (p partition) verify(r *reader, number int, got Partition, want extent, sectorSize uint64) {
	differ := func(what string, got, want any) {
		if got != want {
			r.errorf(p.path, "%s is %v instead of %v", what, got, want)
		}
	}
	differ("partition number", got.Number, number)
	differ("label", got.Label, p.label)
	differ("type", got.Type, p.typeGUID)
	differ("attributes", got.Attributes, p.attributeMask())
	if p.uuid != "" {
		differ("uuid", got.GUID, strings.ToUpper(p.uuid))
	}
	if got.Last < got.First || got.Last > math.MaxInt64/sectorSize {
		r.errorf(p.path, "ends before it starts: sectors %d to %d", got.First, got.Last)
		return
	}
	size, wanted := (got.Last-got.First+1)*sectorSize, (want.last-want.first+1)*sectorSize
	if !p.end.rest() {
		differ("size in bytes", size, wanted)
	} else if far(got.Last, want.last, sectorSize) {
		r.errorf(p.path, "ends at sector %d instead of %d", got.Last, want.last)
	}

	if far(got.First, want.first, sectorSize) {
		r.errorf(p.path, "starts at sector %d instead of %d", got.First, want.first)
	}
}

// far reports whether two sectors are more than 1 MiB apart. Versions of sgdisk may align differently by that much.
func far(a, b, sectorSize uint64) bool { return max(a, b)-min(a, b) > mib/sectorSize }
