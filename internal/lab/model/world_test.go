// Package model runs one real server, with operators, machines, strangers on the LAN and kill -9 all at the same time,
// and compares what happened with what may. Real are the server, its store, nix and all that goes over the network.
// Simulated are the machines: their firmware (internal/lab/netboot), and the system that it starts, which is an SSH
// server of Go's with one disk. It holds tests only.
package model

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"provision/images"
	"provision/internal/initrd"
	"provision/internal/lab"
	"provision/internal/lab/netboot"
)

func TestMain(m *testing.M) {
	// What kill -9 is to show does not depend on a disk, and a busy disk's fsync takes as long as firmware's patience.
	if err := os.Setenv("TMPDIR", "/dev/shm"); err != nil {
		panic(err)
	}
	os.Exit(lab.InNamespace(m.Run))
}

var self = netip.MustParsePrefix("10.77.0.1/20")

// world is a LAN with a server on it, and all that took place there.
type world struct {
	*testing.T
	ctx      context.Context
	seed     uint64
	dir      string
	lan      *lab.LAN
	server   *server
	machines []*machine
	stranger *stranger
	moods    *moods
	journal  journal
	steps    counter // of the operators
	pulses   pulses
}

func newWorld(t *testing.T, seed uint64, names ...string) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	t.Cleanup(cancel)
	w := &world{T: t, ctx: ctx, seed: seed, dir: t.TempDir()}
	w.moods = newMoods(w.rand(70))
	var err error
	w.lan, err = lab.NewLAN(ctx, "br0", self)
	w.must(err)
	t.Cleanup(func() { w.lan.Close() })
	w.fleet(names)
	w.server = newServer(w)
	for i, name := range names {
		w.machines = append(w.machines, w.plug(i, name))
	}
	w.stranger = w.newStranger()
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// rand is an actor's source of choices: what one of them chooses does not depend on the others.
func (w *world) rand(actor uint64) *rand.Rand { return rand.New(rand.NewPCG(w.seed, actor)) }

// fleet writes a flake with these hosts, each with a system of its own and an encrypted disk.
func (w *world) fleet(names []string) {
	w.Helper()
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = fmt.Sprintf("%q", name)
	}
	fill := strings.NewReplacer("NAMES", strings.Join(quoted, " "), "DISK", diskPath, "KEY", keyPath, "TOOLS", os.Getenv("PATH"))
	w.must(os.Mkdir(w.flake(), 0o755))
	w.must(os.WriteFile(filepath.Join(w.flake(), "flake.nix"), []byte(fill.Replace(flake)), 0o644))
}

func (w *world) flake() string { return filepath.Join(w.dir, "flake") }

const flake = `{
  outputs = { self }: {
    nixosConfigurations = builtins.listToAttrs (map (name: {
      inherit name;
      value = {
        pkgs.stdenv.hostPlatform.system = "x86_64-linux";
        config.disko.devices.disk.main = {
          type = "disk"; device = "DISK"; name = "main"; destroy = true;
          content = {
            type = "luks"; device = "DISK"; name = "crypt"; passwordFile = "KEY";
            content = { type = "filesystem"; device = "/dev/mapper/crypt"; format = "ext4"; mountpoint = "/"; };
          };
        };
        config.system.build.toplevel = derivation {
          name = "nixos-system-${name}";
          system = "x86_64-linux";
          builder = "/bin/sh";
          PATH = "TOOLS";
          args = [ "-c" ''
            mkdir -p $out && cd $out && touch kernel initrd && echo x86_64-linux >system
            echo '#!/bin/sh' >init && chmod +x init
          '' ];
        };
      };
    }) [ NAMES ]);
  };
}`

// image is what looks like a kernel, and an initrd that nobody starts. It is added while no server runs.
func (w *world) image() {
	w.Helper()
	kernel := make([]byte, 70000)
	for at, magic := range map[int]string{0x1fe: "\x55\xaa", 0x202: "HdrS\x0f\x02", 0x236: "\x03\x00"} {
		copy(kernel[at:], magic)
	}
	init := initrd.File{Path: "init", Mode: 0o755, Data: bytes.Repeat([]byte("provision"), 9999)}
	initrdData := initrd.Overlay([]initrd.File{init})
	src := images.Source{
		Kernel:  filepath.Join(w.dir, "kernel"),
		Initrd:  filepath.Join(w.dir, "initrd"),
		Cmdline: "init=/nix/store/x/init",
	}
	w.must(errors.Join(os.WriteFile(src.Kernel, kernel, 0o600), os.WriteFile(src.Initrd, initrdData, 0o600)))
	catalog, err := images.Open(filepath.Join(w.server.state(), "images"))
	w.must(err)
	_, err = catalog.Add(w.ctx, "lab", images.X86_64, src, nil)
	w.must(err)
}

// plug puts machine number i on the LAN, switched off.
func (w *world) plug(i int, name string) *machine {
	w.Helper()
	mac := net.HardwareAddr{0x52, 0x54, 3, 0, 0, byte(i)}
	port, err := w.lan.Client(w.ctx, "port-"+name, mac.String(), netip.Prefix{})
	w.must(err)
	w.Cleanup(func() { port.Close() })
	wire, err := netboot.Open(port, port.Interface)
	w.must(err)
	w.Cleanup(func() { wire.Close() })
	return &machine{
		world: w,
		name:  name,
		mac:   mac,
		uuid:  []byte{1, 2, 3, 4, 5, 6, 0x47, 8, 0x89, 10, 11, 12, 13, 14, 0, byte(i)},
		port:  port,
		wire:  wire,
		rand:  w.rand(100 + uint64(i)),
		disk:  disk{serial: fmt.Sprintf("MODEL-%d", i)},
	}
}

// counter counts, and tells when it has come so far.
type counter struct {
	mu    sync.Mutex
	n     int
	waits map[int][]chan struct{}
}

func (c *counter) add() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	for _, ch := range c.waits[c.n] {
		close(ch)
	}
	delete(c.waits, c.n)
	return c.n
}

// after closes the channel after so many more.
func (c *counter) after(more int) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waits == nil {
		c.waits = make(map[int][]chan struct{})
	}
	ch := make(chan struct{})
	c.waits[c.n+more] = append(c.waits[c.n+more], ch)
	return ch
}

// pulses tell that something happened to a host.
type pulses struct {
	mu    sync.Mutex
	hosts map[string]chan struct{}
}

func (p *pulses) next(host string) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hosts == nil {
		p.hosts = make(map[string]chan struct{})
	}
	if p.hosts[host] == nil {
		p.hosts[host] = make(chan struct{})
	}
	return p.hosts[host]
}

func (p *pulses) happened(host string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if ch := p.hosts[host]; ch != nil {
		close(ch)
		delete(p.hosts, host)
	}
}
