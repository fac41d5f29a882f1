package installer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"provision/hosts"
	"provision/internal/nix"
)

// fleet is a flake without nixpkgs, with hosts that have no layout, or one of which disko can make nothing.
const fleet = `{
  outputs = { self }: {
    nixosConfigurations."odd.name-1" = {
      pkgs.stdenv.hostPlatform.system = "x86_64-linux";
      config.disko.devices = { disk._x = { name = "_x"; nested = [ { keep = true; } ]; }; };
      config.system.build.toplevel = derivation { name = "toplevel"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo hello > $out" ]; };
    };
    nixosConfigurations.bare = { pkgs.stdenv.hostPlatform.system = "x86_64-linux"; config = { }; };
  };
}`

func flake(t *testing.T, text string) (nix.Builder, string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("NIX_CONFIG", "sandbox = false\nsubstituters =\nbuild-users-group =")
	if err := os.WriteFile(filepath.Join(dir, "flake.nix"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return nix.Builder{Roots: filepath.Join(dir, "roots")}, dir
}

// TestEvaluate: a host needs a layout that disko knows, and a name that can be one.
func TestEvaluate(t *testing.T) {
	n, dir := flake(t, fleet)
	config, _, err := Evaluate(t.Context(), n, dir, "odd.name-1", hosts.Choices{})
	// The layout is nonsense; what nix printed is not.
	if err == nil || config.System != "x86_64-linux" || string(config.Devices) != `{"disk":{"_x":{"name":"_x","nested":[{"keep":true}]}}}` {
		t.Errorf("%s %s, %v", config.System, config.Devices, err)
	}
	for host, want := range map[string]string{
		"nosuch": "it has: bare, odd.name-1",
		"bare":   "has no disko.devices",
		"a\"b":   "host name",
	} {
		if _, _, err := Evaluate(t.Context(), n, dir, host, hosts.Choices{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", host, err)
		}
	}
}

// TestPathInfos: nix tells what a path needs, and how large that is.
func TestPathInfos(t *testing.T) {
	n, dir := flake(t, fleet)
	path, err := n.Build(t.Context(), nix.Attribute{Flake: dir, Host: "odd.name-1", Name: "toplevel"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	paths, err := pathInfos(t.Context(), n.Settings, path)
	if err != nil || len(paths) != 1 || paths[0].Path != path || paths[0].NarSize < 6 {
		t.Errorf("%v, %v", paths, err)
	}
}

// leaving is a flake whose host a leaves the device of a disk to --disk, as disko's own options then do: what is on
// the disk itself has the same device.
const leaving = `{
  outputs = { self }:
    let
      layout = builtins.fromJSON (builtins.readFile ./layout.json);
      nowhere = throw "say which disk";
      main = layout.disk.main // { device = nowhere; content = layout.disk.main.content // { device = nowhere; }; };
    in {
      packages = throw "broken, and none of a host's business";
      nixosConfigurations.a = {
        pkgs.stdenv.hostPlatform.system = "x86_64-linux";
        config.disko.devices = layout // { disk = layout.disk // { inherit main; }; };
        config.system.build = {
          toplevel = derivation { name = "a"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo a > $out" ]; };
          diskoScript = derivation { name = "script"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo script > $out" ]; };
        };
      };
      nixosConfigurations.x86_64-linux = throw "not looked at";
      colmenaHive.nodes.b = throw "not looked at";
    };
}`

// TestLeftDisk: a disk whose device does not evaluate is chosen by --disk, or asked for.
func TestLeftDisk(t *testing.T) {
	n, dir := flake(t, leaving)
	layout, err := os.ReadFile("../disko/testdata/layouts/luks.json")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "layout.json"), layout, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, disks := range []map[string]string{nil, {"other": "largest"}} {
		_, _, err = Evaluate(t.Context(), n, dir, "a", hosts.Choices{Disks: disks})
		if err == nil || !strings.Contains(err.Error(), "the layout of a leaves the disk main to you") || !strings.Contains(err.Error(), "--disk main=largest") {
			t.Errorf("%v: %v", disks, err)
		}
	}
	c, chosen, err := Evaluate(t.Context(), n, dir, "a", hosts.Choices{Disks: map[string]string{"main": "/dev/nvme0n1"}}, "toplevel", "diskoScript")
	if err != nil || chosen == nil || len(c.Builds) != 2 {
		t.Fatalf("%v, %v", c.Builds, err)
	}
	for what, drv := range c.Builds {
		path, err := n.Build(t.Context(), nix.Attribute{Flake: "/nowhere", Host: "a", Name: what, Derivation: drv}, nil)
		if err == nil {
			t.Errorf("%s of a flake that is gone is %s", what, path)
		}
		if path, err = n.Build(t.Context(), nix.Attribute{Flake: dir, Host: "a", Name: what, Derivation: drv}, nil); err != nil || path != drv.Out {
			t.Errorf("%s is %s, %v; want %s", what, path, err, drv.Out)
		}
		gone := nix.Derivation{Path: drv.Path + ".gone"}
		if path, err = n.Build(t.Context(), nix.Attribute{Flake: dir, Host: "a", Name: what, Derivation: gone}, nil); err != nil || path != drv.Out {
			t.Errorf("%s, evaluated again, is %s, %v", what, path, err)
		}
	}
}
