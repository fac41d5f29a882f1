package sshlogin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// authFlow is what can be used to log in.
type authFlow struct {
	methods []ssh.AuthMethod
	tried   []string // what was tried, for people
	conn    net.Conn // to the agent
}

// String lists what was tried, for people.
func (a *authFlow) String() string {
	if len(a.tried) == 0 {
		return "nothing, for there is no key"
	}
	return strings.Join(a.tried, ", ")
}

func (a *authFlow) close() {
	if a.conn != nil {
		a.conn.Close()
	}
}

// auth collects the ways to log in. Key files that were named come before the agent's keys, and others after them,
// since sshd accepts only about six attempts and an agent may have more keys than that.
func (c *connection) auth(ctx context.Context) (*authFlow, error) {
	a := new(authFlow)
	var loaded []ssh.Signer
	if c.settings.agent != "" {
		loaded = a.askAgent(ctx, c.settings.agent)
	}
	files, err := c.keyFiles(ctx, a, loaded)
	if err != nil {
		a.close()
		return nil, err
	}

	named := len(c.Identities) > 0 && c.primary || c.settings.only
	others := slices.DeleteFunc(slices.Clone(loaded), func(k ssh.Signer) bool { return find(files, k.PublicKey()) != nil })
	keys := slices.Concat(others, files)
	switch {
	case c.settings.only:
		keys = files
	case named:
		keys = slices.Concat(files, others)
	}

	if len(others) > 0 && !c.settings.only {
		a.tried = append(a.tried, fmt.Sprintf("the SSH agent's keys (%d)", len(others)))
	}
	if len(keys) > 0 {
		a.methods = append(a.methods, ssh.PublicKeys(keys...))
	}
	if c.Ask != nil && c.passwords {
		a.tried = append(a.tried, "a password")
		a.methods = append(a.methods, c.askPassword(ctx)...)
	}
	return a, nil
}

// askAgent returns the keys of the SSH agent; none, with a note in tried, if it cannot be asked.
func (a *authFlow) askAgent(ctx context.Context, socket string) []ssh.Signer {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		a.tried = append(a.tried, fmt.Sprintf("the SSH agent (%v)", err))
		return nil
	}
	a.conn = conn
	keys, err := agent.NewClient(conn).Signers()
	if err != nil {
		a.tried = append(a.tried, fmt.Sprintf("the SSH agent (%v)", err))
		return nil
	}
	return keys
}

// find returns the key with this public half; nil if it is not among keys.
func find(keys []ssh.Signer, public ssh.PublicKey) ssh.Signer {
	i := slices.IndexFunc(keys, func(k ssh.Signer) bool { return sameKey(k.PublicKey(), public) })
	if i < 0 {
		return nil
	}
	return keys[i]
}

// keyFiles reads the key files. It is an error if a file that the operator named does not exist or is not a key.
func (c *connection) keyFiles(ctx context.Context, a *authFlow, loaded []ssh.Signer) (keys []ssh.Signer, err error) {
	for _, id := range c.settings.identities {
		key, err := c.readKey(ctx, id.file, loaded)
		switch {
		case err == nil:
			keys = append(append(keys, certified(id.file, key)...), key)
			a.tried = append(a.tried, id.file)
		case errors.Is(err, errLocked):
			a.tried = append(a.tried, id.file+" (not, for it is encrypted: add it to the SSH agent, or run this on "+
				"a terminal)")
		case id.named:
			return nil, fmt.Errorf("read the key %s: %w", id.file, err)
		case !errors.Is(err, fs.ErrNotExist):
			a.tried = append(a.tried, fmt.Sprintf("%s (not: %v)", id.file, err))
		}
	}

	return keys, nil
}

// errLocked means that a passphrase is needed and nobody can be asked for it.
var errLocked = errors.New("it is encrypted, and nobody is there to ask for its passphrase")

// readKey reads the key in a file. If the file is a public key, the private half comes from the agent, or from the file
// without .pub. Keys that the agent has need no passphrase.
func (c *connection) readKey(ctx context.Context, file string, loaded []ssh.Signer) (ssh.Signer, error) {
	data, err := os.ReadFile(file)
	if err == nil {
		if public, _, _, _, notPublic := ssh.ParseAuthorizedKey(data); notPublic == nil {
			return c.readPublic(ctx, file, public, loaded)
		}
	}

	if public := publicHalf(file); public != nil {
		if key := find(loaded, public); key != nil {
			return key, nil
		}
	}
	if err != nil {
		return nil, err
	}

	key, err := c.parseKey(ctx, file, data)
	if err != nil {
		return nil, err
	}

	if same := find(loaded, key.PublicKey()); same != nil {
		return same, nil
	}
	return key, nil
}

// readPublic finds the private half of a public key.
func (c *connection) readPublic(ctx context.Context, file string, public ssh.PublicKey,
	loaded []ssh.Signer) (ssh.Signer, error) {
	if key := find(loaded, public); key != nil {
		return key, nil
	}
	private, is := strings.CutSuffix(file, ".pub")
	data, err := os.ReadFile(private)
	if !is || err != nil {
		return nil, errors.New("it is a public key, and the SSH agent does not hold its private half: add it with " +
			"ssh-add, or name the private key's file")
	}
	return c.parseKey(ctx, private, data)
}

// publicHalf reads the public key in FILE.pub; nil if there is none.
func publicHalf(file string) ssh.PublicKey {
	data, err := os.ReadFile(file + ".pub")
	if err != nil {
		return nil
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		return nil
	}
	return public
}

// certified returns the key with its certificate from FILE-cert.pub; none if there is no certificate for it.
func certified(file string, key ssh.Signer) []ssh.Signer {
	cert, is := publicHalf(strings.TrimSuffix(file, ".pub") + "-cert").(*ssh.Certificate)
	if !is {
		return nil
	}
	signer, err := ssh.NewCertSigner(cert, key)
	if err != nil { // it is for another key
		return nil
	}
	return []ssh.Signer{signer}
}

// parseKey parses a private key. If that is encrypted, the result asks for the passphrase when it is used.
func (c *connection) parseKey(ctx context.Context, file string, data []byte) (ssh.Signer, error) {
	key, err := ssh.ParsePrivateKey(data)
	var locked *ssh.PassphraseMissingError
	if !errors.As(err, &locked) {
		return key, err
	}
	lazy := &lockedKey{file: file, data: data, public: locked.PublicKey}
	if lazy.public == nil { // old PEM files do not have the public key
		lazy.public = publicHalf(file)
	}
	if c.Ask == nil {
		return nil, errLocked
	}
	lazy.ask = func() (string, error) { return c.Ask.Secret(ctx, fmt.Sprintf("Passphrase of %s: ", file)) }
	if lazy.public == nil {
		return lazy.unlock()
	}
	return lazy, nil
}

// lockedKey is an encrypted private key that asks for its passphrase only when a machine would accept it.
type lockedKey struct {
	file   string
	data   []byte
	public ssh.PublicKey // the public half
	ask    func() (string, error)
	key    ssh.AlgorithmSigner // nil until it is unlocked
}

// PublicKey implements [ssh.Signer].
func (k *lockedKey) PublicKey() ssh.PublicKey { return k.public }

// Sign implements [ssh.Signer].
func (k *lockedKey) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(r, data, "")
}

// SignWithAlgorithm implements [ssh.AlgorithmSigner]. RSA keys need it, as Sign would use SHA-1, which is refused.
func (k *lockedKey) SignWithAlgorithm(r io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	if k.key == nil {
		key, err := k.unlock()
		if err != nil {
			return nil, fmt.Errorf("open the key %s: %w", k.file, err)
		}
		k.key = key
	}
	return k.key.SignWithAlgorithm(r, data, algorithm)
}

// tries is how often a passphrase or a password may be typed, as in ssh.
const tries = 3

// unlock asks for the passphrase, and returns the private key.
func (k *lockedKey) unlock() (key ssh.AlgorithmSigner, err error) {
	for range tries {
		passphrase, asked := k.ask()
		if asked != nil {
			return nil, asked
		}
		var opened ssh.Signer
		if opened, err = ssh.ParsePrivateKeyWithPassphrase(k.data, []byte(passphrase)); err == nil {
			return opened.(ssh.AlgorithmSigner), nil // all parsed keys have this type
		}
	}
	return nil, err
}

// askPassword returns authentication methods that ask on the terminal: for a password, and for whatever sshd asks
// (keyboard-interactive).
func (c *connection) askPassword(ctx context.Context) []ssh.AuthMethod {
	prompt := fmt.Sprintf("Password of %s on %s: ", c.settings.user, c.settings.host)
	return []ssh.AuthMethod{
		ssh.RetryableAuthMethod(ssh.PasswordCallback(func() (string, error) { return c.Ask.Secret(ctx, prompt) }), tries),
		ssh.RetryableAuthMethod(ssh.KeyboardInteractive(func(_, _ string, questions []string,
			echos []bool) ([]string, error) {
			answers := make([]string, len(questions))
			for i, q := range questions {
				read := c.Ask.Secret
				if echos[i] {
					read = c.Ask.Line
				}
				var err error
				if answers[i], err = read(ctx, q); err != nil {
					return nil, err
				}
			}

			return answers, nil
		}), tries),
	}
}
