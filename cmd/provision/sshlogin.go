package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"
)

// sshLogin is how the operator gets into a machine: with their own keys, which
// the server has not, and by a host key that they know.
type sshLogin struct {
	user, host string
	port       int
	identities []string // private key files; nil: those that ssh looks for
	hostKey    string   // authorized_keys form or SHA256:…; empty: known or asked for
	home       string   // the operator's
	agent      string   // socket; empty: none
	knownHosts []string // files
	ask        *person
}

// parseSSH reads [USER@]ADDRESS[:PORT].
func parseSSH(s string) (user, host string, port int, err error) {
	user, host, port = "root", s, 22
	if at := strings.LastIndex(s, "@"); at >= 0 {
		user, host = s[:at], s[at+1:]
	}
	if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		host = ip.String()
	} else if h, p, err := net.SplitHostPort(host); err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return "", "", 0, fmt.Errorf("--ssh %s: ports go from 1 to 65535", s)
		}
		host, port = h, int(n)
	}
	_, notIP := netip.ParseAddr(host)
	if user == "" || host == "" || notIP != nil && strings.ContainsAny(host, " :/[]") || strings.HasPrefix(host, "-") {
		return "", "", 0, fmt.Errorf("--ssh %s: write [USER@]ADDRESS[:PORT], such as root@192.168.1.20", s)
	}
	return user, host, port, nil
}

func (l *sshLogin) address() string { return net.JoinHostPort(l.host, strconv.Itoa(l.port)) }

// checkHostKey refuses what --ssh-host-key cannot mean.
func (l *sshLogin) checkHostKey() error {
	if l.hostKey == "" || fingerprintPattern(l.hostKey) {
		return nil
	}
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(l.hostKey)); err != nil {
		return fmt.Errorf("--ssh-host-key %s: write a public key (ssh-ed25519 AAAA…) or its fingerprint (SHA256:…), as `ssh-keygen -lf` prints it", l.hostKey)
	}
	return nil
}

// fingerprintPattern: SHA256: and 32 bytes in unpadded base64.
func fingerprintPattern(s string) bool {
	hash, ok := strings.CutPrefix(s, "SHA256:")
	return ok && len(hash) == 43
}

// sshMachine is a machine that the operator is logged in to.
type sshMachine struct {
	client  *ssh.Client
	hostKey ssh.PublicKey
	how     string // why the host key is believed
	address netip.AddrPort
}

const (
	sshConnectLimit = 10 * time.Second
	sshHelloLimit   = 20 * time.Second // from there to its host key
	sshCommandLimit = time.Minute
)

// connect logs in.
func (l *sshLogin) connect(ctx context.Context) (*sshMachine, error) {
	tries, err := l.algorithms(ctx)
	if err != nil {
		return nil, err
	}
	auth, err := l.auth(ctx)
	if err != nil {
		return nil, err
	}
	defer auth.close()
	var first error
	for _, algorithms := range tries {
		m, err := l.try(ctx, algorithms, auth)
		if err == nil || !errors.Is(err, errOtherKey) {
			return m, err
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// errOtherKey: the machine has another host key than the given one. It may
// have that one as well, of another type.
var errOtherKey = errors.New("not the given host key")

func (l *sshLogin) dial(ctx context.Context) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: sshConnectLimit}).DialContext(ctx, "tcp", l.address())
	var timeout net.Error
	switch {
	case err == nil || ctx.Err() != nil:
		return conn, err
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("connect to %s: nothing listens there (connection refused): start sshd on the machine, or name its port with --ssh ADDRESS:PORT", l.address())
	case errors.As(err, &timeout) && timeout.Timeout():
		return nil, fmt.Errorf("connect to %s: no answer within %s: is the address right, the machine on, and its firewall open for SSH?", l.address(), sshConnectLimit)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return nil, fmt.Errorf("connect to %s: there is no way to it from here (%w): is the address right, and the machine on?", l.address(), err)
	}
	return nil, fmt.Errorf("connect to %s: %w", l.address(), err)
}

// try connects once, asking for a host key of the given types.
func (l *sshLogin) try(ctx context.Context, algorithms []string, auth *sshAuth) (*sshMachine, error) {
	conn, err := l.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	remote, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		conn.Close()
		return nil, err
	}
	m := &sshMachine{address: netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())}
	var refused error
	// A person may take their time; what answers the port may not.
	conn.SetDeadline(time.Now().Add(sshHelloLimit))
	c, chans, reqs, err := ssh.NewClientConn(conn, l.address(), &ssh.ClientConfig{
		User: l.user, Auth: auth.methods, HostKeyAlgorithms: algorithms,
		HostKeyCallback: func(_ string, remote net.Addr, key ssh.PublicKey) error {
			conn.SetDeadline(time.Time{})
			m.how, refused = l.judge(ctx, remote, key)
			m.hostKey = key
			return refused
		}})
	if err != nil {
		conn.Close()
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case refused != nil:
			return nil, refused
		case m.hostKey != nil:
			return nil, fmt.Errorf("log in as %s on %s: %w; tried: %s; give another key with -i FILE, another user with --ssh USER@ADDRESS, or let one in with `ssh-copy-id %s@%s`", l.user, l.address(), err, auth, l.user, l.host)
		case l.hostKey != "" && noneInCommon(err):
			return nil, fmt.Errorf("connect to %s: it has no host key of the type of --ssh-host-key (%w): %w", l.address(), errOtherKey, err)
		}
		return nil, fmt.Errorf("speak SSH with %s: %w", l.address(), err)
	}
	if !stop() {
		c.Close()
		return nil, ctx.Err()
	}
	m.client = ssh.NewClient(c, chans, reqs)
	return m, nil
}

func noneInCommon(err error) bool {
	var none *ssh.AlgorithmNegotiationError
	return errors.As(err, &none)
}

// keyTypes lists the signature algorithms of host keys by the type of key, in
// the order in which they are asked for.
func keyTypes() [][]string {
	return [][]string{{ssh.KeyAlgoED25519}, {ssh.KeyAlgoECDSA256}, {ssh.KeyAlgoECDSA384}, {ssh.KeyAlgoECDSA521}, {ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}}
}

// algorithmsOf are the signature algorithms of a type of key.
func algorithmsOf(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}

// algorithms are what to ask for in one connection after another: a machine
// has host keys of several types and shows one, so it must be asked for that
// which is known. Of a fingerprint the type is not known.
func (l *sshLogin) algorithms(ctx context.Context) (tries [][]string, err error) {
	if l.hostKey != "" {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(l.hostKey))
		if err != nil { // a fingerprint
			return keyTypes(), nil
		}
		return [][]string{algorithmsOf(key.Type())}, nil
	}
	// A key that nobody has brings to light those that are known.
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	probe, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	known, err := l.known(nil, probe)
	if err != nil {
		return nil, err
	}
	var types []string
	for _, k := range known {
		types = append(types, algorithmsOf(k.Key.Type())...)
	}
	if types == nil {
		types = slices.Concat(keyTypes()...)
	}
	return [][]string{types}, nil
}

// known returns what the known_hosts files hold of the machine: nothing if
// nothing, the key's own entry if it is there, else the others.
func (l *sshLogin) known(remote net.Addr, key ssh.PublicKey) ([]knownhosts.KnownKey, error) {
	var files []string
	for _, f := range l.knownHosts {
		if _, err := os.Stat(f); err == nil {
			files = append(files, f)
		}
	}
	check, err := knownhosts.New(files...)
	if err != nil {
		return nil, fmt.Errorf("read the known hosts: %w; mend that line, or give the key with --ssh-host-key", err)
	}
	if remote == nil {
		remote = &net.TCPAddr{IP: net.IPv4zero, Port: l.port} // counts only without a name
	}
	err = check(l.address(), remote, key)
	var other *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	switch {
	case err == nil:
		return []knownhosts.KnownKey{{Key: key, Filename: strings.Join(files, ", ")}}, nil
	case errors.As(err, &revoked):
		return nil, fmt.Errorf("%s has the host key %s, which %s:%d revokes", l.address(), ssh.FingerprintSHA256(key), revoked.Revoked.Filename, revoked.Revoked.Line)
	case errors.As(err, &other):
		return slices.DeleteFunc(other.Want, ofAuthority), nil
	}
	return nil, fmt.Errorf("look for %s in the known hosts: %w", l.address(), err)
}

// ofAuthority reports whether an entry is a certificate authority's: knownhosts
// lists those among the keys of the host.
func ofAuthority(k knownhosts.KnownKey) bool {
	data, err := os.ReadFile(k.Filename)
	if err != nil {
		return false
	}
	lines := bytes.Split(data, []byte("\n"))
	return k.Line <= len(lines) && bytes.HasPrefix(bytes.TrimSpace(lines[k.Line-1]), []byte("@cert-authority"))
}

// judge says why a host key is believed, or refuses it.
func (l *sshLogin) judge(ctx context.Context, remote net.Addr, key ssh.PublicKey) (how string, err error) {
	print := ssh.FingerprintSHA256(key)
	if l.hostKey != "" {
		want := l.hostKey
		if given, _, _, _, err := ssh.ParseAuthorizedKey([]byte(want)); err == nil {
			want = ssh.FingerprintSHA256(given)
		}
		if want != print {
			return "", fmt.Errorf("%s has the host key %s (%s), and --ssh-host-key is %s: %w; the address may be another machine's, or somebody is in between", l.address(), print, key.Type(), want, errOtherKey)
		}
		return "as given", nil
	}
	known, err := l.known(remote, key)
	if err != nil {
		return "", err
	}
	for _, k := range known {
		if bytes.Equal(k.Key.Marshal(), key.Marshal()) {
			return "known from " + k.Filename, nil
		}
	}
	if len(known) > 0 {
		k := known[0]
		return "", fmt.Errorf("%s has the host key %s (%s), and %s:%d knows it by %s (%s): somebody may be in between; if you know that the key was changed, run `ssh-keygen -R '%s'`, or give the new one with --ssh-host-key %s",
			l.address(), print, key.Type(), k.Filename, k.Line, ssh.FingerprintSHA256(k.Key), k.Key.Type(), knownhosts.Normalize(l.address()), print)
	}
	if l.ask == nil {
		return "", fmt.Errorf("%s is not among the known hosts, and nobody is there to ask; its host key is %s (%s): if that is the machine's own (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on it), add --ssh-host-key %s", l.address(), print, key.Type(), print)
	}
	answer, err := l.ask.line(ctx, fmt.Sprintf("%s is not among the known hosts. Its host key is\n  %s (%s)\nIs that the machine's own? Type yes, or paste the fingerprint: ", l.address(), print, key.Type()))
	if err != nil {
		return "", err
	}
	if answer = strings.TrimSpace(answer); answer != "yes" && answer != print {
		return "", fmt.Errorf("the host key of %s, %s, was not confirmed", l.address(), print)
	}
	return "confirmed by you", nil
}

// sshAuth is what the operator can log in with.
type sshAuth struct {
	methods []ssh.AuthMethod
	tried   []string // for people
	conn    net.Conn // to the agent
}

func (a *sshAuth) String() string {
	if len(a.tried) == 0 {
		return "nothing, for there is no key"
	}
	return strings.Join(a.tried, ", ")
}

func (a *sshAuth) close() {
	if a.conn != nil {
		a.conn.Close()
	}
}

// auth collects the keys: files that were named come before the agent's keys,
// others after them.
func (l *sshLogin) auth(ctx context.Context) (*sshAuth, error) {
	a := &sshAuth{}
	files, err := l.keyFiles(ctx, a)
	if err != nil {
		return nil, err
	}
	keys := files
	if l.agent != "" {
		if held := a.askAgent(ctx, l.agent); len(l.identities) > 0 {
			keys = append(files, held...)
		} else {
			keys = append(held, files...)
		}
	}
	if len(keys) > 0 {
		a.methods = append(a.methods, ssh.PublicKeys(keys...))
	}
	if l.ask != nil {
		a.tried = append(a.tried, "a password")
		a.methods = append(a.methods, l.passwords(ctx)...)
	}
	return a, nil
}

// askAgent returns the keys that the SSH agent holds.
func (a *sshAuth) askAgent(ctx context.Context, socket string) []ssh.Signer {
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
	a.tried = append(a.tried, fmt.Sprintf("the SSH agent's keys (%d)", len(keys)))
	return keys
}

// keyFiles reads the private key files. A file that was named must be there.
func (l *sshLogin) keyFiles(ctx context.Context, a *sshAuth) (keys []ssh.Signer, err error) {
	files := l.identities
	if len(files) == 0 {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			files = append(files, filepath.Join(l.home, ".ssh", name))
		}
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) && len(l.identities) == 0 {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the key: %w", err)
		}
		key, err := l.parseKey(ctx, file, data)
		if errors.Is(err, errLocked) {
			a.tried = append(a.tried, file+" (not, for it is encrypted: add it to the SSH agent, or run this on a terminal)")
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the key %s: %w", file, err)
		}
		keys, a.tried = append(keys, key), append(a.tried, file)
	}
	return keys, nil
}

// errLocked: a key's passphrase is needed, and nobody is there to ask.
var errLocked = errors.New("it is encrypted, and nobody is there to ask for its passphrase")

func (l *sshLogin) parseKey(ctx context.Context, file string, data []byte) (ssh.Signer, error) {
	key, err := ssh.ParsePrivateKey(data)
	var locked *ssh.PassphraseMissingError
	if !errors.As(err, &locked) {
		return key, err
	}
	if l.ask == nil {
		return nil, errLocked
	}
	lazy := &lockedKey{file: file, data: data, public: locked.PublicKey, ask: func() (string, error) {
		return l.ask.secret(ctx, fmt.Sprintf("Passphrase of %s: ", file))
	}}
	if lazy.public == nil { // an old PEM file does not say whose it is
		key, err := lazy.unlock()
		if err != nil {
			return nil, err
		}
		return key, nil
	}
	return lazy, nil
}

// lockedKey asks for its passphrase once a machine would accept it.
type lockedKey struct {
	file   string
	data   []byte
	public ssh.PublicKey
	ask    func() (string, error)
	key    ssh.AlgorithmSigner
}

func (k *lockedKey) PublicKey() ssh.PublicKey { return k.public }

func (k *lockedKey) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(r, data, "")
}

// SignWithAlgorithm is needed for RSA keys, whose plain signature is SHA-1's,
// and refused.
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

func (k *lockedKey) unlock() (ssh.AlgorithmSigner, error) {
	passphrase, err := k.ask()
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKeyWithPassphrase(k.data, []byte(passphrase))
	if err != nil {
		return nil, err
	}
	return key.(ssh.AlgorithmSigner), nil // those that are parsed are
}

// passwords asks on the terminal, as sshd wants to be told.
func (l *sshLogin) passwords(ctx context.Context) []ssh.AuthMethod {
	const tries = 3
	prompt := fmt.Sprintf("Password of %s on %s: ", l.user, l.host)
	return []ssh.AuthMethod{
		ssh.RetryableAuthMethod(ssh.PasswordCallback(func() (string, error) { return l.ask.secret(ctx, prompt) }), tries),
		ssh.RetryableAuthMethod(ssh.KeyboardInteractive(func(_, _ string, questions []string, echos []bool) ([]string, error) {
			answers := make([]string, len(questions))
			for i, q := range questions {
				read := l.ask.secret
				if echos[i] {
					read = l.ask.line
				}
				var err error
				if answers[i], err = read(ctx, plain(q)); err != nil {
					return nil, err
				}
			}
			return answers, nil
		}), tries),
	}
}
