// Package fifty installs many simulated machines at once. Real are the server with its nix, what goes over the network, and nix on the machines, with
// all that it copies. Simulated are the firmware (internal/lab/netboot), the kernel's start, which takes no time, the SSH server, which is Go's, and all
// that makes disks: this kernel has no device mapper and no FAT, and fifty real disks would measure this computer's.
package fifty

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"provision/internal/initrd"
	"provision/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.InNamespace(m.Run)) }

// limit is what the server's memory must stay under, in bytes.
const limit = 500 << 20

// TestFew installs five machines at once.
func TestFew(t *testing.T) { install(t, 5) }

// BenchmarkFifty installs fifty at once, each with a closure of its own of 60 paths and 30 MB, of which 58 are in all of them.
func BenchmarkFifty(b *testing.B) {
	for b.Loop() {
		took, peak := install(b, 50)
		b.ReportMetric(took[(len(took)-1)/2].Seconds(), "s-median")
		b.ReportMetric(took[len(took)-1].Seconds(), "s-slowest")
		b.ReportMetric(float64(peak>>20), "MB")
		b.ReportMetric(0, "ns/op")
	}
}

// install has n machines enrolled and switched on at once, and installed. It returns how long each took, in order, and the most memory
// that the server had.
func install(t testing.TB, n int) (took []time.Duration, memory int64) {
	w := newWorld(t, n)
	pid := w.serve()
	w.provision("images", "add", "lab", "--arch", "x86_64", "--kernel", filepath.Join(w.dir, "kernel"), "--initrd", filepath.Join(w.dir, "initrd"), "--cmdline", "init=/nix/store/x/init")
	machines := make([]*machine, n)
	for i := range machines {
		machines[i] = w.plug(i)
	}
	var group sync.WaitGroup
	errs := make([]error, n)
	for i, m := range machines {
		group.Go(func() { errs[i] = m.live(i) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		for i, m := range machines {
			if errs[i] != nil {
				w.ctx = context.Background()
				t.Log(w.try("logs", m.name))
			}
		}
		t.Fatal(err)
	}
	for _, m := range machines {
		took = append(took, m.took)
	}
	slices.Sort(took)
	peak, err := lab.Peak(pid)
	w.must(err)
	slowest, median := took[n-1], took[(n-1)/2]
	t.Logf("%d machines: median %.1f s, slowest %.1f s; the server had %d MB at most\n%s", n, median.Seconds(), slowest.Seconds(), peak>>20, w.provision("timeline", machines[0].name))
	if slowest > 2*median || peak > limit {
		t.Errorf("slowest %s, median %s, %d MB", slowest, median, peak>>20)
	}
	return took, peak
}

// nixConfig keeps nix to this computer.
const nixConfig = "NIX_CONFIG=substituters =\nbuild-users-group =\nsandbox = false\n"

// world is a LAN with a server on it.
type world struct {
	testing.TB
	ctx    context.Context
	lan    *lab.LAN
	dir    string
	binary string
	login  string // public key by which the server logs in
}

func newWorld(t testing.TB, n int) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	w := &world{TB: t, ctx: ctx, dir: t.TempDir()}
	var err error
	w.binary, err = filepath.Abs("../../../bin/provision")
	w.must(err)
	if _, err := os.Stat(w.binary); err != nil {
		w.Fatalf("%v; run `make build` first", err)
	}
	w.lan, err = lab.NewLAN(ctx, "br0", netip.MustParsePrefix("10.77.0.1/20"))
	w.must(err)
	t.Cleanup(func() { w.lan.Close() })
	w.image()
	w.fleet(n)
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// image is what looks like a kernel, and an initrd that nobody starts.
func (w *world) image() {
	kernel := make([]byte, 8<<20)
	for at, magic := range map[int]string{0x1fe: "\x55\xaa", 0x202: "HdrS\x0f\x02", 0x236: "\x03\x00"} {
		copy(kernel[at:], magic)
	}
	initrdData := initrd.Overlay([]initrd.File{{Path: "init", Mode: 0o755, Data: bytes.Repeat([]byte("provision"), 1<<20)}})
	w.must(errors.Join(os.WriteFile(filepath.Join(w.dir, "kernel"), kernel, 0o600), os.WriteFile(filepath.Join(w.dir, "initrd"), initrdData, 0o600)))
}

// fleet is a flake with n hosts: each with a system of its own, which refers to 58 paths of half a MB that all have.
func (w *world) fleet(n int) {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%q", fmt.Sprintf("m%02d", i))
	}
	dir := filepath.Join(w.dir, "flake")
	w.must(os.Mkdir(dir, 0o755))
	w.must(os.WriteFile(filepath.Join(dir, "flake.nix"), []byte(strings.NewReplacer("NAMES", strings.Join(names, " "), "TOOLS", os.Getenv("PATH"), "SALT", rand.Text()).Replace(flake)), 0o644))
}

const flake = `{
  outputs = { self }: let
    make = name: script: derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "TOOLS"; args = [ "-c" script ]; };
    shared = builtins.genList (k: make "shared-${toString k}" ": SALT; mkdir -p $out/lib && head -c 500000 /dev/urandom >$out/lib/${toString k} && for i in 1 2 3 4 5; do echo $i >$out/$i; done") 58;
    system = host: make "nixos-system-${host}" "mkdir -p $out && cd $out && echo ${toString shared} ${make "own-${host}" "head -c 500000 /dev/urandom >$out"} >refs && echo '#!/bin/sh' >init && chmod +x init && echo x86_64-linux >system && touch kernel initrd";
  in {
    nixosConfigurations = builtins.listToAttrs (map (name: {
      inherit name;
      value = {
        pkgs.stdenv.hostPlatform.system = "x86_64-linux";
        config.disko.devices.disk.main = {
          type = "disk"; device = "/dev/vdz"; name = "main"; destroy = true;
          content = { device = "/dev/vdz"; type = "filesystem"; format = "ext4"; mountpoint = "/"; };
        };
        config.system.build.toplevel = system name;
      };
    }) [ NAMES ]);
  };
}`

func (w *world) try(args ...string) (string, error) {
	cmd := exec.CommandContext(w.ctx, w.binary, args...)
	cmd.Env = append(os.Environ(), "PROVISION_SOCKET="+filepath.Join(w.dir, "sock"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (w *world) provision(args ...string) string {
	w.Helper()
	out, err := w.try(args...)
	if err != nil {
		w.Fatalf("provision %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

// system is the store path that was built for a host.
func (w *world) system(host string) (string, error) {
	out, err := w.try("status", host, "--json")
	var s struct {
		System string `json:"system"`
	}
	err = errors.Join(err, json.Unmarshal([]byte(out), &s))
	return s.System, err
}

func (w *world) serve() int {
	w.Helper()
	log, err := os.Create(filepath.Join(w.dir, "log"))
	w.must(err)
	cmd := exec.Command(w.binary, "serve", "--flake", filepath.Join(w.dir, "flake"), "--interface", w.lan.Interface, "--state-dir", filepath.Join(w.dir, "state"),
		"--dhcp", "server", "--dhcp-range", "10.77.4.0-10.77.5.255")
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "PROVISION_SOCKET="+filepath.Join(w.dir, "sock"), nixConfig), log, log
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGTERM}
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // Pdeathsig is of the thread
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	w.must(<-started)
	w.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		if err := <-ended; err != nil {
			w.Errorf("the server ended with %v", err)
		}
		log.Close()
		if text, _ := os.ReadFile(log.Name()); w.Failed() || bytes.Contains(text, []byte("level=ERROR")) {
			w.Errorf("the server's log begins:\n%s", text[:min(len(text), 8000)])
		}
	})
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C { // there is no event before the socket is there
		if out, err := w.try("status"); err == nil {
			login, err := os.ReadFile(filepath.Join(w.dir, "state/ssh.pub"))
			w.must(err)
			w.login = string(login)
			return cmd.Process.Pid
		} else if w.ctx.Err() != nil {
			w.Fatalf("the server does not answer: %s", out)
		}
	}
}
