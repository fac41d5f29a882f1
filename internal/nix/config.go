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
	Devices json.RawMessage `json:"devices"` // config.disko.devices; null if the host does not use disko
	Hosts   []string        `json:"hosts"`   // all hosts; set alone, if the flake has no such host

	// Expected is how the machine appears on the network, and what of it is persistent.
	Expected Expected `json:"expected"`
	// Builds are the requested attributes of config.system.build, by name.
	Builds map[string]Derivation `json:"builds"`
	// LeftDisks are the disks of the layout whose device does not evaluate, so that the operator has to choose it.
	LeftDisks []string `json:"leftDisks"`
	// Mounts is what the installed system mounts, for hosts without a layout.
	Mounts disko.System `json:"mounts"`

	// Warnings are those messages of nix that an operator should know.
	Warnings []string `json:"-"`
}

// readConfig is a nix function of nixosConfigurations. It removes disko's internal options, which hold functions and
// cannot be printed as JSON. It removes them by exact name, not by prefix, since users may have names such as
// "_snapshots".
//
//go:embed config.nix
var readConfig string

// readExpected is a nix function of a host's config. It is inserted into readConfig.
//
//go:embed expected.nix
var readExpected string

// Evaluate reads what provision needs of a host's configuration, and the derivations of the named attributes of
// config.system.build. An attribute that has a derivation evaluates completely, so only its build remains. Errors are
// nix's own messages, or say what the flake lacks.
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
		has += ", which are systems: nixosConfigurations does not belong into flake-utils' eachDefaultSystem, or " +
			"the like"
	}
	return c, fmt.Errorf("flake %s has no nixosConfigurations.%s%s; %s", flake, host, f.Elsewhere(ctx, host), has)
}

// configOf returns the nix function that reads a host's Config.
func configOf(host string, builds []string) string {
	list := "["
	for _, name := range builds {
		list += " " + quote(name)
	}
	values := strings.NewReplacer("@HOST@", quote(host), "@BUILDS@", list+" ]", "@EXPECTED@", readExpected)
	return values.Replace(readConfig)
}
