// Package handover is what provision does on a machine that is up and is to be installed: it says what the machine is,
// starts another kernel in place of the running one, and tells UEFI firmware to boot from the network next. The server
// uploads the program and runs it there, as `provision target …`.
package handover

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A Machine is the running machine. The zero value is the one that this program runs on; tests give others.
type Machine struct {
	Root string // where /proc, /sys and /etc are; "": at /
}

// path is a file of the machine.
func (m Machine) path(name string) string { return filepath.Join("/", m.Root, name) }

// read is the text of a file, trimmed; "" if it cannot be read.
func (m Machine) read(name string) string {
	data, _ := os.ReadFile(m.path(name))
	return strings.TrimSpace(string(data))
}

// exists says whether there is a file.
func (m Machine) exists(name string) bool {
	_, err := os.Stat(m.path(name))
	return err == nil
}

// mib is a number of bytes for people, rounded up.
func mib(bytes uint64) string { return fmt.Sprintf("%d MiB", (bytes+1<<20-1)>>20) }
