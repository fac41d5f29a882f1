package installer

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"provision/hosts"
)

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
		_, _, err = n.Evaluate(t.Context(), dir, "a", hosts.Choices{Disks: disks})
		if err == nil || !strings.Contains(err.Error(), "the layout of a leaves the disk main to you") || !strings.Contains(err.Error(), "--disk main=largest") {
			t.Errorf("%v: %v", disks, err)
		}
	}
	c, chosen, err := n.evaluate(t.Context(), dir, "a", hosts.Choices{Disks: map[string]string{"main": "/dev/nvme0n1"}}, "toplevel", "diskoScript")
	if err != nil || chosen == nil || len(c.Builds) != 2 {
		t.Fatalf("%v, %v", c.Builds, err)
	}
	for what, drv := range c.Builds {
		path, err := n.build(t.Context(), "/nowhere", "a", what, drv, nil)
		if err == nil {
			t.Errorf("%s of a flake that is gone is %s", what, path)
		}
		if path, err = n.build(t.Context(), dir, "a", what, drv, nil); err != nil || path != drv.Out {
			t.Errorf("%s is %s, %v; want %s", what, path, err, drv.Out)
		}
		if path, err = n.build(t.Context(), dir, "a", what, Derivation{Path: drv.Path + ".gone"}, nil); err != nil || path != drv.Out {
			t.Errorf("%s, evaluated again, is %s, %v", what, path, err)
		}
	}
}

// TestElsewhere: a host that only another tool knows is found there.
func TestElsewhere(t *testing.T) {
	n, dir := flake(t, leaving)
	_, _, err := n.Evaluate(t.Context(), dir, "b", hosts.Choices{})
	for _, want := range []string{"has no nixosConfigurations.b; b is in its colmenaHive.nodes: add `nixosConfigurations = self.colmenaHive.nodes;`", "it has: a, x86_64-linux"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %s", err, want)
		}
	}
}
