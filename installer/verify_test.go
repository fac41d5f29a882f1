package installer

import (
	"crypto/rand"
	"crypto/rsa"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"provision/hosts"
	"provision/internal/store"
)

const (
	built   = "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-nixos-system-bravo"
	another = "/nix/store/bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb-nixos-system-bravo"
)

// restarted is a host whose machine was told to start from its disk.
type restarted struct {
	*reconciler
	t        *testing.T
	clock    time.Time
	addr     string
	own      ssh.Signer // the host's key
	installs ssh.Signer // the installer's
	runs     string     // a file: what readlink says
}

func newRestarted(t *testing.T, e hosts.Expected, o hosts.Choices) *restarted {
	t.Helper()
	dir := t.TempDir()
	r := &restarted{t: t, clock: time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC), addr: loopback(), installs: newSigner(t), runs: filepath.Join(dir, "runs")}
	pretend(t, map[string]string{"readlink": "cat " + r.runs, "reboot": "echo >>" + dir + "/rebooted"})
	db, err := store.OpenBolt(filepath.Join(dir, "state.db"))
	r.must(err)
	t.Cleanup(func() { db.Close() })
	vault, err := hosts.OpenVault(filepath.Join(dir, "key"))
	r.must(err)
	inv, err := hosts.New(db, vault, func() time.Time { return r.clock })
	r.must(err)
	o.Image = "lab"
	h, err := inv.Enroll(hosts.Host{Name: "bravo", MACs: []string{theMAC}, Arch: "x86_64", Choices: o}, time.Hour, nil)
	r.must(err)
	private, err := inv.Secret("bravo", hosts.SecretHostKey)
	r.must(err)
	r.own, err = ssh.ParsePrivateKey(private)
	r.must(err)
	h, err = inv.BeginBoot("bravo", hosts.Boot{HostKey: strings.TrimSpace(authorizedKey(r.installs)), Expires: r.clock.Add(time.Hour)}, "")
	r.must(err)
	boot := h.Boot
	for _, ev := range []hosts.Event{{Kind: hosts.EventBuilt, System: built, Expected: &e}, {Kind: hosts.EventContacted, Boot: &boot, Address: r.addr},
		{Kind: hosts.EventBurned, Disks: []hosts.Disk{{Device: "/dev/vda"}}}, {Kind: hosts.EventRebooted}} {
		_, err := inv.Apply("bravo", ev)
		r.must(err)
	}
	r.reconciler = &reconciler{name: "bravo", Installer: &Installer{Hosts: inv, Now: func() time.Time { return r.clock }, Log: slog.New(slog.DiscardHandler), signer: newSigner(t)}}
	return r
}

func (r *restarted) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// serves has an SSH server answer at a port until stop.
func (r *restarted) serves(port int, admit bool, keys ...ssh.Signer) (stop func()) {
	r.t.Helper()
	_, stop = listenSSH(r.t, r.addr, port, admit, keys...)
	return stop
}

// system is what the machine says that it runs; empty: nothing does.
func (r *restarted) system(path string) {
	r.must(os.WriteFile(r.runs, []byte(path+"\n"), 0o600))
}

// look has the machine looked at, after a while.
func (r *restarted) look(after time.Duration) hosts.Host {
	r.t.Helper()
	r.clock = r.clock.Add(after)
	h, err := r.Hosts.Get("bravo")
	r.must(err)
	r.reconcile(r.t.Context(), h)
	h, err = r.Hosts.Get("bravo")
	r.must(err)
	return h
}

// is complains of a host that is not as it should be.
func (r *restarted) is(h hosts.Host, state hosts.State, waits, proof string) {
	r.t.Helper()
	if h.State != state || h.Restart.Waits != waits || !strings.Contains(h.Installed.Proof, proof) || (proof == "") != (h.Installed.Proof == "") {
		r.t.Errorf("it is %s (%s), waits at %q, proof %q; want %s, %q, %q", h.State, h.Error, h.Restart.Waits, h.Installed.Proof, state, waits, proof)
	}
}

func (r *restarted) told(kind hosts.Kind) (messages []string) {
	r.t.Helper()
	events, err := r.Hosts.Events("bravo", 0)
	r.must(err)
	for _, ev := range events {
		if ev.Kind == kind {
			messages = append(messages, ev.Message)
		}
	}
	return messages
}

func newRSA(t *testing.T) ssh.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestOtherPort: the host is looked for where the flake, or the operator, says that it listens, and is taken over there
// when it is installed again.
func TestOtherPort(t *testing.T) {
	for name, o := range map[string]hosts.Choices{"by the flake": {}, "by the operator": {Proof: "ssh:2222"}} {
		expected := hosts.Expected{Ports: []int{2022, 2222}}
		if o.Proof != "" {
			expected.Ports = []int{22}
		}
		r := newRestarted(t, expected, o)
		r.system(built)
		r.serves(22, true, newSigner(t)) // of another program
		if r.is(r.look(0), hosts.StateRebooting, "", ""); len(r.told(hosts.EventNote)) > 0 {
			t.Errorf("%s: %s", name, r.told(hosts.EventNote))
		}
		r.serves(2222, true, r.own)
		h := r.look(time.Second)
		r.is(h, hosts.StateInstalled, "", "answers at "+r.addr+" port 2222 with its own SSH key and runs "+built)
		again, err := r.Hosts.Reinstall(h, time.Hour, nil, false)
		if err != nil || again.Permit.Take == nil || again.Permit.Take.Port != 2222 {
			t.Errorf("%s: it is to be taken over by %+v, %v", name, again.Permit.Take, err)
		}
	}
}

// TestStage1WithOwnKey: sshd in stage 1 that has the host's key and port is not the system: a login tells.
func TestStage1WithOwnKey(t *testing.T) {
	r := newRestarted(t, hosts.Expected{Ports: []int{22}, Stage1: hosts.Stage1{Network: true, Port: 22, OwnKey: true}}, hosts.Choices{})
	stop := r.serves(22, true, r.own)
	r.system("/run/current-system") // as readlink -f says it of a link that is not there
	r.is(r.look(0), hosts.StateRebooting, r.addr, "")
	r.reconciler = &reconciler{name: "bravo", Installer: r.Installer} // the server starts anew
	r.is(r.look(5*time.Hour), hosts.StateRebooting, r.addr, "")
	if told := r.told(hosts.EventWaits); len(told) != 1 || told[0] != "waits for its passphrase at "+r.addr {
		t.Errorf("told %q", told)
	}
	stop()
	r.look(time.Second)
	r.is(r.look(time.Minute), hosts.StateRebooting, "", "") // it was unlocked
	r.is(r.look(RebootWithin-time.Minute), hosts.StateRebooting, "", "")
	if h := r.look(2 * time.Minute); h.State != hosts.StateFailed {
		t.Errorf("an hour after it was unlocked it is %s", h.State)
	}
	r.serves(22, true, r.own)
	r.system(built)
	r.is(r.look(time.Minute), hosts.StateInstalled, "", "runs "+built)
}

// TestStage1WithoutLogin: where neither lets this server in, a key that only the system has tells, or that it asked for
// an address as a system does.
func TestStage1WithoutLogin(t *testing.T) {
	stage1 := hosts.Stage1{Network: true, Port: 22, OwnKey: true, SystemKey: ssh.KeyAlgoRSA}
	r := newRestarted(t, hosts.Expected{Stage1: stage1}, hosts.Choices{})
	stop := r.serves(22, false, r.own)
	r.is(r.look(0), hosts.StateRebooting, r.addr, "")
	stop()
	r.serves(22, false, r.own, newRSA(t))
	r.is(r.look(time.Minute), hosts.StateInstalled, "", "it lets this server not log in, so the system it runs was not compared")

	stage1.SystemKey = ""
	r = newRestarted(t, hosts.Expected{Stage1: stage1}, hosts.Choices{})
	r.serves(22, false, r.own)
	r.is(r.look(0), hosts.StateRebooting, r.addr, "")
	r.is(r.look(5*time.Hour), hosts.StateRebooting, r.addr, "")
	if told := r.told(hosts.EventWaits); len(told) != 1 || !strings.Contains(told[0], "may be its stage 1") {
		t.Errorf("told %q", told)
	}
	_, err := r.Hosts.Apply("bravo", hosts.Event{Kind: hosts.EventSeen, Message: "it asked"})
	r.must(err)
	r.is(r.look(time.Minute), hosts.StateInstalled, "", "with its own SSH key")
}

// TestStage1Apart: sshd in stage 1 with a key or a port of its own, and one that no configuration tells of.
func TestStage1Apart(t *testing.T) {
	for name, port := range map[string]int{"same port": 22, "other port": 2222} {
		r := newRestarted(t, hosts.Expected{Ports: []int{22}, Stage1: hosts.Stage1{Network: true, Port: port}}, hosts.Choices{})
		stop := r.serves(port, true, newSigner(t))
		h := r.look(0)
		if r.is(h, hosts.StateRebooting, sshAnswer{addr: r.addr, port: port}.at(), ""); len(r.told(hosts.EventNote)) > 0 {
			t.Errorf("%s: %s", name, r.told(hosts.EventNote))
		}
		stop()
		r.serves(22, false, r.own)
		r.is(r.look(time.Minute), hosts.StateInstalled, "", "with its own SSH key")
	}
	r := newRestarted(t, hosts.Expected{Ports: []int{22}}, hosts.Choices{})
	r.serves(22, true, r.own)
	r.system("/run/current-system")
	r.is(r.look(0), hosts.StateRebooting, "", "")
	r.is(r.look(10*time.Minute), hosts.StateRebooting, "", "")
}

// TestOtherSystem: a host that runs another system is asked again before it has failed, and after.
func TestOtherSystem(t *testing.T) {
	r := newRestarted(t, hosts.Expected{}, hosts.Choices{})
	r.serves(22, true, r.own)
	r.system(another)
	r.is(r.look(0), hosts.StateRebooting, "", "")
	r.is(r.look(otherFor-time.Second), hosts.StateRebooting, "", "")
	if h := r.look(time.Second); h.State != hosts.StateFailed || !strings.Contains(h.Error, "runs "+another+", not "+built) {
		t.Errorf("%s: %s", h.State, h.Error)
	}
	r.system(built)
	r.is(r.look(time.Minute), hosts.StateInstalled, "", "runs "+built)
}

// TestMute: a host that lets us in and cannot say what it runs has proved itself by its key, after a while.
func TestMute(t *testing.T) {
	r := newRestarted(t, hosts.Expected{}, hosts.Choices{})
	pretend(t, map[string]string{"sh": "echo nope; exit 1"})
	r.serves(22, true, r.own)
	r.is(r.look(0), hosts.StateRebooting, "", "")
	r.is(r.look(muteFor), hosts.StateInstalled, "", "it does not say what it runs")
}

// TestLoginBreaksOff: a host that breaks off the login, as a busy one may, has not refused it, and is asked again. One
// that always does has proved itself by its key.
func TestLoginBreaksOff(t *testing.T) {
	r := newRestarted(t, hosts.Expected{}, hosts.Choices{})
	l, err := net.Listen("tcp", r.addr+":22")
	r.must(err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
				return nil, c.Close()
			}}
			config.AddHostKey(r.own)
			go ssh.NewServerConn(c, config)
		}
	}()
	r.is(r.look(0), hosts.StateRebooting, "", "")
	r.is(r.look(muteFor), hosts.StateInstalled, "", "its login breaks off")
}

// TestNoisyRoot: what root's start-up files print is not the system that runs.
func TestNoisyRoot(t *testing.T) {
	r := newRestarted(t, hosts.Expected{}, hosts.Choices{})
	noisy(t, nil)
	r.serves(22, true, r.own)
	r.system(built)
	r.is(r.look(0), hosts.StateInstalled, "", "runs "+built)
}

// TestProofNone: the machine must have left the installer, and that is all.
func TestProofNone(t *testing.T) {
	r := newRestarted(t, hosts.Expected{Ports: []int{2222}}, hosts.Choices{Proof: hosts.ProofNone})
	stop := r.serves(22, true, r.installs)
	r.look(0)
	r.is(r.look(time.Minute), hosts.StateRebooting, "", "")
	if _, err := os.Stat(filepath.Join(filepath.Dir(r.runs), "rebooted")); err != nil {
		t.Errorf("the installer was not restarted: %v", err)
	}
	stop()
	r.is(r.look(time.Second), hosts.StateRebooting, "", "")
	r.is(r.look(awayFor), hosts.StateInstalled, "", "nothing was proved")
}

// TestProofSeen: a sighting, or any SSH server on the machine that is neither its installer's nor its stage 1's.
func TestProofSeen(t *testing.T) {
	expected := hosts.Expected{Ports: []int{22}, Stage1: hosts.Stage1{Network: true, Port: 2222}}
	r := newRestarted(t, expected, hosts.Choices{Proof: hosts.ProofSeen})
	r.look(0)
	r.is(r.look(awayFor), hosts.StateRebooting, "", "")
	_, err := r.Hosts.Apply("bravo", hosts.Event{Kind: hosts.EventSeen, Message: "it asked for an address"})
	r.must(err)
	r.is(r.look(time.Second), hosts.StateInstalled, "", "seen: it asked for an address")

	r = newRestarted(t, expected, hosts.Choices{Proof: hosts.ProofSeen})
	stop := r.serves(2222, true, newSigner(t))
	r.look(0)
	r.is(r.look(time.Minute), hosts.StateRebooting, r.addr+" port 2222", "")
	stop()
	r.serves(22, true, newRSA(t)) // it has no key of the host's type
	r.is(r.look(time.Minute), hosts.StateInstalled, "", "seen: an SSH server answers at "+r.addr)

	r = newRestarted(t, expected, hosts.Choices{})
	r.serves(22, true, newRSA(t))
	r.look(0)
	r.is(r.look(time.Minute), hosts.StateRebooting, "", "")
	if told := r.told(hosts.EventNote); len(told) != 1 || !strings.Contains(told[0], "not believed") {
		t.Errorf("told %q", told)
	}
}

// TestComesBack: a machine that comes back to the network again and again has failed, long before the hour is over.
func TestComesBack(t *testing.T) {
	r := newRestarted(t, hosts.Expected{}, hosts.Choices{Proof: hosts.ProofNone})
	r.look(0)
	for n := 2; n <= maxReturns; n++ {
		_, err := r.Hosts.Apply("bravo", hosts.Event{Kind: hosts.EventReturned, Count: n})
		r.must(err)
		want := hosts.StateRebooting
		if n == maxReturns {
			want = hosts.StateFailed
		}
		r.is(r.look(time.Minute), want, "", "")
	}
}
