package e2e

import (
	"os/exec"
	"strings"
	"testing"

	"provision/hosts"
)

// TestReinstall: a host is installed again in each way that a machine can be made to come, and keeps its identity
// unless it is told not to.
func TestReinstall(t *testing.T) {
	t.Parallel()
	const host = "alpha"
	w := newWorld(t, "server")
	m := w.machine(host)
	w.bystander(m)
	w.enroll(m, host)
	w.on(m)
	w.installed(m, host)
	first := w.status(host)
	mark := func() { w.run(host, "echo mine >/root/mark; sync") }
	again := func(want string) {
		t.Helper()
		w.installed(m, host)
		if got := w.run(host, "cat /root/mark 2>/dev/null || echo gone"); got != "gone" {
			t.Errorf("%s: the disk was not made anew: %q", want, got)
		}
		summoned := ""
		for _, ev := range w.events(host) {
			if ev.Kind == hosts.EventSummoned {
				summoned = ev.Message
			}
		}
		if !strings.Contains(summoned, want) {
			t.Errorf("it came by %q, want %q", summoned, want)
		}
		mark()
	}

	mark()
	w.notConfirmed(host)
	w.provision("reinstall", host, "--yes", "--via", "manual")
	if s := w.status(host); s.State != hosts.StateReady {
		t.Errorf("%+v", s)
	}
	w.provision("cancel", host)
	if s := w.status(host); s.State != hosts.StateInstalled || s.System != first.System || s.Error != "" {
		t.Errorf("after the cancel of a reinstall: %+v", s)
	}

	// By the firmware's order, which has the network first.
	w.provision("reinstall", host, "--yes", "--via", "manual", "--new-identity")
	w.must(m.PowerOff())
	w.on(m)
	again("switch the machine on")
	renewed := w.status(host)
	if renewed.HostKey == first.HostKey {
		t.Error("a new identity is the old one")
	}

	// Over SSH. This system puts its disk first in the firmware's order.
	w.fleet.EFIEntry = "first"
	w.writeFleet()
	shown := w.provision("reinstall", host, "--yes", "--via", "kexec")
	t.Logf("%s", shown)
	for _, part := range []string{"lost", "ext4", "All that is on /dev/vda"} {
		if !strings.Contains(shown, part) {
			t.Errorf("what is lost is not shown (%s):\n%s", part, shown)
		}
	}
	again("kexec: sent")

	w.provision("reinstall", host, "--yes", "--via", "netboot")
	again("BootNext is")
	if s := w.status(host); s.HostKey != renewed.HostKey {
		t.Errorf("the identity changed from %s to %s", renewed.HostKey, s.HostKey)
	}
	w.noSecrets(host)
}

// notConfirmed: who types another name changes nothing.
func (w *world) notConfirmed(host string) {
	w.t.Helper()
	before := w.status(host)
	cmd := exec.CommandContext(w.ctx, binary(w.t), "reinstall", host)
	cmd.Env = w.env()
	cmd.Stdin = strings.NewReader("bravo\n")
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), `"bravo" is not alpha: nothing was changed`) {
		w.t.Errorf("the wrong name was typed: %v\n%s", err, out)
	}
	if after := w.status(host); after.State != hosts.StateInstalled || after.Event != before.Event {
		w.t.Errorf("it is %s after a wrong name", after.State)
	}
}
