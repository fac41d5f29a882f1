package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"provision/hosts"
)

// TestProofs: hosts whose own sshd is not where and what it usually is prove themselves by it, and nothing else does.
func TestProofs(t *testing.T) {
	t.Parallel()
	t.Run("port and persist", testPortAndPersist)
	t.Run("stage 1", testStage1)
}

// testPortAndPersist: sshd listens on another port, and its key and a secret outlast a start on a root that is new each
// time, for they were delivered to where the configuration keeps them.
func testPortAndPersist(t *testing.T) {
	t.Parallel()
	const host, token = "oscar", "of a service"
	w := newWorld(t, "server")
	w.sshPort = 2222
	m := w.machine(host)
	file := filepath.Join(w.dir, "token")
	w.must(os.WriteFile(file, []byte(token), 0o600))
	if said := w.enroll(m, host, "--secret", "/var/lib/app/token="+file); strings.Contains(said, "Warning") {
		t.Errorf("enroll says\n%s", said)
	}
	w.on(m)
	w.waitFor(host, hosts.StateRebooting)
	w.unlock(m, host)
	if text := m.Console().Text(); strings.Contains(text, "made a new host key") {
		t.Fatal("the host did not find its key when it started")
	}
	w.proved(host)

	s := w.status(host)
	if want := fmt.Sprintf("answers at %s port 2222 with its own SSH key", s.Address); !strings.Contains(s.Proof, want) {
		t.Errorf("the proof is %q, want %q", s.Proof, want)
	}
	for command, want := range map[string]string{
		"cat /var/lib/app/token":         token,
		"stat -f -c %T /var/lib /etc":    "tmpfs\ntmpfs",
		"ls /persist/etc/ssh/ssh_host_*": "/persist/etc/ssh/ssh_host_ed25519_key\n/persist/etc/ssh/ssh_host_ed25519_key.pub",
	} {
		if got := w.run(host, command); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
}

// testStage1: sshd in stage 1 that has the port and the key of the system's, and lets the server in, is not taken for
// the system. The host counts as installed once somebody has unlocked its disk there, though the server was killed
// meanwhile.
func testStage1(t *testing.T) {
	t.Parallel()
	const host = "november"
	w := newWorld(t, "server")
	m := w.machine(host)
	said := w.enroll(m, host)
	if strings.Count(said, "Warning") != 1 || !strings.Contains(said, "only a login tells them apart") {
		t.Errorf("enroll says\n%s", said)
	}
	w.on(m)
	waits := w.await(host, "that it waits for its passphrase", func(ev hosts.Event) bool { return ev.Kind == hosts.EventWaits })
	s := w.status(host)
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.HostKey))
	w.must(err)
	sh := w.dial(s.Address, key)
	defer sh.Close()

	w.kill()
	w.start()
	// The server's sessions are told in the log of sshd: one before it was killed, ours, and two after.
	const looked = `until [ $(grep -c "Accepted publickey" /run/sshd.log) -ge 4 ]; do sleep 0.1; done; readlink /run/current-system || true`
	if system, err := sh.Run(w.ctx, looked); err != nil || system != "" {
		t.Fatalf("in stage 1: %q, %v", system, err)
	}
	s = w.status(host)
	if s.State != hosts.StateRebooting || s.Restart.Waits != waits.Address || waits.Address != s.Address {
		t.Errorf("it is %s and waits at %q; it told %q", s.State, s.Restart.Waits, waits.Address)
	}
	if said := w.provision("status"); !strings.Contains(said, "waits for its passphrase at "+s.Address) {
		t.Errorf("status says\n%s", said)
	}

	_, _ = sh.Feed(w.ctx, strings.NewReader(w.passphrase+"\n"), "cryptsetup-askpass") // may end with stage 1
	if _, err := m.Console().Expect(w.ctx, host+" login:"); err != nil {
		t.Fatalf("%s did not come up: %v", host, err)
	}
	w.proved(host)
	told := 0
	for _, ev := range w.events(host) {
		if ev.Kind == hosts.EventWaits && ev.Address != "" {
			told++
		}
	}
	if told != 1 {
		t.Errorf("it told %d times that it waits", told)
	}
	w.noSecrets(host)
}
