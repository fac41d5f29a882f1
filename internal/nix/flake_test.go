package nix

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// ada is a user without a name, of whom this machine knows nothing.
const ada = 12345

// folder is an empty one that other users may enter. Nix asks no network.
func folder(t *testing.T) string {
	t.Helper()
	t.Setenv("NIX_CONFIG", "sandbox = false\nsubstituters =\nbuild-users-group =\nflake-registry =")
	t.Setenv("HOME", t.TempDir())
	dir := t.TempDir()
	for at := dir; at != filepath.Clean(os.TempDir()); at = filepath.Dir(at) { // t.TempDir is for us alone
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

// commit makes a repository of a folder.
func commit(t *testing.T, dir string) {
	t.Helper()
	command(t, "git", "-C", dir, "init", "--quiet")
	command(t, "git", "-C", dir, "add", ".")
	command(t, "git", "-C", dir, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "x")
}

// give makes a folder a user's.
func give(t *testing.T, uid int, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file to another user")
	}
	command(t, "chown", "-hR", strconv.Itoa(uid)+":"+strconv.Itoa(uid), dir)
}

// strangers are the files below dir that are not the user's.
func strangers(t *testing.T, uid int, dir string) string {
	t.Helper()
	return command(t, "find", dir, "!", "-uid", strconv.Itoa(uid))
}

// names are the hosts of a flake.
func names(t *testing.T, s Settings, ref string) (string, []string, error) {
	t.Helper()
	f, err := s.Open(ref)
	if err != nil {
		return "", nil, err
	}
	out, warnings, err := f.Hosts(t.Context(), "builtins.attrNames")
	if err != nil {
		return "", nil, err
	}
	var all []string
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, " "), warnings, nil
}

// TestOwner: whatever way a flake of another user's lies about, git runs as that user alone, nothing in it is written,
// and what it evaluates to can be built by root.
func TestOwner(t *testing.T) {
	dir := folder(t)
	spy := filepath.Join(dir, "spy")
	write(t, filepath.Join(dir, "seen"), "")
	write(t, spy, "#!/bin/sh\nid -u >>"+dir+"/seen\n")
	repo := filepath.Join(dir, "repo")
	flake := `{ outputs = { self }: { nixosConfigurations.a = derivation {
		name = "a"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo $text > $out" ]; text = builtins.readFile ./text + (self.rev or "dirty"); }; }; }`
	for _, at := range []string{repo, filepath.Join(repo, "sub")} {
		write(t, filepath.Join(at, "flake.nix"), flake)
		write(t, filepath.Join(at, "text"), "committed")
	}
	commit(t, repo)
	command(t, "git", "-C", repo, "worktree", "add", "--quiet", filepath.Join(dir, "tree"))
	write(t, filepath.Join(repo, "text"), "changed")
	plain := filepath.Join(dir, "plain")
	command(t, "cp", "-r", filepath.Join(repo, "sub"), plain)
	// Git asks this program what has changed, whenever it looks at the tree.
	command(t, "git", "-C", repo, "config", "core.fsmonitor", spy)
	for _, of := range []string{repo, plain, filepath.Join(dir, "tree")} {
		give(t, ada, of)
	}
	if err := os.Chmod(filepath.Join(dir, "seen"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, link := range []string{"repo", "repo/sub"} {
		if err := os.Symlink(filepath.Join(dir, link), filepath.Join(dir, "link-"+filepath.Base(link))); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SUDO_UID", strconv.Itoa(ada)) // git as root would trust her then
	for ref, want := range map[string]string{
		repo:                                     "changeddirty",
		filepath.Join(repo, "sub"):               "committeddirty",
		filepath.Join(dir, "link-repo"):          "changeddirty",
		filepath.Join(dir, "link-sub"):           "committeddirty",
		"git+file://" + repo + "?dir=sub":        "committeddirty",
		filepath.Join(dir, "tree"):               "committed[0-9a-f]{40}",
		"git+file:" + filepath.Join(dir, "tree"): "committed[0-9a-f]{40}",
		"path:" + repo:                           "changeddirty",
		"path:" + filepath.Join(dir, "link-sub"): "committeddirty",
		plain:                                    "committeddirty",
	} {
		f, err := Settings{}.Open(ref)
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		out, _, err := f.Hosts(t.Context(), "hosts: hosts.a.drvPath")
		var drv string
		if err == nil {
			err = json.Unmarshal(out, &drv)
		}
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		path, err := f.Realise(t.Context(), drv, filepath.Join(dir, "root"), nil)
		if err != nil {
			t.Errorf("%s: %v", ref, err)
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil || !matches(want, strings.TrimSpace(string(text))) {
			t.Errorf("%s: built %q, %v; want %s", ref, text, err, want)
		}
		if _, err := f.Metadata(t.Context()); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
		built, err := Settings{}.Build(t.Context(), ref, filepath.Join(dir, "built"), false, "nixosConfigurations.a")
		if err != nil || !slices.Equal(built, []string{path}) {
			t.Errorf("%s: built %q, %v; want %s", ref, built, err, path)
		}
	}
	if left := strangers(t, ada, repo) + strangers(t, ada, plain); left != "" {
		t.Errorf("not hers any more: %s", left)
	}
	seen, err := os.ReadFile(filepath.Join(dir, "seen"))
	if err != nil || slices.Contains(strings.Fields(string(seen)), "0") {
		t.Errorf("root ran what the repository names: %q, %v", seen, err)
	}
	if major, minor := version(t.Context()); major == 2 && minor < 20 && len(seen) == 0 {
		t.Error("the spy was never asked: this test sees nothing")
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "provision-nix-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestMixedOwners: a repository of which several users have parts is read as none of them; the error says what mends it,
// and that does.
func TestMixedOwners(t *testing.T) {
	for _, theirs := range []string{".git", ".git/config", "."} {
		repo := filepath.Join(folder(t), "repo")
		write(t, filepath.Join(repo, "flake.nix"), `{ outputs = { self }: { nixosConfigurations.a = 1; }; }`)
		commit(t, repo)
		give(t, ada, repo)
		command(t, "chown", "54321:54321", filepath.Join(repo, theirs))
		_, _, err := names(t, Settings{}, repo)
		if err == nil {
			t.Fatalf("%s is another's, and the flake was read", theirs)
		}
		_, mend, _ := strings.Cut(err.Error(), "`")
		mend, _, _ = strings.Cut(mend, "`")
		if !strings.HasPrefix(mend, "chown -R ") {
			t.Fatalf("%s: %v", theirs, err)
		}
		command(t, "sh", "-c", mend)
		if got, _, err := names(t, Settings{}, repo); err != nil || got != "a" {
			t.Errorf("%s, mended: %q, %v", theirs, got, err)
		}
	}
}

// TestNoEntry: the owner may not enter a folder above the flake.
func TestNoEntry(t *testing.T) {
	dir := folder(t)
	repo := filepath.Join(dir, "closed", "repo")
	write(t, filepath.Join(repo, "flake.nix"), `{ outputs = { self }: { nixosConfigurations.a = 1; }; }`)
	commit(t, repo)
	give(t, ada, repo)
	if err := os.Chmod(filepath.Dir(repo), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := names(t, Settings{}, repo); err == nil || !strings.Contains(Brief(err), "is read as its owner, "+account(ada, ada).Name+", who may not read "+dir) {
		t.Error(err)
	}
}

// TestLock: the flake's lock file stays as it is, and what is wrong with it is said.
func TestLock(t *testing.T) {
	for _, owner := range []int{0, ada} {
		dir := folder(t)
		for _, dep := range []string{"one", "two"} {
			write(t, filepath.Join(dir, dep, "flake.nix"), `{ outputs = { self }: { }; }`)
		}
		repo := filepath.Join(dir, "repo")
		const flake = `{ inputs.one.url = "path:DIR/one"; INPUT outputs = inputs: { nixosConfigurations.a = 1; }; }`
		fill := strings.NewReplacer("DIR", dir, "INPUT", "").Replace
		write(t, filepath.Join(repo, "flake.nix"), fill(flake))
		commit(t, repo)
		if owner != 0 {
			give(t, owner, repo)
		}
		check := func(want string) {
			t.Helper()
			got, warnings, err := names(t, Settings{}, repo)
			all := strings.Join(warnings, "\n")
			if err != nil || got != "a" || want == "" && all != "" || !strings.Contains(all, want) {
				t.Errorf("%q, %q, %v; want %q", got, all, err, want)
			}
			if left := strangers(t, owner, repo); left != "" {
				t.Errorf("not the owner's any more: %s", left)
			}
		}
		check("the flake has no flake.lock (not locked: one), so that")
		if _, err := os.Stat(filepath.Join(repo, "flake.lock")); err == nil {
			t.Error("a lock file was written")
		}
		// Our own git and nix would not look into her repository.
		if owner != 0 {
			continue
		}
		if _, err := (Settings{}).Run(t.Context(), nil, "flake", "lock", repo); err != nil {
			t.Fatal(err)
		}
		command(t, "git", "-C", repo, "add", "flake.lock")
		check("")
		lock, err := os.ReadFile(filepath.Join(repo, "flake.lock"))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(repo, "flake.nix"), strings.NewReplacer("DIR", dir, "INPUT", `inputs.two.url = "path:`+dir+`/two";`).Replace(flake))
		check("the flake's flake.lock is stale (not locked: two), so that")
		if now, err := os.ReadFile(filepath.Join(repo, "flake.lock")); err != nil || string(now) != string(lock) {
			t.Errorf("the lock file is now %q, %v", now, err)
		}
	}
}

// TestSentences: what often goes wrong has a sentence that says what to do.
func TestSentences(t *testing.T) {
	// In git, but for what is in files.
	for _, tt := range []struct {
		name, flake, want string
		files             []string
	}{
		{name: "a module is not added", flake: `{ outputs = { self }: { nixosConfigurations = { a = import ./hosts/a.nix; }; }; }`, files: []string{"hosts/a.nix", "hosts/b.nix"},
			want: "git does not know it, and nix sees only what git knows: `git -C "},
		{name: "a file is not added", flake: `{ outputs = { self }: { nixosConfigurations = { a = builtins.readFile ./facts.json; }; }; }`, files: []string{"facts.json"},
			want: "facts.json is in "},
		{name: "no hosts", flake: `{ outputs = { self }: { }; }`, want: "the flake has no nixosConfigurations"},
		{name: "colmena's hosts", flake: `{ outputs = { self }: { colmenaHive.nodes.a = throw "not evaluated"; }; }`,
			want: "it has colmenaHive.nodes: add `nixosConfigurations = self.colmenaHive.nodes;`"},
		{name: "a Mac's", flake: `{ outputs = { self }: { packages = throw "no"; darwinConfigurations.a = 1; }; }`, want: "it has darwinConfigurations: it is a Mac's"},
		{name: "nixpkgs of the machine", flake: `{ outputs = { self }: { nixosConfigurations = { a = import <nixpkgs> { }; }; }; }`, want: "or start the server with --impure"},
		{name: "this system", flake: `{ outputs = { self }: { nixosConfigurations = { a = builtins.currentSystem; }; }; }`, want: "or start the server with --impure"},
		{name: "a file of the machine", flake: `{ outputs = { self }: { nixosConfigurations = { a = builtins.readFile /etc/hostname; }; }; }`, want: "or start the server with --impure"},
		{name: "a tarball", flake: `{ outputs = { self }: { nixosConfigurations = { a = import (builtins.fetchTarball "https://example.org/x.tar.gz"); }; }; }`, want: "or start the server with --impure"},
		{name: "ignored settings", flake: `{ nixConfig.extra-substituters = [ "https://cache.example.org" ]; outputs = { self }: { nixosConfigurations = { a = throw "no"; }; }; }`,
			want: "nix ignored settings of the flake's nixConfig (extra-substituters)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := folder(t)
			write(t, filepath.Join(dir, "flake.nix"), tt.flake)
			commit(t, dir)
			for _, file := range tt.files {
				write(t, filepath.Join(dir, file), "1")
			}
			f, err := Settings{}.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = f.Hosts(t.Context(), "hosts: hosts.a")
			if err == nil || !strings.Contains(Brief(err), tt.want) {
				t.Errorf("%v; want %s", err, tt.want)
			}
		})
	}
}

// TestMended: what the sentences say helps.
func TestMended(t *testing.T) {
	for _, tt := range []struct {
		name, flake, want string
		s                 Settings
	}{
		{"impure", `{ outputs = { self }: { nixosConfigurations.${builtins.currentSystem} = 1; }; }`, "x86_64-linux", Settings{Impure: true}},
		{"nixConfig", `{ nixConfig.extra-substituters = [ "file:///nonexistent" ]; outputs = { self }: { nixosConfigurations.a = 1; }; }`, "a", Settings{AcceptConfig: true}},
		{"broken packages", `{ outputs = { self }: { packages.x86_64-linux = throw "no"; nixosConfigurations.a = 1; }; }`, "a", Settings{}},
		{"all packages broken", `{ outputs = { self }: { packages = throw "no"; legacyPackages = throw "no"; nixosConfigurations.a = 1; }; }`, "a", Settings{}},
		{"other outputs broken", `{ outputs = { self }: { checks = throw "no"; devShells = throw "no"; nixosConfigurations.a = 1; }; }`, "a", Settings{}},
	} {
		dir := folder(t)
		write(t, filepath.Join(dir, "flake.nix"), tt.flake)
		if got, warnings, err := names(t, tt.s, dir); err != nil || got != tt.want || len(warnings) > 0 {
			t.Errorf("%s: %q, %q, %v", tt.name, got, warnings, err)
		}
	}
}

// TestAcceptedConfig: building heeds a nixConfig that is accepted, and none else.
func TestAcceptedConfig(t *testing.T) {
	dir := folder(t)
	write(t, filepath.Join(dir, "flake.nix"), `{ nixConfig = { connect-timeout = 7; extra-substituters = [ "https://a.example.org" "https://b.example.org" ]; fallback = true; };
		outputs = { self }: { nixosConfigurations = { }; }; }`)
	for accept, want := range map[bool]string{
		true:  "connect-timeout=7 extra-substituters=https://a.example.org https://b.example.org fallback=true",
		false: "",
	} {
		f, err := Settings{AcceptConfig: accept}.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		options, err := f.config(t.Context())
		var got []string
		for _, o := range options {
			got = append(got, o.Name+"="+o.Value)
		}
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("%v: %q, %v", accept, got, err)
		}
	}
}

// TestOption: an option reaches nix without being among its arguments, and those of nix's own variable stay.
func TestOption(t *testing.T) {
	folder(t)
	o, err := ParseOption("connect-timeout = 7")
	if err != nil {
		t.Fatal(err)
	}
	s := Settings{Options: []Option{o}}
	show := []string{"config", "show"}
	if major, minor := version(t.Context()); major == 2 && minor < 20 {
		show = []string{"show-config"}
	}
	out, err := s.Run(t.Context(), nil, show...)
	if err != nil || !strings.Contains(string(out), "\nconnect-timeout = 7\n") || !strings.Contains(string(out), "\nsubstituters = \n") {
		t.Errorf("%s, %v", out, err)
	}
	for _, bad := range []string{"", "x", "=1", "a b=1", "x=1\nbuild-hook=/bin/sh", "#x=1"} {
		if o, err := ParseOption(bad); err == nil {
			t.Errorf("%q is %v", bad, o)
		}
	}
}
