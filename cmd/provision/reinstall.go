package main

import (
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"provision/hosts"
	"provision/internal/api"
	"provision/internal/enroll"
)

const reinstallHelp = `Erase a host's machine and install it again from the flake as it is now. What
will be lost is shown, and what will be made; nothing happens until the host's name
is typed (or --yes is given). The host keeps its SSH key, so old known_hosts entries
and secrets that are encrypted to it go on working, unless --new-identity is given.

The new system is built first. Then the machine is made to come to its installer:

  --via kexec    over SSH, the running kernel starts the installer's
  --via netboot  over SSH, the firmware is told to start from the network once
  --via wol      a magic packet switches the machine on; its firmware must try
                 the network first
  --via manual   you restart it, from the network
  --via auto     kexec where the machine answers SSH and its kernel allows that,
                 else netboot; wol where it does not answer

For SSH the host must let this server in (its key is ssh.pub in the server's state
folder) and must show the host key that it proved itself with. Until its disks are
touched, provision cancel leaves all as it was.

  provision reinstall bravo
  provision reinstall bravo --via wol --yes`

// reinstallCommand is `provision reinstall`.
func reinstallCommand(daemon *api.Client) *cobra.Command {
	var e enrollment
	var yes bool
	c := &cobra.Command{Use: "reinstall HOST", Short: "erase a host's machine and install it again", Long: reinstallHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeHosts(daemon),
		RunE: func(c *cobra.Command, args []string) error {
			name, out := args[0], c.OutOrStdout()
			if err := e.parse(c); err != nil {
				return err
			}
			if err := daemon.Call(c.Context(), http.MethodGet, api.HostPath(name, ""), nil, new(api.Status)); err != nil {
				return err
			}

			q := newQuestion(c, daemon, name, yes)
			q.look()
			var s api.Status
			if err := q.put(api.HostPath(name, "/reinstall"), e.agreed, &s); err != nil {
				return err
			}

			warn(c, s)
			fmt.Fprintf(out, "%s. Follow it with: provision watch %s\n", permission(s), s.Name)
			if e.request.NewIdentity {
				fmt.Fprintf(out, "Its new SSH host key: %s\n", s.HostKey)
			}
			if len(s.EscrowTo) > 0 {
				fmt.Fprintf(out, "Its disk passphrases are in escrow: provision secrets %s\n", s.Name)
			}
			return nil
		}}
	e.flags(c, hosts.ViaAuto)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask for the host's name")
	c.Flags().BoolVar(&e.request.NewIdentity, "new-identity", false, "give the host another SSH host key")
	group(c, "machine", "yes", "new-identity")
	return c
}

const retryHelp = `Let an install that failed go on, under the same permit: the same disks, and a
finished phase is not done twice. A machine whose installer is still up goes on
at once; else it is made to come as before, or as --via says.

A machine that is refused because its UUID is not that of the machine that
fetched the host's boot (a new mainboard, a firmware that tells another one each
time) may be the host's from then on, also if nothing has failed yet.

With --wipe, or where the install would by now take or erase a disk that was not
confirmed before, the plan is shown and the host's name is to be typed (or --yes given).

  provision retry bravo
  provision retry bravo --via wol
  provision retry bravo --wipe S3Z9NB0K`

// retryCommand is `provision retry`.
func retryCommand(daemon *api.Client) *cobra.Command {
	var r enroll.RetryRequest
	var yes bool
	c := &cobra.Command{Use: "retry HOST", Short: "let a failed install go on", Long: retryHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeHosts(daemon),
		RunE: func(c *cobra.Command, args []string) error {
			var s api.Status
			q := newQuestion(c, daemon, args[0], yes)
			q.look()

			// What was confirmed before needs no second confirmation.
			q.unasked = func(p *enroll.Proposal) bool { return len(p.Beyond) == 0 && len(r.Wipe) == 0 }
			err := q.put(api.HostPath(args[0], "/retry"), func(a enroll.Agreement) any {
				r.Agreement = a
				return r
			}, &s)
			if err != nil {
				return err
			}

			fmt.Fprintf(c.OutOrStdout(), "The install of %s goes on. Follow it with: provision watch %s\n", s.Name, s.Name)
			return nil
		}}
	viaFlag(c, &r.Via, "")
	c.Flags().Lookup("via").Usage += " (default: as before)"
	choiceFlag(c, choiceOf("wipe"), &r.Wipe)
	c.Flags().BoolVar(&yes, "yes", false, "do not ask for the host's name")
	return c
}
