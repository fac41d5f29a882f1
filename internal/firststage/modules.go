package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// modulesDir holds the image's network drivers, as images.FirstStage packs them: NAME.ko; "dep", with one line for each
// module and the modules that it depends on, in loading order; and "alias", with depmod's patterns and the module for
// each.
const modulesDir = "/modules"

// modules loads the kernel modules in the first stage's initrd. It is safe for concurrent use.
type modules struct {
	dir     string
	needs   map[string][]string // by module: those that it depends on, in loading order
	aliases []alias
	cmdline string
	load    func(file, options string) error // the system call; tests replace it

	mu     sync.Mutex
	loaded map[string]bool
	failed map[string]error
}

// alias is a pattern for devices and the module for them.
type alias struct{ pattern, module string }

// readModules reads the indexes in the folder dir.
func readModules(dir, cmdline string) (*modules, error) {
	m := &modules{dir: dir, needs: map[string][]string{}, cmdline: cmdline, load: loadModule,
		loaded: map[string]bool{}, failed: map[string]error{}}
	deps, err := os.ReadFile(filepath.Join(dir, "dep"))
	if err != nil {
		return nil, err
	}

	for line := range strings.Lines(string(deps)) {
		name, needs, _ := strings.Cut(line, ":")
		m.needs[name] = strings.Fields(needs)
	}

	aliases, err := os.ReadFile(filepath.Join(dir, "alias"))
	if err != nil {
		return nil, err
	}

	for line := range strings.Lines(string(aliases)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "alias" {
			m.aliases = append(m.aliases, alias{f[1], f[2]})
		}
	}

	return m, nil
}

// loadFor loads the modules for a name, which is the alias of a device, an alias that the kernel requests, or a
// module's own name.
func (m *modules) loadFor(name string) error {
	var errs []error
	for _, a := range m.aliases {
		if ok, _ := path.Match(a.pattern, name); ok {
			errs = append(errs, m.loadOne(a.module))
		}
	}
	if plain := strings.ReplaceAll(name, "-", "_"); m.needs[plain] != nil || m.has(plain) {
		errs = append(errs, m.loadOne(plain))
	}
	return errors.Join(errs...)
}

// has reports whether a module is in the initrd.
func (m *modules) has(name string) bool { _, ok := m.needs[name]; return ok }

// loadOne loads a module after those that it depends on. A module that failed is not tried again, since it would fail
// again.
func (m *modules) loadOne(name string) error {
	if !m.has(name) {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()

	for _, each := range append(append([]string{}, m.needs[name]...), name) {
		if m.failed[each] != nil {
			return nil
		}
		if m.loaded[each] {
			continue
		}
		err := m.load(filepath.Join(m.dir, each+".ko"), m.options(each))
		if err != nil && !errors.Is(err, unix.EEXIST) {
			m.failed[each] = err
			return fmt.Errorf("load the driver %s: %w", each, err)
		}

		m.loaded[each] = true
	}

	return nil
}

// options returns a module's options on the command line, MODULE.OPTION=…: in this way the firmware of a Raspberry Pi
// sets the MAC of its network card.
func (m *modules) options(module string) string {
	var all []string
	for _, w := range splitArgs(m.cmdline) {
		if name, option, ok := strings.Cut(w, "."); ok && strings.ReplaceAll(name, "-", "_") == module {
			all = append(all, option)
		}
	}
	return strings.Join(all, " ")
}

// loadModule loads a module file into the kernel.
func loadModule(file, options string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), options, 0)
}

// forDevices loads the modules for all devices that exist, and for those that appear later, until ctx ends.
func (m *modules) forDevices(ctx context.Context, say func(string, ...any)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK,
		unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return fmt.Errorf("listen for devices: %w", err)
	}

	events := os.NewFile(uintptr(fd), "uevents")
	defer events.Close()

	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return fmt.Errorf("listen for devices: %w", err)
	}

	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20) // a driver may add many devices at once
	load := func(device string) {
		if err := m.loadFor(device); err != nil {
			say("%v", err)
		}
	}
	m.coldplug(load)
	stop := context.AfterFunc(ctx, func() { events.Close() })
	defer stop()

	buf := make([]byte, 64<<10)
	for {
		n, err := events.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			m.coldplug(load) // some events were lost
			continue
		case err != nil:
			return fmt.Errorf("listen for devices: %w", err)
		}

		for field := range bytes.SplitSeq(buf[:n], []byte{0}) {
			if device, ok := bytes.CutPrefix(field, []byte("MODALIAS=")); ok {
				load(string(device))
			}
		}
	}
}

// coldplug calls load with the alias of each existing device.
func (m *modules) coldplug(load func(string)) {
	_ = filepath.WalkDir("/sys/devices", func(file string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "modalias" {
			if device, err := os.ReadFile(file); err == nil {
				load(strings.TrimSpace(string(device)))
			}
		}
		return nil // errors are ignored, as devices come and go
	})
}

// modprobe is what the kernel runs when it needs a module itself, such as the driver of the PHY that a network card
// has. It returns the exit status.
func modprobe(args []string) int {
	cmdline, _ := os.ReadFile("/proc/cmdline")
	m, err := readModules(modulesDir, string(cmdline))
	if err != nil {
		return 1
	}
	code := 0
	for _, name := range args {
		if !strings.HasPrefix(name, "-") && m.loadFor(name) != nil {
			code = 1
		}
	}
	return code
}
