package installer

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"provision/hosts"
	"provision/internal/nix"
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

func flake(t *testing.T, text string) (Nix, string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("NIX_CONFIG", "sandbox = false\nsubstituters =\nbuild-users-group =")
	if err := os.WriteFile(filepath.Join(dir, "flake.nix"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return Nix{Roots: filepath.Join(dir, "roots")}, dir
}

func TestEvaluate(t *testing.T) {
	n, dir := flake(t, fleet)
	config, _, err := n.Evaluate(t.Context(), dir, "odd.name-1", hosts.Choices{})
	// The layout is nonsense; what nix printed is not.
	if err == nil || config.System != "x86_64-linux" || string(config.Devices) != `{"disk":{"_x":{"name":"_x","nested":[{"keep":true}]}}}` {
		t.Errorf("%s %s, %v", config.System, config.Devices, err)
	}
	if keys := strings.Join(config.hostKeyFiles(nil), " "); keys != "/etc/ssh/ssh_host_ed25519_key /persist/etc/ssh/ssh_host_ed25519_key" {
		t.Errorf("the host's key goes to %s", keys)
	}
	for host, want := range map[string]string{
		"nosuch": "it has: bare, fails, odd.name-1",
		"bare":   "has no disko.devices",
		"a\"b":   "host name",
	} {
		if _, _, err := n.Evaluate(t.Context(), dir, host, hosts.Choices{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", host, err)
		}
	}
	n, dir = flake(t, `{ outputs = { self }: { nixosConfigurations = throw "broken on purpose"; }; }`)
	if _, _, err := n.Evaluate(t.Context(), dir, "a", hosts.Choices{}); err == nil || !strings.Contains(err.Error(), "broken on purpose") || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("%v", err)
	}
}

// TestEndlessFlake: an evaluation without an end gives its turn to others.
func TestEndlessFlake(t *testing.T) {
	n, dir := flake(t, `{ outputs = { self }: {
		nixosConfigurations = builtins.genericClosure { startSet = [ { key = 0; } ]; operator = x: [ { key = x.key + 1; } ]; };
	}; }`)
	n.Evaluations, n.Patience = NewQueue(1), time.Second
	_, _, err := n.Evaluate(t.Context(), dir, "a", hosts.Choices{})
	if err == nil || !strings.Contains(err.Error(), "nixosConfigurations.a did not end within 1s") || n.Evaluations.free != 1 {
		t.Errorf("%v; %d are free", err, n.Evaluations.free)
	}
}

func TestBuild(t *testing.T) {
	n, dir := flake(t, fleet)
	path, err := n.Build(t.Context(), dir, "odd.name-1", "toplevel", nil)
	if err != nil || !strings.HasPrefix(path, "/nix/store/") {
		t.Fatal(path, err)
	}
	if root, err := os.Readlink(filepath.Join(n.Roots, "odd.name-1")); err != nil || root != path {
		t.Errorf("the build is not kept from the garbage collector: %s, %v", root, err)
	}
	if err := n.release(func(host string) bool { return host != "odd.name-1" }); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(n.Roots, "odd.name-1")); err != nil {
		t.Errorf("another host's is released: %v", err)
	}
	if err := n.release(func(host string) bool { return host == "odd.name-1" }); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(n.Roots); err != nil || len(left) > 0 {
		t.Errorf("it is kept for ever: %v, %v", left, err)
	}
	paths, err := n.Closure(t.Context(), path)
	if err != nil || len(paths) != 1 || paths[0].Path != path || paths[0].NarSize < 6 {
		t.Errorf("%v, %v", paths, err)
	}
	if _, err := n.Build(t.Context(), dir, "fails", "toplevel", nil); err == nil || !strings.Contains(err.Error(), "no such luck") {
		t.Errorf("nix's own words are missing: %v", err)
	}
}

func TestNoNix(t *testing.T) {
	n, dir := flake(t, fleet)
	t.Setenv("PATH", "/nowhere")
	_, _, err := n.Evaluate(t.Context(), dir, "a", hosts.Choices{})
	if err == nil || !strings.Contains(err.Error(), "nix is not installed") {
		t.Error(err)
	}
}

// TestCopyProgress reads what a real nix says while it copies.
func TestCopyProgress(t *testing.T) {
	n, dir := flake(t, fleet)
	path, err := n.Build(t.Context(), dir, "odd.name-1", "toplevel", nil)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "nix", append(nix.Features, "copy", "--log-format", "internal-json", "-v", "--no-check-sigs", "--to", filepath.Join(dir, "store"), path)...)
	infos, err := n.Closure(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	size := infos[0].NarSize
	p := copyProgress{sizes: map[string]int64{path: size}}
	var said tail
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
		path, err := n.Build(t.Context(), dir, "a", name, nil)
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

func TestAddresses(t *testing.T) {
	h := hosts.Host{Address: "10.0.0.9", Boot: hosts.Boot{Client: "10.0.0.9"}, MACs: []string{"52:54:00:00:00:01"}}
	if got := addresses(h); len(got) != 1 || got[0] != "10.0.0.9" {
		t.Error(got)
	}
	h.Boot.Client = "10.0.0.8"
	if got := addresses(h); len(got) != 2 || got[0] != "10.0.0.9" {
		t.Error(got)
	}
	if got := addresses(hosts.Host{}); len(got) != 0 {
		t.Error(got)
	}
}

// TestFetched: no installer is sought before it can be there, and none is lost
// because the server was killed before it noted that the last byte was out.
func TestFetched(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name string
		boot hosts.Boot
		want bool
	}{
		{"offered", hosts.Boot{Token: "t"}, false},
		{"begun", hosts.Boot{Client: "10.0.0.9", Taken: now.Add(-10 * time.Second)}, false},
		{"whole", hosts.Boot{Client: "10.0.0.9", Taken: now.Add(-10 * time.Second), Used: now}, true},
		{"begun long ago", hosts.Boot{Client: "10.0.0.9", Taken: now.Add(-2 * time.Minute)}, true},
	} {
		if got := fetched(hosts.Host{Boot: tt.boot}, now); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
