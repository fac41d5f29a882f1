package e2e

import (
	"os/exec"
	"strings"
	"testing"

	"provision/hosts"
	"provision/internal/lab"
)

// TestInstall: a blank machine on the wire becomes an installed host, for
// each layout, with us as the DHCP server or beside a home router's. Some of
// the installs are disturbed; nobody helps them.
func TestInstall(t *testing.T) {
	for _, tt := range []struct {
		name, mode, host string
		firmware         lab.Firmware
		disturb          func(*world, *lab.Machine)
		check            func(*world)
	}{
		{name: "ext4 server impostor", mode: "server", host: "alpha", disturb: impostor, check: impostorFailed},
		{name: "ext4 proxy", mode: "proxy", host: "alpha"},
		{name: "LUKS-ext4 server kill-9", mode: "server", host: "bravo", disturb: killServer, check: wentOn},
		{name: "LUKS-ext4 proxy power-cut", mode: "proxy", host: "bravo", disturb: cutPower, check: startedOver},
		{name: "LUKS-btrfs-swap server", mode: "server", host: "charlie"},
		{name: "LUKS-btrfs-swap proxy", mode: "proxy", host: "charlie"},
		{name: "LUKS-LVM server", mode: "server", host: "echo"},
		{name: "mirror proxy", mode: "proxy", host: "foxtrot"},
		{name: "BIOS proxy", mode: "proxy", host: "golf", firmware: lab.SeaBIOS},
		{name: "tmpfs server", mode: "server", host: "hotel"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, tt.mode)
			m := w.machine(tt.host)
			m.Firmware = tt.firmware
			w.enroll(m, tt.host)
			w.on(m)
			if tt.disturb != nil {
				tt.disturb(w, m)
			}
			w.installed(m, tt.host)
			if tt.check != nil {
				tt.check(w)
			}
			w.noSecrets(tt.host)
			w.powerCycles(m, tt.host)
		})
	}
}

// killServer kills the server with -9 during the copy and starts it again.
// Who waits for the host goes on waiting.
func killServer(w *world, _ *lab.Machine) {
	waiting := exec.CommandContext(w.ctx, binary(w.t), "wait", "bravo")
	waiting.Env = w.env()
	w.must(waiting.Start())
	w.t.Cleanup(func() {
		if err := waiting.Wait(); err != nil {
			w.t.Errorf("provision wait over a restart of the server: %v", err)
		}
	})
	w.awaitPhase("bravo", hosts.PhaseCopy)
	w.kill()
	w.start()
}

// wentOn: the disks were not made a second time.
func wentOn(w *world) {
	resumed := false
	for _, ev := range w.events("bravo") {
		resumed = resumed || ev.Kind == hosts.Finished && strings.Contains(ev.Message, "before the interruption")
	}
	if s := w.status("bravo"); !resumed || s.Permit.Boots != 1 {
		w.t.Errorf("went on: %v, with %d boots", resumed, s.Permit.Boots)
	}
}

// cutPower switches the machine off in the disk phase and on again.
func cutPower(w *world, m *lab.Machine) {
	w.awaitPhase("bravo", hosts.PhaseDisks)
	w.must(m.PowerOff())
	w.on(m)
}

// startedOver: with a second boot, on the same disk.
func startedOver(w *world) {
	s := w.status("bravo")
	if s.Permit.Boots != 2 || len(s.Permit.Disks) != 1 || s.Permit.Disks[0].Serial != "LAB-bravo" {
		w.t.Errorf("%+v", s.Permit)
	}
}
