package installer

import (
	"bytes"
	"fmt"
	"strings"

	"provision/disko"
	"provision/hosts"
)

// usePreset gives the host the layout that the operator chose, if its configuration has none
// and mounts what this one makes.
func (c *Config) usePreset(host string, o hosts.Choices) (*disko.Layout, error) {
	if !bytes.Equal(c.Devices, []byte("null")) {
		return nil, fmt.Errorf("nixosConfigurations.%s has disko.devices, and mounts what these make: leave out --layout %s (--layout none, where it was enrolled so before)", host, o.Preset)
	}
	preset, err := disko.FindPreset(string(o.Preset))
	if err != nil {
		return nil, err
	}
	if arch, _, _ := strings.Cut(c.System, "-"); preset.Arch != "" && arch != preset.Arch {
		return nil, fmt.Errorf("layout %s is for %s, which is %s, and nixosConfigurations.%s is built for %s: choose another of `provision layout list`", preset.Name, preset.For, preset.Arch, host, c.System)
	}
	if left := preset.Unchosen(o.Disks); len(left) > 0 {
		return nil, fmt.Errorf("layout %s leaves the disk to you: choose it with --disk %s=DISK, such as --disk %s=largest", preset.Name, left[0], left[0])
	}
	if o.Disko == hosts.Script {
		return nil, fmt.Errorf("--disko script runs the flake's own script, and with --layout %s there is none: leave out one of them", preset.Name)
	}
	system, err := preset.System()
	if err != nil {
		return nil, err
	}
	// What is kept has the UUIDs that it had.
	if wrong := system.Differences(c.Mounts); o.Disko.Erases() && len(wrong) > 0 {
		return nil, fmt.Errorf("nixosConfigurations.%s would not start from layout %s, for it does not mount what that makes; give it what `provision layout show %s --filesystems` prints, in the place of its own:\n  %s",
			host, preset.Name, preset.Name, strings.Join(wrong, "\n  "))
	}
	c.Devices = preset.JSON()
	return preset.Layout()
}
