package installer

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"provision/internal/nix"
)

// TestCopyProgress reads what a real nix says while it copies.
func TestCopyProgress(t *testing.T) {
	n, dir := flake(t, fleet)
	path, err := n.Build(t.Context(), nix.Attribute{Flake: dir, Host: "odd.name-1", Name: "toplevel"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "nix", append(nix.Features, "copy", "--log-format", "internal-json", "-v", "--no-check-sigs", "--to", filepath.Join(dir, "store"), path)...)
	infos, err := pathInfos(t.Context(), n.Settings, path)
	if err != nil {
		t.Fatal(err)
	}
	size := infos[0].NarSize
	p := copyProgress{sizes: map[string]int64{path: size}}
	var said lastLines
	if err := nix.Logged(cmd, func(line string) { p.read(line, &said) }); err != nil {
		t.Fatal(err)
	}
	if size == 0 || p.bytes() != size || len(p.running) != 0 {
		t.Errorf("counted %d of %d bytes", p.bytes(), size)
	}
	for _, line := range []string{"@nix {", "@nix {}", `@nix {"action":"result","type":105,"fields":["x"]}`, `@nix {"action":"stop","id":9}`, "plain"} {
		p.read(line, &said) // must not panic
	}
	if p.bytes() != size {
		t.Error("nonsense was counted")
	}
}

// TestCheckStore: what a power cut spoiled is forgotten, with what refers to it; the rest stays.
func TestCheckStore(t *testing.T) {
	n, dir := flake(t, `{
  outputs = { self }:
    let
      make = name: needs: derivation { inherit name needs; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo $name $needs > $out" ]; };
      spoiled = make "spoiled" [ ];
      user = make "user" [ spoiled ];
      whole = make "whole" [ ];
    in {
      nixosConfigurations.a.config.system.build = { inherit spoiled user whole; all = make "all" [ user whole ]; };
    };
}`)
	s, root := connect(t), filepath.Join(dir, "root")
	paths := make(map[string]string)
	for _, name := range []string{"spoiled", "user", "whole", "all"} {
		path, err := n.Build(t.Context(), nix.Attribute{Flake: dir, Host: "a", Name: name}, nil)
		if err != nil {
			t.Fatal(err)
		}
		paths[name] = path
	}
	send := func() {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "nix", append(nix.Features, "copy", "--no-check-sigs", "--to", root, paths["all"])...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	valid := func() (names string) {
		for _, name := range []string{"spoiled", "user", "whole", "all"} {
			if exec.CommandContext(t.Context(), "nix-store", "--store", root, "--check-validity", paths[name]).Run() == nil {
				names += " " + name
			}
		}
		return names
	}
	spoil := func(file string, data []byte) {
		t.Helper()
		if err := errors.Join(os.Chmod(file, 0o644), os.WriteFile(file, data, 0o444)); err != nil {
			t.Fatal(err)
		}
	}
	send()
	for _, tt := range []struct {
		name, want string
		spoil      func()
	}{
		{"nothing", " spoiled user whole all", func() {}},
		{"a path", " whole", func() { spoil(root+paths["spoiled"], nil) }}, // as ext4 leaves it
		{"a path that is gone", " whole", func() {
			if err := os.Remove(root + paths["spoiled"]); err != nil {
				t.Fatal(err)
			}
		}},
		{"the database", "", func() { spoil(root+"/nix/var/nix/db/db.sqlite", []byte("no database")) }},
		{"all", "", func() {
			if err := os.RemoveAll(root + "/nix"); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		tt.spoil()
		if err := checkStore(t.Context(), s, root); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if got := valid(); got != tt.want {
			t.Errorf("%s: left are%s; want%s", tt.name, got, tt.want)
		}
		send()
		if got := valid(); got != " spoiled user whole all" {
			t.Errorf("%s: sent again, there are only%s", tt.name, got)
		}
	}
}
