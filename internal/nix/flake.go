package nix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Flake is a flake and how nix has to read it. If it is in a folder of another user, it is read as that user: the
// folder may hold settings of git that name programs, and that user could replace what root reads there.
type Flake struct {
	Settings
	Ref   string
	Local *Local // nil: it is not in a folder of this machine
}

// Open returns the flake for a reference. It does not run nix.
func (s Settings) Open(ref string) (*Flake, error) {
	local, err := FindLocal(ref)
	if err != nil {
		return nil, err
	}
	f := &Flake{Settings: s, Ref: ref, Local: local}
	if local != nil {
		f.Ref = local.Ref
	}
	return f, nil
}

// answer is what a nix command printed: its output, and the lines of its messages.
type answer struct {
	out  []byte
	said []string
}

// run runs a nix command on the flake, as its owner.
func (f *Flake) run(ctx context.Context, args ...string) (a answer, err error) {
	cmd := exec.CommandContext(ctx, "nix", slices.Concat(Features, args)...)
	cmd.Env = f.Env()
	var owners *door
	if f.Local != nil && f.Local.Owner.Another() {
		if owners, err = openDoor(ctx, f.Local.Owner, f.Env()); err != nil {
			return a, err
		}
		f.Local.Owner.As(cmd, filepath.Join(owners.dir, "home"))
		cmd.Env = append(cmd.Env, "NIX_REMOTE="+owners.remote, "NIX_CONFIG="+f.conf(nil))
	}

	var said lines
	a.out, err = commandOutput(cmd, said.add)
	a.said = said.all()
	if owners != nil {
		closed := owners.close() // the daemon's messages are complete only after it has ended
		if err != nil && owners.complaint() != "" {
			err = fmt.Errorf("%w\n  nix's daemon: %s", err, owners.complaint())
		}
		err = errors.Join(err, closed)
	}

	return a, err
}

// eval evaluates an installable, or what follows --expr. It does not write into the flake: missing entries of the lock
// file are added in memory only.
func (f *Flake) eval(ctx context.Context, args ...string) (answer, error) {
	all := append([]string{"eval", "--json", "--no-write-lock-file"}, args...)
	if f.Impure && !slices.Contains(args, "--impure") {
		all = append(all, "--impure")
	}
	return f.run(ctx, all...)
}

// Hosts applies a nix function to the flake's nixosConfigurations, and returns the result as JSON. The warnings are for
// the operator.
func (f *Flake) Hosts(ctx context.Context, function string) (out []byte, warnings []string, err error) {
	a, err := f.hosts(ctx, function)
	if err != nil {
		return nil, nil, f.explain(ctx, err)
	}
	return a.out, f.warnings(a.said), nil
}

// hosts does that, without explanations of errors.
func (f *Flake) hosts(ctx context.Context, function string) (answer, error) {
	const attr = "nixosConfigurations"

	// Without the dot before it, nix first looks for the attribute in packages, which has nothing to do with hosts and may
	// fail to evaluate.
	if major, minor := version(ctx); major > 2 || minor >= 26 {
		a, err := f.eval(ctx, f.Ref+"#."+attr, "--apply", function)
		if err == nil || !strings.Contains(err.Error(), "does not provide attribute") {
			return a, err
		}
		// It may be in legacyPackages, where nixos-rebuild finds it too.
		if legacy, legacyErr := f.eval(ctx, f.Ref+"#"+attr, "--apply", function); legacyErr == nil {
			return legacy, nil
		}
		return a, err
	}

	a, err := f.eval(ctx, f.Ref+"#"+attr, "--apply", function)
	if err == nil {
		return a, nil
	}

	if _, namesErr := f.eval(ctx, f.Ref+"#"+attr, "--apply", "builtins.attrNames"); namesErr == nil {
		return a, err
	}

	m, metaErr := f.Metadata(ctx)
	if metaErr != nil || m.Dir != "" { // 2.8 finds no flake in a subfolder of a store path
		return a, err
	}

	locked := fmt.Sprintf("(%s) (builtins.getFlake %s).%s", function, quote(m.stored()), attr)
	return f.eval(ctx, "--expr", locked)
}

// Metadata is what `nix flake metadata --json` says about a flake.
type Metadata struct {
	Path  string // in the store
	Dir   string // folder of flake.nix, relative to Path
	Locks json.RawMessage
	// NarHash, Rev, LastModified and RevCount identify the tree. Some versions of nix have no NarHash for a tree with
	// uncommitted changes.
	NarHash, Rev           string
	LastModified, RevCount int64
	Warnings               []string // for the operator
}

// Metadata fetches the flake and its inputs.
func (f *Flake) Metadata(ctx context.Context) (m Metadata, err error) {
	a, err := f.run(ctx, "flake", "metadata", "--json", "--no-write-lock-file", f.Ref)
	if err != nil {
		return m, f.explain(ctx, err)
	}

	var said struct {
		Path     string
		Locks    json.RawMessage
		Resolved struct{ Dir string }
		Locked   struct {
			NarHash, Rev           string
			LastModified, RevCount int64
		}
	}
	if err := json.Unmarshal(a.out, &said); err != nil {
		return m, fmt.Errorf("read what nix says of flake %s: %w", f.Ref, err)
	}

	l := said.Locked
	return Metadata{Path: said.Path, Dir: said.Resolved.Dir, Locks: said.Locks, NarHash: l.NarHash, Rev: l.Rev,
		LastModified: l.LastModified, RevCount: l.RevCount, Warnings: f.warnings(a.said)}, nil
}

// stored returns a locked reference to the flake's copy in the store, so that its evaluation is pure.
func (m Metadata) stored() string {
	values := make(url.Values)
	set := func(name, value string) {
		if value != "" && value != "0" {
			values.Set(name, value)
		}
	}
	set("narHash", m.NarHash)
	set("rev", m.Rev)
	set("lastModified", strconv.FormatInt(m.LastModified, 10))
	set("revCount", strconv.FormatInt(m.RevCount, 10))
	return "path:" + m.Path + "?" + values.Encode()
}

// Realise builds or fetches the outputs of a derivation, and makes the link root, which keeps them from the garbage
// collector. It returns the store path. line, if not nil, is called with each line of nix's messages.
func (f *Flake) Realise(ctx context.Context, drv, root string, line func(string)) (string, error) {
	options, err := f.config(ctx)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "nix-store", "--realise", drv, "--add-root", root)
	cmd.Env = f.env(options)
	if err := Logged(cmd, line); err != nil {
		return "", err
	}
	return os.Readlink(root)
}

// Build builds or fetches attributes of a flake, and returns their store paths. Links whose names begin with root keep
// them from the garbage collector. With refresh, nix ignores its cached version of a reference that can change.
func (s Settings) Build(
	ctx context.Context, ref, root string, refresh bool, attrs ...string,
) (paths []string, err error) {
	f, err := s.Open(ref)
	if err != nil {
		return nil, err
	}

	args := []string{"build", "--json", "--no-link", "--no-write-lock-file"}
	if refresh {
		args = append(args, "--refresh")
	}
	if f.Impure {
		args = append(args, "--impure")
	}
	args = append(args, "--")
	for _, attr := range attrs {
		args = append(args, f.Ref+"#"+attr)
	}
	a, err := f.run(ctx, args...)
	if err != nil {
		return nil, f.explain(ctx, err)
	}

	var built []struct{ Outputs map[string]string }
	if err := json.Unmarshal(a.out, &built); err != nil {
		return nil, fmt.Errorf("nix did not say what it built: %w", err)
	}

	for _, b := range built {
		paths = slices.AppendSeq(paths, maps.Values(b.Outputs))
	}
	if len(paths) == 0 {
		return nil, errors.New("nix built nothing")
	}
	slices.Sort(paths)
	for i, path := range paths {
		keep := exec.CommandContext(ctx, "nix-store", "--realise", path, "--add-root", fmt.Sprintf("%s-%d", root, i))
		if err := Logged(keep, nil); err != nil {
			return nil, err
		}
	}

	return paths, nil
}

// config returns the flake's nixConfig, if that is to be used. Evaluation uses it by itself, but building a derivation
// does not involve the flake any more.
func (f *Flake) config(ctx context.Context) (options []Option, err error) {
	if !f.AcceptConfig {
		return nil, nil
	}
	m, err := f.Metadata(ctx)
	if err != nil {
		return nil, err
	}

	read := fmt.Sprintf("(import (%s + %s)).nixConfig or { }", quote(m.Path), quote("/"+filepath.Join(m.Dir, "flake.nix")))
	out, err := f.Run(ctx, nil, "eval", "--json", "--impure", "--expr", read)
	if err != nil {
		return nil, fmt.Errorf("read the nixConfig of flake %s: %w", f.Ref, err)
	}

	var settings map[string]any
	if err := json.Unmarshal(out, &settings); err != nil {
		return nil, fmt.Errorf("read the nixConfig of flake %s: %w", f.Ref, err)
	}

	for name, value := range settings {
		o := Option{Name: name, Value: fmt.Sprint(value)}
		if list, is := value.([]any); is {
			o.Value = strings.Trim(fmt.Sprint(list), "[]")
		}
		if _, err := ParseOption(o.Name + "=" + o.Value); err != nil {
			return nil, fmt.Errorf("read the nixConfig of flake %s: %w", f.Ref, err)
		}
		options = append(options, o)
	}

	slices.SortFunc(options, func(a, b Option) int { return strings.Compare(a.Name, b.Name) })
	return options, nil
}

// quote returns text as a nix string.
func quote(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "${", `\${`).Replace(text) + `"`
}
