package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// nixTakes is how long nix may take to look at a flake, whose inputs it may have
// to fetch first.
const nixTakes = 30 * time.Second

// tools looks for the programs that the server runs, and at the flake.
func tools(ctx context.Context, flake string) (found []Finding) {
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
		add(Stop, strings.TrimSpace(string(version))+" is too old", "install nix 2.8 or newer: https://nixos.org/download")
	}
	if !flakesOn(exec.CommandContext(ctx, "nix", "show-config").CombinedOutput()) {
		add(Warning, "nix's flakes are off: provision switches them on for itself, your own `nix build` needs the setting",
			"in nix.conf: experimental-features = nix-command flakes (NixOS: nix.settings.experimental-features)")
	}
	if flake != "" {
		found = append(found, lookAtFlake(ctx, flake)...)
	}
	return found
}

var nixVersion = regexp.MustCompile(`(\d+)\.(\d+)`)

// old reports whether `nix --version` tells one before 2.8.
func old(version string) bool {
	m := nixVersion.FindStringSubmatch(version)
	if m == nil {
		return false
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	return major < 2 || major == 2 && minor < 8
}

// flakesOn reads what `nix show-config` printed. Without the feature
// nix-command it only complains; newer versions warn of its new name and print
// all the same.
func flakesOn(out []byte, err error) bool {
	if err != nil {
		return !strings.Contains(string(out), "experimental")
	}
	for line := range strings.Lines(string(out)) {
		if key, value, _ := strings.Cut(line, "="); strings.TrimSpace(key) == "experimental-features" {
			return strings.Contains(value, "flakes")
		}
	}
	return true // no longer an experiment
}

// lookAtFlake asks for the names of the hosts, which evaluates none of them.
func lookAtFlake(ctx context.Context, flake string) []Finding {
	finding := func(s Severity, what, remedy string) []Finding {
		return []Finding{{Check: "flake", Severity: s, What: "flake " + flake + " " + what, Remedy: remedy}}
	}
	out, err := exec.CommandContext(ctx, "nix", "--extra-experimental-features", "nix-command flakes", "eval", "--json",
		"--no-write-lock-file", flake+"#nixosConfigurations", "--apply", "builtins.attrNames").Output()
	var names []string
	switch {
	case ctx.Err() != nil:
		return finding(Warning, fmt.Sprintf("was not evaluated within %s", nixTakes), "see what takes so long: nix flake show "+flake)
	case err != nil:
		return finding(Stop, "does not evaluate: "+nixError(err), "see: nix flake show "+flake)
	case json.Unmarshal(out, &names) != nil || len(names) == 0:
		return finding(Stop, "has no nixosConfigurations", "add one for each host")
	}
	return nil
}

// nixError is the line in which nix says what is wrong.
func nixError(err error) string {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err.Error()
	}
	for line := range strings.Lines(string(exit.Stderr)) {
		if _, text, ok := strings.Cut(line, "error: "); ok {
			return strings.TrimSpace(text)
		}
	}
	return firstLine(exit.Stderr)
}
