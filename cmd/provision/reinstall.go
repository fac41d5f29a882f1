package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"provision/disko"
	"provision/hosts"
	"provision/internal/web"
)

const reinstallHelp = `Erase a host's machine and install it again from the flake as it is now. What
will be lost is shown, and what will be made; nothing happens until the host's name
is typed (or --yes is given). The host keeps its SSH key, so old known_hosts entries
and secrets that are encrypted to it go on working, unless --new-identity is given.

The new system is built first. Then the machine is made to come to its installer:

--via kexec    over SSH, the running kernel starts the installer's; no firmware involved
--via netboot  over SSH, the firmware is told to start from the network once
--via wol      a magic packet switches the machine on; its firmware must try the network first
--via manual   you restart it, from the network
--via auto     kexec where the machine answers SSH and its kernel allows that, else
               netboot; wol where it does not answer

For SSH the host must let this server in (its key is ssh.pub in the server's state
folder) and must show the host key that it proved itself with. Until its disks are
touched, provision cancel leaves all as it was.

  provision reinstall bravo
  provision reinstall bravo --via wol --yes`

func reinstallCommand(api *client) *cobra.Command {
	var e enrolment
	var yes bool
	c := &cobra.Command{Use: "reinstall HOST", Short: "erase a host's machine and install it again", Long: reinstallHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: api.completeHosts,
		RunE: func(c *cobra.Command, args []string) error {
			name, out := args[0], c.OutOrStdout()
			if err := e.parse(c); err != nil {
				return err
			}
			if err := showLoss(c, api, name); err != nil {
				return err
			}
			if !yes {
				if err := confirm(c.InOrStdin(), out, name); err != nil {
					return err
				}
			}
			var s web.Status
			if err := api.call(c.Context(), http.MethodPost, hostPath(name, "/reinstall"), e.request, &s); err != nil {
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
	e.flags(c, string(hosts.ViaAuto))
	c.Flags().BoolVar(&yes, "yes", false, "do not ask for the host's name")
	c.Flags().BoolVar(&e.request.NewIdentity, "new-identity", false, "give the host another SSH host key")
	return c
}

var completeVias = completeWays("auto", "kexec", "netboot", "wol", "manual")

// showLoss shows what is on the host's disks, and what will be.
func showLoss(c *cobra.Command, api *client, name string) error {
	out := c.OutOrStdout()
	if err := api.call(c.Context(), http.MethodGet, hostPath(name, ""), nil, new(web.Status)); err != nil {
		return err
	}
	if err := api.call(c.Context(), http.MethodPost, hostPath(name, "/look"), nil, nil); err != nil {
		fmt.Fprintf(out, "The disks are shown as they were seen last: %v.\n\n", err)
	}
	p := new(disko.Plan)
	if err := api.call(c.Context(), http.MethodGet, hostPath(name, "/plan"), nil, p); err != nil {
		return err
	}
	width, color := terminal(out)
	drawPlan(out, p, width, color)
	for _, d := range p.Disks {
		if d.Erased {
			fmt.Fprintln(out, paint(red, fmt.Sprintf("All that is on %s will be lost.", d), color))
		}
	}
	return nil
}

// confirm has the host's name typed.
func confirm(in io.Reader, out io.Writer, name string) error {
	fmt.Fprintf(out, "Type %s to go on: ", name)
	line, err := bufio.NewReader(in).ReadString('\n')
	switch typed := strings.TrimSpace(line); {
	case typed == name:
		return nil
	case typed == "" && err != nil:
		return errors.New("not confirmed: nothing was changed; type the host's name, or use --yes in scripts")
	default:
		return fmt.Errorf("%q is not %s: nothing was changed", typed, name)
	}
}

const retryHelp = `Let an install that failed go on, under the same permit: the same disks, and a
finished phase is not done twice. A machine whose installer is still up goes on
at once; else it is made to come as before, or as --via says.

  provision retry bravo
  provision retry bravo --via wol`

func retryCommand(api *client) *cobra.Command {
	var r web.RetryRequest
	c := &cobra.Command{Use: "retry HOST", Short: "let a failed install go on", Long: retryHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: api.completeHosts,
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := hosts.ParseVia(r.Via); err != nil {
				return errUsage{err}
			}
			var s web.Status
			if err := api.call(c.Context(), http.MethodPost, hostPath(args[0], "/retry"), r, &s); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "The install of %s goes on. Follow it with: provision watch %s\n", s.Name, s.Name)
			return nil
		}}
	c.Flags().StringVar(&r.Via, "via", "", "how the machine is made to come: auto, kexec, netboot, wol or manual (default: as before)")
	_ = c.RegisterFlagCompletionFunc("via", completeVias)
	wipeFlag(c, &r.Wipe)
	return c
}
