package main

import (
	"net/http"

	"github.com/spf13/cobra"

	"provision/hosts"
	"provision/internal/api"
)

// completeHosts completes the names of enrolled hosts.
func completeHosts(daemon *api.Client) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		var all []api.Status
		if len(args) > 0 || daemon.Call(c.Context(), http.MethodGet, api.HostsPath, nil, &all) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := make([]string, len(all))
		for i, s := range all {
			names[i] = s.Name
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeMACs completes the MACs of discovered machines.
func completeMACs(daemon *api.Client) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		var all []hosts.Discovered
		if len(args) > 0 || daemon.Call(c.Context(), http.MethodGet, api.DiscoveredPath, nil, &all) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var macs []string
		for _, d := range all {
			macs = append(macs, d.MAC+"\t"+d.Arch)
		}
		return macs, cobra.ShellCompDirectiveNoFileComp
	}
}
