package enroll

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"provision/images"
)

// builtSystem returns the store path of a NixOS system, given that path or a link to it such as ./result.
func builtSystem(path string) (string, error) {
	at, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fmt.Errorf("--store-path: %w", err)
	}
	if filepath.Dir(at) != "/nix/store" {
		return "", fmt.Errorf("--store-path %s: it is no path in /nix/store: "+
			"give what `nix build` printed of config.system.build.toplevel", path)
	}
	for _, file := range []string{"init", "bin/switch-to-configuration", "system"} {
		if _, err := os.Stat(filepath.Join(at, file)); errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("--store-path %s: it has no %s, so it is no NixOS system: "+
				"give a build of config.system.build.toplevel", path, file)
		} else if err != nil {
			return "", fmt.Errorf("--store-path: %w", err)
		}
	}

	return at, nil
}

// builtFor returns an error if a prebuilt system, if there is one, is for another architecture than the flake's host.
func builtFor(path string, arch images.Arch) error {
	if path == "" {
		return nil
	}
	system, err := os.ReadFile(filepath.Join(path, "system")) // holds text such as x86_64-linux
	if err != nil {
		return fmt.Errorf("--store-path: %w", err)
	}
	name := strings.TrimSpace(string(system))
	if have, err := images.ParseArch(name); err != nil || have != arch {
		return fmt.Errorf("--store-path %s: it is built for %q, and the flake builds this host for %s: give a "+
			"build for that",
			path, name, arch)
	}
	return nil
}
