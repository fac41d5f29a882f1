package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// inRoot runs f on a separate thread with dir as root and working folder, and with umask 0. The other threads are not
// affected.
func inRoot(dir string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		err := enterRoot(dir)
		if err == nil {
			err = guarded(f)
		}
		done <- err
	}()
	return <-done
}

// enterRoot changes the root of the current thread.
func enterRoot(dir string) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("part from the other threads: %w", err)
	}
	unix.Umask(0)
	if err := unix.Chroot(dir); err != nil {
		return fmt.Errorf("make %s the root folder: %w", dir, err)
	}
	return unix.Chdir("/")
}

// guarded turns a panic of f into an error.
func guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("a mistake in this program: %v\n%s", p, debug.Stack())
		}
	}()
	return f()
}
