// Package clients boots every simulated firmware from package pxe, over real sockets on virtual LANs. It holds tests
// only.
package clients

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"provision/hosts"
	"provision/images"
	"provision/internal/initrd"
	"provision/internal/lab"
	"provision/internal/lab/netboot"
	"provision/internal/store"
	"provision/pxe"
)

func TestMain(m *testing.M) {
	// A busy disk's fsync takes as long as firmware's patience, which is a tenth of a real one's here.
	if err := os.Setenv("TMPDIR", "/dev/shm"); err != nil {
		panic(err)
	}
	os.Exit(lab.InNamespace(m.Run))
}

// A speed is how quick the firmware's seconds are, and the server's with them; and how many machines boot at a time: more
// would be too much, so quickly, for a test on a busy computer.
type speed struct {
	pace     float64
	machines int
}

var (
	brisk = speed{0.1, 5}
	hasty = speed{0.02, 32} // where machines wait in vain
)

var (
	addr   = netip.MustParseAddr
	prefix = netip.MustParsePrefix
	self   = addr("10.77.0.1")
)

// world is one server on one LAN or more, with an image for each architecture.
type world struct {
	*testing.T
	ctx context.Context
	speed
	begun  time.Time
	off    atomic.Int64 // how long machines were off
	lans   []*lab.LAN
	store  store.Store
	hosts  *hosts.Inventory
	images *images.Catalog
	folder string // of images
	traces *hosts.Traces
	macs   byte
	quiet  bool // the server is to send nothing
	relays []netip.Prefix
	log    *slog.Logger // of the server

	stop   context.CancelFunc
	served chan error
}

// newWorld makes the LANs 10.77.0.1/24, 10.78.0.1/24 and so on, and no server yet. What the server sends on any of them is
// shown to tshark in the end.
func newWorld(t *testing.T, lans int, s speed) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	w := &world{T: t, ctx: ctx, speed: s, begun: time.Now(), log: slog.New(slog.DiscardHandler)}
	for i := range lans {
		l, err := lab.NewLAN(ctx, fmt.Sprintf("br%d", i), netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77 + byte(i), 0, 1}), 24))
		must(t, err)
		t.Cleanup(func() { l.Close() })
		w.lans = append(w.lans, l)
		w.watch(l)
	}
	dir := t.TempDir()
	db, err := store.OpenBolt(filepath.Join(dir, "state.db"))
	must(t, err)
	t.Cleanup(func() { db.Close() })
	vault, err := hosts.OpenVault(filepath.Join(dir, "key"))
	must(t, err)
	w.store = db
	w.hosts, err = hosts.New(db, vault, w.now)
	must(t, err)
	w.folder = filepath.Join(dir, "images")
	w.images, err = images.Open(w.folder)
	must(t, err)
	w.traces = &hosts.Traces{Now: w.now}
	x86 := make([]byte, 70000)
	copy(x86[0x1fe:], "\x55\xaa")
	copy(x86[0x202:], "HdrS\x0f\x02")
	copy(x86[0x236:], "\x03\x00")
	arm := make([]byte, 70000)
	copy(arm[0x38:], "ARM\x64")
	w.image(images.X86_64, x86)
	w.image(images.AArch64, arm)
	return w
}

// now is the server's clock: as fast as the firmware's.
func (w *world) now() time.Time {
	return w.begun.Add(time.Duration(float64(time.Since(w.begun))/w.pace + float64(w.off.Load())))
}

// restart is the minute that machines need between two boots.
func (w *world) restart() { w.off.Add(int64(time.Minute)) }

// image puts a kernel that looks like one into the catalog, under the name of its architecture.
func (w *world) image(arch images.Arch, kernel []byte, more ...initrd.File) {
	w.Helper()
	dir := w.TempDir()
	src := images.Source{Kernel: filepath.Join(dir, "kernel"), Initrd: filepath.Join(dir, "initrd"), Cmdline: "init=/nix/store/x/init quiet"}
	initrdData := initrd.Overlay(append(more, initrd.File{Path: "init", Mode: 0o755, Data: bytes.Repeat([]byte("provision"), 9999)}))
	must(w.T, errors.Join(os.WriteFile(src.Kernel, kernel, 0o600), os.WriteFile(src.Initrd, initrdData, 0o600)))
	_, err := w.images.Add(w.ctx, string(arch), arch, src, nil)
	must(w.T, err)
}

// serve starts a server, which ends with the test, or with the next.
func (w *world) serve(mode pxe.Mode, ranges ...string) {
	w.Helper()
	s := &pxe.Server{Mode: mode, Relays: w.relays, Lease: time.Hour, HTTPPort: 80, BootTime: 10 * time.Minute, Hosts: w.hosts, Leases: w.store, Images: w.images,
		Traces: w.traces, Login: "ssh-ed25519 AAAA provision", Log: w.log, Now: w.now}
	for _, l := range w.lans {
		s.Interfaces = append(s.Interfaces, l.Interface)
	}
	for _, text := range ranges {
		r, err := pxe.ParseRange(text)
		must(w.T, err)
		s.Ranges = append(s.Ranges, r)
	}
	if w.stop == nil {
		w.Cleanup(w.end)
	} else {
		w.end()
	}
	ctx, stop := context.WithCancel(w.ctx)
	w.stop, w.served = stop, make(chan error, 1)
	must(w.T, s.Listen(ctx))
	go func() { w.served <- s.Run(ctx) }()
}

func (w *world) end() {
	w.stop()
	if err := <-w.served; err != nil {
		w.Errorf("the server: %v", err)
	}
}

// router adds a router to a LAN, which leases addresses.
func (w *world) router(lan int, args ...string) {
	w.Helper()
	net := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 77 + byte(lan), 0, last}) }
	r, err := w.lans[lan].Router(w.ctx, w.TempDir(), netip.PrefixFrom(net(2), 24), net(100), net(199), args...)
	must(w.T, err)
	w.Cleanup(func() {
		if w.Failed() {
			w.Log(r.Log())
		}
		r.Close()
	})
}

// machine is a simulated one, on a cable of its own.
type machine struct {
	netboot.Client
	w    *world
	name string // of its host
	wire *netboot.Wire
	port *lab.Client
}

// plug connects a machine to a LAN.
func (w *world) plug(lan int, c netboot.Client) *machine {
	w.Helper()
	w.macs++
	if c.MAC == nil {
		c.MAC = net.HardwareAddr{0x52, 0x54, 0, 0xaa, 0, w.macs}
		if slices.Contains(pis, c.Kind) {
			copy(c.MAC, []byte{0xb8, 0x27, 0xeb}) // older ones are known by it alone
		}
	}
	c.Scale = w.pace
	if c.Kind == netboot.Pi3B {
		c.Scale = max(c.Scale, 0.3) // our frame that wakes it comes in real time
	}
	port, err := w.lans[lan].Client(w.ctx, fmt.Sprintf("port%d", w.macs), c.MAC.String(), netip.Prefix{})
	must(w.T, err)
	wire, err := netboot.Open(port, port.Interface)
	must(w.T, err)
	w.Cleanup(func() { must(w.T, errors.Join(wire.Close(), port.Close())) })
	return &machine{Client: c, w: w, name: fmt.Sprintf("host%d", w.macs), wire: wire, port: port}
}

// enroll makes a host of machines, or of the NICs of one.
func (w *world) enroll(arch images.Arch, nics ...*machine) {
	w.Helper()
	h := hosts.Host{Name: nics[0].name, Arch: string(arch), Choices: hosts.Choices{Image: string(arch)}}
	for _, m := range nics {
		m.name = h.Name
		h.MACs = append(h.MACs, m.MAC.String())
	}
	_, err := w.hosts.Enroll(h, 24*time.Hour, nil)
	must(w.T, err)
}

// known plugs a machine into the first LAN, and enrolls it.
func (w *world) known(c netboot.Client) *machine {
	w.Helper()
	m := w.plug(0, c)
	w.enroll(archOf(c.Kind), m)
	return m
}

// archOf is that of the host that a machine becomes.
func archOf(k netboot.Kind) images.Arch {
	switch k {
	case netboot.EDK2ARM64, netboot.HTTPARM64, netboot.UBoot2023, netboot.UBoot2025, netboot.UBootEFI, netboot.Pi4, netboot.Pi5, netboot.Pi3B, netboot.Pi3BPlus:
		return images.AArch64
	}
	return images.X86_64
}

// bootAll boots machines, as many at a time as the world's speed says.
func (w *world) bootAll(machines ...*machine) []netboot.Result {
	w.Helper()
	results, errs := make([]netboot.Result, len(machines)), make([]error, len(machines))
	var all sync.WaitGroup
	places := make(chan struct{}, w.machines)
	for i, m := range machines {
		places <- struct{}{}
		all.Go(func() {
			results[i], errs[i] = m.Boot(w.ctx, m.wire)
			<-places
		})
	}
	all.Wait()
	must(w.T, errors.Join(errs...))
	return results
}

func (m *machine) host() hosts.Host {
	m.w.Helper()
	h, err := m.w.hosts.Get(m.name)
	must(m.w.T, err)
	return h
}

// log is what the host's log says, a line for each event.
func (m *machine) log() string {
	m.w.Helper()
	events, err := m.w.hosts.Events(m.name, 0)
	must(m.w.T, err)
	var b strings.Builder
	for _, ev := range events {
		fmt.Fprintf(&b, "%s: %s\n", ev.Kind, ev.Message)
	}
	return b.String()
}

// rounds is how many DHCPDISCOVERs the machine's firmware sent. iPXE and U-Boot send the next so soon that it says
// nothing: theirs are one.
func (m *machine) rounds(r netboot.Result) int {
	switch m.Kind {
	case netboot.IPXE, netboot.Tinkerbell, netboot.TinkerbellBIOS, netboot.UBoot2023, netboot.UBoot2025, netboot.UBootEFI:
		return 1
	}
	if i := slices.IndexFunc(r.Timing, func(t netboot.Timing) bool { return t.Stage == "offer" }); i >= 0 {
		return r.Timing[i].Tries
	}
	return 0
}

// up reports whether the machine has kernel and initrd whole, and what the kernel is to be told: its image's command line,
// and the NIC that booted.
func (m *machine) up(r netboot.Result) bool {
	whole := func(stage string) bool {
		for _, s := range []string{stage, "ipxe " + stage} {
			if f, ok := r.Got(s); ok && f.Bytes >= 70000 && (f.Size < 0 || f.Bytes == f.Size) { // U-Boot does not ask for the size
				return true
			}
		}
		return false
	}
	return r.Stopped == "" && !r.Local && whole("kernel") && whole("initrd") &&
		strings.HasSuffix(r.Args, "init=/nix/store/x/init quiet BOOTIF=01-"+strings.ReplaceAll(m.MAC.String(), ":", "-"))
}

// conversation is all that one machine did and heard, and its host's log.
func (m *machine) conversation(r netboot.Result) string {
	var b strings.Builder
	for _, msg := range r.Trace {
		fmt.Fprintln(&b, msg)
	}
	for _, f := range r.Fetched {
		fmt.Fprintf(&b, "fetched %s %s: %d of %d bytes %s\n", f.Stage, f.URL, f.Bytes, f.Size, f.Failed)
	}
	fmt.Fprintf(&b, "chose %s in round %d; stopped: %s; local: %v; args: %s; remarks: %q\n%s", r.Chose, m.rounds(r), r.Stopped, r.Local, r.Args, r.Remarks, m.log())
	return b.String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
