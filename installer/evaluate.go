package installer

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"provision/disko"
	"provision/hosts"
	"provision/internal/nix"
)

// Evaluate reads a host's configuration and layout from the flake. The layout is the preset of the choices if these
// have one. builds are attributes of config.system.build that are to evaluate, too.
//
// Errors are nix's own words, or name what the flake lacks. With an error, the configuration is what is known of it.
//
// This is where what an operator chose meets what a flake says of the layout: package nix knows no choices.
func Evaluate(ctx context.Context, b nix.Builder, flake, host string, o hosts.Choices, builds ...string) (
	c nix.Config, layout *disko.Layout, err error,
) {
	if err := hosts.CheckName(host); err != nil { // it becomes the name of a file
		return c, nil, err
	}
	c, err = b.Evaluate(ctx, flake, host, builds...)
	if err != nil {
		return c, nil, err
	}

	if o.Preset != "" {
		layout, err = usePreset(&c, host, o)
		return c, layout, err
	}
	if !hasLayout(c) {
		return c, nil, fmt.Errorf("nixosConfigurations.%s has no disko.devices: take a layout of `provision layout list`, "+
			"with --layout NAME or, better, into the flake (`provision layout show NAME`)", host)
	}
	for _, disk := range c.LeftDisks {
		if o.Disks[disk] == "" {
			return c, nil, fmt.Errorf("the layout of %s leaves the disk %s to you (its `device` does not evaluate): "+
				"choose it with --disk %s=DISK, such as --disk %s=largest", host, disk, disk, disk)
		}
	}

	layout, err = disko.Parse(c.Devices)
	if err != nil {
		return c, nil, fmt.Errorf("layout of %s: %w", host, err)
	}

	return c, layout, nil
}

// hasLayout reports whether the configuration has disko.devices.
func hasLayout(c nix.Config) bool { return !bytes.Equal(c.Devices, []byte("null")) }

// usePreset gives the host the layout that the operator chose, if its configuration has none and mounts what this one
// makes. The configuration then has the preset's devices.
func usePreset(c *nix.Config, host string, o hosts.Choices) (*disko.Layout, error) {
	if hasLayout(*c) {
		return nil, fmt.Errorf("nixosConfigurations.%s has disko.devices, and mounts what these make: "+
			"leave out --layout %s (--layout none, where it was enrolled so before)", host, o.Preset)
	}
	preset, err := disko.FindPreset(string(o.Preset))
	if err != nil {
		return nil, err
	}

	arch, _, _ := strings.Cut(c.System, "-")
	if preset.Arch != "" && arch != preset.Arch {
		return nil, fmt.Errorf("layout %s is for %s, which is %s, and nixosConfigurations.%s is built for %s: "+
			"choose another of `provision layout list`", preset.Name, preset.For, preset.Arch, host, c.System)
	}
	if left := preset.Unchosen(o.Disks); len(left) > 0 {
		return nil, fmt.Errorf("layout %s leaves the disk to you: choose it with --disk %s=DISK, such as --disk "+
			"%s=largest",
			preset.Name, left[0], left[0])
	}
	if o.Disko == hosts.Script {
		return nil, fmt.Errorf("--disko script runs the flake's own script, and with --layout %s there is none: "+
			"leave out one of them", preset.Name)
	}

	system, err := preset.System()
	if err != nil {
		return nil, err
	}

	// What is kept has the UUIDs that it had.
	wrong := system.Differences(c.Mounts)
	if o.Disko.Erases() && len(wrong) > 0 {
		return nil, fmt.Errorf("nixosConfigurations.%s would not start from layout %s, "+
			"for it does not mount what that makes; give it what `provision layout show %s --filesystems` prints, "+
			"in the place of its own:\n  %s",
			host, preset.Name, preset.Name, strings.Join(wrong, "\n  "))
	}

	c.Devices = preset.JSON()
	return preset.Layout()
}
