package main

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"provision/hosts"
	"provision/internal/web"
)

func logsCommand(api *client) *cobra.Command {
	var follow, asJSON, installer bool
	c := &cobra.Command{Use: "logs HOST", Short: "print what happened to a host",
		Args: cobra.ExactArgs(1), ValidArgsFunction: api.completeHosts,
		RunE: func(c *cobra.Command, args []string) error {
			if installer {
				return printJournal(c, api, args[0], asJSON)
			}
			var events []hosts.Event
			if err := api.call(c.Context(), http.MethodGet, hostPath(args[0], "/events"), nil, &events); err != nil {
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
			r, err := api.do(c.Context(), http.MethodGet, watchPath(args[0], last, true), nil)
			if err != nil {
				return err
			}
			err = lines(c.Context(), r, func(n web.News) bool {
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
	c.Flags().BoolVar(&installer, "installer", false, "print the end of its installer's journal, of the last install that failed")
	c.MarkFlagsMutuallyExclusive("follow", "json")
	c.MarkFlagsMutuallyExclusive("follow", "installer")
	return c
}

func printJournal(c *cobra.Command, api *client, host string, asJSON bool) error {
	var j web.Journal
	if err := api.call(c.Context(), http.MethodGet, hostPath(host, "/journal"), nil, &j); err != nil {
		return err
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), j)
	}
	_, err := fmt.Fprintln(c.OutOrStdout(), strings.TrimRight(j.Journal, "\n"))
	return err
}
