package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"provision/hosts"
	"provision/internal/api"
	"provision/internal/enroll"
)

// secretFlags are the flags for what nobody else may read.
type secretFlags struct {
	diskKeys, escrowTo, secrets, chown []string
	hostKey                            string
}

// add adds the flags to a command.
func (f *secretFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.StringArrayVar(&f.diskKeys, "disk-encryption-key", nil, "REMOTE=LOCAL: the key file that the layout reads "+
		"from REMOTE; LOCAL - asks on a terminal, else reads standard input")
	fl.StringArrayVar(&f.escrowTo, "escrow-to", nil, "make the passphrases that are not given, and keep all for "+
		"whoever has this key: age1..., ssh-ed25519 ..., ssh-rsa ..., or a file of them")
	fl.StringVar(&f.hostKey, "host-key", "", "OpenSSH ed25519 private key that shall be the host's (default: the "+
		"one it has, or a new one)")
	fl.StringArrayVar(&f.secrets, "secret", nil, "PATH=LOCAL[:MODE]: a file of the new system, sealed on the "+
		"server until it is delivered; LOCAL - reads standard input; MODE is 0400 if left out")
	fl.StringArrayVar(&f.chown, "chown", nil, "PATH=UID:GID: owner of a file or folder of the new system, and of "+
		"all below it")
	group(c, "secrets", "escrow-to", "host-key", "secret", "chown")
}

// read puts what the flags name into the request.
func (f *secretFlags) read(c *cobra.Command, r *enroll.Request) (err error) {
	in := &input{Reader: c.InOrStdin(), ask: c.ErrOrStderr(), ctx: c.Context()}
	if r.DiskKeys, err = readDiskKeys(f.diskKeys, in); err != nil {
		return err
	}

	for _, arg := range f.escrowTo {
		to, err := hosts.ReadRecipients(arg)
		if err != nil {
			return fmt.Errorf("--escrow-to: %w", err)
		}
		r.EscrowTo = append(r.EscrowTo, to...)
	}

	if f.hostKey != "" {
		if r.HostKey, err = readLimited(f.hostKey); err == nil {
			_, r.HostKey, err = hosts.ParseHostKey(r.HostKey)
		}
		if err != nil {
			return fmt.Errorf("--host-key %s: %w", f.hostKey, err)
		}
	}

	for _, spec := range f.secrets {
		s, err := readSecret(spec, in)
		if err != nil {
			return err
		}
		r.Secrets = append(r.Secrets, s)
	}

	for _, spec := range f.chown {
		o, err := parseChown(spec)
		if err != nil {
			return err
		}
		r.Chown = append(r.Chown, o)
	}

	return nil
}

// input is standard input, which only one flag can read.
type input struct {
	io.Reader
	ask  io.Writer       // where prompts are written
	ctx  context.Context // cancels prompts
	used bool
}

// all reads standard input to its end, but at most one byte more than max, so that the caller can tell that it is too
// large.
func (in *input) all(flag string, max int64) ([]byte, error) {
	if in.used {
		return nil, errUsage{fmt.Errorf("%s: standard input can be read once only: give one - at most", flag)}
	}
	in.used = true
	return io.ReadAll(io.LimitReader(in.Reader, max+1))
}

// passphrase asks for a passphrase twice on a terminal, without showing it. If standard input is not a terminal, the
// passphrase is everything in it.
func (in *input) passphrase(path string) ([]byte, error) {
	who := askable(in.Reader, in.ask)
	if who == nil {
		return in.all("--disk-encryption-key "+path+"=-", hosts.MaxSecret)
	}
	var typed [2]string
	for i, prompt := range []string{"Passphrase for " + path + ": ", "Again: "} {
		var err error
		if typed[i], err = who.Secret(in.ctx, prompt); err != nil {
			return nil, fmt.Errorf("read the passphrase: %w", err)
		}
	}

	if typed[0] != typed[1] {
		return nil, fmt.Errorf("the two passphrases for %s differ: type the same twice", path)
	}
	return []byte(typed[0]), nil
}

// readDiskKeys reads the values of --disk-encryption-key: contents by path on the installer.
func readDiskKeys(specs []string, in *input) (map[string][]byte, error) {
	keys := make(map[string][]byte)
	for _, spec := range specs {
		remote, local, ok := strings.Cut(spec, "=")
		if !ok || !filepath.IsAbs(remote) || local == "" {
			return nil, errUsage{fmt.Errorf("--disk-encryption-key %s: write REMOTE=LOCAL, such as "+
				"/tmp/disk.key=disk.key", spec)}
		}
		var data []byte
		var err error
		if local == "-" {
			data, err = in.passphrase(remote)
		} else {
			data, err = os.ReadFile(local)
		}
		if err != nil {
			return nil, fmt.Errorf("read the disk encryption key: %w", err)
		}

		keys[remote] = data
	}

	return keys, nil
}

// modeAfter matches LOCAL:MODE.
var modeAfter = regexp.MustCompile(`^(.+):(0?[0-7]{3})$`)

// readSecret reads a value of --secret.
func readSecret(spec string, in *input) (s enroll.Secret, err error) {
	path, local, ok := strings.Cut(spec, "=")
	if !ok || !filepath.IsAbs(path) || local == "" {
		return s, errUsage{fmt.Errorf("--secret %s: write PATH=LOCAL or PATH=LOCAL:MODE, such as "+
			"/var/lib/tailscale.key=tailscale.key:0400", spec)}
	}
	s.Path, s.Mode = path, "0400"
	if m := modeAfter.FindStringSubmatch(local); m != nil {
		local, s.Mode = m[1], m[2]
	}
	if local == "-" {
		s.Content, err = in.all("--secret "+path+"=-", hosts.MaxSecret)
	} else {
		s.Content, err = readLimited(local)
	}
	if err == nil && len(s.Content) > hosts.MaxSecret {
		err = fmt.Errorf("%s is larger than %d bytes; give large files with --extra-files", local, hosts.MaxSecret)
	}
	if err != nil {
		return s, fmt.Errorf("--secret %s: %w", path, err)
	}
	return s, nil
}

// readLimited reads a file, but at most one byte more than a secret may have.
func readLimited(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, hosts.MaxSecret+1))
}

// parseChown reads a value of --chown.
func parseChown(spec string) (o hosts.Chown, err error) {
	path, owner, ok := strings.Cut(spec, "=")
	uid, gid, both := strings.Cut(owner, ":")
	u, uidErr := strconv.ParseUint(uid, 10, 32)
	g, gidErr := strconv.ParseUint(gid, 10, 32)
	if !ok || !both || !filepath.IsAbs(path) || uidErr != nil || gidErr != nil {
		return o, errUsage{fmt.Errorf("--chown %s: write PATH=UID:GID, in numbers, such as /home/ada=1000:100; "+
			"names are not known before the system runs", spec)}
	}
	return hosts.Chown{Path: path, UID: uint32(u), GID: uint32(g)}, nil
}

const hostKeyHelp = `Print the public half of a host's SSH key. It is the host's identity: secrets
that are encrypted to it can be decrypted by that host alone, from its first
start on. agenix takes the key as it is; sops takes the age recipient (--age),
which is the one that ssh-to-age computes.

With --make, a host that is not enrolled yet gets its key now, so that secrets
can be encrypted before there is a machine. Enrolling it takes the key up.

  provision host-key bravo --make --age`

// hostKeyCommand is `provision host-key`.
func hostKeyCommand(daemon *api.Client) *cobra.Command {
	var asAge, make bool
	c := &cobra.Command{Use: "host-key HOST", Short: "print a host's public SSH key, or its age " +
		"recipient", Long: hostKeyHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeHosts(daemon),
		RunE: func(c *cobra.Command, args []string) error {
			method := http.MethodGet
			if make {
				method = http.MethodPost
			}
			var k api.HostKey
			if err := daemon.Call(c.Context(), method, api.HostPath(args[0], "/host-key"), nil, &k); err != nil {
				return err
			}

			if asAge {
				k.HostKey = k.Age
			}
			fmt.Fprintln(c.OutOrStdout(), k.HostKey)
			return nil
		}}
	c.Flags().BoolVar(&asAge, "age", false, "print the X25519 age recipient, as ssh-to-age does")
	c.Flags().BoolVar(&make, "make", false, "make the key if the host has none yet")
	return c
}

const secretsHelp = `Print the disk passphrases of a host that are in escrow (enroll --escrow-to),
each behind the path that the layout reads it from. The server only has them
encrypted to the operators, and hands them out so; they are decrypted here, with
--identity, or with those of ~/.ssh/id_ed25519, ~/.ssh/id_rsa and
~/.config/age/keys.txt that are there. That they were asked for, and by whom, is
an event of the host.

  provision secrets bravo
  provision secrets bravo --armor | age -d -i keys.txt`

// secretsCommand is `provision secrets`.
func secretsCommand(daemon *api.Client) *cobra.Command {
	var identity string
	var armored bool
	c := &cobra.Command{Use: "secrets HOST", Short: "print a host's escrowed disk passphrases", Long: secretsHelp,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeHosts(daemon),
		RunE: func(c *cobra.Command, args []string) error {
			var with []age.Identity
			if !armored {
				var err error // fails before anything is handed out
				if with, err = readIdentities(c, identity); err != nil {
					return err
				}
			}

			var all []hosts.Escrow
			if err := daemon.Call(c.Context(), http.MethodPost, api.HostPath(args[0], "/escrow"), nil, &all); err != nil {
				return err
			}
			return showEscrow(raw(c.OutOrStdout()), all, with)
		}}
	c.Flags().StringVar(&identity, "identity", "", "age identity or SSH private key to decrypt with")
	c.Flags().BoolVar(&armored, "armor", false, "print them as they are, encrypted in age's armor")
	c.MarkFlagsMutuallyExclusive("identity", "armor")
	return c
}

// showEscrow prints the passphrases that the identities can decrypt or, if there are no identities, the encrypted data.
func showEscrow(w io.Writer, all []hosts.Escrow, with []age.Identity) error {
	for _, e := range all {
		if with == nil {
			fmt.Fprint(w, e.Armor)
			continue
		}
		plain, err := hosts.OpenEscrow(e.Armor, with...)
		var none *age.NoIdentityMatchError
		if errors.As(err, &none) {
			return fmt.Errorf("decrypt the passphrase for %s: it is not encrypted to any key that was tried; name "+
				"another with --identity", e.Path)
		}
		if err != nil {
			return fmt.Errorf("decrypt the passphrase for %s: %w", e.Path, err)
		}

		if e.Previous {
			e.Path += " (before it was enrolled anew)"
		}
		fmt.Fprintf(w, "%s\t%s\n", e.Path, bytes.TrimRight(plain, "\n"))
	}

	return nil
}

// readIdentities reads the identities in the named file or, without a name, in the usual files.
func readIdentities(c *cobra.Command, name string) ([]age.Identity, error) {
	in := &input{Reader: c.InOrStdin(), ask: c.ErrOrStderr(), ctx: c.Context()}
	if name != "" {
		return readIdentity(name, in)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, err
	}

	var all []age.Identity
	var tried []string
	for _, rest := range []string{".ssh/id_ed25519", ".ssh/id_rsa", ".config/age/keys.txt"} {
		file := filepath.Join(home, rest)
		tried = append(tried, file)
		ids, err := readIdentity(file, in)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, ids...)
	}

	if len(all) == 0 {
		return nil, fmt.Errorf("there is no key to decrypt with: none of %s is there; name one with --identity FILE", strings.Join(tried, ", "))
	}
	return all, nil
}

// readIdentity reads the age identities or the SSH private key in a file.
func readIdentity(file string, in *input) ([]age.Identity, error) {
	data, err := readLimited(file)
	if err != nil {
		return nil, err
	}

	if !bytes.Contains(data, []byte("-----BEGIN")) {
		ids, err := age.ParseIdentities(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("%s: %w; give an age identity or an SSH private key", file, err)
		}
		return ids, nil
	}

	id, err := agessh.ParseIdentity(data)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		id, err = lockedIdentity(file, data, locked.PublicKey, in)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return []age.Identity{id}, nil
}

// lockedIdentity returns an identity that asks for the key's passphrase when it is needed.
func lockedIdentity(file string, data []byte, public ssh.PublicKey, in *input) (age.Identity, error) {
	if public == nil { // old PEM files do not have the public key
		pub, err := os.ReadFile(file + ".pub")
		if err == nil {
			public, _, _, _, err = ssh.ParseAuthorizedKey(pub)
		}
		if err != nil {
			return nil, fmt.Errorf("it is encrypted, and its public half is needed too: %w", err)
		}
	}

	return agessh.NewEncryptedSSHIdentity(public, data, func() ([]byte, error) {
		who := askable(in.Reader, in.ask)
		if who == nil {
			return nil, errors.New("it is encrypted: run this on a terminal, which asks for its passphrase, or " +
				"give another key with --identity")
		}
		typed, err := who.Secret(in.ctx, "Passphrase of "+file+": ")
		return []byte(typed), err
	})
}
