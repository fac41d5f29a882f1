package images

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var nixBlock = regexp.MustCompile("(?s)```nix\n(.*?)```")

// TestSmallImageRecipe: what docs/small-image.md tells people to write parses, and
// what it says is done in our own module is.
func TestSmallImageRecipe(t *testing.T) {
	text, err := os.ReadFile("../docs/small-image.md")
	must(t, err)
	blocks := nixBlock.FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 6 || len(blocks) != strings.Count(string(text), "```")/2 {
		t.Fatalf("%d blocks of nix", len(blocks))
	}
	for i, block := range blocks {
		file := filepath.Join(t.TempDir(), "block.nix")
		write(t, file, block[1])
		if out, err := exec.Command("nix-instantiate", "--parse", file).CombinedOutput(); err != nil {
			t.Errorf("block %d: %v: %s\n%s", i+1, err, out, block[1])
		}
	}

	_, done, ok := strings.Cut(string(text), "## Done there")
	if !ok {
		t.Fatal("nothing is said to be done")
	}
	file := filepath.Join(t.TempDir(), "done.nix")
	write(t, file, nixBlock.FindStringSubmatch(done)[1])
	// Each option of that block has the same value in the module.
	stub := `let lib = { mkForce = x: x; optional = c: x: if c then [ x ] else [ ]; optionals = c: l: if c then l else [ ]; };
		module = import ./nix/netboot-installer.nix { inherit lib; config = { }; modulesPath = "/nixpkgs/nixos/modules";
			pkgs.stdenv.hostPlatform = { isx86_64 = true; isAarch64 = false; }; };
		within = want: have: builtins.all (name: have ? ${name} && (if builtins.isAttrs want.${name}
			then within want.${name} have.${name} && (want.${name} != { } || have.${name} == { }) else want.${name} == have.${name}))
			(builtins.attrNames want);
		in within (import ` + file + ` { inherit lib; }) module`
	cmd := exec.Command("nix-instantiate", "--eval", "--strict", "--json", "--expr", stub)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(t, err)
	var same bool
	must(t, json.Unmarshal(out, &same))
	if !same {
		t.Error("our module does not do what the page says that it does")
	}
}
