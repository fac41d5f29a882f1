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

// A console says what happens on all that the kernel has for consoles, since
// /dev/console is but the last of them, and in the kernel's log, where it can be
// read later.
type console struct {
	mu      sync.Mutex
	screens []*os.File // of which a line can be written over
	ports   []*os.File // serial
	log     *os.File
	pending bool // a line on the screens has no end yet
	last    time.Time
}

const serialEvery = 5 * time.Second

// screen is the name of a console that is a screen.
var screen = regexp.MustCompile(`^tty[0-9]+$`)

// openConsole opens the consoles; those that cannot be opened are left out.
func openConsole() *console {
	c := &console{}
	active, _ := os.ReadFile("/sys/class/tty/console/active")
	for _, name := range strings.Fields(string(active)) {
		// Not to hold us up: a serial line may wait for a modem.
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

// say says a line.
func (c *console) say(format string, args ...any) {
	text := "provision: " + fmt.Sprintf(format, args...)
	c.mu.Lock()
	defer c.mu.Unlock()

	if c.log != nil {
		// 7 is for debugging: kept, and not printed beside what we print.
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

// progress shows how far something is: in one line on a screen, now and then on
// a serial line.
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

// close closes it, for another program is to have the consoles. What is said
// after it goes to the last of them only.
func (c *console) close() {
	for _, f := range append(append(c.screens, c.ports...), c.log) {
		if f != os.Stdout {
			_ = f.Close() // also of nil
		}
	}
	c.screens = nil
	c.ports = []*os.File{os.Stdout}
	c.log = nil
}
