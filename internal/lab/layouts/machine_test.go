// Package layouts makes disk layouts on virtual disks, in a virtual machine that runs the lab's installer: in all ways
// that plans have, and looks at what is there after each.
package layouts

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"provision/disko"
	"provision/installer"
	"provision/internal/initrd"
	"provision/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.InNamespace(m.Run)) }

// nodes are what layouts get in place of the disks that they name, in byte order of the disks' names.
var nodes = []string{"/dev/vda", "/dev/vdb", "/dev/vdc", "/dev/vdd"}

const (
	keyDisk  = "/dev/vde" // small, as a stick with a key on it
	diskSize = 16 << 30
)

// machine is a virtual machine that runs the installer, for one layout after another.
type machine struct {
	ctx   context.Context
	shell *lab.Shell
	disks map[string]lab.Disk // by node
	made  *installer.Disks    // what made the layout, and closes it
}

var machines atomic.Int32

// usualSync is how fast RAIDs are synced when no layout is open, in KiB/s: a little more than the kernel's least.
const usualSync = "1001"

// newMachine boots one.
func newMachine(t *testing.T) *machine {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 35*time.Minute)
	t.Cleanup(cancel)
	n := machines.Add(1)
	lan, err := lab.NewLAN(ctx, fmt.Sprintf("br%d", n), netip.MustParsePrefix(fmt.Sprintf("10.77.%d.1/24", n)))
	check(t, err)
	t.Cleanup(func() { check(t, lan.Close()) })
	address := func(last int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("10.77.%d.%d", n, last)) }
	router, err := lan.Router(ctx, t.TempDir(), netip.PrefixFrom(address(2), 24), address(100), address(199))
	check(t, err)
	t.Cleanup(func() { check(t, router.Close()) })

	host, err := lab.NewKey("host")
	check(t, err)
	login, err := lab.NewKey("login")
	check(t, err)
	img, err := lab.Image(ctx, lab.CacheDir(), lab.X86_64, os.Stderr)
	check(t, err)
	initrdData, err := os.ReadFile(img.Initrd) // a multiple of four bytes
	check(t, err)
	initrdData = append(initrdData, initrd.Overlay([]initrd.File{
		{Path: "ssh/ssh_host_ed25519_key", Mode: 0o600, Data: host.Private},
		{Path: "ssh/ssh_host_ed25519_key.pub", Mode: 0o644, Data: host.Public},
		{Path: "ssh/authorized_keys", Mode: 0o600, Data: login.Public},
		{Path: "addrs.json", Mode: 0o644, Data: []byte("[]")},
	})...)
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "initrd"), initrdData, 0o600))

	m := &machine{ctx: ctx, disks: map[string]lab.Disk{}}
	vm := &lab.Machine{Name: fmt.Sprintf("vm%d", n), Dir: dir, LAN: lan, MAC: fmt.Sprintf("52:54:00:12:34:%02x", n),
		Firmware: lab.SeaBIOS, Kernel: img.Kernel, Initrd: filepath.Join(dir, "initrd"), Cmdline: img.Cmdline}
	m.plugDisks(t, vm)
	t.Cleanup(func() { check(t, vm.PowerOff()) })
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the console:\n%s", tail(vm.Console().Text(), 4000))
		}
	})
	check(t, vm.Start(ctx))
	_, err = vm.Console().Expect(ctx, "sshd is up")
	check(t, err)
	at, err := router.Lease(ctx, vm.MAC)
	check(t, err)
	m.shell, err = lab.Dial(ctx, at, host.Signer.PublicKey(), login.Signer)
	check(t, err)
	// The test does not need RAIDs to be in sync, and the machine is slow.
	m.sh(t, "modprobe md_mod && echo "+usualSync+" > /proc/sys/dev/raid/speed_limit_max")
	return m
}

// plugDisks gives a machine its disks: those that layouts use, the one with a key, and some on other buses.
func (m *machine) plugDisks(t *testing.T, vm *lab.Machine) {
	t.Helper()
	add := func(node string, disk lab.Disk) {
		made, err := lab.NewDisk(filepath.Join(vm.Dir, filepath.Base(node)), diskSize, disk.Serial)
		check(t, err)
		made.Bus = disk.Bus
		m.disks[node] = made
		vm.Disks = append(vm.Disks, made)
	}
	for _, node := range nodes {
		add(node, lab.Disk{Serial: "LAB-" + filepath.Base(node)})
	}
	stick := filepath.Join(vm.Dir, "key.raw")
	check(t, os.WriteFile(stick, bytes.Repeat([]byte("key on a disk\n\n\n"), 4096), 0o600))
	vm.Disks = append(vm.Disks, lab.Disk{Path: stick, Serial: "KEY"}) // keyDisk
	add("/dev/nvme0n1", lab.Disk{Serial: "NVME", Bus: "nvme"})
	add("/dev/sda", lab.Disk{Serial: "SATA", Bus: "sata"})
	large, err := lab.NewDisk(filepath.Join(vm.Dir, "large"), diskSize, "LARGE")
	check(t, err)
	m.disks["/dev/vdf"] = large
	vm.Args = []string{"-drive", "if=none,id=large,format=raw,cache=unsafe,discard=unmap,file=" + large.Path,
		"-device", "virtio-blk-pci,drive=large,serial=LARGE,logical_block_size=4096,physical_block_size=4096"}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// sh runs a script in the machine, which must succeed, and returns its stdout, trimmed.
func (m *machine) sh(t *testing.T, script string) string {
	t.Helper()
	out, err := m.shell.Run(m.ctx, script)
	check(t, err)
	return out
}

// tool returns what makes a layout on the machine: the product's own code for that.
func (m *machine) tool(t *testing.T, data []byte, way disko.Mode) *installer.Disks {
	t.Helper()
	parsed, err := disko.Parse(data)
	check(t, err)
	return &installer.Disks{
		Client: m.shell.Client(), Layout: parsed, Options: disko.Options{Mode: way}, Log: slog.New(slog.DiscardHandler),
		Key: func(string) ([]byte, error) { return key, nil },
	}
}

// key is what all key files hold: more than any layout skips and reads of one.
var key = bytes.Repeat([]byte("correct horse\n"), 1000)

// facts probes the machine.
func (m *machine) facts(t *testing.T, look disko.ProbePaths) *disko.Facts {
	t.Helper()
	words := disko.Probe(look)
	for i, word := range words {
		words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	data, err := disko.ReadProbe([]byte(m.sh(t, strings.Join(words, " "))))
	check(t, err)
	facts, err := disko.ParseFacts(data)
	check(t, err)
	return facts
}

// remaining returns what a plan would do with what the machine has, which must be open.
func (m *machine) remaining(t *testing.T, data []byte, way disko.Mode) []disko.Step {
	t.Helper()
	parsed, err := disko.Parse(data)
	check(t, err)
	var p *disko.Plan
	for look := (disko.ProbePaths)(nil); p == nil || p.Unfinished() && len(p.Steps) == 0; look = p.Paths {
		p, err = disko.NewPlan(parsed, m.facts(t, look), disko.Options{Mode: way})
		check(t, err)
	}
	return p.Steps
}

// wipe makes all disks blank, as if new.
func (m *machine) wipe(t *testing.T) {
	t.Helper()
	var script bytes.Buffer
	for node := range m.disks {
		fmt.Fprintf(&script, "blkdiscard --force %[1]s && blockdev --rereadpt %[1]s\n", node)
	}
	m.sh(t, "set -e\n"+script.String()+"udevadm settle")
}
