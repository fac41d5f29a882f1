// Package e2e holds the whole story, end to end: the real bin/provision, real
// firmware, real kernels, disks and nix. `make e2e` builds and runs it.
package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"provision/hosts"
	"provision/internal/api"
	"provision/internal/lab"
	"provision/internal/timeline"
)

func TestMain(m *testing.M) { os.Exit(lab.InNamespace(m.Run)) }

// limit bounds one test: an install takes about two minutes with both cores
// to itself, and some tests make four.
const limit = 25 * time.Minute

const passphrase = "correct horse battery staple"

var lans atomic.Int32

// world is a LAN with a provisioning server on it.
type world struct {
	t      *testing.T
	ctx    context.Context
	cancel context.CancelFunc
	lan    *lab.LAN
	router *lab.Router // nil in mode server
	dir    string      // for everything, the server's state in state/
	flake  string
	login  lab.Key // may log in to the installed hosts, beside the server
	fleet  lab.Fleet
	mode   string
	flags  []string // of serve, beside the usual ones

	serve  *exec.Cmd
	log    *lockedBuffer
	number int32
	// machines are how many there were
	machines int
	lies     string // what lima lies on, see lies
	sshPort  uint16 // of the installed hosts; 0: 22
	together bool   // its disks only start together
	// diskFirst is that the firmware starts from the disk without trying the network
	diskFirst bool
	// passphrase opens the disks; noSecrets looks for it
	passphrase string
	leaks      *leaks // set where it is searched for more
}

// lockedBuffer collects what the server logs.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newWorld makes a LAN of its own, a server in the given DHCP mode on it (and
// with more flags, if there are any), and the fleet's flake. In proxy mode a home router leases the addresses.
func newWorld(t *testing.T, mode string, flags ...string) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	n := lans.Add(1)
	w := &world{log: &lockedBuffer{}, t: t, ctx: ctx, cancel: cancel, dir: t.TempDir(), mode: mode, flags: flags, number: n, passphrase: passphrase}
	t.Cleanup(cancel)
	var err error
	w.lan, err = lab.NewLAN(ctx, fmt.Sprintf("br%d", n), netip.MustParsePrefix(fmt.Sprintf("10.77.%d.1/24", n)))
	w.must(err)
	t.Cleanup(func() { w.lan.Close() })
	if mode != "server" {
		var args []string
		if mode == "off" { // the router's owner pastes what doctor prints
			file := filepath.Join(w.dir, "provision.conf")
			w.must(os.WriteFile(file, []byte(w.provision("doctor", "--interface", w.lan.Interface, "--dhcp-config", "dnsmasq")), 0o644))
			args = append(args, "--conf-file="+file)
		}
		w.router, err = w.lan.Router(ctx, w.dir, netip.MustParsePrefix(fmt.Sprintf("10.77.%d.2/24", n)), w.addr(100), w.addr(199), args...)
		w.must(err)
		t.Cleanup(func() { w.router.Close() })
	}
	w.login, err = lab.NewKey("owner")
	w.must(err)
	w.flake = filepath.Join(w.dir, "fleet")
	w.must(os.Mkdir(w.flake, 0o755))
	w.must(lab.EmptyFlake(w.flake))
	w.start()
	t.Cleanup(w.stop)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server's log:\n%s", tailOf(w.log.String(), 60))
		}
	})

	server, err := os.ReadFile(filepath.Join(w.dir, "state/ssh.pub"))
	w.must(err)
	w.fleet = lab.Fleet{AuthorizedKeys: string(server) + string(w.login.Public)}
	w.writeFleet()
	release, err := lab.ReleaseDir(ctx, lab.CacheDir(), lab.X86_64, os.Stderr)
	w.must(err)
	w.provision("images", "add", "lab", "--arch", "x86_64", "--from", release)
	return w
}

// arm64 gives the fleet its arm64 host, delta, and the server an image for it.
func (w *world) arm64() {
	w.t.Helper()
	w.fleet.AArch64 = true
	w.writeFleet()
	release, err := lab.ReleaseDir(w.ctx, lab.CacheDir(), lab.AArch64, os.Stderr)
	w.must(err)
	w.provision("images", "add", "arm", "--arch", "aarch64", "--from", release)
}

func (w *world) writeFleet() {
	w.t.Helper()
	_, err := w.fleet.Write(w.ctx, lab.CacheDir(), w.flake, os.Stderr)
	w.must(err)
}

func (w *world) addr(last int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf("10.77.%d.%d", w.number, last))
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func binary(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../../bin/provision")
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v; run `make build` first", err)
	}
	return path
}

// start starts the server and waits until it answers.
func (w *world) start() {
	w.t.Helper()
	args := []string{"serve", "-v", "--flake", w.flake, "--interface", w.lan.Interface, "--dhcp", w.mode, "--state-dir", filepath.Join(w.dir, "state")}
	if w.mode == "server" {
		args = append(args, "--dhcp-range", w.addr(100).String()+"-"+w.addr(199).String())
	}
	w.serve = exec.Command(binary(w.t), append(args, w.flags...)...)
	w.serve.Env = w.env()
	w.serve.Stdout, w.serve.Stderr = w.log, w.log
	w.must(w.serve.Start())
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C { // there is no event before the socket is there
		if _, err := w.try("status"); err == nil {
			return
		}
		if w.ctx.Err() != nil || ended(w.serve.Process) {
			w.t.Fatalf("the server does not answer: %s", w.log.String())
		}
	}
}

// ended tells whether a process of ours has ended, and nobody has waited for it yet.
func ended(p *os.Process) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid)) // proc_pid_stat(5): number, (name), state
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func (w *world) stop() {
	w.serve.Process.Signal(os.Interrupt)
	if err := w.serve.Wait(); err != nil {
		w.t.Errorf("the server ended with %v", err)
	}
}

// kill ends the server with SIGKILL.
func (w *world) kill() {
	w.t.Helper()
	w.must(w.serve.Process.Kill())
	w.serve.Wait() // "signal: killed"
}

func (w *world) env() []string {
	return append(lab.NixEnv(), "PROVISION_SOCKET="+filepath.Join(w.dir, "sock"))
}

// provision runs a subcommand, which must succeed.
func (w *world) provision(args ...string) string {
	w.t.Helper()
	out, err := w.try(args...)
	if err != nil {
		w.t.Fatalf("provision %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (w *world) try(args ...string) (string, error) {
	cmd := exec.CommandContext(w.ctx, binary(w.t), args...)
	cmd.Env = w.env()
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// enroll enrolls a machine, with the passphrase where the layout reads one,
// unless one is to be made. It returns what that says.
func (w *world) enroll(m *lab.Machine, host string, flags ...string) string {
	w.t.Helper()
	args := append([]string{"enroll", m.MAC, host}, flags...)
	if slices.Contains([]string{"bravo", "charlie", "echo", "juliett", "kilo", "november"}, host) && !slices.Contains(flags, "--escrow-to") {
		args = append(args, w.diskKey()...)
	}
	return w.provision(args...)
}

// diskKey has enroll give the passphrase.
func (w *world) diskKey() (flags []string) {
	w.t.Helper()
	key := filepath.Join(w.dir, "disk.key")
	w.must(os.WriteFile(key, []byte(passphrase), 0o600))
	return []string{"--disk-encryption-key", "/tmp/disk.key=" + key}
}

// machine is a blank PC with a disk of 4 GiB, or two if its host needs them.
func (w *world) machine(name string) *lab.Machine {
	w.t.Helper()
	w.machines++
	m := &lab.Machine{Name: fmt.Sprintf("m%d-%d", w.machines, w.number), Dir: w.dir, // its tap has the same name
		LAN: w.lan,
		MAC: fmt.Sprintf("52:54:00:77:%02x:%02x", w.number, w.machines)}
	serials := []string{"LAB-" + name}
	if name == "foxtrot" {
		serials = append(serials, "LAB-foxtrot-2")
	}
	for _, serial := range serials {
		disk, err := lab.NewDisk(filepath.Join(w.dir, fmt.Sprintf("m%d-%s.img", w.machines, serial)), 4<<30, serial)
		w.must(err)
		m.Disks = append(m.Disks, disk)
	}
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("%s's processors:\n%s", name, m.Processors(context.WithoutCancel(w.ctx)))
		}
		m.PowerOff()
		c := m.Console()
		if c == nil {
			return
		}
		if _, crash, crashed := strings.Cut(c.Text(), "Kernel panic"); crashed {
			w.t.Logf("%s's kernel crashed: Kernel panic%s", name, strings.SplitN(crash, "\n", 2)[0])
		}
		if w.t.Failed() {
			w.t.Logf("%s's console:\n%s", name, tailOf(c.Timed(), 60))
		}
	})
	return m
}

func (w *world) on(m *lab.Machine) {
	w.t.Helper()
	w.must(m.Start(context.WithoutCancel(w.ctx))) // what it does when the time is over is of interest
	go func() {                                   // ends with w.ctx at the latest
		if err := m.Wait(w.ctx); err != nil && w.ctx.Err() == nil {
			w.t.Errorf("%s: %v", m.Name, err)
			w.cancel()
		}
	}()
}

func tailOf(s string, n int) string {
	l := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(l[max(0, len(l)-n):], "\n")
}

func (w *world) status(host string) (s api.Status) {
	w.t.Helper()
	w.must(json.Unmarshal([]byte(w.provision("status", host, "--json")), &s))
	return s
}

func (w *world) events(host string) (all []hosts.Event) {
	w.t.Helper()
	w.must(json.Unmarshal([]byte(w.provision("logs", host, "--json")), &all))
	return all
}

// await follows the host's log until an event satisfies is.
func (w *world) await(host, what string, is func(hosts.Event) bool) hosts.Event {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(w.t), "watch", host)
	cmd.Env = w.env()
	out, err := cmd.StdoutPipe()
	w.must(err)
	w.must(cmd.Start())
	defer func() { cancel(); cmd.Wait() }()
	for lines := bufio.NewScanner(out); lines.Scan(); { // a line per event: look at them all
		for _, ev := range w.events(host) {
			if is(ev) {
				return ev
			}
		}
	}
	w.t.Fatalf("%s: waited in vain for %s; its log:\n%s", host, what, w.provision("logs", host))
	return hosts.Event{}
}

func (w *world) awaitPhase(host string, p hosts.Phase) {
	w.t.Helper()
	w.await(host, string(p), func(ev hosts.Event) bool { return ev.Kind == hosts.EventStarted && ev.Phase == p })
}

// awaitCopied waits until a part of the system, in percent, is copied.
func (w *world) awaitCopied(host string, percent int) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "curl", "--silent", "--no-buffer", "--unix-socket", filepath.Join(w.dir, "sock"), "http://provision/v1/watch?host="+host)
	out, err := cmd.StdoutPipe()
	w.must(err)
	w.must(cmd.Start())
	defer func() { cancel(); cmd.Wait() }()
	for news := json.NewDecoder(out); ; {
		var n api.News
		if err := news.Decode(&n); err != nil {
			w.t.Fatalf("%s: waited in vain for the copy: %v; its log:\n%s", host, err, w.provision("logs", host))
		}
		if n.Status.Phase == hosts.PhaseCopy && n.Status.Percent >= percent {
			return
		}
	}
}

// awaitLog waits until the server has logged text so often.
func (w *world) awaitLog(text string, times int) {
	w.t.Helper()
	for tick := time.NewTicker(100 * time.Millisecond); strings.Count(w.log.String(), text) < times; { // it is no event
		select {
		case <-tick.C:
		case <-w.ctx.Done():
			w.t.Fatalf("waited in vain for the server to log %q", text)
		}
	}
}

// unlock types the passphrase whenever the machine asks, until its host is up.
func (w *world) unlock(m *lab.Machine, host string) {
	w.t.Helper()
	for {
		said, err := m.Console().Expect(w.ctx, "Passphrase for", host+" login:")
		if err != nil {
			w.t.Fatalf("%s did not come up: %v", host, err)
		}
		if said != "Passphrase for" {
			return
		}
		w.must(m.Console().Type(w.passphrase + "\n"))
	}
}

// installed waits for the end of the install, and checks the host.
func (w *world) installed(m *lab.Machine, host string) {
	w.t.Helper()
	w.waitFor(host, hosts.StateRebooting)
	w.unlock(m, host)
	w.proved(host)
}

// waitFor waits until the host is in a state, as an operator does.
func (w *world) waitFor(host string, state hosts.State, flags ...string) {
	w.t.Helper()
	if out, err := w.try(append([]string{"wait", host, "--for", string(state)}, flags...)...); err != nil {
		w.t.Fatalf("%s\n%s", out, w.provision("logs", host))
	}
}

// proved waits until the host counts as installed and checks the proof: the host
// runs what was built, from its own disk.
func (w *world) proved(host string) {
	w.t.Helper()
	w.waitFor(host, hosts.StateInstalled, "--timeout", "5m") // its login prompt was seen
	s := w.status(host)
	if s.State != hosts.StateInstalled || !strings.Contains(s.Proof, "with its own SSH key and runs "+s.System) || s.Error != "" {
		w.t.Errorf("%+v", s)
	}
	w.check(host)
	w.overlapped(host)
	w.timeline(host)
	w.t.Logf("%s is installed:\n%s\n%s", host, w.provision("logs", host), w.provision("timeline", host))
}

// timeline: it accounts for the whole install, and knows what was sent.
func (w *world) timeline(host string) {
	w.t.Helper()
	text := w.provision("timeline", host, "--json")
	var t timeline.Timeline
	w.must(json.Unmarshal([]byte(text), &t))
	missing := map[string]bool{timeline.Build: true, timeline.Disks: true, timeline.Files: true, timeline.Copy: true, timeline.Bootloader: true, timeline.Unmount: true, timeline.Restart: true}
	covered, sent := 0.0, false // until when something was under way
	for _, p := range t.Phases {
		delete(missing, p.Name)
		if p.Start > covered+0.5 || p.Open {
			w.t.Errorf("%s: after %.1f s; something was known of until %.1f s", p.Name, p.Start, covered)
		}
		covered = max(covered, p.Start+p.Seconds)
		sent = sent || p.Name == timeline.Copy && p.Over != ""
	}
	if len(missing) > 0 || !sent || t.State != hosts.StateInstalled || covered < t.Seconds-0.5 || t.Host != host {
		w.t.Errorf("lacks %v, %s, %.1f of %.1f s:\n%s", missing, t.State, covered, t.Seconds, text)
	}
	if dir := os.Getenv("PROVISION_TIMELINES"); dir != "" { // to look at
		w.must(os.WriteFile(filepath.Join(dir, host+".events.json"), []byte(w.provision("logs", host, "--json")), 0o644))
	}
}

// overlapped: the files came while the system was copied, if both were begun once.
func (w *world) overlapped(host string) {
	w.t.Helper()
	var order []string
	for _, ev := range w.events(host) {
		if (ev.Kind == hosts.EventStarted || ev.Kind == hosts.EventFinished) && (ev.Phase == hosts.PhaseCopy || ev.Phase == hosts.PhaseFiles) {
			order = append(order, fmt.Sprint(ev.Phase, " ", ev.Kind))
		}
	}
	if len(order) == 4 && (order[0] != "files started" || order[1] != "copy started") {
		w.t.Errorf("one waited for the other: %s", strings.Join(order, ", "))
	}
}

// check logs in as the owner would, and looks.
func (w *world) check(host string) {
	w.t.Helper()
	s := w.status(host)
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.HostKey))
	w.must(err)
	sh := w.dial(s.Address, key)
	defer sh.Close()
	for command, want := range map[string]string{
		"readlink -f /run/current-system":                                          s.System,
		"cat /proc/sys/kernel/hostname":                                            host,
		"stat -c %a /etc/ssh/ssh_host_ed25519_key":                                 "600",
		"test -e /tmp/disk.key && echo left || echo gone":                          "gone",
		"grep -c " + passphraseWord + " /proc/cmdline || true":                     "0",
		"find /boot /etc -name '*.json' -path '*provision*' 2>/dev/null | head -1": "",
		lying:                        cmp.Or(w.lies, lies[host]),
		"grep -c ' / ' /proc/mounts": "1",
	} {
		got, err := sh.Run(w.ctx, command)
		if err != nil || got != want {
			w.t.Errorf("%s: %s: %q, %v; want %q", host, command, got, err, want)
		}
	}
}

// run runs a command on an installed host, as its owner.
func (w *world) run(host, command string) string {
	w.t.Helper()
	s := w.status(host)
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s.HostKey))
	w.must(err)
	sh := w.dial(s.Address, key)
	defer sh.Close()
	said, err := sh.Run(w.ctx, command)
	w.must(err)
	return said
}

// lying prints the type of the root's file system, of the block devices, and of those that something is mounted from or
// swapped to. (lsblk of util-linux 2.41 names one subvolume of a device only.)
const lying = `echo "$(stat -f -c %T /):" $(lsblk -rno TYPE | sort -u)";" $({
	findmnt -rno SOURCE,TARGET | grep ^/dev/
	sed -n 's|^\(/dev/[^ ]*\).*|\1 swap|p' /proc/swaps
} | while read -r device target; do echo "$(lsblk -dno TYPE "${device%%[*}") $target"; done | sort -u)`

// lies is what each host lies on.
var lies = map[string]string{
	"alpha":    "ext2/ext3: disk part; part / part /boot",
	"bravo":    "ext2/ext3: crypt disk part; crypt / part /boot",
	"charlie":  "btrfs: crypt disk part; crypt / crypt /home crypt /nix part /boot part swap",
	"delta":    "ext2/ext3: disk part; part / part /boot",
	"echo":     "ext2/ext3: crypt disk lvm part; lvm / lvm /home lvm swap part /boot",
	"foxtrot":  "ext2/ext3: disk part raid1; raid1 / raid1 /boot",
	"india":    "ext2/ext3: disk part; part / part /boot",
	"juliett":  "ext2/ext3: crypt disk part; crypt / crypt /data part /boot",
	"kilo":     "ext2/ext3: crypt disk part; crypt / part /boot",
	"hotel":    "tmpfs: disk part; part /boot part /nix",
	"november": "ext2/ext3: crypt disk part; crypt / part /boot",
	"oscar":    "tmpfs: disk part; part /boot part /etc/ssh part /nix part /persist part /var/lib/app",
}

const passphraseWord = "battery"

func (w *world) dial(addr string, key ssh.PublicKey) *lab.Shell {
	w.t.Helper()
	for tick := time.NewTicker(time.Second); ; <-tick.C { // sshd may take a moment after the login prompt
		sh, err := lab.DialPort(w.ctx, netip.AddrPortFrom(netip.MustParseAddr(addr), cmp.Or(w.sshPort, 22)), key, w.login.Signer)
		if err == nil {
			return sh
		}
		if w.ctx.Err() != nil {
			w.t.Fatal(err)
		}
	}
}

// powerCycles switches the machine off and on twice: it must start from its
// disk each time, network first in its boot order as it is, and not one byte
// of the partition table may change. A mirror starts from one of its disks
// the first time, and from the other the second time.
func (w *world) powerCycles(m *lab.Machine, host string) {
	w.t.Helper()
	before := map[lab.Disk]string{}
	for _, disk := range m.Disks {
		table, err := disk.PartitionTable()
		w.must(err)
		before[disk] = table
	}
	boots := w.status(host).Permit.Boots
	disks := m.Disks
	cycles := 2
	if host > "delta" { // what other layouts show shows in one, from each disk
		cycles = len(disks)
	}
	for i := range cycles {
		w.must(m.PowerOff())
		if len(disks) > 1 && !w.together {
			m.Disks = disks[i : i+1]
		}
		w.on(m)
		w.unlock(m, host)
		w.check(host)
		for _, disk := range disks {
			if after, err := disk.PartitionTable(); err != nil || after != before[disk] {
				w.t.Errorf("%s: the partition table of %s changed: %v", host, disk.Serial, err)
			}
		}
	}
	if s := w.status(host); s.State != hosts.StateInstalled || s.Permit.Boots != boots {
		w.t.Errorf("%s: after power cycles it is %s, with %d boots instead of %d", host, s.State, s.Permit.Boots, boots)
	}
	if tried := strings.Contains(m.Console().Text(), "PXE"); tried == w.diskFirst {
		w.t.Errorf("%s tried the network first: %v", host, tried)
	}
}

// noSecrets looks for the passphrase and private keys where they must not be.
func (w *world) noSecrets(host string) {
	w.t.Helper()
	l := &leaks{w: w}
	l.add("the passphrase", []byte(w.passphrase))
	l.server(host)
}
