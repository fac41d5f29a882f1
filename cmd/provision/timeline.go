package main

import (
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"provision/hosts"
	"provision/internal/api"
	"provision/internal/timeline"
)

const timelineHelp = `Show where the time of a host's newest install went: each phase with its start,
how long it took, what it moved, and what it waited for. Phases may overlap: the
host is built while the machine boots.

  provision timeline bravo
  provision timeline bravo --svg >bravo.svg`

// timelineCommand is `provision timeline`.
func timelineCommand(daemon *api.Client) *cobra.Command {
	var asJSON, asSVG bool
	c := &cobra.Command{Use: "timeline HOST", Short: "show where the time of an install went", Long: timelineHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeHosts(daemon),
		RunE: func(c *cobra.Command, args []string) error {
			var events []hosts.Event
			if err := daemon.Call(c.Context(), http.MethodGet, api.HostPath(args[0], "/events"), nil, &events); err != nil {
				return err
			}

			t := timeline.Of(events, time.Now())
			switch {
			case asJSON:
				return printJSON(c.OutOrStdout(), t)
			case asSVG:
				return t.SVG(c.OutOrStdout())
			}

			t.Start = t.Start.Local()
			return t.Text(c.OutOrStdout())
		}}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&asSVG, "svg", false, "print a Gantt chart")
	c.MarkFlagsMutuallyExclusive("json", "svg")
	return c
}
