package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"provision/disko"
	"provision/hosts"
	"provision/internal/web"
)

const installHelp = `Take over a machine that runs any Linux with sshd, without netboot: it becomes
HOST of the flake, and loses what is on its disks, as with provision enroll. What will
be lost is shown, and what will be made; nothing happens until the host's name is typed
(or --yes is given). The machine starts the installer's kernel by itself (kexec), at
once; a NixOS installer goes on as it is.

The login is yours: your SSH agent's keys, -i FILE, or a password on a terminal, as
root or as a user with sudo. Then the server's key is added to root's authorized
keys on the machine, and the server does the rest. ~/.ssh/config is not read.

The machine's host key must be in ~/.ssh/known_hosts or /etc/ssh/ssh_known_hosts, or
be given, or is shown to you once to be confirmed. The installed host has a key of
its own.

  provision install bravo --ssh root@192.168.1.20
  provision install bravo --ssh admin@203.0.113.9:2222 -i ~/.ssh/rescue \
    --ssh-host-key SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU`

func installCommand(api *client) *cobra.Command {
	var e enrolment
	var target, hostKey string
	var identities []string
	var yes bool
	c := &cobra.Command{Use: "install HOST --ssh [USER@]ADDRESS[:PORT]", Short: "take over a machine that runs Linux, over SSH", Long: installHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: api.completeHosts,
		RunE: func(c *cobra.Command, args []string) error {
			if target == "" {
				return errUsage{errors.New("install needs --ssh [USER@]ADDRESS[:PORT]; for a machine that netboots, see `provision enroll --help`")}
			}
			login, err := newLogin(c, target, hostKey, identities)
			if err != nil {
				return errUsage{err}
			}
			if err := hosts.CheckName(args[0]); err != nil {
				return err
			}
			if err := e.parse(c); err != nil {
				return err
			}
			e.request.Name = args[0]
			return takeOver(c, api, login, &e, yes)
		}}
	c.Flags().StringVar(&target, "ssh", "", "the machine: [USER@]ADDRESS[:PORT] (default user root, port 22)")
	c.Flags().StringArrayVarP(&identities, "identity", "i", nil, "private key file to log in with (default: the SSH agent's, ~/.ssh/id_ed25519, id_ecdsa, id_rsa)")
	c.Flags().StringVar(&hostKey, "ssh-host-key", "", "the machine's host key: a public key, or its fingerprint SHA256:… (default: known_hosts)")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask for the host's name")
	e.flags(c, string(hosts.ViaKexec))
	return c
}

// newLogin reads the operator's surroundings, as ssh does.
func newLogin(c *cobra.Command, target, hostKey string, identities []string) (*sshLogin, error) {
	l := &sshLogin{hostKey: hostKey, identities: identities, agent: os.Getenv("SSH_AUTH_SOCK"),
		ask: askable(c.InOrStdin(), c.ErrOrStderr())}
	var err error
	if l.user, l.host, l.port, err = parseSSH(target); err != nil {
		return nil, err
	}
	if l.home, err = os.UserHomeDir(); err != nil {
		return nil, err
	}
	l.knownHosts = []string{filepath.Join(l.home, ".ssh/known_hosts"), "/etc/ssh/ssh_known_hosts"}
	return l, l.checkHostKey()
}

// takeOver logs in, looks around, lets the server in, and enrolls the host.
// Nothing is changed on a machine that cannot be taken over.
func takeOver(c *cobra.Command, api *client, login *sshLogin, e *enrolment, yes bool) error {
	ctx := c.Context()
	var server web.Serving
	if err := api.call(ctx, http.MethodGet, "/v1/server", nil, &server); err != nil {
		return err
	}
	m, err := login.connect(ctx)
	if err != nil {
		return err
	}
	defer m.client.Close()
	found, err := m.look(ctx)
	if err != nil {
		return err
	}
	if err := found.usable(login); err != nil {
		return fmt.Errorf("take over %s: %w", login.address(), err)
	}
	what := fmt.Sprintf("%s on %s", found.system(), found.arch)
	if found.installer() {
		what += ", an installer that goes on as it is"
	}
	fmt.Fprintf(c.OutOrStdout(), "%s runs %s. Its host key is %s, %s.\n", login.address(), what, ssh.FingerprintSHA256(m.hostKey), m.how)

	q := newQuestion(c, api, e.request.Name, yes)
	if e.request.Facts, q.unseen = m.disks(ctx, found); q.unseen != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	q.seen = q.unseen == nil
	e.request.MACs, e.request.Arch = found.macs(m.address.Addr()), found.arch
	e.request.Take = &hosts.Takeover{
		Address:   m.address.Addr().String(),
		Port:      int(m.address.Port()),
		HostKey:   string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(m.hostKey))),
		Installer: found.installer(),
	}
	added := false
	q.before = func() error {
		is, err := m.letIn(ctx, found, server.SSHKey)
		added = added || is
		return err
	}
	var s web.Status
	if err := q.put("/v1/hosts", e.agreed, &s); err != nil {
		if added {
			// The context may have ended, and this must be undone all the same.
			err = errors.Join(err, m.letOut(context.WithoutCancel(ctx), found, server.SSHKey))
		}
		return err
	}
	tell(c, s)
	fmt.Fprintf(c.OutOrStdout(), "The server may log in there by root's authorized keys.\n%s. The server goes on now; follow it with: provision watch %s\n", permission(s), s.Name)
	return nil
}

// disks asks the machine for its disks, as disko.Facts. It changes nothing there.
func (m *sshMachine) disks(ctx context.Context, found *surroundings) (json.RawMessage, error) {
	const path = "PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/run/current-system/sw/bin\n"
	out, err := m.script(ctx, found.root(), path+disko.Probe(nil)[2], "") // sh -c SCRIPT
	if err != nil {
		return nil, fmt.Errorf("list the machine's disks: %w", err)
	}
	facts, err := disko.ReadProbe([]byte(out))
	if err == nil {
		_, err = disko.ParseFacts(facts)
	}
	return facts, err
}

// script runs a constant shell script on the machine, as root if asked to,
// with input for its data.
func (m *sshMachine) script(ctx context.Context, root []string, text, input string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, sshCommandLimit, fmt.Errorf("no end within %s", sshCommandLimit))
	defer cancel()
	defer context.AfterFunc(ctx, func() { m.client.Close() })()
	session, err := m.client.NewSession()
	if err != nil {
		return "", fmt.Errorf("open an SSH session: %w", err)
	}
	defer session.Close()
	var out, errOut bytes.Buffer
	session.Stdin, session.Stdout, session.Stderr = strings.NewReader(input), &out, &errOut
	// The login shell may be any; words in single quotes are the same to all.
	command := "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
	if err = session.Run(strings.Join(append(root, "sh", "-c", command), " ")); ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, plain(strings.Join(strings.Fields(errOut.String()), " ")))
	}
	return out.String(), nil
}

// allow adds the line on its stdin to root's authorized keys. Where SELinux
// rules, sshd reads only files that are labelled as such.
const allow = `set -eu
umask 077
line=$(cat)
dir=~root/.ssh
file=$dir/authorized_keys
mkdir -p "$dir"
if [ -e "$file" ] && grep -qxF -e "$line" "$file"; then
	echo there
	exit
fi
if [ -s "$file" ] && [ -n "$(tail -c 1 "$file")" ]; then echo >> "$file"; fi
printf "%s\n" "$line" >> "$file"
if command -v restorecon > /dev/null; then restorecon -R "$dir" || true; fi
echo added`

// disallow takes the line out again.
const disallow = `set -eu
umask 077
line=$(cat)
file=~root/.ssh/authorized_keys
rest=$(grep -vxF -e "$line" "$file" || true)
printf "%s" "${rest:+$rest
}" > "$file"`

// serverLine is the server's key as it stands in authorized_keys.
func serverLine(key string) string {
	return key + " provision: the provisioning server, by `provision install`\n"
}

// letIn lets the server log in as root, and reports whether it could not before.
func (m *sshMachine) letIn(ctx context.Context, found *surroundings, key string) (added bool, err error) {
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(key)); err != nil {
		return false, fmt.Errorf("read the server's SSH key from its answer: %w; is `provision serve` of another version?", err)
	}
	out, err := m.script(ctx, found.root(), allow, serverLine(key))
	if err != nil {
		return false, fmt.Errorf("add the server's key to root's authorized keys on %s: %w", m.address, err)
	}
	return strings.TrimSpace(out) == "added", nil
}

func (m *sshMachine) letOut(ctx context.Context, found *surroundings, key string) error {
	if _, err := m.script(ctx, found.root(), disallow, serverLine(key)); err != nil {
		return fmt.Errorf("take the server's key out of root's authorized keys on %s again: %w; the line ends in `provision install`", m.address, err)
	}
	return nil
}
