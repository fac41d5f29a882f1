// Package leases measures how fast leases are given, by perfdhcp of Kea, beside Kea itself and dnsmasq, and shows that one that
// was acknowledged outlasts a server that is killed.
package leases

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"provision/internal/lab"
	"provision/internal/store"
	"provision/pxe"
)

func TestMain(m *testing.M) { os.Exit(lab.InNamespace(m.Run)) }

// world is a LAN, from which perfdhcp asks, and a computer on it that serves.
type world struct {
	testing.TB
	ctx  context.Context
	dir  string
	host *lab.Client
}

var (
	self   = netip.MustParsePrefix("10.0.0.9/8")
	asking = "10.0.0.1" // perfdhcp is a relay at this address, and all of its clients
)

// pool is some 650,000 addresses.
const pool = "10.16.0.1-10.25.255.254"

func newWorld(t testing.TB) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	t.Cleanup(cancel)
	w := &world{TB: t, ctx: ctx, dir: t.TempDir()}
	lan, err := lab.NewLAN(ctx, "br0", netip.MustParsePrefix(asking+"/8"))
	w.must(err)
	t.Cleanup(func() { lan.Close() })
	w.host, err = lan.Client(ctx, "server", "52:54:00:77:00:03", self)
	w.must(err)
	t.Cleanup(func() { w.host.Close() })
	w.must(os.WriteFile(filepath.Join(w.dir, "flake.nix"), []byte("{ outputs = _: { }; }\n"), 0o644))
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// server is one that runs until it is killed, which may be done twice.
type server struct {
	name string
	kill func(unix.Signal) // and waits for its end
}

// start starts a server, and returns when it has its port.
func (w *world) start(name string, env []string, argv ...string) server {
	w.Helper()
	log, err := os.Create(filepath.Join(w.dir, name+".log"))
	w.must(err)
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), env...), log, log
	ended, err := w.host.Start(cmd)
	if err != nil {
		w.Fatalf("%v; .ci/bench says where it comes from", err)
	}
	kill := func(s unix.Signal) {
		cmd.Process.Signal(s)
		<-ended
	}
	w.Cleanup(func() {
		kill(unix.SIGKILL)
		if text, _ := os.ReadFile(log.Name()); w.Failed() {
			w.Logf("%s's log begins:\n%s", name, text[:min(len(text), 4000)])
		}
	})
	late := time.After(20 * time.Second)
	for tick := time.NewTicker(10 * time.Millisecond); ; { // there is no event before it listens
		select {
		case <-tick.C:
			if w.host.Do(listens) == nil {
				return server{name, kill}
			}
		case <-ended:
			w.Fatalf("%s has ended", name)
		case <-late:
			w.Fatalf("%s does not answer", name)
		}
	}
}

// listens tells whether somebody has port 67, by proc_net(5).
func listens() error {
	table, err := os.ReadFile("/proc/thread-self/net/udp")
	if err == nil && !strings.Contains(string(table), ":0043 ") {
		err = errors.New("not yet")
	}
	return err
}

func (w *world) provision(state string) server {
	w.Helper()
	binary, err := filepath.Abs("../../../bin/provision")
	w.must(err)
	if _, err := os.Stat(binary); err != nil {
		w.Fatalf("%v; run `make build` first", err)
	}
	w.must(lab.EmptyFlake(w.dir))
	return w.start("provision", []string{"PROVISION_SOCKET=" + filepath.Join(w.dir, "sock")}, binary, "serve", "--flake", w.dir, "--interface", w.host.Interface,
		"--state-dir", state, "--dhcp", "server", "--dhcp-range", pool, "--unknown", "hold", "--http", ":80")
}

func (w *world) kea() server {
	w.Helper()
	dir := w.TempDir()
	conf := filepath.Join(dir, "kea.conf")
	w.must(os.WriteFile(conf, fmt.Appendf(nil, `{ "Dhcp4": {
  "interfaces-config": { "interfaces": [ %q ] },
  "lease-database": { "type": "memfile", "persist": true, "name": %q },
  "valid-lifetime": 3600, "multi-threading": { "enable-multi-threading": false },
  "subnet4": [ { "subnet": "10.0.0.0/8", "pools": [ { "pool": %q } ] } ],
  "loggers": [ { "name": "kea-dhcp4", "severity": "WARN", "output_options": [ { "output": "stderr" } ] } ] } }`,
		w.host.Interface, filepath.Join(dir, "leases"), strings.Replace(pool, "-", " - ", 1)), 0o600))
	return w.start("Kea", []string{"KEA_PIDFILE_DIR=" + dir, "KEA_LOCKFILE_DIR=none"}, "kea-dhcp4", "-c", conf)
}

func (w *world) dnsmasq() server {
	w.Helper()
	first, last, _ := strings.Cut(pool, "-")
	return w.start("dnsmasq", nil, "dnsmasq", "--keep-in-foreground", "--port=0", "--interface="+w.host.Interface, "--bind-interfaces", "--user=root", "--conf-file=/dev/null", "--pid-file=",
		"--dhcp-range="+first+","+last+",255.0.0.0,1h", "--dhcp-leasefile="+filepath.Join(w.TempDir(), "leases"), "--dhcp-lease-max=1000000", "--dhcp-authoritative", "--no-ping")
}

// report is what perfdhcp told.
type report struct {
	rate  float64         // of exchanges that came to their end, a second
	sent  int             // DISCOVERs and REQUESTs
	lost  int             // without an answer
	waits []time.Duration // for acknowledgements, which are what the disk is waited for
	acked []string        // addresses
}

// perfdhcp has so many machines a second ask for a lease, each a new one, for so many seconds. Each run has other machines.
func (w *world) perfdhcp(rate, seconds, run int, clients string) (r report) {
	w.Helper()
	cmd := exec.CommandContext(w.ctx, "perfdhcp", "-4", "-l", "br0", "-r", strconv.Itoa(rate), "-R", clients, "-b", fmt.Sprintf("mac=00:0c:%02x:00:00:00", run),
		"-p", strconv.Itoa(seconds), "-W", "500000", "-x", "tl", self.Addr().String())
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 3) { // 3: some were lost
		w.Fatalf("perfdhcp: %v: %s", err, out[:min(len(out), 2000)])
	}
	section := ""
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		line := lines.Text()
		var n int
		var sent, received float64
		switch {
		case strings.HasPrefix(line, "Rate: "):
			fmt.Sscanf(line, "Rate: %g", &r.rate)
		case strings.HasPrefix(line, "sent packets: "):
			fmt.Sscanf(line, "sent packets: %d", &n)
			r.sent += n
		case strings.HasPrefix(line, "drops: "):
			fmt.Sscanf(line, "drops: %d", &n)
			r.lost += n
		case strings.HasPrefix(line, "***"):
			section = strings.Trim(line, "*")
		case section == "Leases for REQUEST-ACK" && strings.HasPrefix(line, "01"): // a client identifier, the address
			r.acked = append(r.acked, strings.Split(line, ",")[1])
		case section == "Timestamps for packets: REQUEST-ACK" && strings.HasPrefix(line, "sent / received: "):
			if got, _ := fmt.Sscanf(line, "sent / received: %g / %g", &sent, &received); got == 2 {
				r.waits = append(r.waits, time.Duration((received-sent)*1e9))
			}
		}
	}
	if r.sent == 0 || len(r.waits) == 0 {
		w.Fatalf("perfdhcp told nothing: %s", out[:min(len(out), 2000)])
	}
	slices.Sort(r.waits)
	return r
}

func (r report) percentile(p int) float64 {
	return float64(r.waits[(len(r.waits)-1)*p/100]) / 1e6
}

// most is the highest rate of which at most one packet in a hundred was lost.
func (w *world) most(run *int) (best float64) {
	w.Helper()
	ok := func(rate int) bool {
		*run++
		r := w.perfdhcp(rate, 2, *run, "500000")
		if r.lost*100 > r.sent {
			return false
		}
		best = max(best, r.rate)
		return true
	}
	low := 100
	for ok(low * 2) {
		low *= 2
	}
	for high := low * 2; high-low > low/16; {
		if middle := (low + high) / 2; ok(middle) {
			low = middle
		} else {
			high = middle
		}
	}
	return best
}

// BenchmarkLeases is how many machines a second are given a lease, by each server, and how long each waits at 2,000 a second. Leases are
// kept as each keeps them by default: ours on the disk before they are acknowledged, those of Kea and dnsmasq written and not waited for.
func BenchmarkLeases(b *testing.B) {
	for _, peer := range []struct {
		name  string
		start func(*world) server
	}{{"provision", func(w *world) server { return w.provision(filepath.Join(w.TempDir(), "state")) }}, {"Kea", (*world).kea}, {"dnsmasq", (*world).dnsmasq}} {
		b.Run(peer.name, func(b *testing.B) {
			var rate, p50, p99, lost []float64
			w, run := newWorld(b), 0
			for b.Loop() {
				srv := peer.start(w)
				run++
				r := w.perfdhcp(2000, 5, run, "500000")
				p50, p99, lost = append(p50, r.percentile(50)), append(p99, r.percentile(99)), append(lost, float64(r.lost))
				rate = append(rate, w.most(&run))
				srv.kill(unix.SIGKILL)
			}
			for unit, all := range map[string][]float64{"leases/s": rate, "ms-p50": p50, "ms-p99": p99, "lost-of-20000": lost} {
				slices.Sort(all)
				b.ReportMetric((all[(len(all)-1)/2]+all[len(all)/2])/2, unit)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// TestKilled: leases that were acknowledged are there when the server was killed in the middle of others.
func TestKilled(t *testing.T) {
	w := newWorld(t)
	state := filepath.Join(w.dir, "state")
	srv := w.provision(state)
	done := make(chan report)
	go func() { done <- w.perfdhcp(1000, 2, 1, "500000") }()
	// In the middle: when the journal holds so many, more are on their way.
	for tick := time.NewTicker(5 * time.Millisecond); ; <-tick.C {
		if len(leased(t, state)) > 500 {
			break
		}
	}
	srv.kill(unix.SIGKILL)
	r := <-done
	kept := leased(t, state)
	if len(r.acked) < 400 || r.lost == 0 {
		t.Errorf("%d acknowledged, %d packets lost: that was not in the middle", len(r.acked), r.lost)
	}
	for _, a := range r.acked {
		if !kept[a] {
			t.Errorf("%s was acknowledged and is not kept", a)
		}
	}
	w.provision(state)
	for _, a := range w.perfdhcp(500, 1, 2, "500000").acked { // others
		if kept[a] {
			t.Errorf("%s was given to another, too", a)
		}
	}
	t.Logf("%d acknowledged, %d kept", len(r.acked), len(kept))
}

// leased are the addresses in a copy of the journal, as it is now.
func leased(t *testing.T, state string) map[string]bool {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(state, "leases"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "leases")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := store.OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	recs, err := j.List(t.Context(), pxe.LeasePrefix, "")
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]bool)
	for _, r := range recs {
		all[strings.TrimPrefix(r.Key, pxe.LeasePrefix)] = true
	}
	return all
}
