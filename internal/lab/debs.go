package lab

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// guest holds the lists of what every guest is made from.
//
//go:embed guest
var guest embed.FS

// mirror is where the guests' packages come from; the host's own apt settings, such as a proxy, apply.
const mirror = "http://deb.debian.org/debian"

// A deb is one Debian package in the cache.
type deb struct {
	Name    string
	Version string
	File    string   // absolute
	Depends []string // names of other packages in the same folder, without cycles
}

// lines returns an embedded list, one name a line, without comments. A name that is followed by architectures is for
// guests of those, one that is followed by suites for guests of those.
func lines(list string, suite Suite, arch Arch) ([]string, error) {
	data, err := guest.ReadFile("guest/" + list)
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		if len(words) > 0 && words[0] != "#" && suits(words[1:], suite, arch) {
			out = append(out, words[0])
		}
	}
	return out, nil
}

// suits reports whether the words behind a name, which are architectures and suites, leave a guest in.
func suits(words []string, suite Suite, arch Arch) bool {
	var byArch, bySuite []string
	for _, word := range words {
		if word == string(X86_64) || word == string(AArch64) {
			byArch = append(byArch, word)
		} else {
			bySuite = append(bySuite, word)
		}
	}
	return (byArch == nil || slices.Contains(byArch, string(arch))) && (bySuite == nil || slices.Contains(bySuite, string(suite)))
}

// debs returns the packages that guests are made of.
func debs(ctx context.Context, cache string, suite Suite, arch Arch, log io.Writer) ([]deb, error) {
	list, err := lines("packages", suite, arch)
	if err != nil {
		return nil, err
	}
	return fetchDebs(ctx, cache, suite, arch, list, log)
}

// fetchDebs returns the listed packages, downloaded and with their dependencies resolved by apt against a system that
// has nothing installed. "-PATTERN" in the list leaves dependencies out.
func fetchDebs(ctx context.Context, cache string, suite Suite, arch Arch, list []string, log io.Writer) ([]deb, error) {
	name, err := key(slices.Concat(list, []string{mirror, string(suite), "debs 1"}))
	if err != nil {
		return nil, err
	}
	dir, err := keep(ctx, cache, "debs-"+name, func(dir string) error {
		fmt.Fprintf(log, "lab: downloading packages of Debian %s for %s from %s\n", suite, arch, mirror)
		return download(ctx, dir, suite, arch, list)
	})
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		return nil, err
	}
	var all []deb
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("read package index: %w", err)
	}
	for i := range all {
		all[i].File = filepath.Join(dir, all[i].File)
	}
	return all, nil
}

// download fills dir with the listed packages, all they depend on, and an index.json.
func download(ctx context.Context, dir string, suite Suite, arch Arch, list []string) error {
	var want, skip []string
	for _, name := range list {
		if left, ok := strings.CutPrefix(name, "-"); ok {
			skip = append(skip, left)
		} else {
			want = append(want, name)
		}
	}
	apt := filepath.Join(dir, "apt")
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial", "etc/parts"} {
		if err := os.MkdirAll(filepath.Join(apt, sub), 0o755); err != nil {
			return err
		}
	}
	sources := fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n", mirror, suite)
	if err := os.WriteFile(apt+"/etc/sources.list", []byte(sources), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(apt+"/status", nil, 0o644); err != nil {
		return err
	}
	options := aptOptions(apt, arch)
	if _, err := outside(ctx, "apt-get", append(options, "update")...); err != nil {
		return err
	}
	install := append(options, "install", "--yes", "--download-only", "--no-install-recommends")
	if _, err := outside(ctx, "apt-get", append(install, want...)...); err != nil {
		return err
	}
	files, err := filepath.Glob(apt + "/cache/archives/*.deb")
	if err != nil {
		return err
	}
	all, err := index(ctx, files, skip)
	if err != nil {
		return err
	}
	for i, d := range all {
		all[i].File = filepath.Base(d.File)
		if err := os.Rename(d.File, filepath.Join(dir, all[i].File)); err != nil {
			return err
		}
	}
	data, err := json.MarshalIndent(all, "", "\t")
	if err != nil {
		return err
	}
	if err := os.RemoveAll(apt); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "index.json"), data, 0o644)
}

// aptOptions makes apt work in the folder apt, as if on an empty system of the architecture.
func aptOptions(apt string, arch Arch) []string {
	debian := arch.names().debian
	var args []string
	for _, option := range []string{
		"Dir::State=" + apt + "/state", "Dir::State::status=" + apt + "/status", "Dir::Cache=" + apt + "/cache",
		"Dir::Etc::sourcelist=" + apt + "/etc/sources.list", "Dir::Etc::sourceparts=" + apt + "/etc/parts",
		"Dir::Etc::preferencesparts=" + apt + "/etc/parts", "APT::Architecture=" + debian, "APT::Architectures::=" + debian,
		"APT::Install-Recommends=false", "APT::Sandbox::User=root", "Acquire::Languages=none", "Acquire::Retries=3",
		"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
	} {
		args = append(args, "-o", option)
	}
	return args
}

// index reads the control data of the files, but for the packages to skip, which are patterns.
func index(ctx context.Context, files, skip []string) ([]deb, error) {
	var all []deb
	needs := map[string][]string{}
	provider := map[string]string{}
	for _, file := range files {
		format := "${Package}\n${Version}\n${Provides}\n${Pre-Depends}, ${Depends}\n"
		out, err := run(ctx, "dpkg-deb", "--showformat="+format, "--show", file)
		if err != nil {
			return nil, err
		}
		fields := strings.Split(out, "\n")
		if len(fields) != 4 {
			return nil, fmt.Errorf("control data of %s has %d fields, not 4", file, len(fields))
		}
		left, err := matches(skip, fields[0])
		if err != nil {
			return nil, err
		}
		if left {
			continue
		}
		d := deb{Name: fields[0], Version: fields[1], File: file}
		all = append(all, d)
		provider[d.Name] = d.Name
		for _, alternatives := range relations(fields[2]) {
			provider[alternatives[0]] = d.Name
		}
		for _, alternatives := range relations(fields[3]) {
			needs[d.Name] = append(needs[d.Name], alternatives...)
		}
	}
	slices.SortFunc(all, func(a, b deb) int { return strings.Compare(a.Name, b.Name) })
	acyclic(all, needs, provider)
	return all, nil
}

// matches reports whether one of the patterns, as path.Match takes them, is the name.
func matches(patterns []string, name string) (bool, error) {
	for _, pattern := range patterns {
		if ok, err := path.Match(pattern, name); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// relations splits a dependency field ("a (>= 1), b | c") into the names of each clause's alternatives.
func relations(field string) [][]string {
	var out [][]string
	for clause := range strings.SplitSeq(field, ",") {
		var names []string
		for alternative := range strings.SplitSeq(clause, "|") {
			if words := strings.Fields(alternative); len(words) > 0 {
				name, _, _ := strings.Cut(words[0], ":")
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			out = append(out, names)
		}
	}
	return out
}

// acyclic sets Depends of all packages; where packages depend on each other (libc6 and libgcc-s1 do), it leaves out
// the dependency that would close the circle, for store paths cannot refer to each other.
func acyclic(all []deb, needs map[string][]string, provider map[string]string) {
	const open, done = 1, 2
	at := map[string]int{}
	for i, d := range all {
		at[d.Name] = i
	}
	state := map[string]int{}
	var visit func(name string)
	visit = func(name string) {
		state[name] = open
		for _, need := range needs[name] {
			to, ok := provider[need]
			if !ok || to == name || slices.Contains(all[at[name]].Depends, to) {
				continue
			}
			if state[to] == 0 {
				visit(to)
			}
			if state[to] == done {
				all[at[name]].Depends = append(all[at[name]].Depends, to)
			}
		}
		state[name] = done
	}
	for _, d := range all {
		if state[d.Name] == 0 {
			visit(d.Name)
		}
	}
}
