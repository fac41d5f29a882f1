package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"provision/hosts"
	"provision/internal/api"
)

const forgetHelp = `Take a host out of the inventory. Its name and its MACs are free then, and its
machine, which stays as it is, is a stranger. What goes with it is shown, and nothing
happens until the host's name is typed (or --yes is given).

For 30 days what the server holds of it is kept, sealed as it was, and provision
restore takes the host back. Until then its disks are not free for other hosts. With
--purge all is destroyed at once, that of earlier hosts of this name included.

To change what is known of a host, use provision set; to stop its install, provision
cancel; to install it again, provision reinstall.

  provision forget bravo
  provision restore bravo
  provision forget bravo --purge`

// forgetCommand is `provision forget`.
func forgetCommand(daemon *api.Client) *cobra.Command {
	var yes, purge bool
	c := &cobra.Command{Use: "forget HOST", Short: "take a host out of the inventory", Long: forgetHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeHosts(daemon),
		RunE: func(c *cobra.Command, args []string) error {
			name, out := args[0], c.OutOrStdout()
			ask, err := showForgotten(c, daemon, name, purge)
			if err != nil {
				return err
			}

			if ask && !yes {
				if err := confirm(c.InOrStdin(), out, name); err != nil {
					return err
				}
			}

			path := api.HostPath(name, "")
			if purge {
				path += "?purge=true"
			}
			if err := daemon.Call(c.Context(), http.MethodDelete, path, nil, nil); err != nil {
				return err
			}

			fmt.Fprintf(out, "%s is forgotten; the machine itself is as it was.\n", name)
			if purge {
				fmt.Fprintln(out, "Nothing of it is kept.")
				return nil
			}
			if all, err := forgottenHosts(c.Context(), daemon, name); err == nil && len(all) > 0 {
				fmt.Fprintf(out, "Until %s it can be taken back: provision restore %s\n", minute(all[len(all)-1].Until), name)
			}

			return nil
		}}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask for the host's name")
	c.Flags().BoolVar(&purge, "purge", false, "destroy at once what would be kept for 30 days, and what is kept of "+
		"earlier hosts of this name")
	return c
}

// showForgotten shows what is lost with a host, and what of it is kept. ask reports whether something that nobody can
// make again is among it.
func showForgotten(c *cobra.Command, daemon *api.Client, name string, purge bool) (ask bool, err error) {
	out := c.OutOrStdout()
	var kept []api.Forgotten
	if purge {
		if kept, err = forgottenHosts(c.Context(), daemon, name); err != nil {
			return false, err
		}
	}

	var loss hosts.Loss
	err = daemon.Call(c.Context(), http.MethodGet, api.HostPath(name, "/loss"), nil, &loss)
	switch {
	case err == nil:
		drawLoss(out, "With "+name+" goes:", loss)
		ask = loss.Precious()
	case len(kept) == 0:
		return false, err
	}

	for _, f := range kept {
		drawLoss(out, fmt.Sprintf("With %s that was forgotten on %s goes:", name, minute(f.Time)), f.Kept)
		ask = ask || f.Kept.Precious()
	}

	if purge {
		fmt.Fprintln(out, "It cannot be taken back.")
	} else {
		fmt.Fprintln(out, "It can be taken back for 30 days.")
	}

	return ask, nil
}

// drawLoss prints a Loss as a table.
func drawLoss(out io.Writer, head string, l hosts.Loss) {
	fmt.Fprintln(out, head)
	t := table(out)
	line := func(what string, values ...string) {
		if len(values) > 0 {
			t.row("  "+what, strings.Join(values, ", "))
		}
	}
	if l.HostKey != "" {
		line("its identity", l.HostKey+" (secrets that are encrypted to it are read with it only)")
	}
	line("disk passphrases in escrow", l.Escrow...)
	line("sealed disk keys", l.Keys...)
	line("sealed secrets", l.Secrets...)
	var disks []string
	for _, d := range l.Disks {
		// The serial number is quoted, as it comes from a machine.
		disks = append(disks, fmt.Sprintf("%s (serial %q)", d.Device, d.Serial))
	}

	line("its claim to the disks", disks...)
	if l.Events > 0 {
		line("its log", fmt.Sprintf("%d events", l.Events))
	}
	t.Flush() // like other output, without a check for errors
}

// forgottenHosts returns the hosts that can be restored; only those with this name, if it is not empty.
func forgottenHosts(ctx context.Context, daemon *api.Client, name string) ([]api.Forgotten, error) {
	var all []api.Forgotten
	err := daemon.Call(ctx, http.MethodGet, api.ForgottenPath, nil, &all)
	return slices.DeleteFunc(all, func(f api.Forgotten) bool { return name != "" && f.Name != name }), err
}

// minute formats a time in minutes, in local time.
func minute(t time.Time) string { return t.Local().Format("2006-01-02 15:04") }

const restoreHelp = `Take back a host that was forgotten, with its identity, its secrets, its disks and
its log. It has no permit then. Without a host, those are listed that can be taken back.

  provision restore
  provision restore bravo`

// restoreCommand is `provision restore`.
func restoreCommand(daemon *api.Client) *cobra.Command {
	var asJSON bool
	var forgotten string
	c := &cobra.Command{Use: "restore [HOST]", Short: "take back a host that was forgotten", Long: restoreHelp,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: completeForgotten(daemon),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 && forgotten != "" {
				return errUsage{errors.New("--forgotten goes with a host")}
			}
			if len(args) == 0 {
				return listForgotten(c, daemon, asJSON)
			}
			var r api.RestoreRequest
			if forgotten != "" {
				at, err := parseSecond(forgotten)
				if err != nil {
					return errUsage{fmt.Errorf("--forgotten: %w", err)}
				}
				r.Forgotten = at
			}

			var s api.Status
			if err := daemon.Call(c.Context(), http.MethodPost, api.HostPath(args[0], "/restore"), r, &s); err != nil {
				return err
			}

			if asJSON {
				return printJSON(c.OutOrStdout(), s)
			}
			sayRestored(c.OutOrStdout(), s)
			return nil
		}}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&forgotten, "forgotten", "", "TIME: of several hosts that had this name, the one that was "+
		"forgotten then, as the list has it (default: the last)")
	return c
}

// sayRestored says what was restored.
func sayRestored(out io.Writer, s api.Status) {
	switch s.State {
	case "":
		fmt.Fprintf(out, "The SSH key of %s is there again; it was never enrolled.\n", s.Name)
	case hosts.StateInstalled, hosts.StateRebooting:
		fmt.Fprintf(out, "%s is there again, %s, without a permit.\n", s.Name, s.State)
	default:
		fmt.Fprintf(out, "%s is there again, without a permit: enroll it again to install it.\n", s.Name)
	}
}

// second is the format of a time that a person can type again, in RFC 3339 with seconds.
const second = "2006-01-02T15:04:05Z07:00"

// parseSecond reads a time in that format.
func parseSecond(s string) (time.Time, error) {
	at, err := time.Parse(second, s)
	if err != nil {
		return at, fmt.Errorf("%q: write the time as `provision restore` lists it, such as %s", s, second[:19]+"Z")
	}
	return at, nil
}

// listForgotten lists the hosts that can be restored.
func listForgotten(c *cobra.Command, daemon *api.Client, asJSON bool) error {
	all, err := forgottenHosts(c.Context(), daemon, "")
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(c.OutOrStdout(), all)
	}
	if len(all) == 0 {
		fmt.Fprintln(c.OutOrStdout(), "No host was forgotten in the last 30 days.")
		return nil
	}
	t := table(c.OutOrStdout(), "HOST", "FORGOTTEN", "UNTIL", "MAC", "KEPT", "BY")
	for _, f := range all {
		t.row(f.Name, f.Time.Local().Format(second), minute(f.Until), strings.Join(f.MACs, ","), keptWords(f.Kept), f.By)
	}
	return t.Flush()
}

// keptWords says what is kept of a host.
func keptWords(l hosts.Loss) string {
	revocations := []string{"identity"}
	for what, n := range map[string]int{"escrow": len(l.Escrow), "secrets": len(l.Keys) + len(l.Secrets), "disks": len(l.Disks)} {
		if n > 0 {
			revocations = append(revocations, what)
		}
	}
	slices.Sort(revocations[1:])
	return strings.Join(revocations, ", ")
}

// sayForgotten says which hosts can be restored, if there are any.
func sayForgotten(c *cobra.Command, daemon *api.Client) {
	all, err := forgottenHosts(c.Context(), daemon, "")
	if err != nil || len(all) == 0 {
		return // the text is only a hint
	}
	var names []string
	for _, f := range all {
		names = append(names, f.Name)
	}
	fmt.Fprintf(c.OutOrStdout(), "Forgotten, to be taken back with provision restore: %s\n", strings.Join(slices.Compact(names), ", "))
}

// sayNamesake says so if an earlier host of the same name, with another SSH key, is kept as forgotten.
func sayNamesake(c *cobra.Command, daemon *api.Client, s api.Status) {
	all, err := forgottenHosts(c.Context(), daemon, s.Name)
	if err != nil || len(all) == 0 || all[len(all)-1].Kept.HostKey == s.HostKey {
		return // the text is only a hint
	}
	f := all[len(all)-1]
	fmt.Fprintf(c.OutOrStdout(), "Note: the %s that was forgotten on %s had another SSH host key; that one can be "+
		"taken back until %s, once this one is forgotten: provision restore %s --forgotten %s\n",
		s.Name, minute(f.Time), minute(f.Until), s.Name, f.Time.Local().Format(second))
}

// completeForgotten completes the names of hosts that can be restored.
func completeForgotten(daemon *api.Client) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all, err := forgottenHosts(c.Context(), daemon, "")
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, f := range all {
			names = append(names, f.Name)
		}
		return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
	}
}
