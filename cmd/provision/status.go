package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"provision/hosts"
	"provision/internal/api"
)

// statusCommand is `provision status`.
func statusCommand(daemon *api.Client) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{Use: "status [HOST]", Short: "show how the hosts stand, and what proves it",
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: completeHosts(daemon),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				var s api.Status
				if err := daemon.Call(c.Context(), http.MethodGet, api.HostPath(args[0], ""), nil, &s); err != nil {
					return err
				}
				if asJSON {
					return printJSON(c.OutOrStdout(), s)
				}
				return showOne(c, s)
			}

			var all []api.Status
			if err := daemon.Call(c.Context(), http.MethodGet, api.HostsPath, nil, &all); err != nil {
				return err
			}

			if asJSON {
				return printJSON(c.OutOrStdout(), all)
			}
			if len(all) == 0 {
				fmt.Fprintln(c.OutOrStdout(), "No host is enrolled yet: provision enroll MAC HOST")
				sayForgotten(c, daemon)
				return nil
			}

			t := table(c.OutOrStdout(), "HOST", "STATE", "SINCE", "ADDRESS", "MAC", "DETAIL")
			for _, s := range all {
				t.row(s.Name, s.State, ago(s.Since), s.Address, strings.Join(s.MACs, ","), detail(s))
			}
			if err := t.Flush(); err != nil {
				return err
			}

			sayForgotten(c, daemon)
			return nil
		}}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON (stable; one object per host)")
	return c
}

// detail returns the most important information about a host besides its state.
func detail(s api.Status) string {
	switch {
	case s.Error != "":
		first, _, _ := strings.Cut(s.Error, "\n")
		if s.Phase != "" {
			return string(s.Phase) + ": " + first
		}
		return first
	case s.State == hosts.StateReady && time.Now().After(s.Permit.Expires):
		return "its permit expired " + ago(s.Permit.Expires) + ": enroll it again"
	case s.State == hosts.StateReady:
		advice := "switch it on; permit until " + s.Permit.Expires.Local().Format("2006-01-02 15:04")
		if s.Progress.Now != "" {
			advice += "; " + s.Progress.Now
		}
		return advice
	case s.State == hosts.StateRehearsed:
		return "dry run done, nothing was changed; enroll it again to install it"
	case s.State == hosts.StateInstalled:
		return systemName(s.System)
	case s.State == hosts.StateRebooting:
		return restartWords(s)
	}

	return progressWords(s)
}

// systemName is the name of a system's store path, without folder and hash: nixos-system-bravo-25.05.
func systemName(path string) string {
	base := filepath.Base(path)
	if _, name, ok := strings.Cut(base, "-"); ok && base != path {
		return name
	}
	return path
}

// restartWords says what a restarted machine is doing, as far as that is known.
func restartWords(s api.Status) string {
	r := s.Restart
	switch {
	case r.Waits != "":
		return "waits for its passphrase at " + r.Waits
	case r.Returns > 1:
		return fmt.Sprintf("came back to the network %d times: %s", r.Returns, hosts.LookAt)
	case r.Seen != "":
		return progressWords(s) + ": " + r.Seen
	}
	return progressWords(s)
}

// progressWords says how far the current phase is.
func progressWords(s api.Status) string {
	p := s.Progress
	switch {
	case p.Total == 0 && p.Now != "":
		return string(s.Phase) + ": " + p.Now
	case p.Total == 0:
		return string(s.Phase)
	case p.Unit == "bytes":
		return fmt.Sprintf("%s %d %% (%.1f of %.1f MB)", s.Phase, s.Percent, float64(p.Done)/1e6, float64(p.Total)/1e6)
	}

	if p.Now != "" {
		return fmt.Sprintf("%s %d %% (%d of %d %s: %s)", s.Phase, s.Percent, p.Done, p.Total, p.Unit, p.Now)
	}
	return fmt.Sprintf("%s %d %% (%d of %d %s)", s.Phase, s.Percent, p.Done, p.Total, p.Unit)
}

// showOne prints the status of one host.
func showOne(c *cobra.Command, s api.Status) error {
	t := table(c.OutOrStdout())
	t.row(s.Name, string(s.State)+", since "+ago(s.Since))
	line := func(name, value string) {
		if value != "" {
			t.row("  "+name, value)
		}
	}
	line("machine", strings.Join(s.MACs, ", "))
	line("address", s.Address)
	if s.State == hosts.StateRehearsed {
		line("plan", "provision plan "+s.Name+"; "+detail(s))
	} else if s.State != hosts.StateInstalled && s.State != hosts.StateFailed {
		line("phase", progressWords(s))
	}

	if s.Restart.Waits != "" {
		line("waits", "for its passphrase at "+s.Restart.Waits)
	}
	line("seen", s.Restart.Seen)
	if n := s.Restart.Returns; n > 1 {
		line("came back", fmt.Sprintf("to the network %d times: %s", n, hosts.LookAt))
	}
	line("error", s.Error)
	line("proof", s.Proof)
	if s.ProofBy != hosts.ProofSSH {
		line("proof by", string(s.ProofBy))
	}
	line("system", s.System)
	line("host key", s.HostKey)
	line("flake", s.Flake)
	line("board", s.Board)
	line("image", s.Image)
	line("disks", diskoWords(s.Disko))
	line("layout", string(s.Preset))
	line("boot method", methodWords(s))
	line("permit", permitWords(s.Permit))
	for _, name := range slices.Sorted(maps.Keys(s.Disks)) {
		line("takes", name+"="+s.Disks[name])
	}
	for _, w := range s.Wipe {
		line("may wipe", w)
	}
	for _, f := range s.Secrets {
		line("secret", f.Path+", mode "+f.Mode)
	}
	if s.TPM2 != "" {
		line("TPM", "opens the disks, by PCR "+string(s.TPM2))
	}
	line("serial", s.Serial)
	for _, l := range s.PiConfig {
		line("config.txt", l)
	}
	line("kernel params", strings.Join(s.KernelParams, " "))
	if s.AllowEEPROM {
		line("EEPROM", "may be written anew when it netboots")
	}
	for _, to := range s.EscrowTo {
		line("escrow to", to)
	}
	for _, d := range s.Permit.Disks {
		line("disk", strings.TrimSpace(fmt.Sprintf("%s %s %s", d.Device, d.Model, d.Serial)))
	}
	return t.Flush()
}

// diskoWords explains a mode.
func diskoWords(way hosts.DiskoMode) string {
	return string(way) + map[hosts.DiskoMode]string{
		hosts.Fresh:  ": erased, and all made",
		hosts.Format: ": what is missing is made, nothing is erased",
		hosts.Mount:  ": mounted as they are",
		hosts.Script: ": erased, and all made, by the flake's own script",
	}[way]
}

// methodWords says how the machine was led to its installer, and whether that is fixed.
func methodWords(s api.Status) string {
	switch {
	case s.Pinned != (hosts.Method{}) && s.Method != (hosts.Method{}):
		return fmt.Sprintf("%s, pinned to %s", s.Method, s.Pinned)
	case s.Pinned != (hosts.Method{}):
		return "pinned to " + s.Pinned.String()
	}
	return s.Method.String()
}

// permitWords says what state a permit is in.
func permitWords(p hosts.Permit) string {
	at := func(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }
	switch {
	case p.Issued.IsZero():
		return "none"
	case p.DryRun && p.Spent.IsZero():
		return "for a dry run, until " + at(p.Expires)
	case p.DryRun:
		return "for a dry run, spent " + at(p.Spent)
	case !p.Spent.IsZero() && p.Burned.IsZero():
		return "withdrawn unused " + at(p.Spent)
	case !p.Spent.IsZero():
		return "burned " + at(p.Burned) + ", spent " + at(p.Spent)
	case !p.Burned.IsZero():
		return "burned " + at(p.Burned)
	}

	return "until " + at(p.Expires)
}

// order lists the states in the order in which a host reaches them.
var order = []hosts.State{hosts.StateReady, hosts.StateBooting, hosts.StateLive, hosts.StateRehearsed,
	hosts.StateInstalling, hosts.StateRebooting,
	hosts.StateInstalled}

const waitHelp = `Wait until a host reaches a state (or one beyond it). Exit status 0 when it is
reached, 1 when the install failed, 3 when the time is up. A dry run has reached
what is waited for when it is at its end.

  provision wait bravo --timeout 30m && ssh root@bravo`

// waitCommand is `provision wait`.
func waitCommand(daemon *api.Client) *cobra.Command {
	var state string
	var timeout time.Duration
	c := &cobra.Command{Use: "wait HOST", Short: "wait until a host is installed", Long: waitHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeHosts(daemon),
		RunE: func(c *cobra.Command, args []string) error {
			want := slices.Index(order, hosts.State(state))
			if want < 0 && state != string(hosts.StateFailed) {
				return errUsage{fmt.Errorf("--for %s: not a state; states are %v and failed", state, order)}
			}
			var s api.Status
			if err := daemon.Call(c.Context(), http.MethodGet, api.HostPath(args[0], ""), nil, &s); err != nil {
				return err
			}
			return wait(c.Context(), daemon, args[0], s.State, want, timeout)
		}}
	c.Flags().StringVar(&state, "for", string(hosts.StateInstalled), "state to wait for")
	c.Flags().DurationVar(&timeout, "timeout", 0, "how long to wait (0: for ever)")
	return c
}

// wait waits until the host has reached the state with index want in order. last is its present state. It continues if
// the server restarts, as installs do.
func wait(ctx context.Context, daemon *api.Client, host string, last hosts.State, want int,
	timeout time.Duration) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}

	for {
		var result *errStatus
		r, err := daemon.Do(ctx, http.MethodGet, api.WatchPath(host, 0, false), nil)
		if err == nil {
			err = api.Lines(ctx, r, func(n api.News) bool {
				last = n.Status.State
				result = verdict(n, want)
				return result == nil
			})
		}

		switch {
		case result != nil && result.code == exitDone:
			return nil
		case result != nil:
			return *result
		case ctx.Err() == context.DeadlineExceeded:
			return errStatus{exitNotYet, fmt.Sprintf("%s is still %s after %s", host, last, timeout)}
		case ctx.Err() != nil:
			return err
		}

		select {
		case <-ctx.Done():
		case <-time.After(time.Second): // the server is not running, and cannot tell when it will be
		}
	}
}

// verdict returns how a wait ends with this news; nil if it continues.
func verdict(n api.News, want int) *errStatus {
	s := n.Status
	switch {
	case n.Gone:
		return &errStatus{exitFailed, s.Name + " was forgotten"}
	case s.State == hosts.StateFailed && want >= 0:
		return &errStatus{exitFailed, fmt.Sprintf("%s failed during %s: %s", s.Name, s.Phase, s.Error)}
	case s.State == hosts.StateFailed, s.State == hosts.StateRehearsed, want >= 0 && slices.Index(order, s.State) >= want:
		return &errStatus{code: exitDone}
	}
	return nil
}
