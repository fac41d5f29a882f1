package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"provision/hosts"
	"provision/internal/api"
	"provision/internal/text"
)

// cancelCommand is `provision cancel`.
func cancelCommand(daemon *api.Client) *cobra.Command {
	return &cobra.Command{Use: "cancel HOST", Short: "withdraw a host's permit and stop its install",
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeHosts(daemon),
		RunE: func(c *cobra.Command, args []string) error {
			var s api.Status
			if err := daemon.Call(c.Context(), http.MethodPost, api.HostPath(args[0], "/cancel"), nil, &s); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "The permit of %s is withdrawn.\n", s.Name)
			switch {
			case s.State == hosts.StateInstalled:
				fmt.Fprintf(c.OutOrStdout(), "%s is installed as it was; a machine that runs the installer "+
					"meanwhile is restarted.\n", s.Name)
			case !s.Permit.Burned.IsZero():
				fmt.Fprintln(c.OutOrStdout(), "Its disks were being changed already; do not expect the machine to "+
					"start from them.")
			}

			return nil
		}}
}

// discoveredCommand is `provision discovered`.
func discoveredCommand(daemon *api.Client) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{Use: "discovered", Short: "list machines that asked and are not enrolled", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var all []hosts.Discovered
			if err := daemon.Call(c.Context(), http.MethodGet, api.DiscoveredPath, nil, &all); err != nil {
				return err
			}

			if asJSON {
				return printJSON(c.OutOrStdout(), all)
			}
			if len(all) == 0 {
				fmt.Fprintln(c.OutOrStdout(), "No unknown machine has asked yet.")
				return nil
			}
			t := table(c.OutOrStdout(), "MAC", "LAST SEEN", "FIRST SEEN", "ASKS AS", "BOARD", "VENDOR CLASS")
			for _, d := range all {
				t.row(d.MAC, ago(d.Last), ago(d.First), d.Arch, d.Board, d.Vendor)
			}
			if err := t.Flush(); err != nil {
				return err
			}

			fmt.Fprintf(c.OutOrStdout(), "To install one: provision enroll %s HOST\n", all[0].MAC)
			return nil
		}}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// printJSON prints v as indented JSON that is safe for a terminal.
func printJSON(w io.Writer, v any) error {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := io.WriteString(w, text.JSON(b.String()))
	return err
}

// ago says how long ago a time was; a time more than two days ago is told by its date.
func ago(t time.Time) string {
	d := time.Since(t)
	switch {
	case t.IsZero():
		return "never"
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	}
	return t.Local().Format(time.DateOnly)
}
