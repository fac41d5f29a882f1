package main

import (
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"provision/hosts"
	"provision/internal/web"
)

func logsCommand(api *client) *cobra.Command {
	var follow, asJSON bool
	c := &cobra.Command{Use: "logs HOST", Short: "print what happened to a host",
		Args: cobra.ExactArgs(1), ValidArgsFunction: api.completeHosts,
		RunE: func(c *cobra.Command, args []string) error {
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
	c.MarkFlagsMutuallyExclusive("follow", "json")
	return c
}
