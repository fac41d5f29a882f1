package lab

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// keep returns the folder name in cache, and makes it with fill if it is not there. fill gets an empty folder, which
// is renamed into place when it is complete, so a build that was killed leaves nothing that looks finished. Of several
// builders, in this process or others, one builds and the rest wait for it.
func keep(ctx context.Context, cache, name string, fill func(dir string) error) (string, error) {
	final := filepath.Join(cache, name)
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make the lab's cache: %w", err)
	}
	unlock, err := lock(ctx, final+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	tmp := final + ".tmp" // ours alone under the lock; what is there was left by a killed builder
	if err := os.RemoveAll(tmp); err != nil {
		return "", fmt.Errorf("remove what a killed build left: %w", err)
	}
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return "", err
	}
	if err := fill(tmp); err != nil {
		return "", errors.Join(fmt.Errorf("build %s: %w", name, err), os.RemoveAll(tmp))
	}
	return final, os.Rename(tmp, final)
}

// lock takes an exclusive lock on the file path and returns the function that releases it. The kernel offers no wait
// for flock that a context could end, so it asks again ten times a second.
func lock(ctx context.Context, path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-tick.C:
		}
	}
}

// key hashes everything that a build is made from: the given strings and all files of the given file systems. It is
// 32 characters long and of the letters that nix uses in store paths.
func key(inputs []string, trees ...fs.FS) (string, error) {
	sum := sha256.New()
	for _, s := range inputs {
		fmt.Fprintf(sum, "%d:%s", len(s), s)
	}
	for _, tree := range trees {
		err := fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := fs.ReadFile(tree, path)
			fmt.Fprintf(sum, "%s:%d:%s", path, len(data), data)
			return err
		})
		if err != nil {
			return "", fmt.Errorf("hash the recipe: %w", err)
		}
	}
	nix := base32.NewEncoding("0123456789abcdfghijklmnpqrsvwxyz").WithPadding(base32.NoPadding)
	return nix.EncodeToString(sum.Sum(nil)[:20]), nil
}
