package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"provision/disko"
)

const layoutHelp = `Layouts that come with provision, for hosts whose flake has none yet.

A layout belongs into the flake, beside disko: the host's file systems then come from it.

  provision layout list
  provision layout show luks-btrfs --disk /dev/nvme0n1 >hosts/bravo/disko.nix
      modules = [ disko.nixosModules.disko ./hosts/bravo/disko.nix ... ];

A host whose flake has no disko can be enrolled with one, if its own configuration mounts
what the layout makes, by label:

  provision layout show luks-btrfs --filesystems >hosts/bravo/filesystems.nix
  provision enroll 52:54:00:12:34:56 bravo --layout luks-btrfs --disk main=largest \
    --disk-encryption-key /tmp/disk.key=disk.key`

// layoutCommand is `provision layout`.
func layoutCommand() *cobra.Command {
	c := &cobra.Command{Use: "layout", Short: "show the disk layouts that come with " +
		"provision", Long: layoutHelp, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, args []string) error { return errUsage{errors.New("layout needs list or show")} }}
	c.AddCommand(layoutList(), layoutShow())
	return c
}

func layoutList() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{Use: "list", Short: "list the layouts", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if asJSON {
				return printJSON(c.OutOrStdout(), disko.Presets())
			}
			t := table(c.OutOrStdout(), "NAME", "FOR", "DISKS", "KEY FILE", "WHAT IT MAKES")
			for _, p := range disko.Presets() {
				t.row(p.Name, p.For, strings.Join(presetDisks(p), " "), strings.Join(p.Keys, " "), p.About)
			}
			return t.Flush()
		}}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON (stable)")
	return c
}

// presetDisks returns the names of a preset's disks.
func presetDisks(p disko.Preset) (names []string) {
	for _, d := range p.Disks {
		names = append(names, d.Name)
	}
	return names
}

func layoutShow() *cobra.Command {
	var disks []string
	form := ""
	c := &cobra.Command{Use: "show NAME", Short: "print a layout, as a disko.nix for the flake", Args: cobra.ExactArgs(1), ValidArgsFunction: completePresets,
		RunE: func(c *cobra.Command, args []string) error {
			p, err := disko.FindPreset(args[0])
			if err != nil {
				return err
			}

			devices, err := presetDevices(p, disks)
			if err != nil {
				return errUsage{err}
			}

			if p, err = p.On(devices); err != nil {
				return err
			}

			return showLayout(c.OutOrStdout(), p, form)
		}}
	c.Flags().StringArrayVar(&disks, "disk", nil, "[NAME=]DEVICE: the disk, such as /dev/disk/by-id/nvme-SERIAL")
	for name, usage := range map[string]string{
		"nix":         "as a NixOS module for disko: a disko.nix (default)",
		"json":        "as disko evaluates it: what plan --layout FILE reads",
		"filesystems": "only what mounts it, as a NixOS module for a host without disko",
		"picture":     "as it is on disks of 256 GiB",
	} {
		c.Flags().BoolFunc(name, usage, func(string) error {
			if form != "" && form != name {
				return fmt.Errorf("--%s is said already; choose one", form)
			}
			form = name
			return nil
		})
	}

	return c
}

// presetDevices reads the values of --disk. If the preset has only one disk, its name may be left out.
func presetDevices(p disko.Preset, args []string) (map[string]string, error) {
	devices := map[string]string{}
	for _, word := range args {
		name, device, ok := strings.Cut(word, "=")
		if !ok && len(p.Disks) == 1 {
			name, device = p.Disks[0].Name, word
		} else if !ok {
			return nil, fmt.Errorf("--disk %s: layout %s has several disks; write NAME=DEVICE, with NAME one of %s", word, p.Name, strings.Join(presetDisks(p), ", "))
		}
		if _, twice := devices[name]; twice {
			return nil, fmt.Errorf("--disk %s: %s is chosen already", word, name)
		}
		devices[name] = device
	}

	return devices, nil
}

// showLayout prints a preset in one of the forms: "json", "picture", "filesystems", or else as disko.nix.
func showLayout(w io.Writer, p disko.Preset, form string) error {
	switch form {
	case "json":
		_, err := w.Write(p.JSON())
		return err
	case "picture":
		return drawPreset(w, p)
	case "filesystems":
		s, err := p.System()
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "# What layout %s makes, for a host without disko: provision enroll MAC HOST "+
			"--layout %s\n%s", p.Name, p.Name, s.Nix())
		return err
	}

	_, err := fmt.Fprint(w, presetHead(p), p.Nix())
	return err
}

// presetHead returns the comment at the top of a disko.nix.
func presetHead(p disko.Preset) string {
	head := fmt.Sprintf("# Layout %s: %s. For %s.\n", p.Name, p.About, p.For)
	if names := p.Unchosen(nil); len(names) > 0 {
		head += fmt.Sprintf("# Write the device of %s, by a name that stays (ls -l /dev/disk/by-id), or let\n# "+
			"provision enroll --disk %s=DISK choose.\n", strings.Join(names, " and "), names[0])
	}
	for _, file := range p.Keys {
		head += fmt.Sprintf("# The passphrase: provision enroll --disk-encryption-key %s=FILE, or --escrow-to KEY.\n", file)
	}
	return head
}

// drawPreset draws what a preset makes of blank disks of 256 GiB.
func drawPreset(w io.Writer, p disko.Preset) error {
	l, err := p.Layout()
	if err != nil {
		return err
	}

	facts := &disko.Facts{Links: map[string]string{}}
	o := disko.Options{Disks: map[string]string{}}
	for i, d := range p.Disks {
		device := fmt.Sprintf("/dev/disk%d", i+1)
		facts.BlockDevices = append(facts.BlockDevices, disko.BlockDevice{
			Name:       device[len("/dev/"):],
			Path:       device,
			Type:       "disk",
			Size:       256 << 30,
			SectorSize: 512,
		})
		o.Disks[d.Name] = device
	}

	plan, err := disko.NewPlan(l, facts, o)
	if err != nil {
		return err
	}

	width, color := drawingOn(w)
	drawPlan(w, plan, width, color)
	return nil
}

// completePresets completes the names of presets.
func completePresets(_ *cobra.Command, args []string, _ string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
	if len(args) == 0 {
		for _, p := range disko.Presets() {
			names = append(names, cobra.CompletionWithDesc(p.Name, p.About))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
