package installer

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"provision/cache"
	"provision/disko"
	"provision/hosts"
)

// Nix drives the nix command. Version 2.8 must do.
type Nix struct {
	Roots string // folder for garbage collector roots, one per host
	// How many evaluate and build at a time; nil: as many as like to.
	Evaluations, Builds *Queue

	evaluates, builds waiter // who waits in them
}

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
	// Toplevel is config.system.build.toplevel, if that was asked for.
	Toplevel Derivation `json:"toplevel"`
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

var flags = []string{"--extra-experimental-features", "nix-command flakes"}

// Evaluate reads a host's configuration and layout from the flake; the layout is
// the preset of the options if these have one. Errors are nix's own words, or
// name what the flake lacks.
func (n Nix) Evaluate(ctx context.Context, flake, host string, o hosts.Options) (Config, *disko.Layout, error) {
	return n.evaluate(ctx, flake, host, o, false)
}

// evaluate is Evaluate, of the host's toplevel too if that is asked for: then the host does
// evaluate, all of it, and what is left is to build it.
func (n Nix) evaluate(ctx context.Context, flake, host string, o hosts.Options, toplevel bool) (Config, *disko.Layout, error) {
	var c Config
	if err := hosts.CheckName(host); err != nil { // it goes into an expression
		return c, nil, err
	}
	leave, err := n.Evaluations.enter(ctx, n.evaluates)
	if err != nil {
		return c, nil, fmt.Errorf("wait to evaluate %s: %w", flake, err)
	}
	apply := strings.NewReplacer("@HOST@", host, "@TOPLEVEL@", strconv.FormatBool(toplevel), "@EXPECTED@", readExpected).Replace(readConfig)
	out, err := n.run(ctx, nil, "eval", "--json", flake+"#nixosConfigurations", "--apply", apply)
	leave()
	if err != nil {
		return c, nil, fmt.Errorf("evaluate %s: %w", flake, err)
	}
	if err := json.Unmarshal(out, &c); err != nil {
		return c, nil, fmt.Errorf("evaluate %s: nix printed no JSON: %w", flake, err)
	}
	if c.Hosts != nil {
		return c, nil, fmt.Errorf("flake %s has no nixosConfigurations.%s; it has: %s", flake, host, strings.Join(c.Hosts, ", "))
	}
	if o.Layout != "" {
		layout, err := c.usePreset(host, o)
		return c, layout, err
	}
	if bytes.Equal(c.Devices, []byte("null")) {
		return c, nil, fmt.Errorf("nixosConfigurations.%s has no disko.devices: take a layout of `provision layout list`, with --layout NAME or, better, into the flake (`provision layout show NAME`)", host)
	}
	layout, err := disko.Parse(c.Devices)
	if err != nil {
		return c, nil, fmt.Errorf("layout of %s: %w", host, err)
	}
	return c, layout, nil
}

// source identifies what a flake and its inputs hold, and thus what comes of it: evaluation is pure. It is empty if that
// cannot be told, as of a tree with changes by some versions of nix.
func (n Nix) source(ctx context.Context, flake string) string {
	out, err := n.run(ctx, nil, "flake", "metadata", "--json", flake)
	var m struct {
		Locked struct{ NarHash string }
		Locks  json.RawMessage
	}
	if err != nil || json.Unmarshal(out, &m) != nil || m.Locked.NarHash == "" { // evaluation will say what is wrong
		return ""
	}
	return m.Locked.NarHash + string(m.Locks)
}

// Build builds an attribute of the host's config.system.build, such as
// toplevel, and keeps it from the garbage collector. It returns its store path.
func (n Nix) Build(ctx context.Context, flake, host, what string, line func(string)) (string, error) {
	if err := os.MkdirAll(n.Roots, 0o755); err != nil {
		return "", fmt.Errorf("build %s: %w", host, err)
	}
	attr := fmt.Sprintf("%s#nixosConfigurations.%q.config.system.build.%s", flake, host, what)
	root := filepath.Join(n.Roots, host)
	if what != "toplevel" {
		root += "@" + what // no host's name has that
	}
	leave, err := n.Builds.enter(ctx, n.builds)
	if err != nil {
		return "", fmt.Errorf("wait to build %s: %w", host, err)
	}
	out, err := n.run(ctx, line, "build", "--json", "--out-link", root, attr)
	leave()
	if err != nil {
		return "", fmt.Errorf("build %s of %s: %w", what, host, err)
	}
	var built []struct{ Outputs struct{ Out string } }
	if err := json.Unmarshal(out, &built); err != nil || len(built) != 1 || built[0].Outputs.Out == "" {
		return "", fmt.Errorf("build %s: nix did not say what it built: %s", host, out)
	}
	return built[0].Outputs.Out, nil
}

// Keep keeps a path of our store from the garbage collector, for a host.
func (n Nix) Keep(ctx context.Context, host, path string) error {
	err := os.MkdirAll(n.Roots, 0o755)
	if err == nil {
		cmd := exec.CommandContext(ctx, "nix-store", "--realise", path, "--add-root", filepath.Join(n.Roots, host))
		err = runLogged(cmd, nil)
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
	out, err := n.run(ctx, nil, append([]string{"path-info", "--recursive", "--json"}, of...)...)
	if err != nil {
		return nil, fmt.Errorf("closure of %s: %w", path, err)
	}
	var list []cache.Path // nix before 2.19; later ones print an object
	if json.Unmarshal(out, &list) == nil {
		return list, nil
	}
	var byPath map[string]cache.Path
	if err := json.Unmarshal(out, &byPath); err != nil {
		return nil, fmt.Errorf("closure of %s: %w", path, err)
	}
	for p, info := range byPath {
		info.Path = p
		list = append(list, info)
	}
	return list, nil
}

// run runs nix and returns its output. Its messages go to line, if given; the
// last of them are in the error.
func (n Nix) run(ctx context.Context, line func(string), args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "nix", slices.Concat(flags, args)...)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := runLogged(cmd, line); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// runLogged runs a command and hands each line of its stderr to line. The
// last lines become part of the error.
func runLogged(cmd *exec.Cmd, line func(string)) error {
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	// A copy that outlives a killed server would keep /mnt busy.
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return fmt.Errorf("%s is not installed on this machine, or not in PATH: see https://nixos.org/download", cmd.Args[0])
		}
		return err
	}
	var last tail
	for lines := bufio.NewReader(stderr); ; {
		text, err := lines.ReadString('\n')
		if text = strings.TrimRight(text, "\r\n"); text != "" {
			if line != nil {
				line(text)
			}
			last.add(text)
		}
		if err != nil { // io.EOF: the command ended
			break
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s %s: %w%s", cmd.Args[0], subcommand(cmd.Args), err, last)
	}
	return nil
}

// subcommand is the first argument that is not a flag or its value: enough to
// say which of nix's commands failed.
func subcommand(args []string) string {
	return strings.Join(args[min(len(args), 1+len(flags)):min(len(args), 2+len(flags))], " ")
}

// escapes are terminal control sequences, which nix and others put into their
// messages, and other control characters but tab and newline.
var escapes = regexp.MustCompile(`\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]`)

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
	return escapes.ReplaceAllString(":\n  "+strings.Join(t, "\n  "), "")
}
