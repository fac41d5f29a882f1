// Package wire measures how fast an image goes out, beside nginx, tftpd-hpa and dnsmasq. Each server is a process of
// its own, and so is the client, on a network of namespaces.
package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"provision/hosts"
	"provision/images"
	"provision/internal/initrd"
	"provision/internal/lab"
	"provision/internal/store"
)

func TestMain(m *testing.M) { os.Exit(lab.InNamespace(m.Run)) }

// world is two LANs of the same make, ours and the peers', each with one computer, on which the servers run.
type world struct {
	testing.TB
	ctx          context.Context
	dir          string // what the peers serve: kernel
	ours, theirs side
	token        string // of the boot that may have the image
	size         int64  // of the kernel, bytes
	delayed      string // in words, how packets are delayed; "": not at all
}

// side is a LAN, from which this process asks, and the computer that serves. Each server has its port 69 there.
type side struct {
	lan  *lab.LAN
	host *lab.Client
	self netip.Prefix // of the host
}

func (s side) addr(port int) netip.AddrPort { return netip.AddrPortFrom(s.self.Addr(), uint16(port)) }

// newWorld makes the LANs, the image, with a kernel of this size, and a state folder in which it is being booted.
func newWorld(t testing.TB, size int64, delay time.Duration) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	w := &world{TB: t, ctx: ctx, dir: t.TempDir(), size: size}
	w.must(os.Chmod(w.dir, 0o755))
	w.ours = w.side(delay, "br0", "10.77.0.1/24", "10.77.0.9/24")
	w.theirs = w.side(delay, "br1", "10.78.0.1/24", "10.78.0.9/24")
	w.state()
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) side(delay time.Duration, bridge, address, self string) side {
	w.Helper()
	lan, err := lab.NewLAN(w.ctx, bridge, netip.MustParsePrefix(address))
	w.must(err)
	w.Cleanup(func() { lan.Close() })
	s := side{lan, nil, netip.MustParsePrefix(self)}
	s.host, err = lan.Client(w.ctx, "h-"+bridge, "52:54:00:77:00:03", s.self)
	w.must(err)
	w.Cleanup(func() { s.host.Close() })
	if delay > 0 {
		w.delay(&s, delay)
	}
	return s
}

// state fills the state folder of a server that does not run yet, and begins a boot.
func (w *world) state() {
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
	catalog, err := images.Open(filepath.Join(state, "images"))
	w.must(err)
	kernel := make([]byte, w.size)
	copy(kernel[0x1fe:], "\x55\xaa")
	copy(kernel[0x202:], "HdrS\x0f\x02")
	copy(kernel[0x236:], "\x03\x00")
	initrdData := initrd.Overlay([]initrd.File{{Path: "init", Mode: 0o755, Data: []byte("x")}})
	src := images.Source{Kernel: filepath.Join(w.dir, "kernel"), Initrd: filepath.Join(w.dir, "initrd"), Cmdline: "init=/nix/store/x/init"}
	w.must(errors.Join(os.WriteFile(src.Kernel, kernel, 0o644), os.WriteFile(src.Initrd, initrdData, 0o644)))
	_, err = catalog.Add(w.ctx, "lab", images.X86_64, src, nil)
	w.must(err)
	us, err := net.InterfaceByName(w.ours.lan.Interface) // the boot is for this process
	w.must(err)
	_, err = inv.Enroll(hosts.Host{Name: "bravo", MACs: []string{us.HardwareAddr.String()}, Arch: "x86_64", Choices: hosts.Choices{Image: "lab"}, Flake: w.dir}, time.Hour, nil)
	w.must(err)
	h, err := inv.BeginBoot("bravo", hosts.Boot{Expires: time.Now().Add(time.Hour), Server: w.ours.self.Addr().String()}, "")
	w.must(err)
	w.token = h.Boot.Token
}

// provision starts the real server, and returns when it answers.
func (w *world) provision() server {
	w.Helper()
	binary, err := filepath.Abs("../../../bin/provision")
	w.must(err)
	if _, err := os.Stat(binary); err != nil {
		w.Fatalf("%v; run `make build` first", err)
	}
	bin := filepath.Join(w.dir, "bin") // the host's system is not built here: nix takes its time
	w.must(os.Mkdir(bin, 0o755))
	w.must(os.WriteFile(filepath.Join(bin, "nix"), []byte("#!/bin/sh\nexec sleep infinity\n"), 0o755))
	w.must(lab.EmptyFlake(w.dir))
	env := []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "PROVISION_SOCKET=" + filepath.Join(w.dir, "sock")}
	return w.start("provision", w.ours, env, func() error {
		status := exec.CommandContext(w.ctx, binary, "status")
		status.Env = append(os.Environ(), env...)
		return status.Run()
	}, binary, "serve", "--flake", w.dir, "--interface", w.ours.host.Interface, "--state-dir", filepath.Join(w.dir, "state"), "--dhcp", "off", "--http", ":80")
}

// server is a process that serves, and how long it ran on a processor.
type server struct {
	testing.TB
	name string
	pid  int
}

// start runs a server on a host until the test ends, and returns when it is ready.
func (w *world) start(name string, on side, env []string, ready func() error, argv ...string) server {
	w.Helper()
	log, err := os.Create(filepath.Join(w.dir, name+".log"))
	w.must(err)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), env...), log, log
	ended, err := on.host.Start(cmd)
	if err != nil {
		w.Fatalf("%v; .ci/bench says where it comes from", err)
	}
	w.Cleanup(func() {
		cmd.Process.Signal(unix.SIGTERM)
		<-ended
		log.Close()
		if text, _ := os.ReadFile(log.Name()); w.Failed() {
			w.Logf("%s's log begins:\n%s", name, text[:min(len(text), 4000)])
		}
	})
	late := time.After(20 * time.Second)
	for tick := time.NewTicker(10 * time.Millisecond); ; { // there is no event before it listens
		select {
		case <-tick.C:
			if ready() == nil {
				return server{w.TB, name, cmd.Process.Pid}
			}
		case <-ended:
			w.Fatalf("%s has ended", name)
		case <-late:
			w.Fatalf("%s does not answer", name)
		}
	}
}

// cpu is the processor time of the process and its children, those that ended, too: in.tftpd is one for each transfer.
func (s server) cpu() time.Duration {
	s.Helper()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", s.pid, s.pid))
	if err != nil {
		s.Fatal(err)
	}
	ticks := 0
	for _, pid := range append(strings.Fields(string(children)), strconv.Itoa(s.pid)) {
		text, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			continue // ended just now; then it is among what its parent waited for
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		for _, field := range strings.Fields(rest)[11:15] { // utime, stime, cutime, cstime of proc_pid_stat(5)
			n, _ := strconv.Atoi(field)
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100
}
