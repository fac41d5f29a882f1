package store

import (
	"errors"
	"os"
)

// SyncDir makes the renames and removals in a folder outlast a power cut.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
