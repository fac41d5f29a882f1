// Package load lets a thousand simulated machines netboot at once.
package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"provision/hosts"
	"provision/images"
	"provision/internal/initrd"
	"provision/internal/lab"
	"provision/internal/lab/dnsmasq"
	"provision/internal/lab/netboot"
	"provision/internal/store"
)

func TestMain(m *testing.M) { os.Exit(lab.InNamespace(m.Run)) }

// machines is how many are switched on at once.
const machines = 1000

var (
	self  = netip.MustParsePrefix("10.77.0.1/20")
	first = netip.MustParseAddr("10.77.4.0")
	last  = netip.MustParseAddr("10.77.8.255") // 1,280 addresses
)

// world is a LAN with one cable, on which all the machines are.
type world struct {
	testing.TB
	ctx  context.Context
	lan  *lab.LAN
	wire *netboot.Wire
	dir  string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	w := &world{TB: t, ctx: ctx, dir: t.TempDir()}
	w.neighbours("4096")
	var err error
	w.lan, err = lab.NewLAN(ctx, "br0", self)
	w.must(err)
	t.Cleanup(func() { w.lan.Close() })
	c, err := w.lan.Client(ctx, "machines", "52:54:00:77:00:03", netip.Prefix{})
	w.must(err)
	t.Cleanup(func() { c.Close() })
	w.wire, err = netboot.Open(c, c.Interface)
	w.must(err)
	t.Cleanup(func() { w.wire.Close() })
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// neighbours lets the kernel know so many neighbours until the test ends. All
// network namespaces share one table, which by default holds 1,024: with that,
// and a few that somebody else talks to, even broadcasts are not sent any more.
// It is set where InNamespace came from.
func (w *world) neighbours(n string) {
	w.Helper()
	const file = "/proc/sys/net/ipv4/neigh/default/gc_thresh3"
	outside := func(script string) string {
		out, err := exec.Command("nsenter", "--net", "--target", fmt.Sprint(os.Getppid()), "sh", "-c", script).CombinedOutput()
		if err != nil {
			w.Fatalf("%v: %s: the test needs room for a thousand neighbours, which only the machine's first network namespace can give", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	before := outside("cat " + file)
	outside("echo " + n + " >" + file)
	w.Cleanup(func() { outside("echo " + before + " >" + file) })
}

func mac(i int) net.HardwareAddr { return net.HardwareAddr{0x52, 0x54, 1, 0, byte(i >> 8), byte(i)} }

// uuid makes each machine one of its own: firmware and iPXE tell the same.
func uuid(i int) []byte {
	return []byte{1, 2, 3, 4, 5, 6, 0x47, 8, 0x89, 10, 11, 12, 13, 14, byte(i >> 8), byte(i)}
}

// enroll fills the state folder of a server that does not run yet, as
// `provision images add` and a thousand times `provision enroll` would.
func (w *world) enroll(clients []netboot.Client, method func(i int) hosts.Method) {
	w.Helper()
	state := filepath.Join(w.dir, "state")
	w.must(os.Mkdir(state, 0o700))
	db, err := store.OpenBolt(filepath.Join(state, "state.db"))
	w.must(err)
	defer db.Close()
	vault, err := hosts.OpenVault(filepath.Join(state, "secrets.key"))
	w.must(err)
	inv, err := hosts.New(db, vault, time.Now)
	w.must(err)
	for i, c := range clients {
		arch := images.X86_64
		if c.Kind == netboot.EDK2ARM64 {
			arch = images.AArch64
		}
		_, err := inv.Enroll(hosts.Host{Name: fmt.Sprintf("host%04d", i), MACs: []string{c.MAC.String()}, Arch: string(arch), Flake: w.dir, Choices: hosts.Choices{Image: string(arch), BootMethod: method(i)}}, time.Hour, nil)
		w.must(err)
	}
	catalog, err := images.Open(filepath.Join(state, "images"))
	w.must(err)
	w.image(catalog, images.X86_64, map[int]string{0x1fe: "\x55\xaa", 0x202: "HdrS\x0f\x02", 0x236: "\x03\x00"})
	w.image(catalog, images.AArch64, map[int]string{0x38: "ARM\x64"})
}

// image adds an image, of the architecture's name: what looks like a kernel to
// those who check its magic numbers, and an initrd. Of both, the machines fetch
// no more than the headers.
func (w *world) image(catalog *images.Catalog, arch images.Arch, magic map[int]string) {
	w.Helper()
	kernel := make([]byte, 8<<20)
	for at, bytes := range magic {
		copy(kernel[at:], bytes)
	}
	initrdData := initrd.Overlay([]initrd.File{{Path: "init", Mode: 0o755, Data: bytes.Repeat([]byte("provision"), 1<<20)}})
	src := images.Source{Kernel: filepath.Join(w.dir, "kernel"), Initrd: filepath.Join(w.dir, "initrd"), Cmdline: "init=/nix/store/x/init"}
	w.must(os.WriteFile(src.Kernel, kernel, 0o600))
	w.must(os.WriteFile(src.Initrd, initrdData, 0o600))
	_, err := catalog.Add(w.ctx, string(arch), arch, src, nil)
	w.must(err)
}

// serve starts the real server, and returns its process when it answers.
func (w *world) serve(flags ...string) int {
	w.Helper()
	binary, err := filepath.Abs("../../../bin/provision")
	w.must(err)
	if _, err := os.Stat(binary); err != nil {
		w.Fatalf("%v; run `make build` first", err)
	}
	// Each enrolled host has its system built, which is not what is measured:
	// here nix takes its time.
	w.must(os.WriteFile(filepath.Join(w.dir, "nix"), []byte("#!/bin/sh\nexec sleep infinity\n"), 0o755))
	w.must(lab.EmptyFlake(w.dir))
	log, err := os.Create(filepath.Join(w.dir, "log"))
	w.must(err)
	socket := "PROVISION_SOCKET=" + filepath.Join(w.dir, "sock")
	env := append(os.Environ(), "PATH="+w.dir+":"+os.Getenv("PATH"), socket)
	cmd := exec.Command(binary, append([]string{"serve", "--flake", w.dir, "--interface", w.lan.Interface,
		"--state-dir", filepath.Join(w.dir, "state")}, flags...)...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGTERM}
	w.must(cmd.Start())
	w.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			w.Errorf("the server ended with %v", err)
		}
		log.Close()
		if text, _ := os.ReadFile(log.Name()); w.Failed() || bytes.Contains(text, []byte("level=ERROR")) {
			w.Errorf("the server's log begins:\n%s", text[:min(len(text), 8000)])
		}
	})
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C { // there is no event before the socket is there
		status := exec.CommandContext(w.ctx, binary, "status")
		status.Env = env
		if out, err := status.CombinedOutput(); err == nil {
			return cmd.Process.Pid
		} else if w.ctx.Err() != nil {
			w.Fatalf("the server does not answer: %s", out)
		}
	}
}

// dnsmasq starts a real dnsmasq with the same addresses and programs, and
// returns its process.
func (w *world) dnsmasq() int {
	w.Helper()
	w.must(os.Chmod(w.dir, 0o755))
	programs, err := images.Programs("")
	w.must(err)
	for _, name := range []string{images.ProgramUNDI, images.ProgramNative} {
		w.must(os.WriteFile(filepath.Join(w.dir, name), programs[name], 0o644))
	}
	d, err := dnsmasq.Start(w.ctx, w.lan.Interface, w.dir, w.dir,
		append(dnsmasq.Full(first, last, self.Addr()), "--dhcp-lease-max=2000", "--tftp-max=2000")...) // beyond its defaults of 1000 and 50
	w.must(err)
	w.Cleanup(d.Close)
	return d.Pid()
}

// boot switches all machines on at once, and waits for the last.
func (w *world) boot(clients []netboot.Client) *report {
	w.Helper()
	r := &report{results: make([]netboot.Result, len(clients)), took: make([]time.Duration, len(clients))}
	errs := make([]error, len(clients))
	var group sync.WaitGroup
	begin := time.Now()
	for i, c := range clients {
		group.Go(func() {
			r.results[i], errs[i] = c.Boot(w.ctx, w.wire)
			r.took[i] = time.Since(begin)
		})
	}
	group.Wait()
	r.total = time.Since(begin)
	w.must(errors.Join(errs...))
	return r
}

// peak is the most memory that a process had so far, in bytes.
func (w *world) peak(pid int) int64 {
	w.Helper()
	n, err := lab.Peak(pid)
	w.must(err)
	return n
}

// cpu is the processor time that a process took so far.
func (w *world) cpu(pid int) time.Duration {
	w.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	w.must(err)
	_, rest, _ := strings.Cut(string(text), ") ")
	var user, system int64
	_, err = fmt.Sscanf(strings.Join(strings.Fields(rest)[11:13], " "), "%d %d", &user, &system)
	w.must(err)
	return time.Duration(user+system) * time.Second / 100 // USER_HZ
}
