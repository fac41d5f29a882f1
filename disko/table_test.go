package disko

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/partition/gpt"
)

// image returns the ends of a disk with the partitions.
func image(t testing.TB, size, sectorSize int64, parts ...*gpt.Partition) (head, tail []byte) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	table := &gpt.Table{
		LogicalSectorSize: int(sectorSize), PhysicalSectorSize: int(sectorSize), ProtectiveMBR: true,
		GUID: "11111111-2222-4333-8444-555555555555", Partitions: parts,
	}
	if err := table.Write(f, size); err != nil {
		t.Fatal(err)
	}
	h, n := TableBytes(sectorSize)
	head, tail = make([]byte, h), make([]byte, n)
	if _, err := f.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAt(tail, size-n); err != nil {
		t.Fatal(err)
	}
	return head, tail
}

// simpleEFI is what efi asks for on a disk of a GiB.
func simpleEFI(sectorSize uint64) []*gpt.Partition {
	first := uint64(mib / sectorSize)
	esp := 500 * first
	return []*gpt.Partition{
		{Index: 1, Name: "disk-main-ESP", Type: gpt.EFISystemPartition, Start: first, End: first + esp - 1, GUID: "AAAAAAAA-2222-4333-8444-555555555555"},
		{Index: 2, Name: "disk-main-root", Type: gpt.LinuxFilesystem, Start: first + esp, End: 1023*first - 1, GUID: "BBBBBBBB-2222-4333-8444-555555555555"},
	}
}

const gib = 1 << 30

func TestReadTable(t *testing.T) {
	for _, ss := range []int64{512, 4096} {
		head, tail := image(t, gib, ss, simpleEFI(uint64(ss))...)
		table, err := ReadTable(head, tail, gib, ss)
		if err != nil {
			t.Fatalf("%d: %v", ss, err)
		}
		if p := table.Partitions; len(p) != 2 || p[0].Label != "disk-main-ESP" || p[1].Number != 2 ||
			p[0].Type != string(gpt.EFISystemPartition) || p[1].Last != uint64(1023*mib/ss-1) ||
			table.DiskGUID != "11111111-2222-4333-8444-555555555555" {
			t.Errorf("%d: read %+v", ss, table)
		}
		more := append(head, make([]byte, mib)...)
		if _, err := ReadTable(more, tail, gib, ss); err != nil {
			t.Errorf("%d: with more bytes: %v", ss, err)
		}
	}
}

// checksum makes a changed header valid again.
func checksum(header []byte) {
	binary.LittleEndian.PutUint32(header[16:], 0)
	binary.LittleEndian.PutUint32(header[16:], crc32.ChecksumIEEE(header[:92]))
}

func TestReadTableDamaged(t *testing.T) {
	const ss = 512
	for name, c := range map[string]struct {
		damage func(head, tail []byte)
		want   string
	}{
		"blank":           {func(h, l []byte) { clear(h); clear(l) }, ErrNoTable.Error()},
		"mbr only":        {func(h, l []byte) { clear(h[ss:]); clear(l) }, ErrNoTable.Error()},
		"no primary":      {func(h, l []byte) { clear(h[ss:]) }, "primary partition table: missing"},
		"no backup":       {func(h, l []byte) { clear(l) }, "backup partition table: missing"},
		"primary header":  {func(h, l []byte) { h[ss+57] ^= 1 }, "primary partition table: wrong checksum"},
		"backup header":   {func(h, l []byte) { l[len(l)-ss+57] ^= 1 }, "backup partition table: "},
		"primary entries": {func(h, l []byte) { h[2*ss+60] ^= 1 }, "primary partition table: wrong checksum"},
		"backup entries":  {func(h, l []byte) { l[60] ^= 1 }, "backup partition table: "},
		"unused entry":    {func(h, l []byte) { l[128*100] ^= 1 }, "backup partition table: "},
		"differ": {func(h, l []byte) {
			hdr := l[len(l)-ss:]
			l[56] ^= 1
			binary.LittleEndian.PutUint32(hdr[88:], crc32.ChecksumIEEE(l[:128*128]))
			checksum(hdr)
		}, "primary and backup partition table differ"},
		"many entries": {func(h, l []byte) { binary.LittleEndian.PutUint32(h[ss+80:], 1<<31); checksum(h[ss : 2*ss]) }, "primary partition table: 2147483648 entries"},
		"entry size 0": {func(h, l []byte) { binary.LittleEndian.PutUint32(h[ss+84:], 0); checksum(h[ss : 2*ss]) }, "primary partition table: 128 entries of 0 bytes"},
		"resized":      {func(h, l []byte) { binary.LittleEndian.PutUint64(h[ss+32:], 77); checksum(h[ss : 2*ss]) }, "primary partition table: does not lie at the ends of this disk"},
	} {
		t.Run(name, func(t *testing.T) {
			head, tail := image(t, gib, ss, simpleEFI(ss)...)
			c.damage(head, tail)
			_, err := ReadTable(head, tail, gib, ss)
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Fatalf("got %v, want %s", err, c.want)
			}
			if errors.Is(err, ErrNoTable) != (c.want == ErrNoTable.Error()) {
				t.Errorf("%v is ErrNoTable", err)
			}
		})
	}
	for _, size := range []int64{-1, 0, 511, 513, 34 * ss, 1 << 62} {
		head, tail := image(t, gib, ss, simpleEFI(ss)...)
		if _, err := ReadTable(head, tail, size, ss); err == nil {
			t.Errorf("a disk of %d bytes has a table", size)
		}
	}
	if _, err := ReadTable(nil, nil, gib, ss); err == nil {
		t.Error("no bytes have a table")
	}
}

func TestVerify(t *testing.T) {
	facts, err := ParseFacts([]byte(`{"blockdevices":[{"name":"sda","path":"/dev/sda","type":"disk","size":1073741824,"log-sec":512,"rm":false,"ro":false}],"links":{"/dev/disk/by-id/the-disk":"/dev/sda"}}`))
	if err != nil {
		t.Fatal(err)
	}
	const uuid = "bbbbbbbb-2222-4333-8444-555555555555"
	l := mustParse(t, edit(t, readFile(t, "layouts/efi.json"), map[string]any{
		"disk.main.content.partitions.root.uuid":           uuid,
		"disk.main.content.partitions.root.device":         "/dev/disk/by-partuuid/" + uuid,
		"disk.main.content.partitions.root.content.device": "/dev/disk/by-partuuid/" + uuid,
		"disk.main.content.partitions.ESP.attributes":      []any{0, 63},
	}))
	plan, err := NewPlan(l, facts, Options{})
	if err != nil {
		t.Fatal(err)
	}
	const esp, root = "disk.main.content.partitions.ESP: ", "disk.main.content.partitions.root: "
	for name, c := range map[string]struct {
		change func(*Table)
		want   []string
	}{
		"same":         {func(t *Table) {}, nil},
		"near the end": {func(t *Table) { t.Partitions[1].Last += 2000 }, nil},
		"label":        {func(t *Table) { t.Partitions[0].Label = "EFI" }, []string{esp + "label is EFI instead of disk-main-ESP"}},
		"type":         {func(t *Table) { t.Partitions[0].Type = t.Partitions[1].Type }, []string{esp + "type is 0FC63DAF"}},
		"uuid":         {func(t *Table) { t.Partitions[1].GUID = t.DiskGUID }, []string{root + "uuid is 1111"}},
		"attributes":   {func(t *Table) { t.Partitions[0].Attributes = 0 }, []string{esp + "attributes is 0 instead of 9223372036854775809"}},
		"one sector":   {func(t *Table) { t.Partitions[0].Last-- }, []string{esp + "size in bytes is 524287488 instead of 524288000"}},
		"short rest":   {func(t *Table) { t.Partitions[1].Last -= 3000 }, []string{root + "ends at sector"}},
		"backwards":    {func(t *Table) { t.Partitions[1].Last = 5 }, []string{root + "ends before it starts"}},
		"endless":      {func(t *Table) { t.Partitions[1].Last = 1<<64 - 1 }, []string{root + "ends before it starts"}},
		"missing":      {func(t *Table) { t.Partitions = t.Partitions[:1] }, []string{"/dev/sda: has 1 partitions instead of 2"}},
		"none":         {func(t *Table) { t.Partitions = nil }, []string{"/dev/sda: has 0 partitions"}},
		"overlap": {func(t *Table) { t.Partitions[1].First -= 10 }, []string{
			"/dev/sda: partitions 1 and 2 overlap"}},
		"number": {func(t *Table) { t.Partitions[1].Number = 3 }, []string{root + "partition number is 3 instead of 2"}},
		"moved": {func(t *Table) { t.Partitions[0].First += 4096; t.Partitions[0].Last += 4096 }, []string{
			"/dev/sda: partitions 1 and 2 overlap", esp + "starts at sector 6144 instead of 2048"}},
	} {
		t.Run(name, func(t *testing.T) {
			parts := simpleEFI(512)
			parts[0].Attributes = 1<<63 | 1
			head, tail := image(t, gib, 512, parts...)
			table, err := ReadTable(head, tail, gib, 512)
			if err != nil {
				t.Fatal(err)
			}
			c.change(table)
			wantProblems(t, plan.Verify("/dev/sda", table), c.want...)
		})
	}
	if err := plan.Verify("/dev/sdb", &Table{}); err == nil || !strings.Contains(err.Error(), "makes no table there") {
		t.Errorf("another disk: %v", err)
	}
	if err := plan.Verify("/dev/sda", &Table{}); err == nil {
		t.Error("an empty table is fine")
	}
}

// FuzzReadTable damages a sound table: each four bytes of patches say which end, where
// and what. Whole disks as input would be too large for the fuzzer to work on.
func FuzzReadTable(f *testing.F) {
	type ends struct{ head, tail []byte }
	sound := map[int64]ends{}
	for _, ss := range []int64{512, 4096} {
		head, tail := image(f, gib, ss, simpleEFI(uint64(ss))...)
		sound[ss] = ends{head, tail}
	}
	p, err := NewPlan(mustParse(f, readFile(f, "layouts/efi.json")), nil, Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{}, int64(gib), int64(512), true)
	f.Add([]byte{}, int64(gib), int64(4096), false)
	f.Add([]byte{0, 2, 80, 0xff, 0, 2, 84, 0, 1, 2, 73, 0x80}, int64(gib), int64(512), true)
	f.Add([]byte{0, 4, 0x28, 0xff, 1, 0, 0x28, 0xff}, int64(gib+512), int64(512), true)
	f.Fuzz(func(t *testing.T, patches []byte, size, ss int64, repair bool) {
		e, known := sound[ss]
		if !known {
			e = sound[512]
		}
		head, tail := bytes.Clone(e.head), bytes.Clone(e.tail)
		for ; len(patches) >= 4; patches = patches[4:] {
			end := head
			if patches[0]&1 == 1 {
				end = tail
			}
			at := int(patches[0]>>1)<<16 | int(patches[1])<<8 | int(patches[2])
			end[at%len(end)] = patches[3]
		}
		if repair && known { // damage behind right checksums gets further
			primary, backup := head[ss:2*ss], tail[int64(len(tail))-ss:]
			binary.LittleEndian.PutUint32(primary[88:], crc32.ChecksumIEEE(head[2*ss:2*ss+16384]))
			binary.LittleEndian.PutUint32(backup[88:], crc32.ChecksumIEEE(tail[:16384]))
			checksum(primary)
			checksum(backup)
		}
		table, err := ReadTable(head, tail, size, ss)
		if (table == nil) == (err == nil) {
			t.Fatalf("table %v with error %v", table, err)
		}
		if err == nil {
			_ = p.Verify(p.Disks[0].Device, table)
		}
	})
}
