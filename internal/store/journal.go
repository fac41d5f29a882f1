package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Journal keeps small records in memory and in a file that is only appended to: a commit costs one write and one wait
// for the disk, half of what a transaction of [Bolt] waits for. It has no versions.
//
// A record in the file is its CRC-32C (of what follows), the lengths of key and value (the value's plus one; 0: the key
// is gone), all of four bytes, little endian, then both. After them there are zeros: while the file does not grow, the
// file system has nothing of its own to write. A power cut can spoil only the end, which nobody was told of; a disk can
// spoil any of it, and what is whole behind that is still read.
type Journal struct {
	// Damage says, for people, what could not be read when the file was opened; empty: all of it could.
	Damage string

	path  string
	notes groups[*note] // each one write

	// These are used by the one who writes.
	file   *os.File
	size   int64 // of what is whole in the file, bytes
	room   int64 // of the file, bytes
	tidy   int64 // at what size it is written anew at the earliest, bytes
	broken error // why nothing can be written any more

	mu      sync.Mutex
	records map[string][]byte
	live    int64 // bytes that the records would take
}

// note is what one call of Commit wants.
type note struct {
	writes []Write
	err    error
}

const (
	journalHead = 12
	// journalRoom is how large the file grows before what is gone from it is dropped, bytes.
	journalRoom = 8 << 20
	// journalStep is by how much the file grows, bytes.
	journalStep = 1 << 20
	// maxEntry bounds a record in the file, bytes, so that what is whole behind a damaged one is found soon.
	maxEntry = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// OpenJournal opens or makes the file. The caller makes sure that no other process has it open.
func OpenJournal(path string) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	j := &Journal{path: path, file: f, records: make(map[string][]byte)}
	if err := j.load(); err != nil {
		f.Close()
		return nil, fmt.Errorf("open the journal %s: %w", path, err)
	}
	return j, nil
}

func (j *Journal) load() error {
	data, err := os.ReadFile(j.path)
	if err != nil {
		return err
	}
	size, skipped := scanEntries(data, j.set)
	j.size = size
	if skipped > 0 {
		return j.mend(data, skipped)
	}
	j.room = j.size
	if err := errors.Join(j.file.Truncate(j.size), j.file.Sync()); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(j.path))
}

// scanEntries calls do for each record that is whole. size is where the last one ends, skipped how many bytes are no
// part of a whole one.
func scanEntries(data []byte, do func(key string, value []byte)) (size int64, skipped int) {
	end := len(bytes.TrimRight(data, "\x00")) // maybe within the last record's value
	for at := 0; at < end; {
		key, value, n := parseEntry(data[at:])
		if n == 0 {
			skipped++
			at++
			continue
		}
		do(key, value)
		at += int(n)
		size = int64(at)
	}

	return size, skipped
}

// CheckJournal says how many bytes of a journal's file are no part of a whole record.
func CheckJournal(path string) (skipped int, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("check the journal: %w", err)
	}
	_, skipped = scanEntries(data, func(string, []byte) {})
	return skipped, nil
}

// mend keeps a copy of a file of which some could not be read, and writes it anew with what could.
func (j *Journal) mend(data []byte, skipped int) error {
	aside := j.path + ".damaged"
	if err := os.WriteFile(aside, data, 0o600); err != nil {
		return err
	}
	j.Damage = fmt.Sprintf("%d bytes of %s are no whole records, by damage or because the power went while they were "+
		"written; the %d records that are whole are used, and the file as it was is kept as %s",
		skipped, j.path, len(j.records), aside)
	before := j.file
	if err := j.compact(); err != nil {
		return err
	}
	if j.file == before {
		return errors.New("write it anew without what is damaged: the disk does not take it")
	}
	return nil
}

// Adopt takes over what another store has under the prefix, and removes it there. What is here already stays.
func (j *Journal) Adopt(ctx context.Context, from Store, prefix string) error {
	recs, err := from.List(ctx, prefix, "")
	if err != nil || len(recs) == 0 {
		return err
	}

	var here, gone []Write
	j.mu.Lock()
	for _, rec := range recs {
		if _, ok := j.records[rec.Key]; !ok {
			here = append(here, Put(rec.Key, rec.Value))
		}
		gone = append(gone, Delete(rec.Key))
	}

	j.mu.Unlock()
	if err := j.Commit(ctx, nil, here); err != nil {
		return err
	}
	return from.Commit(ctx, nil, gone)
}

// Close releases the file.
func (j *Journal) Close() error { return j.file.Close() }

// parseEntry reads one record; n is 0 if there is none that is whole.
func parseEntry(data []byte) (key string, value []byte, n int64) {
	if len(data) < journalHead {
		return "", nil, 0
	}
	k, v := int64(binary.LittleEndian.Uint32(data[4:])), int64(binary.LittleEndian.Uint32(data[8:]))
	n = journalHead + k + max(v-1, 0)
	if n > min(maxEntry, int64(len(data))) || crc32.Checksum(data[4:n], castagnoli) != binary.LittleEndian.Uint32(data) {
		return "", nil, 0
	}
	if v > 0 {
		value = bytes.Clone(data[journalHead+k : n])
	}
	return string(data[journalHead : journalHead+k]), value, n
}

func appendEntry(b []byte, key string, value []byte) []byte {
	start, v := len(b), uint32(0)
	if value != nil {
		v = uint32(len(value)) + 1
	}
	b = append(b, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(key)))
	b = binary.LittleEndian.AppendUint32(b, v)
	b = append(append(b, key...), value...)
	binary.LittleEndian.PutUint32(b[start:], crc32.Checksum(b[start+4:], castagnoli))
	return b
}

func (j *Journal) set(key string, value []byte) {
	if old, ok := j.records[key]; ok {
		j.live -= int64(journalHead + len(key) + len(old))
		delete(j.records, key)
	}
	if value != nil {
		j.records[key] = value
		j.live += int64(journalHead + len(key) + len(value))
	}
}

// List is that of [Store]; records have no version.
func (j *Journal) List(ctx context.Context, prefix, after string) (recs []Record, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for key, value := range j.records {
		if strings.HasPrefix(key, prefix) && key > after {
			recs = append(recs, Record{Key: key, Value: value})
		}
	}
	slices.SortFunc(recs, func(a, b Record) int { return cmp.Compare(a.Key, b.Key) })
	return recs, nil
}

// Commit makes all writes, on the disk before it returns. Commits that come while the disk is waited for go to it
// together then. Expectations, leases and prefixes are refused.
func (j *Journal) Commit(ctx context.Context, expect []Version, writes []Write) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(expect) > 0 {
		return errors.New("a journal has no versions")
	}
	for _, w := range writes {
		if w.Prefix || w.Lease != 0 {
			return fmt.Errorf("write the journal %s: the record %s: it has neither prefixes nor leases", j.path, w.Key)
		}
		if journalHead+len(w.Key)+len(w.Value) > maxEntry {
			return fmt.Errorf("write the journal %s: the record %s is too large", j.path, w.Key)
		}
	}

	n := &note{writes: writes}
	j.notes.write(n, j.commit)
	return n.err
}

// commit writes a group of commits at once.
func (j *Journal) commit(group []*note) {
	var b []byte
	for _, n := range group {
		for _, w := range n.writes {
			b = appendEntry(b, w.Key, w.Value)
		}
	}

	err := j.write(b)
	j.mu.Lock()
	defer j.mu.Unlock()

	for _, n := range group {
		n.err = err
		for _, w := range n.writes {
			if err == nil {
				j.set(w.Key, slices.Clone(w.Value))
			}
		}
	}
	if err == nil && j.size > max(journalRoom, 4*j.live, j.tidy) {
		j.tidy = 2 * j.size // if it cannot be now
		j.broken = j.compact()
	}
}

// write appends, and waits for the disk. What failed is taken back, or nothing more is written: what follows it could
// not be read.
func (j *Journal) write(b []byte) error {
	if j.broken != nil {
		return j.broken
	}
	err := j.grow(j.size + int64(len(b)))
	if err == nil {
		_, err = j.file.WriteAt(b, j.size)
	}
	if err == nil {
		err = unix.Fdatasync(int(j.file.Fd()))
	}
	if err != nil {
		err = fmt.Errorf("write the journal %s: %w", j.path, err)
		j.room = j.size
		if undo := errors.Join(j.file.Truncate(j.size), j.file.Sync()); undo != nil {
			j.broken = fmt.Errorf("%w; and it cannot be taken back: %w; mend the disk and restart the server", err, undo)
		}
		return err
	}

	j.size += int64(len(b))
	return nil
}

// grow makes room up to this size, and more.
func (j *Journal) grow(size int64) error {
	if size <= j.room {
		return nil
	}
	zeros := make([]byte, size-j.room+journalStep)
	n, err := j.file.WriteAt(zeros, j.room)
	j.room += int64(n)
	return err
}

// compact writes the file anew with what is not gone. Until the new one is in its place whole, the old one stays.
func (j *Journal) compact() error {
	var b []byte
	for key, value := range j.records {
		b = appendEntry(b, key, value)
	}
	next := j.path + ".new"
	f, err := os.OpenFile(next, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil // the old one still serves
	}

	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(next, j.path)
	}
	if err != nil {
		return errors.Join(f.Close(), os.Remove(next)) // as above
	}

	err = errors.Join(j.file.Close(), SyncDir(filepath.Dir(j.path)))
	j.file = f
	j.size = int64(len(b))
	j.room = int64(len(b))
	j.tidy = 0
	return err
}
