package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"provision/disko"
)

const planHelp = `Show the steps of an install, what each destroys, and on which disk.

For an enrolled HOST the server plans from the flake and from what the machine
was seen to have. Without a server, from evaluated disko.devices as JSON:

  provision plan bravo
  provision plan --layout layout.json --facts facts.json

Facts are the output of lsblk --json --bytes --output-all on the machine.`

func planCommand(api *client) *cobra.Command {
	var layout, facts string
	var disks []string
	var asJSON bool
	c := &cobra.Command{Use: "plan HOST", Short: "show what an install would do to the disks", Long: planHelp,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: api.completeHosts,
		RunE: func(c *cobra.Command, args []string) error {
			if (len(args) == 1) == (layout != "") {
				return errUsage{errors.New("plan needs a HOST, or --layout FILE without one")}
			}
			if len(args) == 1 && disks != nil {
				return errUsage{errors.New("--disk is for --layout; a host's disks are chosen when it is enrolled")}
			}
			p := new(disko.Plan)
			var err error
			if layout != "" {
				p, err = planFiles(layout, facts, disks)
			} else {
				err = api.call(c.Context(), http.MethodGet, hostPath(args[0], "/plan"), nil, p)
			}
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(c.OutOrStdout(), p)
			}
			return showPlan(c.OutOrStdout(), p)
		}}
	c.Flags().StringVar(&layout, "layout", "", "evaluated disko.devices, as JSON")
	c.Flags().StringVar(&facts, "facts", "", "what the machine has: lsblk --json --bytes --output-all")
	diskFlag(c, &disks)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON (stable)")
	return c
}

func planFiles(layoutFile, factsFile string, disks []string) (*disko.Plan, error) {
	chosen, err := disko.ParseDisks(disks)
	if err != nil {
		return nil, errUsage{fmt.Errorf("--disk: %w", err)}
	}
	data, err := os.ReadFile(layoutFile)
	if err != nil {
		return nil, err
	}
	layout, err := disko.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", layoutFile, err)
	}
	var facts *disko.Facts
	if factsFile != "" {
		if data, err = os.ReadFile(factsFile); err != nil {
			return nil, err
		}
		if facts, err = disko.ParseFacts(data); err != nil {
			return nil, fmt.Errorf("%s: %w", factsFile, err)
		}
	}
	return disko.NewPlan(layout, facts, disko.Options{Disks: chosen})
}

func showPlan(w io.Writer, p *disko.Plan) error {
	for _, d := range p.Disks {
		fmt.Fprintf(w, "disk %s", d.Device)
		if d.Size > 0 {
			fmt.Fprintf(w, ", %.1f GB", float64(d.Size)/1e9)
		}
		for _, s := range []string{d.Model, d.Serial} {
			if s != "" {
				fmt.Fprintf(w, ", %s", s)
			}
		}
		if d.Content != "" {
			fmt.Fprintf(w, "\n  now on it: %s", d.Content)
		}
		fmt.Fprintln(w)
	}
	stage := disko.Stage("")
	for _, s := range p.Steps {
		if s.Stage != stage {
			stage = s.Stage
			fmt.Fprintf(w, "\n%s\n", stage)
		}
		fmt.Fprintf(w, "  %s\n      %s\n", s.Name, strings.Join(s.Argv, " "))
		if s.Destroys != "" {
			fmt.Fprintf(w, "      destroys %s\n", s.Destroys)
		}
	}
	return nil
}
