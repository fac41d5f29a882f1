package installer

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"provision/hosts"
	"provision/internal/nix"
)

// importing is a flake whose host a is built of its hardware files.
const importing = `{
  outputs = { self }: {
    nixosConfigurations.a = {
      pkgs.stdenv.hostPlatform.system = "x86_64-linux";
      config.disko.devices = builtins.fromJSON (builtins.readFile ./layout.json);
      config.system.build.toplevel = derivation {
        name = "a"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo $module $facts > $out" ];
        module = builtins.readFile ./hosts/a/hardware-configuration.nix;
        facts = builtins.readFile ./hosts/a/facter.json;
      };
    };
  };
}`

// fakeTool puts a tool for the installer into PATH.
func fakeTool(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return string(out)
}

// following is company for a new host a of an inventory of its own.
func following(t *testing.T, n nix.Builder, flake string, o hosts.Choices) (*reconciler, hosts.Host) {
	t.Helper()
	dir := t.TempDir()
	inv := inventory(t, dir)
	h, err := inv.Enroll(hosts.Host{Name: "a", Arch: "x86_64", Flake: flake, MACs: []string{"52:54:00:00:00:01"}, Choices: o}, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	in := &Installer{Hosts: inv, Nix: n, Now: time.Now, Log: slog.New(slog.DiscardHandler), builds: make(map[string]*hostBuild)}
	t.Cleanup(in.building.Wait)
	return &reconciler{Installer: in, name: "a"}, h
}

// TestHardware: a git flake gets placeholders, staged, then what the tools tell, and only then
// is anything built. What differs is built anew, what does not is not.
func TestHardware(t *testing.T) {
	n, dir := flake(t, importing)
	n.Roots = t.TempDir()
	layout, err := os.ReadFile("../disko/testdata/layouts/luks.json")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "layout.json"), layout, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	git(t, dir, "init", "--quiet")
	git(t, dir, "add", "flake.nix", "layout.json")
	facter, module := hosts.Hardware{Tool: hosts.Facter, Path: "hosts/a/facter.json"}, hosts.Hardware{Tool: hosts.GenerateConfig, Path: "hosts/a/hardware-configuration.nix"}
	if _, err := n.Run(t.Context(), nil, "eval", "--raw", dir+"#nixosConfigurations.a.config.system.build.toplevel"); err == nil {
		t.Fatal("the flake evaluates without its hardware file")
	}
	for _, hw := range []hosts.Hardware{facter, module} {
		if _, err := Prepare(t.Context(), dir, hw); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := n.Run(t.Context(), nil, "eval", "--raw", dir+"#nixosConfigurations.a.config.system.build.toplevel"); err != nil {
		t.Fatalf("the placeholders do not do: %s, %v", out, err)
	}

	f, h := following(t, n, dir, hosts.Choices{Hardware: module})
	f.reconcile(t.Context(), h)
	if len(f.builds) > 0 {
		t.Fatal("a build was started before the machine was looked at")
	}
	s := connect(t)
	made := make(map[string]bool)
	for _, tt := range []struct {
		tool hosts.Hardware
		say  string
		want string
	}{
		{module, `{ ... }: { boot.kernelModules = [ "kvm-intel" ]; }`, `boot.kernelModules = [ "kvm-intel" ];`},
		{module, `{ ... }: { boot.kernelModules = [ "kvm-amd" ]; }`, `boot.kernelModules = [ "kvm-amd" ];`},
		{facter, `{"version":1}`, `{"version":1}`},
	} {
		fakeTool(t, tt.tool.Tool, "echo '"+tt.say+"'")
		h.Hardware = tt.tool
		digest, err := inHand(f, h, s).hardware(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, tt.tool.Path)); err != nil || !strings.Contains(string(got), tt.want) {
			t.Errorf("the flake has %q, %v", got, err)
		}
		if known := git(t, dir, "ls-files", "--", tt.tool.Path); known != tt.tool.Path+"\n" {
			t.Errorf("git knows %q", known)
		}
		f.startBuild(t.Context(), h, digest)
		first := f.builds["a"]
		b := f.builds["a"]
		if err := f.built(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(b.system.path); err != nil || !strings.Contains(string(got), tt.want) || made[b.system.path] {
			t.Errorf("built of %q: %q, %v", tt.say, got, err)
		}
		made[b.system.path] = true
		if again, err := inHand(f, h, s).hardware(t.Context()); err != nil || again != digest {
			t.Errorf("the same hardware is %s and %s, %v", digest, again, err)
		}
		if f.startBuild(t.Context(), h, digest); f.builds["a"] != first {
			t.Error("the same was built again")
		}
	}
}

// TestHardwareAsKnown: nixos-generate-config is asked for what nixos-anywhere asks it.
func TestHardwareAsKnown(t *testing.T) {
	fakeTool(t, hosts.GenerateConfig, `printf '{ ... }: { boot.kernelModules = [ "%s" ]; }' "$(echo "$*" | tr ' ' _)"`)
	got, err := readHardware(t.Context(), connect(t), hosts.GenerateConfig)
	if err != nil || !strings.Contains(string(got), `[ "--show-hardware-config_--no-filesystems" ]`) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestHardwareRefused(t *testing.T) {
	n, dir := flake(t, importing)
	s := connect(t)
	for _, tt := range []struct{ name, tool, script, want string }{
		{"empty", hosts.GenerateConfig, "echo no such bus >&2", "nixos-generate-config printed nothing:\n  no such bus"},
		{"code", hosts.GenerateConfig, `echo '{ ... }: { x = "${./secret}"; }'; echo what it says >&2`, "${./secret}"},
		{"other options", hosts.GenerateConfig, "echo '{ environment.etc.x.source = /root/secret; }'", "is not taken into the flake"},
		{"not JSON", hosts.Facter, "echo '{\"version\":'", "nixos-facter printed something that is not a JSON object"},
		{"no object", hosts.Facter, "echo 7", "nixos-facter printed something that is not a JSON object"},
		{"failing", hosts.Facter, "echo no such luck >&2; exit 3", "no such luck"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fakeTool(t, tt.tool, tt.script)
			hw := hosts.Hardware{Tool: tt.tool, Path: "made"}
			f, h := following(t, n, dir, hosts.Choices{Hardware: hw})
			if _, err := inHand(f, h, s).hardware(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v", err)
			}
			if _, err := os.Stat(filepath.Join(dir, "made")); err == nil {
				t.Error("it was written all the same")
			}
		})
	}
	f, h := following(t, n, dir, hosts.Choices{Hardware: hosts.Hardware{Tool: hosts.Facter, Path: "made"}})
	if _, err := inHand(f, h, s).hardware(t.Context()); err == nil || !strings.Contains(err.Error(), "the installer's image has no nixos-facter") {
		t.Errorf("without the tool: %v", err)
	}
}

// TestPrepare: what a refused enrolment made is gone; what was there stays.
func TestPrepare(t *testing.T) {
	_, dir := flake(t, importing)
	git(t, dir, "init", "--quiet")
	hw := hosts.Hardware{Tool: hosts.GenerateConfig, Path: "hosts/a/hardware-configuration.nix"}
	undo, err := Prepare(t.Context(), dir, hw)
	if err != nil {
		t.Fatal(err)
	}
	if err := undo(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "hosts")); !os.IsNotExist(err) || git(t, dir, "ls-files") != "" {
		t.Errorf("left are %v and %q", err, git(t, dir, "ls-files"))
	}
	file := filepath.Join(dir, hw.Path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("{ mine = true; }"), 0o644); err != nil {
		t.Fatal(err)
	}
	if undo, err = Prepare(t.Context(), dir, hw); err == nil {
		err = undo()
	}
	if got, readErr := os.ReadFile(file); err != nil || readErr != nil || string(got) != "{ mine = true; }" || git(t, dir, "ls-files") != hw.Path+"\n" {
		t.Errorf("%q, git knows %q; %v, %v", got, git(t, dir, "ls-files"), err, readErr)
	}
}

// TestTreeStaysInside: neither links nor other flakes lead out of the folder.
func TestTreeStaysInside(t *testing.T) {
	_, dir := flake(t, importing)
	outside := t.TempDir()
	victim := filepath.Join(outside, "x.nix")
	if err := os.WriteFile(victim, []byte("{ }"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"folder": outside, "link.nix": victim} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"folder/x.nix", "folder/new.nix", "folder/sub/new.nix", "link.nix"} {
		if _, err := Prepare(t.Context(), dir, hosts.Hardware{Tool: hosts.GenerateConfig, Path: path}); err == nil {
			t.Errorf("%s was taken", path)
		}
		tree, err := openTree(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := tree.write(t.Context(), path, []byte("{ x = 1; }")); err == nil {
			t.Errorf("%s was written", path)
		}
		tree.close()
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 1 {
		t.Errorf("outside there are now %v, %v", left, err)
	}
	if got, err := os.ReadFile(victim); err != nil || string(got) != "{ }" {
		t.Errorf("outside is now %q, %v", got, err)
	}
	for flake, want := range map[string]string{
		"github:a/b":                         "github:a/b is not a local folder: start the server with --flake FOLDER",
		"git+https://x.org/a":                "is not a local folder",
		"git+ssh://git@x.org/a":              "is not a local folder",
		"nixpkgs":                            "is not a local folder",
		"git+file://" + dir + "?ref=main":    "is pinned to what was committed",
		filepath.Join(dir, "folder"):         "nor a folder above it has flake.nix",
		"path:" + filepath.Join(dir, "none"): "no such folder",
	} {
		if _, err := openTree(flake); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", flake, err)
		}
	}
	for _, flake := range []string{"path:" + dir, "git+file://" + dir, "git+file:" + filepath.Dir(dir) + "?dir=" + filepath.Base(dir)} {
		tree, err := openTree(flake)
		if err != nil || tree.Dir != dir {
			t.Errorf("%s: %v", flake, err)
			continue
		}
		tree.close()
	}
}

func TestNoGit(t *testing.T) {
	_, dir := flake(t, importing)
	git(t, dir, "init", "--quiet")
	t.Setenv("PATH", "/nowhere")
	_, err := Prepare(t.Context(), dir, hosts.Hardware{Tool: hosts.Facter, Path: "facter.json"})
	if err == nil || !strings.Contains(err.Error(), "git is not installed") {
		t.Error(err)
	}
}

// TestTreeOfAnother: the flake is a user's, and stays so.
func TestTreeOfAnother(t *testing.T) {
	_, dir := flake(t, importing)
	git(t, dir, "init", "--quiet")
	if out, err := exec.CommandContext(t.Context(), "chown", "-R", "65534:65534", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for at := dir; at != os.TempDir(); at = filepath.Dir(at) { // t.TempDir is for us alone
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Prepare(t.Context(), dir, hosts.Hardware{Tool: hosts.Facter, Path: "hosts/a/facter.json"}); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "find", dir, "!", "-uid", "65534").CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("not the user's any more: %s, %v", out, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "hosts/a/facter.json")); err != nil {
		t.Error(err)
	}
}
