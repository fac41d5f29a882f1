package nix

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"

	"provision/disko"
)

// Config is what a flake says about a host.
type Config struct {
	System  string          `json:"system"`  // such as x86_64-linux
	Devices json.RawMessage `json:"devices"` // config.disko.devices; null if there is none
	Hosts   []string        `json:"hosts"`   // set instead of the others if the host is not in the flake

	// Expected is how the machine is seen on the network, and what it keeps.
	Expected Expected `json:"expected"`
	// Builds are attributes of config.system.build, those that were asked for.
	Builds map[string]Derivation `json:"builds"`
	// LeftDisks are the disks of the layout whose device does not evaluate: they are left to the operator.
	LeftDisks []string `json:"leftDisks"`
	// Mounts is what the installed system mounts, where no layout says it.
	Mounts disko.System `json:"mounts"`

	// Warnings is what nix said of the flake that an operator should know.
	Warnings []string `json:"-"`
}

// readConfig is a nix function of nixosConfigurations. Disko's internal options hold functions, which cannot be printed
// as JSON; they are dropped by exact name, not by prefix, since users name things "_snapshots".
//
//go:embed config.nix
var readConfig string

// readExpected is a nix function of a host's config; it is put into readConfig.
//
//go:embed expected.nix
var readExpected string

// Evaluate reads what we need to know of a host's configuration, with derivations of config.system.build: what has one
// does evaluate, all of it, and what is left is to build it. Errors are nix's own words, or name what the flake lacks.
func (b Builder) Evaluate(ctx context.Context, flake, host string, builds ...string) (c Config, err error) {
	leave, err := b.Evaluations.Enter(ctx, b.Evaluates)
	if err != nil {
		return c, fmt.Errorf("wait to evaluate %s: %w", flake, err)
	}
	defer leave()
	f, err := b.Open(flake)
	if err != nil {
		return c, err
	}

	patience := cmp.Or(b.Patience, evaluationLimit)
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, warnings, err := f.Hosts(limited, configOf(host, builds))
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return c, fmt.Errorf("evaluate %s: nixosConfigurations.%s did not end within %s: "+
			"look for what has no end in it, with `nix eval`", flake, host, patience)
	}
	if err != nil {
		return c, fmt.Errorf("evaluate %s: %w", flake, err)
	}

	if err := json.Unmarshal(out, &c); err != nil {
		return c, fmt.Errorf("evaluate %s: nix printed no JSON: %w", flake, err)
	}
	c.Warnings = warnings
	if c.Hosts == nil {
		return c, nil
	}

	has := "it has: " + strings.Join(c.Hosts, ", ")
	if len(c.Hosts) > 0 && strings.HasSuffix(c.Hosts[0], "-linux") {
		has += ", which are systems: nixosConfigurations does not belong into flake-utils' eachDefaultSystem, or the like"
	}
	return c, fmt.Errorf("flake %s has no nixosConfigurations.%s%s; %s", flake, host, f.Elsewhere(ctx, host), has)
}

// configOf is the nix function that reads a host's Config.
func configOf(host string, builds []string) string {
	list := "["
	for _, name := range builds {
		list += " " + quote(name)
	}
	values := strings.NewReplacer("@HOST@", quote(host), "@BUILDS@", list+" ]", "@EXPECTED@", readExpected)
	return values.Replace(readConfig)
}
