// Package layouts makes disk layouts on virtual disks, in a virtual machine that runs the lab's installer: in all ways
// that plans have, and looks at what is there after each.
package layouts

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"provision/disko"
	"provision/images"
	"provision/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.InNamespace(m.Run)) }

// What layouts use in place of the disks that they name, in byte order of the disks' names. They are sparse, and the
// machine's own are many, so that each layout finds what it needs.
var nodes = []string{"/dev/vda", "/dev/vdb", "/dev/vdc", "/dev/vdd"}

const diskSize = 8 << 30

// machine is a virtual machine that runs the installer, for one layout after another.
type machine struct {
	ctx   context.Context
	shell *lab.Shell
	disks map[string]lab.Disk // by node
}

var machines atomic.Int32

// newMachine boots one.
func newMachine(t *testing.T) *machine {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
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
	initrd, err := os.ReadFile(img.Initrd) // a multiple of four bytes
	check(t, err)
	initrd = append(initrd, images.Overlay([]images.OverlayFile{
		{Path: "ssh/ssh_host_ed25519_key", Mode: 0o600, Data: host.Private},
		{Path: "ssh/ssh_host_ed25519_key.pub", Mode: 0o644, Data: host.Public},
		{Path: "ssh/authorized_keys", Mode: 0o600, Data: login.Public},
		{Path: "addrs.json", Mode: 0o644, Data: []byte("[]")},
	})...)
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "initrd"), initrd, 0o600))

	m := &machine{ctx: ctx, disks: map[string]lab.Disk{}}
	vm := &lab.Machine{Name: fmt.Sprintf("vm%d", n), Dir: dir, LAN: lan, MAC: fmt.Sprintf("52:54:00:12:34:%02x", n),
		Firmware: lab.SeaBIOS, Kernel: img.Kernel, Initrd: filepath.Join(dir, "initrd"), Cmdline: img.Cmdline}
	for i, node := range nodes {
		disk, err := lab.NewDisk(fmt.Sprintf("%s/disk%d.raw", dir, i), diskSize, fmt.Sprintf("LAB%d", i))
		check(t, err)
		m.disks[node] = disk
		vm.Disks = append(vm.Disks, disk)
	}
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
	m.sh(t, "modprobe md_mod && echo 1000 > /proc/sys/dev/raid/speed_limit_max")
	return m
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

// quote makes one word of s for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func command(argv []string) string {
	words := make([]string, len(argv))
	for i, arg := range argv {
		words[i] = quote(arg)
	}
	return strings.Join(words, " ")
}

var failedStep = regexp.MustCompile(`(?m)^step ([0-9]+) failed$`)

// run runs steps in one session.
func (m *machine) run(t *testing.T, steps []disko.Step) {
	t.Helper()
	if len(steps) == 0 {
		return
	}
	var script strings.Builder
	for i, s := range steps {
		feed := command(s.Argv) + " </dev/null"
		if s.Stdin != "" {
			feed = fmt.Sprintf(`{ key=$(cat %s); printf %%s "$key"; } | %s`, quote(s.Stdin), command(s.Argv))
		}
		fmt.Fprintf(&script, "t=$EPOCHREALTIME; %s >/tmp/out 2>&1 || { cat /tmp/out >&2; echo 'step %d failed' >&2; exit 1; }; t=$(($(echo $EPOCHREALTIME|tr -d .)-$(echo $t|tr -d .)));  [ $t -lt 400000 ] || echo $t %s\n", feed, i, quote(s.Name))
	}
	out, err := m.shell.Feed(m.ctx, strings.NewReader(script.String()), "cat >/tmp/steps; bash /tmp/steps")
	t.Log(out)
	if err != nil {
		if found := failedStep.FindStringSubmatch(err.Error()); found != nil {
			n, _ := strconv.Atoi(found[1])
			t.Fatalf("%s (%s)\n%q\n%v", steps[n].Name, steps[n].Stage, steps[n].Argv, err)
		}
		t.Fatal(err)
	}
}

// facts probes the machine.
func (m *machine) facts(t *testing.T, look disko.Look) *disko.Facts {
	t.Helper()
	data, err := disko.ReadProbe([]byte(m.sh(t, command(disko.Probe(look)))))
	check(t, err)
	facts, err := disko.ParseFacts(data)
	check(t, err)
	return facts
}

// table reads a disk's GPT back.
func (m *machine) table(t *testing.T, d disko.Disk) *disko.Table {
	t.Helper()
	head, end := disko.TableBytes(d.SectorSize)
	read := func(skip, n int64) []byte {
		data, err := base64.StdEncoding.DecodeString(m.sh(t, fmt.Sprintf(
			"dd if=%s bs=%d skip=%d count=%d status=none | base64 -w0", d.Device, d.SectorSize, skip/d.SectorSize, n/d.SectorSize)))
		check(t, err)
		return data
	}
	table, err := disko.ReadTable(read(0, head), read(d.Size-end, end), d.Size, d.SectorSize)
	check(t, err)
	return table
}

// wipe makes all disks blank, as if new.
func (m *machine) wipe(t *testing.T) {
	t.Helper()
	var script bytes.Buffer
	for _, node := range nodes {
		fmt.Fprintf(&script, "blkdiscard --force %[1]s && blockdev --rereadpt %[1]s\n", node)
	}
	m.sh(t, "set -e\n"+script.String()+"udevadm settle")
}
