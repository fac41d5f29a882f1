package sshlogin

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// world is a real sshd on loopback, and an operator's home.
type world struct {
	t        *testing.T
	dir      string
	port     int
	host     ssh.Signer // sshd's key
	mine     ssh.Signer // which is let in as root
	operator Operator
	asked    []string
	answers  []string
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// write writes a file of the operator's ~/.ssh. HOME and PORT stand for these, and HOSTKEY for sshd's.
func (w *world) write(name, text string) string {
	w.t.Helper()
	path := w.operator.file(name)
	text = strings.NewReplacer("HOME", w.operator.Home, "PORT", strconv.Itoa(w.port), "HOSTKEY", line(w.host.PublicKey())).Replace(text)
	w.must(os.MkdirAll(filepath.Dir(path), 0o700))
	w.must(os.WriteFile(path, []byte(text), 0o600))
	return path
}

// writeKey writes a new private key of the operator's, encrypted if there is a passphrase, and the public one.
func (w *world) writeKey(name, passphrase string) ssh.Signer {
	w.t.Helper()
	private, key := newKey(w.t)
	block, err := ssh.MarshalPrivateKey(private, "")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	w.must(err)
	w.write(name, string(pem.EncodeToMemory(block)))
	w.write(name+".pub", line(key.PublicKey())+" its owner\n")
	return key
}

// newWorld starts sshd. It lets in the key ~/.ssh/mine, and those of allow. prepare may make files in its folder, and
// returns further settings.
func newWorld(t *testing.T, prepare func(*world) string) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("run as root: the sshd under test gets a /run of its own")
	}
	w := &world{t: t, dir: t.TempDir(), operator: Operator{Name: "ada", UID: "0", Home: t.TempDir()}}
	private, host := newKey(t)
	w.host = host
	block, err := ssh.MarshalPrivateKey(private, "")
	w.must(err)
	w.must(os.WriteFile(filepath.Join(w.dir, "host"), pem.EncodeToMemory(block), 0o600))
	w.mine = w.writeKey("mine", "")
	w.allow(w.mine)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	w.port = l.Addr().(*net.TCPAddr).Port
	l.Close()
	more := ""
	if prepare != nil {
		more = prepare(w)
	}
	settings := fmt.Sprintf("Port %d\nListenAddress 127.0.0.1\nHostKey %s/host\nAuthorizedKeysFile %[2]s/authorized_keys\n"+
		"StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPidFile none\n%s\n", w.port, w.dir, more)
	w.must(os.WriteFile(filepath.Join(w.dir, "config"), []byte(settings), 0o600))
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c",
		`mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec /usr/sbin/sshd -D -e -f "$0"`, filepath.Join(w.dir, "config"))
	said, err := cmd.StderrPipe()
	w.must(err)
	w.must(cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // its sshd ends with it
		_ = cmd.Wait()
	})
	up := make([]byte, 4096)
	for text := ""; !strings.Contains(text, "Server listening"); {
		n, err := said.Read(up)
		if err != nil {
			t.Fatalf("sshd: %s: %v", text, err)
		}
		text += string(up[:n])
	}
	go func() {
		for {
			if _, err := said.Read(up); err != nil {
				return
			}
		}
	}()
	w.write("known_hosts", "[127.0.0.1]:PORT HOSTKEY\n")
	return w
}

// allow lets keys in.
func (w *world) allow(keys ...ssh.Signer) {
	w.t.Helper()
	file, err := os.OpenFile(filepath.Join(w.dir, "authorized_keys"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	w.must(err)
	defer file.Close()
	for _, k := range keys {
		_, err := fmt.Fprintln(file, line(k.PublicKey()))
		w.must(err)
	}
}

// agent serves an SSH agent with so many other keys and then those of the files.
func (w *world) agent(others int, files ...string) string {
	w.t.Helper()
	ring := agent.NewKeyring()
	for range others {
		private, _ := newKey(w.t)
		w.must(ring.Add(agent.AddedKey{PrivateKey: private}))
	}
	for _, name := range files {
		data, err := os.ReadFile(w.operator.file(name))
		w.must(err)
		key, err := ssh.ParseRawPrivateKey(data)
		w.must(err)
		w.must(ring.Add(agent.AddedKey{PrivateKey: key}))
	}
	dir, err := os.MkdirTemp("", "agent") // a socket's path has 108 characters at most
	w.must(err)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	w.must(err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = agent.ServeAgent(ring, c) // until the client hangs up
			c.Close()
		}
	}()
	w.t.Cleanup(func() {
		l.Close()
		<-done
		os.RemoveAll(dir)
	})
	return filepath.Join(dir, "s")
}

func (w *world) Line(ctx context.Context, prompt string) (string, error) {
	return w.Secret(ctx, prompt)
}

func (w *world) Secret(_ context.Context, prompt string) (string, error) {
	w.asked = append(w.asked, prompt)
	if len(w.answers) == 0 {
		return "", errors.New("nobody knows")
	}
	answer := w.answers[0]
	w.answers = w.answers[1:]
	return answer, nil
}

// login is the operator's to the sshd.
func (w *world) login(named ...string) *Login {
	l := &Login{Target: Target{Host: "127.0.0.1", Port: w.port}, Operators: []Operator{w.operator}}
	for _, name := range named {
		l.Identities = append(l.Identities, w.operator.file(name))
	}
	return l
}

// gets tries to log in. want is what the error says; "": it works.
func (w *world) gets(want string, l *Login) *Machine {
	w.t.Helper()
	m, err := l.Connect(w.t.Context(), true)
	if err == nil {
		m.Close()
	}
	switch {
	case want == "" && err != nil:
		w.t.Errorf("%v", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		w.t.Errorf("the error is %v, and should say %s", err, want)
	}
	return m
}

// TestAgentAndFiles: sshd takes six tries, and the agent holds more keys than that.
func TestAgentAndFiles(t *testing.T) {
	w := newWorld(t, nil)
	full := w.agent(8, "mine")
	w.operator.Agent = full
	w.gets("Too many authentication failures", w.login())
	w.gets("", w.login("mine"))
	w.gets("", w.login("mine.pub"))
	w.write("config", "Host 127.0.0.1\nIdentityFile HOME/.ssh/mine\n IdentitiesOnly yes\n")
	w.gets("", w.login())
	w.write("config", "Host 127.0.0.1\nIdentityFile %d/.ssh/%r-mine.pub\nIdentitiesOnly yes\n")
	w.write("root-mine.pub", line(w.mine.PublicKey()))
	w.gets("", w.login())

	// The private half is nowhere but in the agent, as with a key on a token.
	w.write("config", "")
	w.must(os.Rename(w.operator.file("mine"), w.operator.file("away")))
	w.gets("", w.login("mine.pub"))
	w.gets("", w.login("mine"))
	w.operator.Agent = ""
	w.gets("does not hold its private half: add it with ssh-add", w.login("mine.pub"))
	w.gets("no such file", w.login("mine"))
	w.must(os.Rename(w.operator.file("away"), w.operator.file("mine")))
	w.gets("", w.login("mine.pub"))

	for setting, want := range map[string]string{
		"IdentityAgent " + w.agent(0, "mine"): "",
		"IdentityAgent none":                  "nothing, for there is no key",
		"IdentityAgent SSH_AUTH_SOCK":         "nothing, for there is no key",
		"IdentityAgent $MY_AGENT":             "",
		"IdentityAgent ${MY_AGENT}":           "",
		"IdentityAgent ${NO_SUCH_VARIABLE}":   "NO_SUCH_VARIABLE is not set",
		"IdentityAgent %q":                    "%q is not known",
		"IdentityAgent ~/nowhere":             w.operator.Home + "/nowhere: connect: no such file",
	} {
		t.Setenv("MY_AGENT", w.agent(0, "mine"))
		w.write("config", setting+"\n")
		w.gets(want, w.login())
	}
	w.write("config", "")

	// A key that this program cannot read, where nobody named it.
	w.write("id_rsa", "nonsense")
	w.gets("id_rsa (not: ", w.login())
	w.gets("no key found", w.login("id_rsa"))
	w.write("config", "IdentityFile none\n")
	w.gets("nothing, for there is no key", w.login())
}

// TestLockedKey: the passphrase is asked for once the machine would take the key, and not at all if the agent has it.
func TestLockedKey(t *testing.T) {
	w := newWorld(t, nil)
	w.allow(w.writeKey("locked", "opensesame"))
	w.gets("encrypted: add it to the SSH agent", w.login("locked"))
	l := w.login("locked")
	l.Ask = w
	w.answers = []string{"wrong", "opensesame"}
	if w.gets("", l); len(w.asked) != 2 || !strings.Contains(w.asked[0], "Passphrase of "+w.operator.file("locked")) {
		t.Errorf("asked: %q", w.asked)
	}
	w.writeKey("stranger", "opensesame")
	l.Identities = []string{w.operator.file("stranger"), w.operator.file("mine")}
	w.asked = nil
	if w.gets("", l); w.asked != nil {
		t.Errorf("asked of a key that is not let in: %q", w.asked)
	}
	data, err := os.ReadFile(w.operator.file("locked"))
	w.must(err)
	raw, err := ssh.ParseRawPrivateKeyWithPassphrase(data, []byte("opensesame"))
	w.must(err)
	block, err := ssh.MarshalPrivateKey(raw, "")
	w.must(err)
	w.write("unlocked", string(pem.EncodeToMemory(block)))
	w.operator.Agent = w.agent(0, "unlocked")
	w.gets("", w.login("locked"))
}

// TestKnownHosts: what is not understood makes no difference, and what weakens the check is not honoured.
func TestKnownHosts(t *testing.T) {
	w := newWorld(t, nil)
	_, other := newKey(t)
	wrong := line(other.PublicKey())
	const unknown = "is not among the known hosts, and nobody is there to ask"
	for name, c := range map[string]struct{ known, config, want string }{
		"lines of other kinds": {known: "garbage\nother.example ssh-mldsa-65 AAAADHNzaC1tbGRzYS02NQ==\ngithub.com ssh-dss AAAAB3NzaC1kc3MAAACBAP\n" +
			"@unheard-of [127.0.0.1]:PORT " + wrong + "\n[127.0.0.1]:PORT ssh-ed25519 AAAA\n[127.0.0.1]:PORT HOSTKEY\n"},
		"nothing but garbage":   {known: "garbage\n", want: unknown},
		"revoked":               {known: "@revoked * HOSTKEY\n[127.0.0.1]:PORT HOSTKEY\n", want: "known_hosts:1 revokes"},
		"another":               {known: "[127.0.0.1]:PORT " + wrong + "\n", want: "known_hosts:1 knows it by " + ssh.FingerprintSHA256(other.PublicKey())},
		"another, and the one":  {known: "[127.0.0.1]:PORT " + wrong + "\n[127.0.0.1]:PORT HOSTKEY\n"},
		"without its port":      {known: "127.0.0.1 HOSTKEY\n"},
		"another, without port": {known: "127.0.0.1 " + wrong + "\n", want: unknown},
		"an authority's":        {known: "@cert-authority * HOSTKEY\n", want: unknown},
		"a pattern":             {known: "*,!10.* HOSTKEY\n"},
		"no checks":             {known: "", config: "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n", want: "config:1: StrictHostKeyChecking no does not hold here"},
		"no checks, and another": {known: "[127.0.0.1]:PORT " + wrong + "\n",
			config: "Match host 127.*\nUserKnownHostsFile /dev/null\nStrictHostKeyChecking off\nNoHostAuthenticationForLocalhost yes\n", want: "somebody may be in between"},
		"no checks, and known": {known: "[127.0.0.1]:PORT HOSTKEY\n", config: "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n"},
		"another file":         {known: "", config: "UserKnownHostsFile HOME/.ssh/lab /dev/null\n"},
		"an alias":             {known: "the-box HOSTKEY\n", config: "HostKeyAlias the-box\n"},
		"an alias of another":  {known: "[127.0.0.1]:PORT HOSTKEY\nthe-box " + wrong + "\n", config: "HostKeyAlias the-box\n", want: "known_hosts:2 knows it by"},
		"a revocation list":    {known: "[127.0.0.1]:PORT HOSTKEY\n", config: "RevokedHostKeys /etc/revoked\n", want: "RevokedHostKeys is not read here"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.write("known_hosts", c.known)
			w.write("config", c.config)
			w.write("lab", "[127.0.0.1]:PORT HOSTKEY\n")
			w.gets(c.want, w.login("mine"))
		})
	}
	w.t = t
	w.write("known_hosts", "")
	w.write("config", "")
	l := w.login("mine")
	l.Ask = w
	w.answers = []string{"yes"}
	w.gets("", l)
	if w.gets("", l); len(w.asked) != 1 { // the second time without a question
		t.Errorf("asked: %q", w.asked)
	}
	w.write("config", "StrictHostKeyChecking yes\n")
	l = w.login("mine")
	l.Ask = w
	w.gets("StrictHostKeyChecking is on", l)
}

// TestCertificates: a host that an authority has signed is known, and so is a user's key with its certificate.
func TestCertificates(t *testing.T) {
	var authority string
	var sign func(args ...string)
	w := newWorld(t, func(w *world) string {
		authority = line(w.writeKey("ca", "").PublicKey())
		sign = func(args ...string) {
			w.t.Helper()
			args = append([]string{"-q", "-s", w.operator.file("ca"), "-I", "id"}, args...)
			if out, err := exec.Command("ssh-keygen", args...).CombinedOutput(); err != nil {
				w.t.Fatalf("%v: %s", err, out)
			}
		}
		host := filepath.Join(w.dir, "host")
		w.must(os.WriteFile(host+".pub", []byte(line(w.host.PublicKey())), 0o600))
		sign("-h", "-n", "127.0.0.1", host+".pub")
		return fmt.Sprintf("HostCertificate %s-cert.pub\nTrustedUserCAKeys %s", host, w.operator.file("ca.pub"))
	})
	const unknown = "is not among the known hosts"
	for known, want := range map[string]string{
		"@cert-authority 127.* " + authority + "\n":                                        "",
		"@cert-authority [127.0.0.1]:PORT " + authority + "\n":                             "",
		"@cert-authority 10.* " + authority + "\n":                                         unknown,
		"@cert-authority * HOSTKEY\n":                                                      unknown,
		"[127.0.0.1]:PORT HOSTKEY\n":                                                       "",
		"@cert-authority 127.* " + authority + "\n@revoked * HOSTKEY\n":                    "known_hosts:2 revokes",
		"@cert-authority 127.* " + authority + "\n@revoked * " + authority + "\n":          "known_hosts:2 revokes",
		"@cert-authority * HOSTKEY\n@cert-authority * " + authority + "\n# nothing else\n": "",
	} {
		w.write("known_hosts", known)
		if m := w.gets(want, w.login("mine")); m != nil && !sameKey(m.HostKey, w.host.PublicKey()) {
			t.Errorf("%s: the host key is %s", known, line(m.HostKey))
		}
	}
	w.write("known_hosts", "@cert-authority * "+authority+"\n")
	w.writeKey("theirs", "")
	w.gets("unable to authenticate", w.login("theirs"))
	sign("-n", "root", w.operator.file("theirs.pub"))
	w.gets("", w.login("theirs"))
	w.operator.Agent = w.agent(8, "theirs")
	w.write("config", "IdentityFile HOME/.ssh/theirs\nIdentitiesOnly yes\n")
	w.gets("", w.login())
}

// TestJump: through other machines, each by its own settings and its own host key.
func TestJump(t *testing.T) {
	w := newWorld(t, nil)
	w.write("known_hosts", "gate,inner HOSTKEY\ntarget HOSTKEY\n")
	config := `
Host target
  HostName 127.0.0.1
  HostKeyAlias target
  Port PORT
  ProxyJump gate
Host two
  HostName 127.0.0.1
  HostKeyAlias target
  Port PORT
  ProxyJump gate,root@inner:PORT
Host gate
  HostName 127.0.0.1
  HostKeyAlias gate
  Port PORT
Host inner
  HostName 127.0.0.1
  HostKeyAlias inner
  ProxyJump round
Host round
  HostName 127.0.0.1
  ProxyJump about
Host about
  HostName 127.0.0.1
  ProxyJump round
Host *
  IdentityFile HOME/.ssh/mine
`
	w.write("config", config)
	l := w.login()
	l.Target = Target{Host: "target"}
	gate := net.JoinHostPort("127.0.0.1", strconv.Itoa(w.port))
	if m := w.gets("", l); m.Jump != gate || m.Address.IsValid() || m.Name() != gate {
		t.Errorf("reached %s through %q at %s", m.Name(), m.Jump, m.Address)
	}
	l.Target = Target{Host: "two"}
	w.gets("", l)
	l.Target = Target{Host: "round"}
	w.gets("does ProxyJump in ~/.ssh/config go in a circle?", l)
	l.Target = Target{Host: "target", Port: 1}
	w.gets("connect to 127.0.0.1:1 through "+gate, l)
	w.write("known_hosts", "target HOSTKEY\n")
	l.Target = Target{Host: "target"}
	w.gets("on the way to 127.0.0.1:"+strconv.Itoa(w.port)+" (ProxyJump, ", l)
	l.HostKey = line(w.host.PublicKey()) // which is the target's
	w.gets("is not among the known hosts", l)

	m, err := l.Connect(t.Context(), false)
	if m != nil || err == nil {
		t.Errorf("%v, %v", m, err)
	}
}

// TestNothingIsRun: no command of the settings, whatever else becomes of them.
func TestNothingIsRun(t *testing.T) {
	w := newWorld(t, nil)
	w.write("config", `
Match exec "touch HOME/ran"
  Port 1
Match !exec "touch HOME/ran"
  Port 1
Host 127.0.0.1
  ProxyCommand touch HOME/ran
  KnownHostsCommand /usr/bin/touch HOME/ran
  PermitLocalCommand yes
  LocalCommand touch HOME/ran
  PKCS11Provider /nowhere.so
  ControlMaster auto
  ControlPath HOME/control
`)
	m := w.gets("", w.login("mine"))
	if _, err := os.Stat(filepath.Join(w.operator.Home, "ran")); err == nil {
		t.Error("a command was run")
	}
	for _, want := range []string{"config:2: Match exec is not run", "config:4: Match exec is not run",
		"config:7: ProxyCommand is not run", "config:11: PKCS11Provider is not loaded"} {
		if !slices.ContainsFunc(m.Notes, func(n string) bool { return strings.Contains(n, want) }) {
			t.Errorf("nobody was told: %s; but %q", want, m.Notes)
		}
	}
	w.write("known_hosts", "")
	w.gets("config:8: KnownHostsCommand is not run", w.login("mine"))
}

// TestSettingsOfOthers: what others can write is not believed, and what cannot be read says where.
func TestSettingsOfOthers(t *testing.T) {
	w := newWorld(t, nil)
	file := w.write("config", "Host 127.0.0.1\nInclude more\n")
	more := w.write("more", "IdentityFile HOME/.ssh/mine\n")
	w.gets("", w.login())
	w.must(os.Chmod(more, 0o620))
	w.gets("chmod go-w "+more, w.login())
	w.must(os.Chmod(more, 0o600))
	w.must(os.Chown(file, 4242, 4242))
	w.gets("belongs to another user (uid 4242)", w.login())
	w.operator.UID = "4242"
	w.gets("", w.login())
	for text, want := range map[string]string{
		"Include more\nPort many\n":             "config:2: Port many",
		"\nUser \"ada\n":                        "config:2: a quote is not closed",
		"Match host\n":                          "config:1: the criterion host of Match needs a pattern",
		"Include config\n":                      "Include goes more than 16 files deep",
		"HostName %p\n":                         "config:1: HostName %p",
		"ProxyJump a:b:c\n":                     "config:1: ProxyJump: a:b:c",
		"IdentityFile ~no-such-user-here/key\n": "config:1: find the home",
	} {
		w.write("config", text)
		l := w.login()
		l.Target.Port = 0
		w.gets(want, l)
	}
}
