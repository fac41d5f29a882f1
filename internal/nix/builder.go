package nix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Builder evaluates and builds the nixosConfigurations of flakes, a few at a time, and keeps what it built from the
// garbage collector. Its exported fields are its options; the zero value evaluates.
type Builder struct {
	Settings

	// Roots is the folder for garbage collector roots: one for each host, and one more for each other attribute of its
	// that is built.
	Roots string

	// Evaluations and Builds bound how many evaluate and build at a time; nil: as many as like to.
	Evaluations, Builds *Queue
	// Looks bounds how many ask at a time whether a flake has changed, which takes moments.
	Looks *Queue

	// Patience is how long an evaluation may take, with the fetching of the flake's inputs; 0: half an hour.
	Patience time.Duration

	// Evaluates and Building are who waits in the queues.
	Evaluates, Building Waiter
}

// evaluationLimit is when an evaluation, which may have no end, gives its turn to others. With nixpkgs one takes a
// minute, and its first fetch some more.
const evaluationLimit = 30 * time.Minute

// AtOnce is the builder for somebody who waits for the answer: in the queues he goes before hosts whose machine is not
// there yet.
func (b Builder) AtOnce() Builder {
	b.Evaluates.Hurry = func() bool { return true }
	b.Building.Hurry = b.Evaluates.Hurry
	return b
}

// Source identifies what a flake and its inputs hold, and thus what comes of it: evaluation is pure. It is empty if
// that cannot be told, as of a tree with changes by some versions of nix.
func (b Builder) Source(ctx context.Context, flake string) string {
	if b.Impure { // then it is not all
		return ""
	}
	f, err := b.Open(flake)
	if err != nil { // evaluation will say what is wrong
		return ""
	}

	leave, err := b.Looks.Enter(ctx, Waiter{Hurry: b.Evaluates.Hurry})
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

// Attribute is one of a host's config.system.build, such as toplevel.
type Attribute struct {
	Flake, Host, Name string

	// Derivation is what it was evaluated to. If that is gone, or is the zero value, it is evaluated first.
	Derivation Derivation
}

// Build builds an attribute and keeps what comes of it from the garbage collector. It returns the store path. Each line
// that nix says meanwhile goes to line, if given.
func (b Builder) Build(ctx context.Context, a Attribute, line func(string)) (string, error) {
	if err := os.MkdirAll(b.Roots, 0o755); err != nil {
		return "", fmt.Errorf("build %s: %w", a.Host, err)
	}
	root := filepath.Join(b.Roots, a.Host)
	if a.Name != "toplevel" {
		root += "@" + a.Name // no host's name has that
	}

	leave, err := b.Builds.Enter(ctx, b.Building)
	if err != nil {
		return "", fmt.Errorf("wait to build %s: %w", a.Host, err)
	}
	defer leave()

	f, err := b.Open(a.Flake)
	if err != nil {
		return "", fmt.Errorf("build %s of %s: %w", a.Name, a.Host, err)
	}
	drv := a.Derivation.Path
	if _, err := os.Stat(drv); err != nil {
		if drv, err = f.derivation(ctx, a.Host, a.Name); err != nil {
			return "", fmt.Errorf("evaluate %s of %s: %w", a.Name, a.Host, err)
		}
	}
	path, err := f.Realise(ctx, drv, root, line)
	if err != nil {
		return "", fmt.Errorf("build %s of %s: %w", a.Name, a.Host, err)
	}
	return path, nil
}

// derivation evaluates an attribute of a host's config.system.build to the path of its derivation.
func (f *Flake) derivation(ctx context.Context, host, name string) (drv string, err error) {
	attr := fmt.Sprintf("configurations: configurations.%s.config.system.build.%s.drvPath", quote(host), quote(name))
	out, _, err := f.Hosts(ctx, attr)
	if err != nil {
		return "", err
	}
	err = json.Unmarshal(out, &drv)
	return drv, err
}

// Keep keeps a path of our store from the garbage collector, for a host.
func (b Builder) Keep(ctx context.Context, host, path string) error {
	err := os.MkdirAll(b.Roots, 0o755)
	if err == nil {
		root := filepath.Join(b.Roots, host)
		cmd := exec.CommandContext(ctx, "nix-store", "--realise", path, "--add-root", root)
		cmd.Env = b.Env()
		err = Logged(cmd, nil)
	}
	if err != nil {
		return fmt.Errorf("keep %s: %w", path, err)
	}
	return nil
}

// Release lets the garbage collector have what was built for the hosts that are chosen.
func (b Builder) Release(chosen func(host string) bool) error {
	roots, err := os.ReadDir(b.Roots)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var errs []error
	for _, root := range roots {
		if host, _, _ := strings.Cut(root.Name(), "@"); chosen(host) {
			errs = append(errs, os.Remove(filepath.Join(b.Roots, root.Name())))
		}
	}
	return errors.Join(errs...)
}
