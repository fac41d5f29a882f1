package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Userland returns a folder that holds the packages of a suite for x86-64 and what they depend on, unpacked, with the
// accounts that every Debian has. None of their scripts were run. It is in the cache: it must stay as it is.
func Userland(ctx context.Context, cache string, suite Suite, packages []string, log io.Writer) (string, error) {
	all, err := fetchDebs(ctx, cache, suite, X86_64, packages, log)
	if err != nil {
		return "", err
	}
	inputs := append([]string{"userland 1", string(suite)}, unwanted()...)
	for _, d := range all {
		inputs = append(inputs, d.Name, d.Version)
	}
	name, err := key(inputs)
	if err != nil {
		return "", err
	}
	return keep(ctx, cache, "userland-"+name, func(dir string) error {
		fmt.Fprintf(log, "lab: unpacking %d packages of Debian %s\n", len(all), suite)
		if err := unpackRoot(ctx, all, dir); err != nil {
			return err
		}
		for _, folder := range []string{"dev", "proc", "sys", "tmp", "etc", "root"} {
			if err := os.MkdirAll(filepath.Join(dir, folder), 0o755); err != nil {
				return err
			}
		}
		for _, file := range []string{"passwd", "group"} {
			data, err := os.ReadFile(filepath.Join(dir, "usr/share/base-passwd", file+".master"))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, "etc", file), data, 0o644); err != nil {
				return err
			}
		}
		return nil
	})
}
