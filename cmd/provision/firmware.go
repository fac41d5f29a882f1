package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"provision/images"
	"provision/internal/api"
	"provision/internal/boards"
)

const firmwareHelp = `Manage the firmware that boards load before anything else: what a Raspberry Pi
fetches over the network, and what is put on its disk. It is not part of
provision, and is taken from folders, Debian's packages (or their URLs), or nixpkgs:

  provision images firmware add raspberrypi --from /boot/firmware
  provision images firmware add raspberrypi --from nixpkgs#raspberrypifw --from nixpkgs#ubootRaspberryPi4_64bit
  provision images firmware add raspberrypi --from raspi-firmware.deb,u-boot-rpi.deb,linux-image-arm64.deb

Of a file that several sources have, the last is taken. Adding replaces what was
there. The licences are kept beside the files: list --licences prints them.`

// firmwareCommand is `provision images firmware`.
func firmwareCommand(daemon *api.Client) *cobra.Command {
	c := &cobra.Command{Use: "firmware", Short: "manage the firmware of boards", Long: firmwareHelp, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return errUsage{errors.New("images firmware needs add, list, verify or remove")}
		}}
	c.AddCommand(firmwareAdd(daemon), firmwareList(daemon),
		&cobra.Command{Use: "verify NAME", Short: "read the files back and compare their digests", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				if err := daemon.Call(c.Context(), http.MethodPost, api.FirmwareTreePath(args[0])+"/verify", nil, nil); err != nil {
					return err
				}
				fmt.Fprintf(c.OutOrStdout(), "%s is as it was added.\n", args[0])
				return nil
			}},
		&cobra.Command{Use: "remove NAME", Short: "remove firmware that no host needs", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				return daemon.Call(c.Context(), http.MethodDelete, api.FirmwareTreePath(args[0]), nil, nil)
			}})
	return c
}

func firmwareAdd(daemon *api.Client) *cobra.Command {
	var from []string
	c := &cobra.Command{Use: "add raspberrypi --from " +
		"DIR|DEB|URL|FLAKEREF...", Short: "add firmware, in the place of what was there",
		Args: cobra.ExactArgs(1), ValidArgs: []string{boards.RaspberryPi},
		RunE: func(c *cobra.Command, args []string) error {
			if len(from) == 0 {
				return errUsage{errors.New("images firmware add needs --from DIR, a Debian package, or a flake " +
					"reference")}
			}
			r := api.FirmwareRequest{Name: args[0]}
			for _, source := range from {
				abs, err := absSource(source)
				if err != nil {
					return err
				}
				r.From = append(r.From, abs)
			}

			return addFirmware(c, daemon, r)
		}}
	c.Flags().StringSliceVar(&from, "from", nil, "folder, Debian package (raspi-firmware, linux-image-*-arm64, "+
		"u-boot-rpi), its https URL, or flake reference (nixpkgs#raspberrypifw); may be given several times")
	return c
}

// absSource makes a path absolute. It does the same for the path in a flake reference, which begins with a dot or
// slash; other references are left alone.
func absSource(source string) (string, error) {
	path, attr, flake := strings.Cut(source, "#")
	if flake && !strings.HasPrefix(path, ".") && !strings.HasPrefix(path, "/") {
		return source, nil
	}
	if _, err := os.Stat(path); err != nil && strings.Contains(source, ":") {
		return source, nil
	}
	abs, err := filepath.Abs(path)
	if flake {
		abs += "#" + attr
	}
	return abs, err
}

// addFirmware adds firmware, and shows the progress on a terminal.
func addFirmware(c *cobra.Command, daemon *api.Client, r api.FirmwareRequest) error {
	body, err := daemon.Do(c.Context(), http.MethodPost, api.FirmwarePath, r)
	if err != nil {
		return err
	}

	out := c.ErrOrStderr()
	bar := terminalOf(out) != nil
	var last api.FirmwareProgress
	err = api.Lines(c.Context(), body, func(p api.FirmwareProgress) bool {
		last = p
		if bar && p.Total > 0 {
			fmt.Fprintf(out, "%s%d of %d MB", clearLine, p.Done/1e6, p.Total/1e6)
		}
		return true
	})
	if bar {
		fmt.Fprint(out, clearLine)
	}
	switch {
	case err != nil:
		return err
	case last.Error != "":
		return errors.New(last.Error)
	case last.Firmware == nil:
		return errors.New("the server stopped while adding the firmware; add it again")
	}

	for _, w := range last.Warnings {
		fmt.Fprintln(c.ErrOrStderr(), "warning:", w)
	}
	printFirmware(c.OutOrStdout(), *last.Firmware)
	return nil
}

// printFirmware prints what a tree is and which boards it is complete for.
func printFirmware(w io.Writer, f api.Firmware) {
	fmt.Fprintf(w, "%s: %d files, %.1f MB, added %s from %s\n", f.Name, len(f.Files), float64(f.Size())/1e6, ago(f.Added), f.From)
	fmt.Fprintf(w, "  to netboot: %s\n  on a disk: %s\n", images.FitWords(f.Netboot), images.FitWords(f.Disk))
	if eeprom := slices.Sorted(maps.Keys(f.EEPROM())); len(eeprom) > 0 {
		fmt.Fprintf(w, "  for the EEPROM, which they would overwrite; not served as it is: %s\n", strings.Join(eeprom, ", "))
	}
	for _, name := range slices.Sorted(maps.Keys(f.Licences)) {
		fmt.Fprintf(w, "  licence: %s\n", name)
	}
}

func firmwareList(daemon *api.Client) *cobra.Command {
	var asJSON, licences bool
	c := &cobra.Command{Use: "list", Short: "list the firmware, what it is good for, and its " +
		"licences", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var all []api.Firmware
			if err := daemon.Call(c.Context(), http.MethodGet, api.FirmwarePath, nil, &all); err != nil {
				return err
			}

			w := c.OutOrStdout()
			switch {
			case asJSON:
				return printJSON(w, all)
			case len(all) == 0:
				fmt.Fprintln(w, "No firmware yet: provision images firmware add raspberrypi --from DIR")
			}

			for _, f := range all {
				if !licences {
					printFirmware(w, f)
				} else if err := printLicences(c, daemon, f.Name); err != nil {
					return err
				}
			}

			return nil
		}}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&licences, "licences", false, "print the texts of the licences")
	return c
}

// printLicences prints the licences of a tree.
func printLicences(c *cobra.Command, daemon *api.Client, name string) error {
	body, err := daemon.Do(c.Context(), http.MethodGet, api.FirmwareTreePath(name)+"/licences", nil)
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(c.OutOrStdout(), body)
	return err
}
