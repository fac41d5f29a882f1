// Package handover is what provision does on a running machine that is to be installed: it describes the machine,
// starts another kernel in place of the running one, and makes UEFI firmware boot from the network next. The server
// uploads the program and runs it there, as `provision target …`.
package handover

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Machine is the running machine. The zero value is the one on which the program runs; tests use others.
type Machine struct {
	Root string // the folder with /proc, /sys and /etc; "": /
}

// path returns the path of a file of the machine.
func (m Machine) path(name string) string { return filepath.Join("/", m.Root, name) }

// read returns the text of a file, trimmed; "" if it cannot be read.
func (m Machine) read(name string) string {
	data, _ := os.ReadFile(m.path(name))
	return strings.TrimSpace(string(data))
}

// exists reports whether a file exists.
func (m Machine) exists(name string) bool {
	_, err := os.Stat(m.path(name))
	return err == nil
}

// mib returns a number of bytes in MiB for people, rounded up.
func mib(bytes uint64) string { return fmt.Sprintf("%d MiB", (bytes+1<<20-1)>>20) }
