package e2e

import (
	"strings"
	"testing"

	"provision/hosts"
)

// TestInstall: a blank machine on the wire becomes an installed host, for
// each layout, with us as the DHCP server and beside a home router's.
func TestInstall(t *testing.T) {
	for _, mode := range []string{"server", "proxy"} {
		for _, host := range []string{"alpha", "bravo", "charlie"} {
			t.Run(mode+"/"+host, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, mode)
				m := w.machine(host)
				w.enroll(m, host)
				w.on(m)
				w.installed(m, host)
				w.noSecrets(host)
				w.powerCycles(m, host)
			})
		}
	}
}

// TestServerKilled: the server is killed with -9 during the copy and started
// again; nobody helps.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "server")
	m := w.machine("bravo")
	w.enroll(m, "bravo")
	w.on(m)
	w.awaitPhase("bravo", hosts.PhaseCopy)
	w.kill()
	w.start()
	w.installed(m, "bravo")
	resumed := false
	for _, ev := range w.events("bravo") {
		resumed = resumed || ev.Kind == hosts.Finished && strings.Contains(ev.Message, "before the interruption")
	}
	if !resumed {
		t.Error("the disks were made a second time")
	}
	if s := w.status("bravo"); s.Permit.Boots != 1 {
		t.Errorf("%d boots", s.Permit.Boots)
	}
}

// TestPowerCut: the machine is switched off in the middle of the disk phase
// and on again; nobody helps.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "proxy")
	m := w.machine("bravo")
	w.enroll(m, "bravo")
	w.on(m)
	w.awaitPhase("bravo", hosts.PhaseDisks)
	w.must(m.PowerOff())
	w.on(m)
	w.installed(m, "bravo")
	s := w.status("bravo")
	if s.Permit.Boots != 2 {
		t.Errorf("%d boots", s.Permit.Boots)
	}
	if len(s.Permit.Disks) != 1 || s.Permit.Disks[0].Serial != "LAB-bravo" {
		t.Errorf("the permit names %+v", s.Permit.Disks)
	}
}
