package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"provision/hosts"
	"provision/internal/lab"
)

// TestTakeover: a plain Debian with sshd becomes a host, without netboot: its operator logs in by a key and a host key
// that is known, the server goes on by kexec.
func TestTakeover(t *testing.T) {
	t.Parallel()
	const host = "alpha"
	w := newWorld(t, "proxy")
	m := w.machine(host)
	m.DiskFirst = true
	theirs, err := lab.NewKey("debian")
	w.must(err)
	m.Disks[0], err = lab.DebianDisk(w.ctx, lab.CacheDir(), m.Disks[0].Path, lab.DebianOptions{Login: w.login.Public, HostKey: theirs, Serial: "LAB-alpha"}, os.Stderr)
	w.must(err)
	w.on(m)
	_, err = m.Console().Expect(w.ctx, "debian login:")
	w.must(err)
	addr, err := w.router.Lease(w.ctx, m.MAC)
	w.must(err)
	w.dial(addr.String(), theirs.Signer.PublicKey()).Close() // sshd may start after the prompt

	identity := filepath.Join(w.dir, "identity")
	w.must(os.WriteFile(identity, w.login.Private, 0o600))
	said := w.provision("install", host, "--ssh", "root@"+addr.String(), "-i", identity, "--ssh-host-key", strings.TrimSpace(string(theirs.Public)), "--yes")
	if !strings.Contains(said, "runs Debian GNU/Linux") {
		t.Errorf("%s", said)
	}
	w.installed(m, host)
	via := ""
	for _, ev := range w.events(host) {
		if ev.Kind == hosts.EventNetboot {
			via += ev.Message
		}
	}
	if via != "kexec over SSH asked; a boot was offered" {
		t.Errorf("it came by: %s", via)
	}
	w.once(host)
	w.noSecrets(host)
}

// asServer writes the server's own SSH key to a file, for who wants to log in to an installer as it does.
func (w *world) asServer() string {
	w.t.Helper()
	key, err := w.inventory().Secret("-server", "ssh-key")
	w.must(err)
	file := filepath.Join(w.dir, "server-key")
	w.must(os.WriteFile(file, key, 0o600))
	return file
}
