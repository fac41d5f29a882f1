package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"provision/hosts"
	"provision/internal/api"
	"provision/internal/lab"
	"provision/internal/store"
)

// A fault comes and goes in each of its phases, one after the other, in one install.
type fault struct {
	name   string
	phases []hosts.Phase
	strike func(*world, *lab.Machine)
}

var whole = []hosts.Phase{hosts.PhaseNetboot, hosts.PhaseFacts, hosts.PhaseDisks, hosts.PhaseCopy, hosts.PhaseFiles, hosts.PhaseBootloader, hosts.PhaseReboot}

// TestFaults: whatever happens in whatever phase, the install ends well when it is over, without anybody's help; on the
// same disk, beside another that is not touched, and once.
func TestFaults(t *testing.T) {
	t.Parallel()
	var table faultTable
	t.Cleanup(func() { fmt.Print(table.String()) })
	for _, f := range []fault{
		{"server kill -9", append([]hosts.Phase{hosts.PhaseBuild}, whole...), func(w *world, _ *lab.Machine) {
			w.kill()
			w.start()
		}},
		{"target power cut", whole, func(w *world, m *lab.Machine) {
			w.must(m.PowerOff())
			w.on(m)
		}},
		{"network cut 60 s", whole, func(w *world, m *lab.Machine) {
			w.cut(m, time.Minute)
		}},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "server")
			const host = "bravo"
			m := w.machine(host)
			w.bystander(m)
			w.enroll(m, host)
			on := false
			for _, phase := range f.phases {
				if phase != hosts.PhaseBuild && !on {
					w.on(m)
					on = true
				}
				w.reach(host, phase)
				start := time.Now()
				f.strike(w, m)
				t.Logf("%s in %s; %.0f s", f.name, phase, time.Since(start).Seconds())
				table.set(f.name, phase, "installed")
			}
			w.installed(m, host)
			w.once(host)
			w.noSecrets(host)
		})
	}
	t.Run("exhaustion", func(t *testing.T) {
		t.Parallel()
		exhausted(t, &table)
	})
}

// exhausted: what no waiting mends fails with its phase and its reason, and `provision retry` goes on once it is mended.
func exhausted(t *testing.T, table *faultTable) {
	const host = "bravo"
	w := newWorld(t, "server")
	m := w.machine(host)
	w.bystander(m)
	extra := t.TempDir()
	// Of two phases that run at a time, the first that fails is told.
	fails := func(fault string, phase hosts.Phase, reason string, beside ...hosts.Phase) {
		t.Helper()
		w.try("wait", host)
		s := w.status(host)
		if s.State != hosts.StateFailed || !slices.Contains(append(beside, phase), s.Phase) || !strings.Contains(s.Error, reason) {
			t.Fatalf("%s: it is %s in %s: %s\n%s", fault, s.State, s.Phase, s.Error, w.provision("logs", host))
		}
		table.set(fault, phase, "failed, retried")
	}
	retry := func(espSize string) {
		w.fleet.ESPSize = espSize
		w.writeFleet()
		w.provision("retry", host)
	}

	builder := filepath.Join(w.flake, "builders/toplevel.sh")
	script, err := os.ReadFile(builder)
	w.must(err)
	w.must(os.WriteFile(builder, append(script, "echo 'the compiler is out of ideas' >&2; exit 1\n"...), 0o644))
	w.enroll(m, host, "--extra-files", extra)
	fails("nix build failing", hosts.PhaseBuild, "out of ideas")

	retry("4010M") // of 4096: what is left for the root is too small for the system
	w.on(m)
	fails("disk full", hosts.PhaseCopy, "is full (")
	w.noKeyLeft(host)

	big := filepath.Join(extra, "big")
	data := make([]byte, 200<<20)
	rand.Read(data)
	w.must(os.WriteFile(big, data, 0o600))
	retry("3900M")
	fails("disk full", hosts.PhaseFiles, "is full (", hosts.PhaseCopy)
	w.noKeyLeft(host)

	w.must(os.Remove(big))
	retry("16M") // too small for kernel and initrd
	fails("disk full", hosts.PhaseBootloader, "is full (")
	w.noKeyLeft(host)

	retry("192M")
	w.installed(m, host)
	if s := w.status(host); s.Permit.Boots != 0 || s.Permit.Retries != 4 {
		t.Errorf("it took %d netboots beside the first, and %d retries", s.Permit.Boots, s.Permit.Retries)
	}
	w.once(host)
	w.noSecrets(host)
}

// faultTable is what came of each fault in each phase.
type faultTable struct {
	mu    sync.Mutex
	cells map[string]map[hosts.Phase]string
	names []string
}

func (f *faultTable) set(fault string, p hosts.Phase, how string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cells == nil {
		f.cells = map[string]map[hosts.Phase]string{}
	}
	if f.cells[fault] == nil {
		f.cells[fault] = map[hosts.Phase]string{}
		f.names = append(f.names, fault)
	}
	f.cells[fault][p] = how
}

func (f *faultTable) String() string {
	phases := append([]hosts.Phase{hosts.PhaseBuild}, whole...)
	var b strings.Builder
	fmt.Fprintf(&b, "faults | %-17s", "")
	for _, p := range phases {
		fmt.Fprintf(&b, " | %-15s", p)
	}
	b.WriteByte('\n')
	for _, name := range f.names {
		fmt.Fprintf(&b, "faults | %-17s", name)
		for _, p := range phases {
			fmt.Fprintf(&b, " | %-15s", f.cells[name][p])
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// cut takes the machine off the network for a while.
func (w *world) cut(m *lab.Machine, d time.Duration) {
	w.t.Helper()
	for i, state := range []string{"down", "up"} {
		if i > 0 {
			select {
			case <-time.After(d): // that it lasts is what is tested
			case <-w.ctx.Done():
			}
		}
		if out, err := exec.CommandContext(w.ctx, "ip", "link", "set", "tap-"+m.Name, state).CombinedOutput(); err != nil {
			w.t.Fatalf("%v: %s", err, out)
		}
	}
}

// bystander gives the machine another disk, with data that nobody may touch.
func (w *world) bystander(m *lab.Machine) {
	w.t.Helper()
	disk, err := lab.NewDisk(filepath.Join(w.dir, m.Name+"-bystander.img"), 64<<20, "LAB-bystander")
	w.must(err)
	data := make([]byte, 64<<20)
	rand.Read(data)
	w.must(os.WriteFile(disk.Path, data, 0o600))
	m.Disks = append(m.Disks, disk)
	sum := sha256.Sum256(data)
	w.t.Cleanup(func() {
		now, err := os.ReadFile(disk.Path)
		if got := sha256.Sum256(now); err != nil || !bytes.Equal(got[:], sum[:]) {
			w.t.Errorf("the other disk was touched, or %v", err)
		}
	})
}

// once: the host was sent to its disk once, the one that the permit names.
func (w *world) once(host string) {
	w.t.Helper()
	rebooted := 0
	for _, ev := range w.events(host) {
		if ev.Kind == hosts.EventRebooted {
			rebooted++
		}
	}
	disks := w.status(host).Permit.Disks
	if rebooted != 1 || len(disks) != 1 || disks[0].Serial != "LAB-"+host {
		w.t.Errorf("%s was installed %d times, on %+v", host, rebooted, disks)
	}
}

// reach waits until the host is in a phase.
func (w *world) reach(host string, phase hosts.Phase) {
	w.t.Helper()
	w.news(host, string(phase), func(n api.News) bool {
		s := n.Status
		switch phase {
		case hosts.PhaseBuild: // it begins with the enrolment
			return s.State == hosts.StateReady
		case hosts.PhaseNetboot: // firmware that finds no network stops for good; iPXE does not
			return n.Event != nil && n.Event.Kind == hosts.EventFetched
		case hosts.PhaseFiles: // the copy is what is shown: it begins a moment later, beside it
			return n.Event != nil && n.Event.Kind == hosts.EventStarted && n.Event.Phase == phase
		}
		return s.Phase == phase && s.State != hosts.StateReady && s.State != hosts.StateFailed
	})
}

// news follows what the server says of a host until it is what is waited for.
func (w *world) news(host, what string, is func(api.News) bool) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(w.dir, "sock"))
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://provision/v1/watch?host="+host, nil)
	w.must(err)
	resp, err := client.Do(req)
	w.must(err)
	defer resp.Body.Close()
	for lines := json.NewDecoder(resp.Body); ; {
		var n api.News
		if err := lines.Decode(&n); err != nil {
			w.t.Fatalf("%s: waited in vain for %s: %v; its log:\n%s", host, what, err, w.provision("logs", host))
		}
		if is(n) {
			return
		}
	}
}

// installer logs in to a host's installer as the server does.
func (w *world) installer(host string) *lab.Shell {
	w.t.Helper()
	inv := w.inventory()
	h, err := inv.Get(host)
	w.must(err)
	login, err := inv.ServerKey()
	w.must(err)
	signer, err := ssh.NewSignerFromKey(login)
	w.must(err)
	pinned, _, _, _, err := ssh.ParseAuthorizedKey([]byte(h.Boot.HostKey))
	w.must(err)
	sh, err := lab.Dial(w.ctx, netip.MustParseAddr(h.Address), pinned, signer)
	w.must(err)
	return sh
}

// inventory is a copy of the server's, in which no permit is live.
func (w *world) inventory() *hosts.Inventory {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "state.db")
	w.provision("state", "backup", file, "--state-dir", filepath.Join(w.dir, "state"))
	db, err := store.OpenBolt(file)
	w.must(err)
	w.t.Cleanup(func() { db.Close() })
	vault, err := hosts.OpenVault(filepath.Join(w.dir, "state/secrets.key"))
	w.must(err)
	inv, err := hosts.New(db, vault, time.Now)
	w.must(err)
	return inv
}

// noKeyLeft: after a failure, the disks' keys are not on the installer any more, and nothing is mounted or open.
func (w *world) noKeyLeft(host string) {
	w.t.Helper()
	sh := w.installer(host)
	defer sh.Close()
	said, err := sh.Run(w.ctx, `ls /tmp/disk.key 2>/dev/null; grep -c ' /mnt' /proc/mounts; ls /dev/mapper | grep -v control; grep -rls "$(printf 'battery %s' staple)" /tmp /run /root /var/tmp /dev/shm; true`)
	if strings.TrimSpace(said) != "0" || err != nil {
		w.t.Errorf("after the failure there is on the installer: %q, %v", said, err)
	}
}
