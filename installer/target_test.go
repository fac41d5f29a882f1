package installer

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"provision/hosts"
	"provision/internal/nix"
)

// layered is a host whose system needs something that is built here, and something that is not.
const layered = `{
  outputs = { self }: let
    make = name: text: derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" text ]; };
    here = make "here" "echo from here > $out";
    there = make "there" "read x < ${here}; echo $x > $out";
  in {
    nixosConfigurations.a.config.system.build = {
      inherit here;
      toplevel = make "top" "read x < ${there}; echo top of $x > $out";
    };
  };
}`

// elsewhere is the derivation of the flake's toplevel, and the root of another store that has it.
func elsewhere(t *testing.T, n nix.Builder, dir string) (drv nix.Derivation, root string) {
	t.Helper()
	// On NixOS the sandbox has a shell; Debian's nix gives it none.
	t.Setenv("NIX_CONFIG", os.Getenv("NIX_CONFIG")+"\nexperimental-features = nix-command flakes\nsandbox-paths = /bin/sh=/bin/dash /lib /lib64 /usr/lib /usr/lib64")
	attr := dir + "#nixosConfigurations.a.config.system.build.toplevel"
	out, err := n.Run(t.Context(), nil, "eval", "--json", attr, "--apply", "d: { path = d.drvPath; out = d.outPath; system = d.system; }")
	if err == nil {
		err = json.Unmarshal(out, &drv)
	}
	if err != nil {
		t.Fatal(err)
	}
	root = filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { exec.Command("chmod", "-R", "u+w", root).Run() })
	copyTo(t, root, "--derivation", drv.Path)
	return drv, root
}

func copyTo(t *testing.T, root string, what ...string) {
	t.Helper()
	args := append([]string{"copy", "--no-check-sigs", "--to", "local?root=" + root}, what...)
	if out, err := exec.CommandContext(t.Context(), "nix", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestBuildThere: a system is built in another store, from its derivation and what our own store has of its inputs.
func TestBuildThere(t *testing.T) {
	n, dir := flake(t, layered)
	here, err := n.Build(t.Context(), nix.Attribute{Flake: dir, Host: "a", Name: "here"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	drv, root := elsewhere(t, n, dir)
	if drv.System != "x86_64-linux" || !strings.HasSuffix(drv.Path, "-top.drv") {
		t.Fatalf("%+v", drv)
	}
	if _, err := os.Stat(drv.Out); err == nil {
		t.Fatalf("%s is here already; the test shows nothing", drv.Out)
	}
	inputs, err := n.Inputs(t.Context(), drv.Path)
	if err != nil || !slices.Equal(inputs, []string{here}) {
		t.Fatalf("our store has %s of the inputs, want %s, %v", inputs, here, err)
	}
	copyTo(t, root, inputs...)
	real, err := exec.LookPath("nix-store")
	if err != nil {
		t.Fatal(err)
	}
	fakeTool(t, "nix-store", `echo "works in $TMPDIR" >&2; test -d "$TMPDIR" && exec `+real+` "$@"`)
	var said []string
	if err := realise(t.Context(), connect(t), root, drv, func(line string) { said = append(said, line) }); err != nil {
		t.Fatal(err)
	}
	made, err := os.ReadFile(root + drv.Out)
	if err != nil || string(made) != "top of from here\n" {
		t.Errorf("it made %q, %v", made, err)
	}
	const work = "/nix/var/nix/builds"
	if _, err := os.Stat(root + work); said[0] != "works in "+root+work || !os.IsNotExist(err) {
		t.Errorf("it worked elsewhere than on the disk, or left something: %s, %v", said[0], err)
	}
	if all := strings.Join(said, "\n"); strings.Contains(all, "-here.drv'") || !strings.Contains(all, "building") {
		t.Errorf("it built what it was given, or said nothing:\n%s", all)
	}
}

// TestBuildThereEnds: a build on the machine that is not wanted any more ends, and gives up the lock.
func TestBuildThereEnds(t *testing.T) {
	n, dir := flake(t, `{
  outputs = { self }: {
    nixosConfigurations.a.config.system.build.toplevel = derivation {
      name = "endless"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo it runs >&2; while :; do :; done" ];
    };
  };
}`)
	drv, root := elsewhere(t, n, dir)
	s := connect(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	err := realise(ctx, s, root, drv, func(line string) {
		if strings.Contains(line, "it runs") {
			cancel(errUnwanted)
		}
	})
	if !errors.Is(err, errUnwanted) {
		t.Error(err)
	}
	if _, err := s.runWithin(t.Context(), time.Minute, nil, nil, "flock", lockFile, "true"); err != nil {
		t.Errorf("it goes on: %v", err)
	}
}

// TestPrebuilt: a system that is built already is taken as it is, and kept from the garbage collector.
func TestPrebuilt(t *testing.T) {
	n, dir := flake(t, layered)
	built, err := n.Build(t.Context(), nix.Attribute{Flake: dir, Host: "a", Name: "here"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	n.Roots = filepath.Join(t.TempDir(), "roots")
	f := &reconciler{name: "a", Installer: &Installer{Nix: n}}
	c, err := f.prebuilt(t.Context(), hosts.Host{Name: "a", Choices: hosts.Choices{StorePath: built}})
	if err != nil || c.path != built || c.size == 0 || len(c.paths) != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	if kept, err := os.Readlink(filepath.Join(n.Roots, "a")); err != nil || kept != built {
		t.Errorf("the root leads to %s, %v", kept, err)
	}
}
