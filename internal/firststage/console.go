package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// console writes messages to all consoles of the kernel, since /dev/console is only the last one, and to the kernel's
// log, where they can be read later.
type console struct {
	mu      sync.Mutex
	screens []*os.File // consoles on which a line can be overwritten
	ports   []*os.File // serial consoles
	log     *os.File   // /dev/kmsg
	pending bool       // the last line on the screens has no newline yet
	last    time.Time  // last progress on the serial consoles
}

// serialEvery is the shortest time between two lines of progress on a serial console.
const serialEvery = 5 * time.Second

// screen matches the names of consoles that are screens.
var screen = regexp.MustCompile(`^tty[0-9]+$`)

// openConsole opens the consoles. Those that cannot be opened are left out.
func openConsole() *console {
	c := &console{}
	active, _ := os.ReadFile("/sys/class/tty/console/active")
	for _, name := range strings.Fields(string(active)) {
		// O_NONBLOCK: opening a serial line may otherwise wait for a modem.
		f, err := os.OpenFile(filepath.Join("/dev", name), os.O_WRONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		if screen.MatchString(name) {
			c.screens = append(c.screens, f)
		} else {
			c.ports = append(c.ports, f)
		}
	}

	if len(c.screens)+len(c.ports) == 0 {
		c.ports = append(c.ports, os.Stdout)
	}
	c.log, _ = os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	return c
}

// say writes a line.
func (c *console) say(format string, args ...any) {
	text := "provision: " + fmt.Sprintf(format, args...)
	c.mu.Lock()
	defer c.mu.Unlock()

	if c.log != nil {
		// Level 7 is for debugging: the line is kept, but not printed on the consoles in addition to ours.
		for line := range strings.Lines(text) {
			fmt.Fprintf(c.log, "<7>%s", strings.TrimSuffix(line, "\n"))
		}
	}

	for _, f := range c.ports {
		_, _ = f.WriteString(text + "\n")
	}
	if c.pending {
		text = "\r\033[K" + text
	}
	c.pending = false
	for _, f := range c.screens {
		_, _ = f.WriteString(text + "\n")
	}
}

// progress shows the progress of something: on a screen as one line that is overwritten, and on a serial console every
// serialEvery.
func (c *console) progress(format string, args ...any) {
	text := "provision: " + fmt.Sprintf(format, args...)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.screens {
		_, _ = f.WriteString("\r\033[K" + text)
		c.pending = true
	}

	if time.Since(c.last) < serialEvery {
		return
	}
	c.last = time.Now()
	for _, f := range c.ports {
		_, _ = f.WriteString(text + "\n")
	}
}

// close closes the consoles, so that another program can use them. What is said afterwards goes to the standard output
// only, which is the last console.
func (c *console) close() {
	for _, f := range append(append(c.screens, c.ports...), c.log) {
		if f != os.Stdout {
			_ = f.Close() // f may be nil
		}
	}
	c.screens = nil
	c.ports = []*os.File{os.Stdout}
	c.log = nil
}
