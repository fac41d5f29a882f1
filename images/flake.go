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

// isFlake says whether from is a flake reference, and no path or URL of files.
func isFlake(from string) bool {
	return strings.Contains(from, "#") || regexp.MustCompile(`^(path|github|gitlab|sourcehut|flake|git|git\+[a-z]+|tarball|tarball\+[a-z]+):`).MatchString(from)
}

// flakeAttrs are the attributes that make an image of attr: itself, or, of a
// nixosConfiguration, what nixpkgs' netboot module builds.
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

// fromFlake builds a flake's output with nix, and adds what that holds.
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
		for _, out := range outs { // a tarball or ISO may be all of it
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

// archiveIn is the tarball or ISO that an output holds, where NixOS' builds put it; or "".
func archiveIn(out string) string {
	for _, pattern := range []string{"*.tar.*", "tarball/*.tar.*", "iso/*.iso"} {
		if found, err := filepath.Glob(filepath.Join(out, pattern)); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	return ""
}

// gather puts links to the files of an image, which are in several outputs, into dir.
func gather(outs []string, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, names := range [][]string{{"bzImage", "Image"}, {"initrd"}, {"kernel-params"}} {
		found := false
		for _, out := range outs {
			i := slices.IndexFunc(names, func(name string) bool { return exists(filepath.Join(out, name)) })
			// A system's own initrd, beside kernel-params, is not the one that holds all.
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
