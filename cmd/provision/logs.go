package main

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"provision/hosts"
	"provision/internal/api"
)

// logsCommand is `provision logs`.
func logsCommand(daemon *api.Client) *cobra.Command {
	var follow, asJSON, installer bool
	c := &cobra.Command{Use: "logs HOST", Short: "print what happened to a host",
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeHosts(daemon),
		RunE: func(c *cobra.Command, args []string) error {
			if installer {
				return printJournal(c, daemon, args[0], asJSON)
			}
			var events []hosts.Event
			if err := daemon.Call(c.Context(), http.MethodGet, api.HostPath(args[0], "/events"), nil, &events); err != nil {
				return err
			}

			if asJSON && !follow {
				return printJSON(c.OutOrStdout(), events)
			}
			var last uint64
			for _, ev := range events {
				fmt.Fprintln(c.OutOrStdout(), eventLine(ev, false))
				last = ev.Number
			}

			if !follow {
				return nil
			}
			r, err := daemon.Do(c.Context(), http.MethodGet, api.WatchPath(args[0], last, true), nil)
			if err != nil {
				return err
			}

			err = api.Lines(c.Context(), r, func(n api.News) bool {
				if n.Event != nil {
					fmt.Fprintln(c.OutOrStdout(), eventLine(*n.Event, false))
				}
				return !n.Gone
			})
			if c.Context().Err() != nil {
				return nil
			}

			return err
		}}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on printing as things happen")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().BoolVar(&installer, "installer", false, "print the end of its installer's journal, of the last "+
		"install that failed")
	c.MarkFlagsMutuallyExclusive("follow", "json")
	c.MarkFlagsMutuallyExclusive("follow", "installer")
	return c
}

// printJournal prints the journal of the host's installer.
func printJournal(c *cobra.Command, daemon *api.Client, host string, asJSON bool) error {
	var j api.Journal
	if err := daemon.Call(c.Context(), http.MethodGet, api.HostPath(host, "/journal"), nil, &j); err != nil {
		return err
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), j)
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), strings.TrimRight(j.Journal, "\n"))
	return err
}
