package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"provision/internal/store"
)

// start knows what of the server's folders was there before it, so that a start that fails leaves nothing behind.
type start struct {
	state  string
	before []string // in the state folder
	made   []string // folders that were not there, innermost first
	locked bool     // the state is ours: what is new in it, we made
}

// newStart looks at the state folder and at that of the socket.
func newStart(state, socket string) *start {
	s := &start{state: state, before: entriesOf(state)}
	for _, dir := range []string{state, socket} {
		for ; ; dir = filepath.Dir(dir) {
			if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
				break
			}
			s.made = append(s.made, dir)
		}
	}
	return s
}

// undo takes away what was not there. Of another server's nothing is: its files are locked, and its folders not empty.
func (s *start) undo() error {
	var errs []error
	if s.locked {
		for _, name := range entriesOf(s.state) {
			// A copy of a store that this start brought to another format is needed to go back.
			if !slices.Contains(s.before, name) && name != store.CopiesFolder {
				errs = append(errs, os.RemoveAll(filepath.Join(s.state, name)))
			}
		}
	}

	for _, dir := range s.made {
		_ = os.Remove(dir) // it may hold something, or never have been made
	}
	return errors.Join(errs...)
}

// tempFolder makes a folder in the state folder for what lasts no longer than the server, and removes what a killed one
// left there and beside it: the store's lock proves that it is dead.
func tempFolder(state string) (string, error) {
	dir, err := filepath.Abs(filepath.Join(state, "tmp"))
	if err != nil {
		return "", fmt.Errorf("make a folder for temporary files: %w", err)
	}

	left := []string{dir}
	for _, pattern := range []string{".key-*", leaseFile + ".new", store.CopiesFolder + "/.tmp-*"} {
		found, err := filepath.Glob(filepath.Join(filepath.Dir(dir), pattern))
		if err != nil {
			return "", err
		}
		left = append(left, found...)
	}

	for _, path := range left {
		if err := os.RemoveAll(path); err != nil {
			return "", fmt.Errorf("remove what a killed server left: %w", err)
		}
	}

	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("make a folder for temporary files: %w", err)
	}
	return dir, nil
}

// sshFolder is the folder for sockets and known hosts: temp, if ssh can use a path in it, else the system's. A socket's
// path has 107 bytes at most (unix(7)), and options are split at blanks.
func sshFolder(temp string) string {
	if len(temp) > 80 || strings.ContainsAny(temp, " \t\"'\\%") {
		return ""
	}
	return temp
}

// entriesOf are those of what is in a folder, if it is there.
func entriesOf(dir string) (all []string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
