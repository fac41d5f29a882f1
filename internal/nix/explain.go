package nix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Patterns for messages of nix and git.
var (
	lockLine = regexp.MustCompile(`^warning: not writing modified lock file of flake`)
	lockItem = regexp.MustCompile(`^• (?:Added|Updated) input '([^']+)'`)
	ignored  = regexp.MustCompile(`^warning: ignoring untrusted flake configuration setting '([^']+)'`)

	// A file of the flake that is missing in nix's copy. From a git tree, nix copies only what git tracks.
	unseen = []*regexp.Regexp{
		regexp.MustCompile(`(?:getting status of|opening file|path) '/nix/store/[0-9a-z]{32}-source/([^']+)'(?:: No such file| does not exist)`),
		regexp.MustCompile(`Path '([^']+)' (?:does not exist in Git repository|in the repository)`),
	}
	impure = regexp.MustCompile(`in pure eval(?:uation)? mode|in pure evaluation mode|not allowed in pure evaluation|'(?:builtins\.)?current(?:System|Time)' missing|` +
		`unlocked flake reference|requires a locked input`)
	denied  = regexp.MustCompile(`['"]?(/[^'":\n]+)['"]?: Permission denied|Permission denied:? ['"\[]?(/[^'"\]\n]+)`)
	noGit   = regexp.MustCompile(`executing '?"?git'?"?: No such file`)
	noHosts = regexp.MustCompile(`does not provide attribute|attribute 'nixosConfigurations' missing`)
	ownerIs = regexp.MustCompile(`dubious ownership|is not owned by current user|not owned by current user|Not a git repository`)
)

// warnings returns what an operator should know of the messages of a command that succeeded.
func (f *Flake) warnings(said []string) (all []string) {
	if words := f.lockWords(said); words != "" {
		all = append(all, words)
	}
	if words := ignoredWords(said); words != "" {
		all = append(all, words)
	}
	return all
}

// lockWords says that the flake's lock file is missing or out of date; empty if it is not.
func (f *Flake) lockWords(said []string) string {
	if !slices.ContainsFunc(said, lockLine.MatchString) {
		return ""
	}
	what := "the flake's flake.lock is stale or missing"
	if f.Local != nil && !f.Local.Pinned {
		what = "the flake's flake.lock is stale"
		if _, err := os.Stat(filepath.Join(f.Local.Dir, "flake.lock")); err != nil {
			what = "the flake has no flake.lock"
		}
	}

	if inputs := found(said, lockItem); len(inputs) > 0 {
		what += " (not locked: " + strings.Join(inputs, ", ") + ")"
	}
	where := f.Ref
	if f.Local != nil {
		where = f.Local.Dir
	}
	return what + ", so that each evaluation may take other inputs: run `nix flake lock " + where + "`, and commit " +
		"flake.lock"
}

// ignoredWords says which settings of the flake nix ignored; empty if none.
func ignoredWords(said []string) string {
	settings := found(said, ignored)
	if len(settings) == 0 {
		return ""
	}
	return "nix ignored settings of the flake's nixConfig (" + strings.Join(settings, ", ") +
		"): if whoever can change the flake may set them, start the server with --accept-flake-config"
}

// found returns the different matches of a pattern's first group.
func found(said []string, pattern *regexp.Regexp) (all []string) {
	for _, line := range said {
		if m := pattern.FindStringSubmatch(line); m != nil && !slices.Contains(all, m[1]) {
			all = append(all, m[1])
		}
	}
	return all
}

// explain adds a sentence that helps before nix's error message, if there is one.
func (f *Flake) explain(ctx context.Context, err error) error {
	var failed *commandError
	if !errors.As(err, &failed) || ctx.Err() != nil {
		return err
	}
	words := f.sentence(ctx, failed.said)
	if settings := ignoredWords(failed.said); settings != "" {
		words = strings.TrimPrefix(words+"; "+settings, "; ")
	}
	if words == "" {
		return err
	}
	return &explained{words, err}
}

// explained is an error with a sentence that helps before it.
type explained struct {
	words string
	err   error
}

func (e *explained) Error() string { return e.words + "\n" + e.err.Error() }

func (e *explained) Unwrap() error { return e.err }

// Brief returns an error as one line: the sentence that explains it or, if there is none, the line in which nix says
// what is wrong.
func Brief(err error) string {
	var e *explained
	var failed *commandError
	switch {
	case errors.As(err, &e):
		return e.words
	case errors.As(err, &failed):
		for _, line := range slices.Backward(failed.said) {
			if _, text, is := strings.Cut(line, "error: "); is {
				return strings.TrimSpace(text)
			}
		}
		return strings.Join(failed.said[max(0, len(failed.said)-1):], "")
	}

	return err.Error()
}

// sentence returns a sentence that explains nix's messages; empty if there is none.
func (f *Flake) sentence(ctx context.Context, said []string) string {
	text := strings.Join(said, "\n")
	if m := denied.FindStringSubmatch(text); m != nil && f.Local != nil && f.Local.Owner.Another() {
		return fmt.Sprintf("flake %s is read as its owner, %s, who may not read %s: `chown -R %s %s`, and let %s "+
			"into the folders above it (chmod a+x)",
			f.Ref, f.Local.Owner, m[1]+m[2], f.Local.Owner.chown(), f.Local.Dir, f.Local.Owner)
	}
	switch {
	case noGit.MatchString(text):
		return "the flake is a git tree, and git is not installed on this machine, or not in PATH: install it"
	case ownerIs.MatchString(text):
		return "git refuses a repository that belongs to another user, and root is not to run what its owner has " +
			"put there: name the folder itself" +
			" in --flake, and let one user own all of it"
	case impure.MatchString(text):
		return "the flake reads something that neither it nor its inputs hold: take it from an input or write it " +
			"into the flake" +
			" (pkgs.system for builtins.currentSystem, inputs.nixpkgs for <nixpkgs>), or start the server with --impure"
	}

	if f.Local != nil && f.Local.Top != "" && !f.Local.Pinned {
		for _, pattern := range unseen {
			for _, m := range pattern.FindAllStringSubmatch(text, -1) {
				if f.untracked(ctx, m[1]) {
					return fmt.Sprintf("%s is in %s, but git does not know it, and nix sees only what git knows: "+
						"`git -C %s add %s`",
						m[1], f.Local.Top, f.Local.Top, m[1])
				}
			}
		}
	}

	if noHosts.MatchString(text) {
		return "the flake has no nixosConfigurations" + f.Elsewhere(ctx, "")
	}
	return ""
}

// untracked reports whether the repository's folder has a file that git does not track.
func (f *Flake) untracked(ctx context.Context, name string) bool {
	if _, err := os.Lstat(filepath.Join(f.Local.Top, name)); err != nil || !filepath.IsLocal(name) {
		return false
	}
	out, err := f.Local.git(ctx, f.Local.Top, "ls-files", "--", name)
	return err == nil && len(out) == 0
}

// Git runs git in the flake's folder, as the owner of the repository, and returns its output.
func (l *Local) Git(ctx context.Context, args ...string) ([]byte, error) {
	return l.git(ctx, l.Dir, args...)
}

func (l *Local) git(ctx context.Context, dir string, args ...string) ([]byte, error) {
	if _, err := exec.LookPath("git"); err != nil {
		return nil, fmt.Errorf("the flake in %s is a git tree, and git is not installed on this machine, or not in "+
			"PATH: install it", l.Dir)
	}
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...)
	cmd.Env = os.Environ()
	if l.Owner.Another() {
		l.Owner.As(cmd, "/")
		cmd.Env = append(cmd.Env, "GIT_CONFIG_GLOBAL=/dev/null")
	}
	cmd.Env = append(cmd.Env, "GIT_LITERAL_PATHSPECS=1", "GIT_OPTIONAL_LOCKS=0")
	return commandOutput(cmd, nil)
}

// elsewhere is a nix function that lists hosts in the outputs that other tools read. It only takes their names, and
// evaluates none of them.
const elsewhere = `flake:
let
  try = value: let t = builtins.tryEval value; in if t.success then t.value else null;
  names = value: let v = try value; in if builtins.isAttrs v then builtins.attrNames v else [ ];
in builtins.mapAttrs (output: names) {
  "colmenaHive.nodes" = flake.colmenaHive.nodes or null;
  colmena = flake.colmena or null;
  "deploy.nodes" = flake.deploy.nodes or null;
  darwinConfigurations = flake.darwinConfigurations or null;
  homeConfigurations = flake.homeConfigurations or null;
  systemConfigs = flake.systemConfigs or null;
  nixopsConfigurations = flake.nixopsConfigurations.default or null;
}`

// toHosts says, by output, how to turn a host for another tool into one of nixosConfigurations.
var toHosts = map[string]string{
	"colmenaHive.nodes":    "add `nixosConfigurations = self.colmenaHive.nodes;` to the flake's outputs",
	"colmena":              "make it a nixosConfigurations too, of the same modules (nixpkgs.lib.nixosSystem)",
	"deploy.nodes":         "give the flake the nixosConfigurations that deploy-rs activates there",
	"darwinConfigurations": "it is a Mac's, and no NixOS",
	"homeConfigurations":   "it is a user's home, and no NixOS",
	"systemConfigs":        "it is for another Linux, and no NixOS",
	"nixopsConfigurations": "make it a nixosConfigurations too, of the same modules (nixpkgs.lib.nixosSystem)",
}

// Elsewhere says in which other outputs of the flake the host is, or whether they have any hosts if none is named. The
// text is to be appended to another sentence, and may be empty.
func (f *Flake) Elsewhere(ctx context.Context, host string) string {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	a, err := f.eval(ctx, "--impure", "--expr", fmt.Sprintf("(%s) (builtins.getFlake %s)", elsewhere, quote(f.Ref)))
	var outputs map[string][]string
	if err != nil || json.Unmarshal(a.out, &outputs) != nil {
		return ""
	}
	for _, output := range []string{"colmenaHive.nodes", "colmena", "deploy.nodes", "nixopsConfigurations", "darwinConfigurations", "systemConfigs", "homeConfigurations"} {
		has := slices.DeleteFunc(outputs[output], func(n string) bool { return output == "colmena" && (n == "meta" || n == "defaults") })
		switch {
		case host != "" && slices.Contains(has, host):
			return fmt.Sprintf("; %s is in its %s: %s", host, output, toHosts[output])
		case host == "" && len(has) > 0:
			return fmt.Sprintf("; it has %s: %s", output, toHosts[output])
		}
	}

	return ""
}
