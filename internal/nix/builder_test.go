package nix

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fleet is a flake without nixpkgs, with the functions that real disko has in
// its options, and with user keys that start with an underscore.
const fleet = `{
  outputs = { self }: {
    nixosConfigurations."odd.name-1" = {
      pkgs.stdenv.hostPlatform.system = "x86_64-linux";
      config.disko.devices = {
        _module = { }; _create = x: x; disk._x = { name = "_x"; _config = y: y; nested = [ { _index = 1; keep = true; } ]; };
      };
      config.services.openssh.hostKeys = [
        { type = "rsa"; bits = 4096; path = "/etc/ssh/ssh_host_rsa_key"; }
        { type = "ed25519"; path = "/persist/etc/ssh/ssh_host_ed25519_key"; }
      ];
      config.system.build.toplevel = derivation { name = "toplevel"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo hello > $out" ]; };
    };
    nixosConfigurations.bare = { pkgs.stdenv.hostPlatform.system = "x86_64-linux"; config = { }; };
    nixosConfigurations.fails = {
      config.system.build.toplevel = derivation { name = "fails"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo no such luck >&2; exit 1" ]; };
    };
  };
}`

// builder is nix for a flake of that text, and the flake's folder.
func builder(t *testing.T, text string) (Builder, string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("NIX_CONFIG", "sandbox = false\nsubstituters =\nbuild-users-group =")
	if err := os.WriteFile(filepath.Join(dir, "flake.nix"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return Builder{Roots: filepath.Join(dir, "roots")}, dir
}

// TestEvaluate: what nix says of a host is read, and what it says of a flake that lacks it is shown.
func TestEvaluate(t *testing.T) {
	n, dir := builder(t, fleet)
	config, err := n.Evaluate(t.Context(), dir, "odd.name-1")
	if err != nil || config.System != "x86_64-linux" || string(config.Devices) != `{"disk":{"_x":{"name":"_x","nested":[{"keep":true}]}}}` {
		t.Errorf("%s %s, %v", config.System, config.Devices, err)
	}
	if keys := strings.Join(config.HostKeyFiles(nil), " "); keys != "/etc/ssh/ssh_host_ed25519_key /persist/etc/ssh/ssh_host_ed25519_key" {
		t.Errorf("the host's key goes to %s", keys)
	}
	if config, err = n.Evaluate(t.Context(), dir, "bare"); err != nil || string(config.Devices) != "null" {
		t.Errorf("a host without a layout has %s, %v", config.Devices, err)
	}
	for _, host := range []string{"nosuch", `a"b`, "${abort \"no\"}"} { // a name is never code
		_, err := n.Evaluate(t.Context(), dir, host)
		want := "has no nixosConfigurations." + host + "; it has: bare, fails, odd.name-1"
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", host, err)
		}
	}
	n, dir = builder(t, `{ outputs = { self }: { nixosConfigurations = throw "broken on purpose"; }; }`)
	_, err = n.Evaluate(t.Context(), dir, "a")
	if err == nil || !strings.Contains(err.Error(), "broken on purpose") || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("%v", err)
	}
}

// TestEndlessFlake: an evaluation without an end gives its turn to others.
func TestEndlessFlake(t *testing.T) {
	n, dir := builder(t, `{ outputs = { self }: {
		nixosConfigurations = builtins.genericClosure { startSet = [ { key = 0; } ]; operator = x: [ { key = x.key + 1; } ]; };
	}; }`)
	n.Evaluations = NewQueue(1)
	n.Patience = time.Second
	_, err := n.Evaluate(t.Context(), dir, "a")
	if err == nil || !strings.Contains(err.Error(), "nixosConfigurations.a did not end within 1s") || n.Evaluations.free != 1 {
		t.Errorf("%v; %d are free", err, n.Evaluations.free)
	}
}

func TestBuild(t *testing.T) {
	n, dir := builder(t, fleet)
	path, err := n.Build(t.Context(), Attribute{Flake: dir, Host: "odd.name-1", Name: "toplevel"}, nil)
	if err != nil || !strings.HasPrefix(path, "/nix/store/") {
		t.Fatal(path, err)
	}
	if root, err := os.Readlink(filepath.Join(n.Roots, "odd.name-1")); err != nil || root != path {
		t.Errorf("the build is not kept from the garbage collector: %s, %v", root, err)
	}
	if err := n.Release(func(host string) bool { return host != "odd.name-1" }); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(n.Roots, "odd.name-1")); err != nil {
		t.Errorf("another host's is released: %v", err)
	}
	if err := n.Release(func(host string) bool { return host == "odd.name-1" }); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(n.Roots); err != nil || len(left) > 0 {
		t.Errorf("it is kept for ever: %v, %v", left, err)
	}
	if _, err := n.Build(t.Context(), Attribute{Flake: dir, Host: "fails", Name: "toplevel"}, nil); err == nil || !strings.Contains(err.Error(), "no such luck") {
		t.Errorf("nix's own words are missing: %v", err)
	}
}

func TestNoNix(t *testing.T) {
	n, dir := builder(t, fleet)
	t.Setenv("PATH", "/nowhere")
	_, err := n.Evaluate(t.Context(), dir, "a")
	if err == nil || !strings.Contains(err.Error(), "nix is not installed") {
		t.Error(err)
	}
}

// TestLooksWait: a thousand machines at once do not have a thousand programs look at the flake.
func TestLooksWait(t *testing.T) {
	n, dir := builder(t, fleet)
	n.Looks = NewQueue(1)
	leave, err := n.Looks.Enter(t.Context(), Waiter{})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := false
		go func() { n.Source(ctx, dir); ended = true }()
		synctest.Wait()
		if ended || len(n.Looks.waiting) != 1 {
			t.Error("it did not wait for its turn")
		}
		cancel()
	})
	leave()
	if n.Source(t.Context(), dir) == "" || n.Looks.free != 1 {
		t.Error("it did not have its turn, or did not give it back")
	}
}

// TestElsewhere: a host that only another tool knows is found there.
func TestElsewhere(t *testing.T) {
	n, dir := builder(t, `{
  outputs = { self }: {
    packages = throw "broken, and none of a host's business";
    nixosConfigurations.a = throw "not looked at";
    nixosConfigurations.x86_64-linux = throw "not looked at";
    colmenaHive.nodes.b = throw "not looked at";
  };
}`)
	_, err := n.Evaluate(t.Context(), dir, "b")
	for _, want := range []string{"has no nixosConfigurations.b; b is in its colmenaHive.nodes: add `nixosConfigurations = self.colmenaHive.nodes;`", "it has: a, x86_64-linux"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %s", err, want)
		}
	}
}
