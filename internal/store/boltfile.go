package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	bolterr "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// storeFormat is what this program writes. Format 1 had its records, without checksums, in the bucket "provision".
// Since format 3 the records of hosts have what was chosen under the names that requests have; hosts reads older ones.
const storeFormat = 3

var (
	recordsBucket = []byte("records")
	formatBucket  = []byte("format")
	formatKey     = []byte("format")
	firstBucket   = []byte("provision")
	// leasedBucket has the keys that go with a lease, each with its ID in eight bytes, big endian. It is there once a
	// lease was used.
	leasedBucket = []byte("leased")
)

// ErrInUse means that a server has the store open.
var ErrInUse = errors.New("another `provision serve` uses this state folder")

// Check is what a store's file was found to hold.
type Check struct {
	Format  int
	Records int
	Kinds   map[string]int // how many records there are of each kind, which is what stands before the key's first slash
	Damaged []string       // keys of records that are not what was written
	// Reverted means that of the last two transactions one is damaged, maybe the last one.
	Reverted bool
}

// CheckFile looks at all of a store's file, which nobody may be writing. The error says what of it is damaged so that
// it cannot be opened, or why it cannot be read.
func CheckFile(path string) (Check, error) {
	f, err := os.Open(path)
	if err != nil {
		return Check{}, fmt.Errorf("check a store: %w", err)
	}
	defer f.Close()
	c, err := checkStore(f)
	if err != nil {
		return c, fmt.Errorf("%s %w", path, err)
	}
	return c, nil
}

// CheckIdle is CheckFile for the store at path, if no server has it open; else the error is ErrInUse.
func CheckIdle(path string) (c Check, err error) {
	err = whileClosed(path, func(*os.File) error {
		c, err = CheckFile(path)
		return err
	})
	return c, err
}

// checkStore's errors go on after the file's name.
func checkStore(f *os.File) (c Check, err error) {
	info, err := f.Stat()
	if err != nil {
		return c, err
	}

	if info.Size() == 0 {
		return c, errors.New("is damaged: it is empty")
	}
	c.Format = 1
	c.Kinds = make(map[string]int)
	var formatErr error
	c.Reverted, err = walkPages(f, info.Size(), func(bucket string, key, value []byte) {
		if bucket == string(formatBucket) {
			if !wholeRecord(key, value) {
				formatErr = errors.New("which version of provision wrote it is not legible")
				return
			}
			c.Format, formatErr = strconv.Atoi(string(value[valueHead:]))
			return
		}

		if bucket == string(firstBucket) && c.Format > 1 {
			return // only there for older programs
		}
		if bucket == string(leasedBucket) {
			return
		}
		c.Records++
		kind, _, _ := strings.Cut(string(key), "/")
		c.Kinds[kind]++
		if bucket == string(recordsBucket) && !wholeRecord(key, value) {
			c.Damaged = append(c.Damaged, string(key))
		}
	})
	if err == nil {
		err = formatErr
	}
	if err != nil {
		return c, fmt.Errorf("is damaged: %w", err)
	}

	return c, nil
}

// OpenBolt opens or makes the file, after all of it was looked at. A second server on the same file is refused at once.
// The store of an older version is kept as a copy and brought to what this one writes; that of a newer one is refused.
func OpenBolt(path string) (*Bolt, error) {
	b, err := openBolt(path)
	switch {
	case errors.Is(err, ErrInUse):
		return nil, fmt.Errorf("open %s: %w; stop it or choose another --state-dir", path, err)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("open %w; run as root or choose another --state-dir", err)
	case err != nil:
		return nil, fmt.Errorf("open the store: %w", err)
	}
	return b, nil
}

func openBolt(path string) (*Bolt, error) {
	check, err := beforeOpening(path)
	if err != nil {
		return nil, err
	}

	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 100 * time.Millisecond})
	if errors.Is(err, bolterr.ErrTimeout) {
		err = ErrInUse
	}
	if err != nil {
		return nil, err
	}

	b := &Bolt{Found: check, db: db, leases: make(map[int64]bool)}
	b.closing, b.cancel = context.WithCancel(context.Background())
	if check.Format < storeFormat {
		err = db.Update(func(tx *bbolt.Tx) error { return upgrade(tx, check.Format) })
	}
	if err == nil { // who held them is dead
		err = b.endLeases()
	}
	if err == nil && check.Reverted { // what the last transaction granted or burned may be unknown
		err = db.Update(markStale("the last transaction of the store was damaged"))
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}

	return b, nil
}

// beforeOpening looks at the file while no server has it open. The zero Check is for a file that is not there, or
// empty because its first server was killed.
func beforeOpening(path string) (c Check, err error) {
	copies, err := Copies(path)
	if err != nil {
		return c, err
	}

	err = whileClosed(path, func(f *os.File) error {
		empty := f == nil
		if !empty {
			info, err := f.Stat()
			if err != nil {
				return err
			}
			empty = info.Size() == 0
		}

		if empty && len(copies) == 0 {
			return nil
		}
		if f == nil {
			return fmt.Errorf("%s is not there; %s", path, adviseCopy(path))
		}
		if c, err = checkStore(f); err == nil {
			err = c.understood()
		}
		if err != nil {
			return fmt.Errorf("%s %w; %s", path, err, adviseCopy(path))
		}

		if c.Format < storeFormat && c.Records > 0 {
			return keepBefore(f)
		}
		return nil
	})
	return c, err
}

func (c Check) understood() error {
	if c.Format > storeFormat {
		return fmt.Errorf("is of a newer version of provision (format %d; this one knows %d): start that version",
			c.Format, storeFormat)
	}
	return nil
}

// whileClosed calls do with the store's file, nil if it is not there, while no server has it open, nor can open it.
func whileClosed(path string, do func(f *os.File) error) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return do(nil)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) // as bbolt does
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrInUse
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", path, err)
	}
	return do(f)
}

// upgrade brings a store of a format, 0 for a new one, to what this program writes.
func upgrade(tx *bbolt.Tx, from int) error {
	format, err := tx.CreateBucketIfNotExists(formatBucket)
	if err != nil {
		return err
	}
	if from < 2 {
		if err := addChecksums(tx); err != nil {
			return err
		}
	}
	return putRecord(format, formatKey, 0, []byte(strconv.Itoa(storeFormat)))
}

// addChecksums brings a store of format 1, or a new one, to format 2.
func addChecksums(tx *bbolt.Tx) error {
	records, err := tx.CreateBucketIfNotExists(recordsBucket)
	if err != nil {
		return err
	}

	if old := tx.Bucket(firstBucket); old != nil {
		records.FillPercent = 0.9 // they come in order
		err := old.ForEach(func(k, v []byte) error {
			if len(v) < 8 {
				return records.Put(k, v) // damaged, and still so
			}
			return putRecord(records, k, binary.BigEndian.Uint64(v), v[8:])
		})
		if err != nil {
			return err
		}

		if err := records.SetSequence(old.Sequence()); err != nil {
			return err
		}
		if err := tx.DeleteBucket(firstBucket); err != nil {
			return err
		}
	}

	// Programs that knew no formats would take the store for a new one. They cannot read this as their list of
	// discovered machines, and do not start.
	old, err := tx.CreateBucket(firstBucket)
	if err != nil {
		return err
	}

	version := make([]byte, 8)
	return old.Put([]byte("discovered"), append(version, `"this store is of a newer version of provision"`...))
}

// endLeases deletes the keys of all leases.
func (b *Bolt) endLeases() error {
	leases := false
	err := b.db.View(func(tx *bbolt.Tx) error {
		leases = tx.Bucket(leasedBucket) != nil
		return nil
	})
	if err != nil || !leases {
		return err
	}
	return b.db.Update(func(tx *bbolt.Tx) error {
		_, err := untie(tx, func(int64) bool { return true })
		return err
	})
}
