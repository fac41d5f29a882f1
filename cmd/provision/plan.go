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
	"provision/hosts"
	"provision/internal/web"
)

const planHelp = `Show the steps of an install, what each destroys, and on which disk.

For an enrolled HOST the server plans from the flake and from what the machine
was seen to have, in the way of enroll --disko. Without a server, from evaluated
disko.devices as JSON:

  provision plan bravo
  provision plan --layout layout.json --facts facts.json --disko format

Facts are what provision facts prints on the machine. For the way fresh, the
output of lsblk --json --bytes --output-all does.`

func planCommand(api *client) *cobra.Command {
	var layout, facts, way string
	var asJSON bool
	c := &cobra.Command{Use: "plan HOST", Short: "show what an install would do to the disks", Long: planHelp,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: api.completeHosts,
		RunE: func(c *cobra.Command, args []string) error {
			if (len(args) == 1) == (layout != "") {
				return errUsage{errors.New("plan needs a HOST, or --layout FILE without one")}
			}
			parsed, err := hosts.ParseDisko(way)
			if err != nil {
				return errUsage{err}
			}
			if way != "" && layout == "" {
				return errUsage{errors.New("--disko goes with --layout; an enrolled host is planned in its own way")}
			}
			p := new(disko.Plan)
			if layout != "" {
				p, err = planFiles(layout, facts, web.PlanOptions(parsed))
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
	c.Flags().StringVar(&facts, "facts", "", "what the machine has: the output of provision facts")
	c.Flags().StringVar(&way, "disko", "", "how the disks are made: fresh, format, mount or script (default fresh)")
	_ = c.RegisterFlagCompletionFunc("disko", completeWays("fresh", "format", "mount", "script"))
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON (stable)")
	return c
}

func planFiles(layoutFile, factsFile string, o disko.Options) (*disko.Plan, error) {
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
	return disko.NewPlan(layout, facts, o)
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
	switch {
	case p.Unfinished():
		fmt.Fprintln(w, "\nWhat follows depends on what is found inside; the install plans again then.")
	case len(p.Steps) == 0:
		fmt.Fprintln(w, "\nNothing is to be done: the disks are as the layout says, and mounted.")
	}
	return nil
}
