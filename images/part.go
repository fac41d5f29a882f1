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
	partPrefix = ".part-"
	partState  = ".state" // ends the name of the file beside it
)

// A part is a file on its way here, which outlives the process. One process at
// a time, and one download in it, has it open.
type part struct {
	f         *os.File
	partMark  // as on the disk
	size      int64
	total     int64 // as the server told last; -1 if it did not
	complete  bool  // the server said that there is no more
	sinceMark int64
}

// A partMark is what of a part is surely on the disk, and how the server knows it.
type partMark struct {
	Validator string `json:"validator"` // for If-Range; empty: the part cannot be gone on with
	Size      int64  `json:"size"`      // bytes
}

// openPart opens the part of the file at url in the folder dir, empty or as far
// as it came.
func openPart(dir, url string) (*part, error) {
	h := sha256.Sum256([]byte(url))
	f, err := os.OpenFile(filepath.Join(dir, partPrefix+hex.EncodeToString(h[:16])), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockPart(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s is being downloaded already: wait for that", url)
	}
	p := &part{f: f}
	if data, err := os.ReadFile(f.Name() + partState); err == nil {
		if json.Unmarshal(data, &p.partMark) != nil {
			p.partMark = partMark{}
		}
	}
	info, err := f.Stat()
	if err == nil {
		if p.Validator == "" || p.Size < 0 || p.Size > info.Size() {
			p.partMark = partMark{}
		}
		p.size = p.Size
		err = f.Truncate(p.size)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return p, nil
}

// lockPart takes an open part for oneself. It fails if another has it, or has just removed it.
func lockPart(f *os.File) error {
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

// write appends r to the part, and marks it now and then.
func (p *part) write(r io.Reader) error {
	buf := make([]byte, 1<<18)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := p.f.WriteAt(buf[:n], p.size); err != nil {
				return errors.Join(err, p.mark())
			}
			p.size += int64(n)
			p.sinceMark += int64(n)
		}
		if err == nil && p.sinceMark > 64<<20 || err != nil {
			if err := p.mark(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// mark sees the part onto the disk, and then the mark that says so.
func (p *part) mark() error {
	if err := p.f.Sync(); err != nil {
		return err
	}
	p.Size, p.sinceMark = p.size, 0
	data, err := json.Marshal(p.partMark)
	if err != nil {
		return err
	}
	state := p.f.Name() + partState
	if err := os.WriteFile(state+tmpPrefix, data, 0o600); err != nil {
		return err
	}
	return os.Rename(state+tmpPrefix, state)
}

// restart empties the part, for a file that the server knows by validator.
func (p *part) restart(validator string) error {
	p.size, p.partMark = 0, partMark{Validator: validator}
	err := p.f.Truncate(0)
	if err == nil {
		err = p.mark()
	}
	return err
}

// sum is the SHA-256 of the part, in hex.
func (p *part) sum(ctx context.Context) (string, error) {
	h := sha256.New()
	_, err := io.Copy(h, &meter{ctx: ctx, r: io.NewSectionReader(p.f, 0, p.size)})
	return hex.EncodeToString(h.Sum(nil)), err
}

// close closes the part. It is removed unless it is to be kept and can be gone on with.
func (p *part) close(keep bool) error {
	var errs []error
	if !keep || p.Validator == "" || p.size == 0 {
		for _, name := range []string{p.f.Name() + partState, p.f.Name()} {
			if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(append(errs, p.f.Close())...)
}
