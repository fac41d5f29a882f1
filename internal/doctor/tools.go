package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"provision/internal/nix"
)

// nixTakes is how long nix may take to look at a flake, including fetching its inputs.
const nixTakes = time.Minute

// tools checks the programs that the server runs, and the flake.
func tools(ctx context.Context, settings nix.Settings, flake string) (found []Finding) {
	add := func(s Severity, what, remedy string) {
		found = append(found, Finding{Check: "tool", Severity: s, What: what, Remedy: remedy})
	}
	if _, err := exec.LookPath("ssh"); err != nil {
		add(Stop, "ssh is not installed, or not in PATH", "install openssh's client")
	}
	if _, err := exec.LookPath("nix"); err != nil {
		add(Stop, "nix is not installed, or not in PATH", "install nix 2.8 or newer: https://nixos.org/download")
		return found
	}

	ctx, cancel := context.WithTimeout(ctx, nixTakes)
	defer cancel()

	version, err := exec.CommandContext(ctx, "nix", "--version").Output()
	if err != nil {
		add(Stop, "nix does not run: "+nixError(err), "install it anew")
		return found
	}

	if old(string(version)) {
		add(Stop, strings.TrimSpace(string(version))+" is too old", "install nix 2.8 or newer: "+
			"https://nixos.org/download")
	}
	if !flakesOn(exec.CommandContext(ctx, "nix", "show-config").CombinedOutput()) {
		add(Warning, "nix's flakes are off: provision switches them on for itself, your own `nix build` needs the setting",
			"in nix.conf: experimental-features = nix-command flakes (NixOS: nix.settings.experimental-features)")
	}
	if flake != "" {
		found = append(found, lookAtFlake(ctx, settings, flake)...)
	}
	return found
}

// old reports whether the output of `nix --version` shows a version before 2.8.
func old(version string) bool {
	major, minor, err := nix.ParseVersion(version)
	return err == nil && (major < 2 || major == 2 && minor < 8)
}

// flakesOn parses the output of `nix show-config`. Without the feature nix-command, nix only complains; newer versions
// warn about the new name of the command, but print the settings.
func flakesOn(out []byte, err error) bool {
	if err != nil {
		return !strings.Contains(string(out), "experimental")
	}
	for line := range strings.Lines(string(out)) {
		if key, value, _ := strings.Cut(line, "="); strings.TrimSpace(key) == "experimental-features" {
			return strings.Contains(value, "flakes")
		}
	}
	return true // the feature is not experimental any more
}

// lookAtFlake checks the flake as the server would use it, as the owner of the flake. It asks only for the names of the
// hosts, without evaluating them.
func lookAtFlake(ctx context.Context, settings nix.Settings, ref string) (found []Finding) {
	add := func(s Severity, what, remedy string) {
		found = append(found, Finding{Check: "flake", Severity: s, What: "flake " + ref + " " + what, Remedy: remedy})
	}
	see := "see: nix flake show " + ref
	flake, err := settings.Open(ref)
	if err != nil {
		add(Stop, "cannot be read: "+err.Error(), "name another with --flake, or do what is said here")
		return found
	}

	out, warnings, err := flake.Hosts(ctx, "builtins.attrNames")
	var names []string
	switch {
	case ctx.Err() != nil:
		add(Warning, fmt.Sprintf("was not evaluated within %s", nixTakes), "see what takes so long: nix flake show "+ref)
	case err != nil:
		add(Stop, "does not evaluate: "+nix.Brief(err), see)
	case json.Unmarshal(out, &names) != nil || len(names) == 0:
		add(Stop, "has no nixosConfigurations", "add one for each host")
	}

	for _, warning := range warnings {
		what, remedy, _ := strings.Cut(warning, ": ")
		found = append(found, Finding{Check: "flake", Severity: Warning, What: what, Remedy: cmp.Or(remedy, see)})
	}

	return found
}

// nixError returns the line in which nix says why it does not run.
func nixError(err error) string {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err.Error()
	}
	return firstLine(exit.Stderr)
}
