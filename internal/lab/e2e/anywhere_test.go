package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"provision/hosts"
	"provision/internal/lab"
)

// TestAnywhereByHand installs a host with nixos-anywhere, with disko's own script, and then with provision, each
// out of an installer that is up, onto the blank disk of a machine of its own, and compares what that takes: until the new
// system is complete (nixos-anywhere says that it reboots, provision that it restarts the machine, which it does with the disks
// closed), and until the machine restarts. .ci/bench says what it needs.
func TestAnywhereByHand(t *testing.T) {
	folder := os.Getenv("PROVISION_NIXOS_ANYWHERE")
	if folder == "" {
		t.Skip("needs $PROVISION_NIXOS_ANYWHERE; .ci/bench says more")
	}
	script := filepath.Join(folder, "src/nixos-anywhere.sh")
	const host = "alpha"
	w := newWorld(t, "server")
	config := w.flake + "#nixosConfigurations." + host + ".config."
	w.nix("build", "--no-link", config+"system.build.toplevel")
	system := w.nix("eval", "--raw", config+"system.build.toplevel")
	strip, err := filepath.Abs("../beside/strip.nix")
	w.must(err)
	layout := filepath.Join(w.dir, "layout.json")
	w.must(os.WriteFile(layout, []byte(w.nix("eval", "--impure", "--json", config+"disko.devices", "--apply", "import "+strip)), 0o644))
	disko, err := w.output(exec.CommandContext(w.ctx, "nix-build", "--no-out-link", "../beside/script.nix",
		"--arg", "disko", os.Getenv("PROVISION_DISKO"), "--arg", "lib", os.Getenv("PROVISION_NIXPKGS_LIB"), "--arg", "layout", layout, "--argstr", "disks", "/dev/vda"))
	w.must(err)

	// Who has the machine's key goes on in an installer whose install was called off before it did anything to the disk.
	m := w.machine(host)
	w.enroll(m, host)
	w.on(m)
	w.await(host, "the installer", func(ev hosts.Event) bool { return ev.Kind == hosts.EventContacted })
	w.provision("cancel", host)
	h, err := w.inventory().Get(host)
	w.must(err)
	theirs, theirRestart := w.anywhere(script, m, h, disko, system)
	w.must(m.PowerOff())
	w.provision("forget", host, "--yes")

	m = w.machine(host)
	w.enroll(m, host)
	w.on(m)
	w.await(host, "the installer", func(ev hosts.Event) bool { return ev.Kind == hosts.EventContacted })
	_, err = m.Console().Expect(w.ctx, restarting)
	ourRestart := time.Now()
	w.must(err)
	if out, err := w.try("wait", host, "--for", "rebooting"); err != nil {
		t.Fatalf("%s\n%s", out, w.provision("logs", host))
	}
	var live, rebooting time.Time
	for _, ev := range w.events(host) {
		switch {
		case ev.Kind == hosts.EventContacted:
			live = ev.Time
		case ev.Kind == hosts.EventRebooted:
			rebooting = ev.Time
		}
	}
	ours := rebooting.Sub(live)
	w.installed(m, host)
	restart := ourRestart.Sub(live)
	t.Logf("from the installer to a complete system: provision %.1f s, nixos-anywhere %.1f s, ratio %.2f; until the machine restarts: %.1f s, %.1f s, ratio %.2f",
		ours.Seconds(), theirs.Seconds(), ours.Seconds()/theirs.Seconds(), restart.Seconds(), theirRestart.Seconds(), restart.Seconds()/theirRestart.Seconds())
}

// restarting is what the kernel says.
const restarting = "reboot: Restarting system"

// anywhere installs a machine by nixos-anywhere's script, and returns how long it took until the script began to reboot the machine, and
// until that restarted.
func (w *world) anywhere(script string, m *lab.Machine, h hosts.Host, disko, system string) (took, restart time.Duration) {
	w.t.Helper()
	key := w.asServer()
	signer, err := os.ReadFile(key)
	w.must(err)
	login, err := ssh.ParsePrivateKey(signer)
	w.must(err)
	pinned, _, _, _, err := ssh.ParseAuthorizedKey([]byte(h.Boot.HostKey))
	w.must(err)
	sh, err := lab.Dial(w.ctx, netip.MustParseAddr(h.Address), pinned, login)
	w.must(err)
	defer sh.Close()
	_, err = sh.Run(w.ctx, "wipefs --all --force /dev/vda && ! findmnt /mnt && udevadm settle")
	w.must(err)

	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Minute) // it tries some things for ever
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", script, "--store-paths", disko, system, "--build-on", "local", "--phases", "disko,install,reboot", "-i", key, "root@"+h.Address)
	cmd.Env = append(lab.NixEnv(), "HOME="+w.t.TempDir())
	out, err := cmd.StdoutPipe()
	w.must(err)
	cmd.Stderr = cmd.Stdout
	begun := time.Now()
	w.must(cmd.Start())
	restarted := make(chan error, 1)
	go func() {
		_, err := m.Console().Expect(ctx, restarting)
		restart = time.Since(begun)
		restarted <- err
	}()
	var said strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		now := time.Since(begun)
		fmt.Fprintf(&said, "%6.1f s  %s\n", now.Seconds(), lines.Text())
		if lines.Text() == "### Rebooting ###" {
			took = now
		}
	}
	if err := errors.Join(cmd.Wait(), <-restarted); err != nil || took == 0 {
		w.t.Fatalf("nixos-anywhere: %v\n%s", err, said.String())
	}
	w.t.Logf("nixos-anywhere:\n%s", said.String())
	return took, restart
}

// nix runs nix as the fleet is built.
func (w *world) nix(args ...string) string {
	w.t.Helper()
	out, err := w.output(exec.CommandContext(w.ctx, "nix", args...))
	w.must(err)
	return out
}

func (w *world) output(cmd *exec.Cmd) (string, error) {
	cmd.Env = w.env()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", cmd, err, stderr.String())
	}
	return strings.TrimSpace(string(out)), err
}
