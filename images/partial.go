package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

const (
	partialPrefix = ".part-"
	stateSuffix   = ".state" // ends the name of the file with the savedState
)

// saveEvery is how many bytes of a download may be lost when the power fails.
const saveEvery = 64 << 20

// partialDownload is a file that is being downloaded. It outlives the process. It is locked: only one download at a
// time has it open.
type partialDownload struct {
	f         *os.File
	saved     savedState
	size      int64 // bytes that are here
	total     int64 // size of the whole file in bytes, as the server last told it; -1 if it did not
	complete  bool  // the server said that there is no more
	sinceSave int64 // bytes that came since saved was written
}

// savedState records how much of a download is on the disk for certain, and how the server identifies the file.
type savedState struct {
	Validator string `json:"validator"` // for If-Range; empty: the download cannot be resumed
	Size      int64  `json:"size"`      // bytes
}

// openPartial opens the partial download of the file at url in the folder dir. If there is none, it makes an empty one.
func openPartial(dir, url string) (*partialDownload, error) {
	h := sha256.Sum256([]byte(url))
	name := filepath.Join(dir, partialPrefix+hex.EncodeToString(h[:16]))
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}

	if err := lockPartial(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s is being downloaded already: wait for that", url)
	}

	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}

	saved := readState(name)
	if saved.Validator == "" || saved.Size < 0 || saved.Size > info.Size() {
		saved = savedState{}
	}
	if err := f.Truncate(saved.Size); err != nil {
		f.Close()
		return nil, err
	}
	return &partialDownload{f: f, saved: saved, size: saved.Size}, nil
}

// readState reads the savedState of the partial download in a file. It is zero if there is none.
func readState(name string) savedState {
	data, err := os.ReadFile(name + stateSuffix)
	if err != nil {
		return savedState{}
	}
	var saved savedState
	if json.Unmarshal(data, &saved) != nil {
		return savedState{}
	}
	return saved
}

// lockPartial locks the file of a partial download. It fails if another process or download has the lock, or has just
// removed the file.
func lockPartial(f *os.File) error {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return err
	}
	ours, err := f.Stat()
	if err != nil {
		return err
	}
	there, err := os.Stat(f.Name())
	if err == nil && !os.SameFile(ours, there) {
		err = fs.ErrNotExist
	}
	return err
}

// write appends what r has, and saves the state every saveEvery bytes.
func (p *partialDownload) write(r io.Reader) error {
	buf := make([]byte, 1<<18)
	for {
		n, readErr := r.Read(buf)
		if n > 0 {
			if _, err := p.f.WriteAt(buf[:n], p.size); err != nil {
				return errors.Join(err, p.save())
			}
			p.size += int64(n)
			p.sinceSave += int64(n)
		}
		if readErr != nil || p.sinceSave > saveEvery {
			if err := p.save(); err != nil {
				return err
			}
		}
		if errors.Is(readErr, io.EOF) {
			return nil
		}
		if readErr != nil {
			return readErr
		}
	}
}

// save syncs the data to the disk, and then the state that refers to them.
func (p *partialDownload) save() error {
	if err := p.f.Sync(); err != nil {
		return err
	}
	p.saved.Size = p.size
	p.sinceSave = 0
	data, err := json.Marshal(p.saved)
	if err != nil {
		return err
	}
	state := p.f.Name() + stateSuffix
	if err := os.WriteFile(state+tmpPrefix, data, 0o600); err != nil {
		return err
	}
	return os.Rename(state+tmpPrefix, state)
}

// restart empties the partial download, for a file that the server identifies by tag.
func (p *partialDownload) restart(tag string) error {
	p.size = 0
	p.saved = savedState{Validator: tag}
	if err := p.f.Truncate(0); err != nil {
		return err
	}
	return p.save()
}

// sum returns the SHA-256 of what is here, in hex.
func (p *partialDownload) sum(ctx context.Context) (string, error) {
	h := sha256.New()
	_, err := io.Copy(h, &meter{ctx: ctx, r: io.NewSectionReader(p.f, 0, p.size)})
	return hex.EncodeToString(h.Sum(nil)), err
}

// close closes the file. It also removes it, unless keep is set and it can be resumed.
func (p *partialDownload) close(keep bool) error {
	var errs []error
	if !keep || p.saved.Validator == "" || p.size == 0 {
		for _, name := range []string{p.f.Name() + stateSuffix, p.f.Name()} {
			if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(append(errs, p.f.Close())...)
}
