package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"provision/hosts"
	"provision/internal/api"
	"provision/internal/sshlogin"
	"provision/internal/takeover"
)

const installHelp = `Take over a machine that runs any Linux with sshd, without netboot: it becomes
HOST of the flake, and loses what is on its disks, as with provision enroll. What will
be lost is shown, and what will be made; nothing happens until the host's name is typed
(or --yes is given). The machine starts the installer's kernel by itself (kexec), at
once; a NixOS installer goes on as it is.

The login is yours: your SSH agent's keys, -i FILE (a public key's file names a key of
the agent), or a password on a terminal, as root or as a user with sudo. Then the
server's key is added to root's authorized keys on the machine, and the server does the
rest. Where the server's key gets in already, nothing is added, and you need no login.

~/.ssh/config and /etc/ssh/ssh_config are read: HostName, Port, User, IdentityFile,
IdentityAgent, IdentitiesOnly, ProxyJump, HostKeyAlias, UserKnownHostsFile, Include, Host
and Match. No command of theirs is run, and nothing there weakens the check of the host
key. Under sudo, the settings, keys and agent are its caller's, and then root's.

The machine's host key must be in the known_hosts files, or be given, or is shown to you
once to be confirmed. The installed host has a key of its own.

The server itself must reach the machine, by the address and without a jump. If the port
is forwarded, as by a router, --post-kexec-port says by which port the server reaches
port 22 of the machine, where the installer will listen.

  provision install bravo --ssh root@192.168.1.20
  provision install bravo --ssh admin@203.0.113.9:2222 -i ~/.ssh/rescue \
    --ssh-host-key SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU`

// installCommand is `provision install`.
func installCommand(daemon *api.Client) *cobra.Command {
	var e enrollment
	var target, hostKey string
	var identities []string
	var yes bool
	var port uint16
	c := &cobra.Command{Use: "install HOST --ssh " +
		"[USER@]ADDRESS[:PORT]", Short: "take over a machine that runs Linux, over SSH", Long: installHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeHosts(daemon),
		RunE: func(c *cobra.Command, args []string) error {
			if target == "" {
				return errUsage{errors.New("install needs --ssh [USER@]ADDRESS[:PORT]; for a machine that " +
					"netboots, see `provision enroll --help`")}
			}
			login, err := newLogin(c, target, hostKey, identities)
			if err != nil {
				return errUsage{err}
			}

			if c.Flags().Changed("post-kexec-port") && port == 0 {
				return errUsage{errors.New("--post-kexec-port 0: ports go from 1 to 65535")}
			}
			if err := hosts.CheckName(args[0]); err != nil {
				return err
			}
			if err := e.parse(c); err != nil {
				return err
			}

			e.request.Name = args[0]
			v := &takeover.Visit{Login: login, Via: e.request.Via}
			v.Take.PostKexecPort = int(port)
			return takeOver(c, daemon, v, &e, yes)
		}}
	c.Flags().StringVar(&target, "ssh", "", "the machine: [USER@]ADDRESS[:PORT] (default: what ~/.ssh/config says, "+
		"else user root, port 22)")
	c.Flags().StringArrayVarP(&identities, "identity", "i", nil, "key file to log in with (default: "+
		"~/.ssh/config's, the SSH agent's, ~/.ssh/id_ed25519, id_ecdsa, id_rsa)")
	c.Flags().StringVar(&hostKey, "ssh-host-key", "", "the machine's host key: a public key, or its fingerprint "+
		"SHA256:… (default: known_hosts)")
	c.Flags().Uint16Var(&port, "post-kexec-port", 0, "by which port of the address the server reaches port 22 of "+
		"the machine, where the installer listens (default 22)")
	group(c, "login", "ssh", "ssh-host-key", "identity", "post-kexec-port")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask for the host's name")
	group(c, "machine", "yes")
	e.flags(c, hosts.ViaKexec)
	return c
}

// newLogin returns the login for the flags, with the operator's own SSH settings and keys.
func newLogin(c *cobra.Command, target, hostKey string, identities []string) (*sshlogin.Login, error) {
	to, err := sshlogin.ParseTarget(target)
	if err != nil {
		return nil, fmt.Errorf("--ssh %w", err)
	}
	if err := sshlogin.CheckHostKey(hostKey); err != nil {
		return nil, fmt.Errorf("--ssh-host-key %w", err)
	}
	operators, err := sshlogin.ThisProcess().Operators()
	if err != nil {
		return nil, err
	}
	l := &sshlogin.Login{Target: to, HostKey: hostKey, Identities: identities, Operators: operators, System: "/etc/ssh"}
	if who := askable(c.InOrStdin(), c.ErrOrStderr()); who != nil {
		l.Ask = who
	}
	return l, nil
}
