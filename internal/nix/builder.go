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

// Builder evaluates and builds the nixosConfigurations of flakes, and keeps what it built from the garbage collector.
// How many run at a time is limited by its queues. Its exported fields are its options; the zero value can evaluate,
// but not build.
type Builder struct {
	Settings

	// Roots is the folder for garbage collector roots: one for each host's system, and one for each other attribute of a
	// host that was built.
	Roots string

	// Evaluations and Builds limit how many evaluations and builds run at a time; nil: no limit.
	Evaluations, Builds *Queue
	// Looks limits how many checks for changes of a flake run at a time. These are fast.
	Looks *Queue

	// Patience is how long an evaluation may take, including fetching the flake's inputs; 0: evaluationLimit.
	Patience time.Duration

	// Evaluates and Building are the Waiters for the queues Evaluations and Builds.
	Evaluates, Building Waiter
}

// evaluationLimit is the time after which an evaluation is cancelled, since it may never end. With nixpkgs an
// evaluation takes about a minute, and a few more when inputs are fetched for the first time.
const evaluationLimit = 30 * time.Minute

// AtOnce returns a copy of the builder for somebody who waits for the answer. In the queues, it goes before hosts whose
// machines are not ready yet.
func (b Builder) AtOnce() Builder {
	b.Evaluates.Hurry = func() bool { return true }
	b.Building.Hurry = b.Evaluates.Hurry
	return b
}

// Source returns a string that identifies the contents of a flake and its inputs. As evaluation is pure, the result is
// the same for the same Source. It is empty if the contents cannot be identified, as with some versions of nix for a
// tree with uncommitted changes.
func (b Builder) Source(ctx context.Context, flake string) string {
	if b.Impure { // the result may then depend on other things
		return ""
	}
	f, err := b.Open(flake)
	if err != nil { // the evaluation will report it
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

// Attribute is an attribute of a host's config.system.build, such as toplevel.
type Attribute struct {
	Flake, Host, Name string

	// Derivation is what the attribute evaluated to. If it is zero, or its file is gone, Build evaluates the attribute
	// first.
	Derivation Derivation
}

// Build builds an attribute, keeps the result from the garbage collector, and returns its store path. line, if not nil,
// is called with each line of nix's messages.
func (b Builder) Build(ctx context.Context, a Attribute, line func(string)) (string, error) {
	if err := os.MkdirAll(b.Roots, 0o755); err != nil {
		return "", fmt.Errorf("build %s: %w", a.Host, err)
	}
	root := filepath.Join(b.Roots, a.Host)
	if a.Name != "toplevel" {
		root += "@" + a.Name // host names have no @
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

// derivation evaluates an attribute of a host's config.system.build, and returns the path of its derivation.
func (f *Flake) derivation(ctx context.Context, host, name string) (drv string, err error) {
	attr := fmt.Sprintf("configurations: configurations.%s.config.system.build.%s.drvPath", quote(host), quote(name))
	out, _, err := f.Hosts(ctx, attr)
	if err != nil {
		return "", err
	}
	err = json.Unmarshal(out, &drv)
	return drv, err
}

// Keep keeps a path in the server's store from the garbage collector, as the system of a host.
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

// Release removes the garbage collector roots of the chosen hosts.
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
