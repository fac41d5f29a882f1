package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Names of files in the state folder.
const (
	storeFile = "state.db"
	keyFile   = "secrets.key"
	leaseFile = "leases"
	loginFile = "ssh.pub"
)

// closeFolder makes sure that only the server can write the files that it trusts, and that only it can read secrets. It
// removes the access of others to the folder, and returns the mode that the folder had. If others could have changed a
// file, that is an error, with the command that mends it.
func closeFolder(dir string) (was fs.FileMode, err error) {
	was, err = checkFolder(dir)
	if err != nil || was&0o077 == 0 {
		return was, err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return was, fmt.Errorf("close the state folder to others: %w", err)
	}
	return was, nil
}

// checkFolder refuses a state folder that somebody else may have changed. It returns who may use the folder.
func checkFolder(dir string) (fs.FileMode, error) {
	info, err := os.Stat(dir) // it may be a link, as systemd makes one for DynamicUser=
	if err != nil {
		return 0, fmt.Errorf("look at the state folder: %w", err)
	}

	if !info.IsDir() {
		return 0, fmt.Errorf("the state folder %s is not a folder; choose another --state-dir", dir)
	}
	if err := ours(dir, info); err != nil {
		return 0, err
	}

	for _, name := range []string{storeFile, keyFile, leaseFile, loginFile} {
		if err := oursInside(filepath.Join(dir, name)); err != nil {
			return 0, err
		}
	}

	return info.Mode().Perm(), nil
}

// oursInside checks a file of the state folder, if it exists.
func oursInside(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("look at the state folder: %w", err)
	case info.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("%s is a link: the file itself must lie there. If what it leads to is right: "+
			"cp --remove-destination \"$(readlink -f %s)\" %s", path, path, path)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a file: move it away, with mv %s %s.old", path, path, path)
	case filepath.Base(path) == keyFile && info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("others may read %s (mode %04o), which opens all secrets of the store: chmod 600 %s; "+
			"and if somebody may have read it, give hosts and disks new keys", path, info.Mode().Perm(), path)
	}

	return ours(path, info)
}

// ours returns an error if others own or can write a file.
func ours(path string, info fs.FileInfo) error {
	owner, me := int(info.Sys().(*syscall.Stat_t).Uid), os.Geteuid()
	switch {
	case owner != me:
		return fmt.Errorf("%s belongs to the user %d, and the server runs as %d. If what is in it is right: chown %d %s",
			path, owner, me, me, path)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("others may write %s (mode %04o). If what is in it is right: chmod go-w %s",
			path, info.Mode().Perm(), path)
	}
	return nil
}
