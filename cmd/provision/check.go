package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os/exec"
	"os/user"
	"strings"

	"provision/internal/nix"
	"provision/pxe"
)

// check finds what is wrong with the options, as far as that needs no state. It changes nothing.
func (f *serveFlags) check() (*pxe.Server, nix.Settings, error) {
	server, err := f.pxe()
	if err != nil {
		return nil, nix.Settings{}, errUsage{err}
	}

	for _, tool := range []string{"nix", "ssh"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, nix.Settings{}, fmt.Errorf("%s is not installed on this machine, or not in PATH; "+
				"`provision serve` builds and copies with it", tool)
		}
	}

	settings, err := f.nix()
	if err != nil {
		return nil, settings, errUsage{err}
	}

	if _, err := settings.Open(f.flake); err != nil {
		return nil, settings, fmt.Errorf("--flake: %w", err)
	}
	return server, settings, nil
}

// checkAll is --check: check, and what serve itself finds as it starts, without a change and without a port.
func (f *serveFlags) checkAll(w io.Writer, socket string) error {
	server, _, err := f.check()
	if err != nil {
		return err
	}

	if err := server.Check(); err != nil {
		return err
	}
	if _, err := checkFolder(f.stateDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}

	if f.group != "" {
		if _, err := user.LookupGroup(f.group); err != nil {
			return fmt.Errorf("--socket-group: %w; make it: groupadd --system %s", err, f.group)
		}
	}

	if len(socket) > 107 { // unix(7)
		return fmt.Errorf("--socket %s: a socket's path has 107 bytes at most; choose a shorter one", socket)
	}
	for _, name := range f.names() {
		if _, err := net.InterfaceByName(name); err != nil {
			fmt.Fprintf(w, "the interface %s is not there now; serve waits for it\n", name)
		}
	}

	fmt.Fprintf(w, "the options are right: interface %s, dhcp %s\n", strings.Join(f.ifaces, ","), f.dhcp)
	return nil
}
