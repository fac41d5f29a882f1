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

// start remembers what existed in the server's folders before it started, so that a failed start leaves nothing behind.
type start struct {
	state  string   // the state folder
	before []string // names in the state folder
	made   []string // folders that did not exist, innermost first
	locked bool     // this server has locked the state, so everything new in it is its own
}

// newStart looks at the state folder and at the folder of the socket.
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

// undo removes what did not exist before. It does not touch what belongs to another server, whose state is locked and
// whose folders are not empty.
func (s *start) undo() error {
	var errs []error
	if s.locked {
		for _, name := range entriesOf(s.state) {
			// A copy of a store whose format this start changed is kept, as it is needed to return to the older version.
			if !slices.Contains(s.before, name) && name != store.CopiesFolder {
				errs = append(errs, os.RemoveAll(filepath.Join(s.state, name)))
			}
		}
	}

	for _, dir := range s.made {
		_ = os.Remove(dir) // it may not be empty, or may never have been made
	}
	return errors.Join(errs...)
}

// tempFolder makes a folder in the state folder for files that last no longer than the server. It also removes what a
// killed server left there and next to it; that server is dead, since the store's lock was free.
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

// sshFolder returns the folder for sockets and known hosts: temp, if ssh can use a path in it, and else "", the
// system's. The path of a socket has at most 107 bytes (unix(7)), and ssh splits options at blanks.
func sshFolder(temp string) string {
	if len(temp) > 80 || strings.ContainsAny(temp, " \t\"'\\%") {
		return ""
	}
	return temp
}

// entriesOf returns the names in a folder; none if it does not exist.
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
