package installer

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"provision/disko"
	"provision/hosts"
	"provision/internal/cache"
	"provision/internal/nix"
	"provision/internal/text"
)

// Nix drives the nix command. Version 2.8 must do.
type Nix struct {
	nix.Settings
	Roots string // folder for garbage collector roots, one per host
	// How many evaluate and build at a time; nil: as many as like to.
	Evaluations, Builds *Queue
	// Looks is how many ask at a time whether a flake has changed, which takes moments.
	Looks *Queue
	// Patience is how long an evaluation may take, with the fetching of the flake's inputs; 0: evaluationLimit.
	Patience time.Duration

	evaluates, builds waiter // who waits in them
}

// evaluationLimit is when an evaluation, which may have no end, gives its turn to others. With nixpkgs one takes a
// minute, and its first fetch some more.
const evaluationLimit = 30 * time.Minute

// AtOnce is nix for somebody who waits for the answer: in the queues he goes before hosts whose
// machine is not there yet.
func (n Nix) AtOnce() Nix {
	n.evaluates.hurry = func() bool { return true }
	n.builds.hurry = n.evaluates.hurry
	return n
}

// Config is what a flake says about a host.
type Config struct {
	System  string          `json:"system"`  // such as x86_64-linux
	Devices json.RawMessage `json:"devices"` // config.disko.devices, or the preset's; null if there is none
	Hosts   []string        `json:"hosts"`   // set instead of the others if the host is not in the flake
	// Expected is how the machine is seen on the network, and what it keeps.
	Expected expected `json:"expected"`
	// Builds are attributes of config.system.build, those that were asked for.
	Builds map[string]Derivation `json:"builds"`
	// LeftDisks are the disks of the layout whose device does not evaluate: they are left to the operator.
	LeftDisks []string `json:"leftDisks"`
	// Flake is what nix said of the flake that an operator should know.
	Flake []string `json:"-"`
	// Mounts is what the installed system mounts, where no layout says it.
	Mounts disko.System `json:"mounts"`
}

// readConfig is a nix function of nixosConfigurations. Disko's internal
// options hold functions, which cannot be printed as JSON; they are dropped by
// exact name, not by prefix, since users name things "_snapshots".
//
//go:embed config.nix
var readConfig string

// readExpected is a nix function of a host's config; it is put into readConfig.
//
//go:embed expected.nix
var readExpected string

// Evaluate reads a host's configuration and layout from the flake; the layout is
// the preset of the options if these have one. Errors are nix's own words, or
// name what the flake lacks.
func (n Nix) Evaluate(ctx context.Context, flake, host string, o hosts.Choices) (Config, *disko.Layout, error) {
	return n.evaluate(ctx, flake, host, o)
}

// evaluate is Evaluate, with derivations of config.system.build: what has one does evaluate, all
// of it, and what is left is to build it.
func (n Nix) evaluate(ctx context.Context, flake, host string, o hosts.Choices, builds ...string) (Config, *disko.Layout, error) {
	c, err := n.config(ctx, flake, host, builds)
	if err != nil {
		return c, nil, err
	}
	if o.Preset != "" {
		layout, err := c.usePreset(host, o)
		return c, layout, err
	}
	if bytes.Equal(c.Devices, []byte("null")) {
		return c, nil, fmt.Errorf("nixosConfigurations.%s has no disko.devices: take a layout of `provision layout list`, with --layout NAME or, better, into the flake (`provision layout show NAME`)", host)
	}
	for _, disk := range c.LeftDisks {
		if o.Disks[disk] == "" {
			return c, nil, fmt.Errorf("the layout of %s leaves the disk %s to you (its `device` does not evaluate): choose it with --disk %s=DISK, such as --disk %s=largest",
				host, disk, disk, disk)
		}
	}
	layout, err := disko.Parse(c.Devices)
	if err != nil {
		return c, nil, fmt.Errorf("layout of %s: %w", host, err)
	}
	return c, layout, nil
}

// config evaluates what we need to know of a host.
func (n Nix) config(ctx context.Context, flake, host string, builds []string) (c Config, err error) {
	if err := hosts.CheckName(host); err != nil { // it goes into an expression
		return c, err
	}
	leave, err := n.Evaluations.enter(ctx, n.evaluates)
	if err != nil {
		return c, fmt.Errorf("wait to evaluate %s: %w", flake, err)
	}
	defer leave()
	f, err := n.Open(flake)
	if err != nil {
		return c, err
	}
	list := "[ ]"
	if len(builds) > 0 {
		list = `[ "` + strings.Join(builds, `" "`) + `" ]`
	}
	apply := strings.NewReplacer("@HOST@", host, "@BUILDS@", list, "@EXPECTED@", readExpected).Replace(readConfig)
	patience := cmp.Or(n.Patience, evaluationLimit)
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, warnings, err := f.Hosts(limited, apply)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return c, fmt.Errorf("evaluate %s: nixosConfigurations.%s did not end within %s: look for what has no end in it, with "+
			"`nix eval`", flake, host, patience)
	}
	if err != nil {
		return c, fmt.Errorf("evaluate %s: %w", flake, err)
	}
	if err := json.Unmarshal(out, &c); err != nil {
		return c, fmt.Errorf("evaluate %s: nix printed no JSON: %w", flake, err)
	}
	c.Flake = warnings
	if c.Hosts == nil {
		return c, nil
	}
	has := "it has: " + strings.Join(c.Hosts, ", ")
	if len(c.Hosts) > 0 && strings.HasSuffix(c.Hosts[0], "-linux") {
		has += ", which are systems: nixosConfigurations does not belong into flake-utils' eachDefaultSystem, or the like"
	}
	return c, fmt.Errorf("flake %s has no nixosConfigurations.%s%s; %s", flake, host, f.Elsewhere(ctx, host), has)
}

// source identifies what a flake and its inputs hold, and thus what comes of it: evaluation is pure. It is empty if that
// cannot be told, as of a tree with changes by some versions of nix.
func (n Nix) source(ctx context.Context, flake string) string {
	if n.Impure { // then it is not all
		return ""
	}
	f, err := n.Open(flake)
	if err != nil { // evaluation will say what is wrong
		return ""
	}
	leave, err := n.Looks.enter(ctx, waiter{hurry: n.evaluates.hurry})
	if err != nil {
		return ""
	}
	defer leave()
	m, err := f.Metadata(ctx)
	if err != nil || m.NarHash == "" {
		return ""
	}
	return m.NarHash + string(m.Locks)
}

// Build builds an attribute of the host's config.system.build, such as
// toplevel, and keeps it from the garbage collector. It returns its store path.
func (n Nix) Build(ctx context.Context, flake, host, what string, line func(string)) (string, error) {
	return n.build(ctx, flake, host, what, Derivation{}, line)
}

// build builds what was evaluated; if that is gone, or was not evaluated yet, it is evaluated first.
func (n Nix) build(ctx context.Context, flake, host, what string, drv Derivation, line func(string)) (string, error) {
	if err := os.MkdirAll(n.Roots, 0o755); err != nil {
		return "", fmt.Errorf("build %s: %w", host, err)
	}
	root := filepath.Join(n.Roots, host)
	if what != "toplevel" {
		root += "@" + what // no host's name has that
	}
	leave, err := n.Builds.enter(ctx, n.builds)
	if err != nil {
		return "", fmt.Errorf("wait to build %s: %w", host, err)
	}
	defer leave()
	f, err := n.Open(flake)
	if err != nil {
		return "", fmt.Errorf("build %s of %s: %w", what, host, err)
	}
	if _, err := os.Stat(drv.Path); err != nil {
		attr := fmt.Sprintf("configurations: configurations.%q.config.system.build.%q.drvPath", host, what)
		out, _, err := f.Hosts(ctx, attr)
		if err == nil {
			err = json.Unmarshal(out, &drv.Path)
		}
		if err != nil {
			return "", fmt.Errorf("evaluate %s of %s: %w", what, host, err)
		}
	}
	path, err := f.Realise(ctx, drv.Path, root, line)
	if err != nil {
		return "", fmt.Errorf("build %s of %s: %w", what, host, err)
	}
	return path, nil
}

// Keep keeps a path of our store from the garbage collector, for a host.
func (n Nix) Keep(ctx context.Context, host, path string) error {
	err := os.MkdirAll(n.Roots, 0o755)
	if err == nil {
		cmd := exec.CommandContext(ctx, "nix-store", "--realise", path, "--add-root", filepath.Join(n.Roots, host))
		cmd.Env = n.Env()
		err = nix.Logged(cmd, nil)
	}
	if err != nil {
		return fmt.Errorf("keep %s: %w", path, err)
	}
	return nil
}

// release removes the garbage collector roots of the hosts that are chosen.
func (n Nix) release(chosen func(host string) bool) error {
	roots, err := os.ReadDir(n.Roots)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, root := range roots {
		if host, _, _ := strings.Cut(root.Name(), "@"); chosen(host) {
			errs = append(errs, os.Remove(filepath.Join(n.Roots, root.Name())))
		}
	}
	return errors.Join(errs...)
}

// Closure is the store paths that a path, or several, need, themselves included.
func (n Nix) Closure(ctx context.Context, of ...string) ([]cache.Path, error) {
	path := of[len(of)-1]
	out, err := n.Run(ctx, nil, append([]string{"path-info", "--recursive", "--json"}, of...)...)
	if err != nil {
		return nil, fmt.Errorf("closure of %s: %w", path, err)
	}
	list, err := cache.ParsePaths(out)
	if err != nil {
		return nil, fmt.Errorf("closure of %s: %w", path, err)
	}
	return list, nil
}

// tail keeps the last lines of a command's output.
type tail []string

func (t *tail) add(line string) {
	const most = 20
	*t = append(*t, line)
	if len(*t) > most {
		*t = (*t)[len(*t)-most:]
	}
}

// String is the lines behind a colon, or nothing.
func (t tail) String() string {
	if len(t) == 0 {
		return ""
	}
	return text.Plain(":\n  " + strings.Join(t, "\n  "))
}
