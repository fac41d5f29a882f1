package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// isFlake reports whether from is a flake reference, and not a path or a URL of files.
func isFlake(from string) bool {
	return strings.Contains(from, "#") || regexp.MustCompile(`^(path|github|gitlab|sourcehut|flake|git|git\+[a-z]+|tarball|tarball\+[a-z]+):`).MatchString(from)
}

// flakeAttrs returns the attributes to build for an image: attr itself or, for a nixosConfiguration, what the netboot
// module of nixpkgs builds.
func flakeAttrs(attr string) []string {
	if !regexp.MustCompile(`^nixosConfigurations\.("[^"]+"|[^."]+)$`).MatchString(attr) {
		return []string{attr}
	}
	var all []string
	for _, what := range []string{"kernel", "netbootRamdisk", "toplevel"} {
		all = append(all, attr+".config.system.build."+what)
	}
	return all
}

// fromFlake builds an output of a flake with nix, and adds the image in it.
func (a adding) fromFlake(ctx context.Context) (Image, error) {
	if len(a.given.want) > 0 {
		return Image{}, errors.New("sha256: a flake's output has none beforehand; its inputs are pinned by flake.lock")
	}
	if strings.HasPrefix(a.r.From, "-") || strings.ContainsFunc(a.r.From, isControl) {
		return Image{}, fmt.Errorf("from %q: it is no flake reference", a.r.From)
	}
	a.progress(Progress{Doing: "building " + a.r.From})
	flake, attr, _ := strings.Cut(a.r.From, "#")
	attrs := flakeAttrs(attr)
	outs, err := a.c.Build(ctx, flake, filepath.Join(a.tmp, "result"), a.r.fresh, attrs...)
	if err != nil {
		return Image{}, fmt.Errorf("build %s: %w", a.r.From, err)
	}

	origin := Image{From: a.r.From}
	if len(attrs) == 1 {
		for _, out := range outs { // an output may be a single tarball or ISO
			if file := archiveIn(out); file != "" {
				return a.fromFile(ctx, file, origin)
			}
		}
		return a.fromFolder(ctx, outs[0], origin)
	}

	dir := filepath.Join(a.tmp, "flake")
	if err := gather(outs, dir); err != nil {
		return Image{}, fmt.Errorf("build %s: %w", a.r.From, err)
	}
	return a.fromFolder(ctx, dir, origin)
}

// archiveIn returns the tarball or ISO in an output, at the places where NixOS builds put it; "" if there is none.
func archiveIn(out string) string {
	for _, pattern := range []string{"*.tar.*", "tarball/*.tar.*", "iso/*.iso"} {
		if found, err := filepath.Glob(filepath.Join(out, pattern)); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	return ""
}

// gather makes links in dir to the files of an image, which are in several outputs.
func gather(outs []string, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, names := range [][]string{{"bzImage", "Image"}, {"initrd"}, {"kernel-params"}} {
		found := false
		for _, out := range outs {
			i := slices.IndexFunc(names, func(name string) bool { return exists(filepath.Join(out, name)) })
			// Next to kernel-params there is the system's own initrd, which does not hold the whole system.
			if i < 0 || found || names[i] == "initrd" && exists(filepath.Join(out, "kernel-params")) {
				continue
			}
			found = true
			if err := os.Symlink(filepath.Join(out, names[i]), filepath.Join(dir, names[i])); err != nil {
				return err
			}
		}

		if !found {
			return fmt.Errorf("no %s in %s: the configuration imports no installer/netboot module of nixpkgs", strings.Join(names, " or "), strings.Join(outs, ", "))
		}
	}

	return nil
}
