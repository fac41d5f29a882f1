package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"provision/disko"
	"provision/hosts"
	"provision/internal/api"
	"provision/internal/boards"
	"provision/internal/bootable"
	"provision/internal/enroll"
	"provision/internal/text"
)

const planHelp = `Draw the disks of an install to scale, what is on them above what will be, and
list the steps, what each destroys and how long it usually takes.

For an enrolled HOST the server plans from the flake and from what the machine
was seen to have, in the way of enroll --disko. Without a server, from evaluated
disko.devices as JSON, or from a layout that comes with provision:

  provision plan bravo
  provision plan --layout layout.json --facts facts.json --disko format
  provision plan --layout layout.json --facts facts.json --disk main=smallest-nvme
  provision plan --layout layout.json --board rpi4
  provision plan --layout luks-btrfs --facts facts.json --disk main=largest

Facts are what provision facts prints on the machine. For the way fresh, the
output of lsblk --json --bytes --output-all does. For --disk see provision enroll
--help; a host's disks are chosen when it is enrolled.`

// planCommand is `provision plan`.
func planCommand(daemon *api.Client) *cobra.Command {
	var layout, facts, board string
	var way hosts.DiskoMode
	var disks []string
	var asJSON bool
	c := &cobra.Command{Use: "plan HOST", Short: "show what an install would do to the disks", Long: planHelp,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: completeHosts(daemon),
		RunE: func(c *cobra.Command, args []string) error {
			if (len(args) == 1) == (layout != "") {
				return errUsage{errors.New("plan needs a HOST, or --layout FILE|NAME without one")}
			}
			if c.Flags().Changed("disko") && layout == "" {
				return errUsage{errors.New("--disko goes with --layout; an enrolled host is planned in its own way")}
			}
			if len(args) == 1 && disks != nil {
				return errUsage{errors.New("--disk is for --layout; a host's disks are chosen when it is enrolled")}
			}
			if board != "" && layout == "" {
				return errUsage{errors.New("--board goes with --layout; a host's board is said when it is " +
					"enrolled, or recognised")}
			}
			p := new(disko.Plan)
			var err error
			if layout != "" {
				var o disko.Options
				if o, err = planOptions(way, disks); err != nil {
					return err
				}
				p, err = planFiles(layout, facts, board, o)
			} else {
				err = daemon.Call(c.Context(), http.MethodGet, api.HostPath(args[0], "/plan"), nil, p)
			}
			if err != nil {
				return err
			}

			if asJSON {
				return printJSON(c.OutOrStdout(), p)
			}
			return showPlan(c.OutOrStdout(), p)
		}}
	c.Flags().StringVar(&layout, "layout", "", "FILE|NAME: evaluated disko.devices, as JSON, or a layout of "+
		"provision layout list")
	c.Flags().StringVar(&facts, "facts", "", "what the machine has: the output of provision facts")
	choiceFlag(c, choiceOf("disko"), &way)
	c.Flags().StringVar(&board, "board", "", "what the machine is, which tells whether its firmware starts from "+
		"such disks: "+strings.Join(boards.Names(), ", "))
	_ = c.RegisterFlagCompletionFunc("board", completeWays(boards.Names()...))
	diskFlag(c, &disks)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON (stable)")
	return c
}

// planOptions returns the options for a mode and the values of --disk.
func planOptions(way hosts.DiskoMode, disks []string) (disko.Options, error) {
	chosen, err := disko.ParseDisks(disks)
	if err != nil {
		return disko.Options{}, errUsage{fmt.Errorf("--disk: %w", err)}
	}
	return enroll.PlanOptions(way, chosen), nil
}

// planFiles makes a plan without a server, from files.
func planFiles(layoutFile, factsFile, board string, o disko.Options) (*disko.Plan, error) {
	layout, err := readLayout(layoutFile, o.Disks, factsFile != "")
	if err != nil {
		return nil, err
	}

	var facts *disko.Facts
	if factsFile != "" {
		data, err := os.ReadFile(factsFile)
		if err != nil {
			return nil, err
		}
		if facts, err = disko.ParseFacts(data); err != nil {
			return nil, fmt.Errorf("%s: %w", factsFile, err)
		}
	}

	p, err := disko.NewPlan(layout, facts, o)
	if err != nil || board == "" {
		return p, err
	}

	b, err := boards.Parse(board)
	if err != nil {
		return nil, errUsage{fmt.Errorf("--board: %w", err)}
	}

	p.Problems = append(p.Problems, bootable.Problems(layout, b)...)
	return p, nil
}

// readLayout returns the preset with this name, or else the layout in this file; a file with the name of a preset is
// given as ./NAME. forMachine makes it an error if a disk of the preset has no device.
func readLayout(name string, disks map[string]string, forMachine bool) (*disko.Layout, error) {
	if p, err := disko.FindPreset(name); err == nil {
		if left := p.Unchosen(disks); forMachine && len(left) > 0 {
			return nil, fmt.Errorf("layout %s leaves the disk to you: choose it with --disk %s=DISK, such as "+
				"--disk %s=largest", name, left[0], left[0])
		}
		return p.Layout()
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("%w; it is no layout of `provision layout list` either", err)
	}
	layout, err := disko.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return layout, nil
}

// showPlan prints a plan: the disks, the steps, and what prevents an install.
func showPlan(w io.Writer, p *disko.Plan) error {
	width, color := drawingOn(w)
	drawPlan(w, p, width, color)
	stage, sum := disko.Stage(""), time.Duration(0)
	for _, s := range p.Steps {
		if s.Stage != stage {
			if stage != "" {
				fmt.Fprintln(w)
			}
			stage = s.Stage
			fmt.Fprintln(w, stage)
		}

		name := s.Name
		sum += s.Expected
		if s.Expected > 0 {
			name += ", ~" + seconds(s.Expected)
		}
		fmt.Fprintf(w, "  %s\n      %s\n", name, strings.Join(s.Argv, " "))
		if s.Destroys != "" {
			fmt.Fprintln(w, paint(red, "      destroys "+s.Destroys, color))
		}
	}

	switch {
	case p.Unfinished():
		fmt.Fprintln(w, "\nWhat follows depends on what is found inside; the install plans again then.")
	case len(p.Steps) == 0:
		fmt.Fprintln(w, "\nNothing is to be done: the disks are as the layout says, and mounted.")
	}

	for i, why := range stops(p) {
		if i == 0 {
			fmt.Fprintln(w, paint(red, "\nAn install would stop before it changes anything:", color))
		}
		fmt.Fprintln(w, "  "+why)
	}

	for _, problem := range p.Problems {
		if !problem.Stops {
			fmt.Fprintf(w, "\nwarning: %s\n", problem)
		}
	}

	if sum > 0 {
		fmt.Fprintf(w, "\nThe steps with a time usually take ~%s together; the others less than a second\neach, or "+
			"as long as the disk or the layout's own hooks need.\n", seconds(sum))
	}
	return nil
}

// stops returns the reasons why an install with this plan would not begin.
func stops(p *disko.Plan) (why []string) {
	for _, o := range p.Objections {
		why = append(why, o.String())
	}
	for _, problem := range p.Problems {
		if problem.Stops {
			why = append(why, problem.String())
		}
	}
	return why
}

// paint returns text in a style, if color is set.
func paint(style, what string, color bool) string {
	if !color {
		return what
	}
	return text.Control("\x1b["+style+"m") + what + text.Control("\x1b[0m")
}

// seconds returns a duration in seconds or minutes, for people.
func seconds(d time.Duration) string {
	if d >= 2*time.Minute {
		return fmt.Sprintf("%.0f min", d.Minutes())
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}

// drawingOn returns how many columns there are to draw in, and whether to use colours.
func drawingOn(w io.Writer) (width int, color bool) {
	if terminalOf(w) == nil {
		return usualColumns, false
	}
	columns, _ := terminalSize(w)
	columns = cmp.Or(columns, usualColumns)
	return max(leastColumns, min(columns, 120)), os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
