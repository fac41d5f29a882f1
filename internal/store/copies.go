package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/bbolt"
)

// Copies of the store are kept in a folder beside it: the newest, and the first of each of the last days that have one,
// so that a server that is started again and again does not push out what was before. What a newer version brings to
// another format is kept as it was, under a name of its own.
const (
	CopiesFolder = "copies"
	copyDays     = 3
	copyName     = "state-20060102T150405.000Z.db" // UTC
	beforeFormat = "before-format-%d.db"
	copyTemp     = ".tmp-"
)

// Copy is a copy of the store.
type Copy struct {
	Path string
	Time time.Time
	Size int64 // bytes
}

// Copies lists the copies of the store at path, the newest first.
func Copies(path string) ([]Copy, error) {
	entries, err := os.ReadDir(copiesOf(path))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("look for copies of the store: %w", err)
	}

	var copies []Copy
	for _, e := range slices.Backward(entries) { // their names have the order of time
		at, err := time.Parse(copyName, e.Name())
		if err != nil {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("look for copies of the store: %w", err)
		}
		copies = append(copies, Copy{filepath.Join(copiesOf(path), e.Name()), at, info.Size()})
	}

	return copies, nil
}

func copiesOf(path string) string { return filepath.Join(filepath.Dir(path), CopiesFolder) }

// NewestGood returns the newest copy of the store at path that is whole.
func NewestGood(path string) (Copy, bool) {
	copies, _ := Copies(path)
	for _, c := range copies {
		if check, err := CheckFile(c.Path); err == nil && len(check.Damaged) == 0 && check.understood() == nil {
			return c, true
		}
	}
	return Copy{}, false
}

// adviseCopy says what is to be done about a store that cannot be used.
func adviseCopy(path string) string {
	dir := filepath.Dir(path)
	if c, ok := NewestGood(path); ok {
		return fmt.Sprintf("the newest good copy is %s, of %s: `provision state restore --state-dir %s` goes on "+
			"from it, "+
			"with no permit", c.Path, c.Time.Format(time.RFC3339), dir)
	}
	return fmt.Sprintf("there is no good copy in %s: `provision state restore --state-dir %s FILE` goes on from "+
		"one that "+
		"you have, with no permit; without one, enroll the hosts again, with an empty state folder", copiesOf(path), dir)
}

// WriteTo writes a copy of the store, as it is now and marked as one.
func (b *Bolt) WriteTo(w io.Writer) (int64, error) {
	tmp, _, err := b.temporary()
	if err != nil {
		return 0, err
	}
	return moveTo(w, tmp)
}

// Backup writes a copy of the store at path, marked as one, if no server has it open; else the error is
// ErrInUse.
func Backup(w io.Writer, path string) error {
	return whileClosed(path, func(f *os.File) error {
		if f == nil {
			return fmt.Errorf("%s is not there", path)
		}
		tmp, _, err := copyOf(f)
		if err == nil {
			_, err = moveTo(w, tmp)
		}
		return err
	})
}

func moveTo(w io.Writer, tmp string) (int64, error) {
	defer os.Remove(tmp)
	f, err := os.Open(tmp)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return io.Copy(w, f)
}

// Keep makes a copy in the folder for them, and removes those that are too many. It returns its path. Of a store with
// damaged records it makes none, which would push out those that have them whole.
func (b *Bolt) Keep() (string, error) {
	tmp, check, err := b.temporary()
	if err != nil {
		return "", err
	}
	if len(check.Damaged) > 0 {
		return "", errors.Join(fmt.Errorf("copy the store: %w", &Damaged{check.Damaged}), os.Remove(tmp))
	}
	kept, err := keep(tmp, b.db.Path(), time.Now().UTC().Format(copyName))
	if err != nil {
		return "", err
	}
	copies, err := Copies(b.db.Path())
	for _, c := range tooMany(copies) {
		err = errors.Join(err, os.Remove(c.Path))
	}
	return kept, err
}

// temporary makes a copy that has no name yet.
func (b *Bolt) temporary() (string, Check, error) {
	return copyFile(b.db.Path(), func(w io.Writer) error {
		return guard(func() error {
			return b.db.View(func(tx *bbolt.Tx) error {
				_, err := tx.WriteTo(w)
				return err
			})
		})
	})
}

// copyOf makes a copy that has no name yet of a store's file that nobody has open.
func copyOf(f *os.File) (string, Check, error) {
	return copyFile(f.Name(), func(w io.Writer) error {
		_, err := io.Copy(w, io.NewSectionReader(f, 0, 1<<62))
		return err
	})
}

// keepBefore keeps a copy of a store's file before it is brought to another format.
func keepBefore(f *os.File) error {
	tmp, _, err := copyOf(f)
	if err == nil {
		_, err = keep(tmp, f.Name(), fmt.Sprintf(beforeFormat, storeFormat))
	}
	return err
}

// copyFile makes a copy of the store at path by write, looks at it and marks it. The caller renames or removes it.
func copyFile(path string, write func(io.Writer) error) (tmp string, check Check, err error) {
	if err := os.MkdirAll(copiesOf(path), 0o700); err != nil {
		return "", check, fmt.Errorf("copy the store: %w", err)
	}
	f, err := os.CreateTemp(copiesOf(path), copyTemp) // mode 0600
	if err != nil {
		return "", check, fmt.Errorf("copy the store: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("copy the store %s: %w", path, err), os.Remove(f.Name()))
		}
	}()

	if err := errors.Join(write(f), f.Close()); err != nil {
		return "", check, err
	}

	check, err = CheckFile(f.Name())
	if err == nil {
		err = check.understood()
	}
	if err != nil {
		return "", check, err
	}

	db, err := bbolt.Open(f.Name(), 0o600, nil)
	if err != nil {
		return "", check, err
	}

	why := "the store is a copy of " + time.Now().UTC().Format(time.RFC3339)
	return f.Name(), check, errors.Join(db.Update(markStale(why)), db.Close())
}

// markStale marks a store, in the format that it has.
func markStale(why string) func(*bbolt.Tx) error {
	return func(tx *bbolt.Tx) error {
		if records := tx.Bucket(recordsBucket); records != nil {
			return putRecord(records, []byte(StaleKey), 0, []byte(why))
		}
		first := tx.Bucket(firstBucket)
		if first == nil {
			return errors.New("it is not a store of provision")
		}
		return first.Put([]byte(StaleKey), append(make([]byte, 8), why...))
	}
}

// keep gives a copy of the store at path its name.
func keep(tmp, path, name string) (string, error) {
	name = filepath.Join(copiesOf(path), name)
	if err := errors.Join(os.Rename(tmp, name), SyncDir(copiesOf(path))); err != nil {
		return "", fmt.Errorf("copy the store: %w", errors.Join(err, os.Remove(tmp)))
	}
	return name, nil
}

// tooMany are those of the copies, the newest first, that are neither the newest nor the first of one of the last days.
func tooMany(copies []Copy) (gone []Copy) {
	days := 0
	for i, c := range copies {
		firstOfDay := i+1 == len(copies) || copies[i+1].Time.Format(time.DateOnly) != c.Time.Format(time.DateOnly)
		if firstOfDay {
			days++
		}
		if i > 0 && (!firstOfDay || days > copyDays) {
			gone = append(gone, c)
		}
	}
	return gone
}

// Restore puts a copy of a store in the place of the store at path, which no server may have open. What was there
// stays beside it, as path with ".replaced".
func Restore(path, from string) (check Check, err error) {
	err = whileClosed(path, func(*os.File) error {
		source, err := os.Open(from)
		if err != nil {
			return err
		}
		defer source.Close()

		tmp, found, err := copyFile(path, func(w io.Writer) error {
			_, err := io.Copy(w, source)
			return err
		})
		if err != nil {
			return err
		}

		check = found
		if err := os.Rename(path, path+".replaced"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return errors.Join(err, os.Remove(tmp))
		}
		return errors.Join(os.Rename(tmp, path), SyncDir(filepath.Dir(path)))
	})
	if err != nil {
		return check, fmt.Errorf("restore %s from %s: %w", path, from, err)
	}
	return check, nil
}
