// Package target runs bin/provision on a virtual machine, as the server does on one that is up: it lets the firmware
// netboot next, and starts the installer in place of the running system.
package target

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"provision/internal/handover"
	"provision/internal/initrd"
	"provision/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.InNamespace(m.Run)) }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// machine is a virtual machine that is up.
type machine struct {
	ctx    context.Context
	lan    *lab.LAN
	router *lab.Router
	image  lab.Installer
	login  lab.Key
	vm     *lab.Machine
	shell  *lab.Shell
}

// newMachine is a PC with UEFI that runs the lab's installer, with the given host key and an empty disk.
func newMachine(t *testing.T, ctx context.Context, host lab.Key) *machine {
	t.Helper()
	m := &machine{ctx: ctx}
	var err error
	m.lan, err = lab.NewLAN(ctx, "br0", netip.MustParsePrefix("10.77.0.1/24"))
	check(t, err)
	t.Cleanup(func() { check(t, m.lan.Close()) })
	m.router, err = m.lan.Router(ctx, t.TempDir(), netip.MustParsePrefix("10.77.0.2/24"),
		netip.MustParseAddr("10.77.0.100"), netip.MustParseAddr("10.77.0.199"))
	check(t, err)
	t.Cleanup(func() { check(t, m.router.Close()) })
	m.login, err = lab.NewKey("login")
	check(t, err)
	m.image, err = lab.Image(ctx, lab.CacheDir(), lab.X86_64, os.Stderr)
	check(t, err)

	dir := t.TempDir()
	disk, err := lab.NewDisk(filepath.Join(dir, "disk"), 256<<20, "LAB")
	check(t, err)
	initrdData := filepath.Join(dir, "initrd")
	check(t, os.WriteFile(initrdData, m.initrd(t, host), 0o600))
	m.vm = &lab.Machine{Name: "vm", Dir: dir, LAN: m.lan, MAC: "52:54:00:12:34:56", Firmware: lab.OVMFPXE,
		Disks: []lab.Disk{disk}, Kernel: m.image.Kernel, Initrd: initrdData, Cmdline: m.image.Cmdline}
	t.Cleanup(func() { check(t, m.vm.PowerOff()) })
	t.Cleanup(func() {
		if text := m.vm.Console().Text(); t.Failed() {
			t.Logf("the end of the console:\n%s", text[max(0, len(text)-4000):])
		}
	})
	check(t, m.vm.Start(ctx))
	m.up(t, host)
	return m
}

// initrd is the image's with the keys of one boot appended, as the server appends them.
func (m *machine) initrd(t *testing.T, host lab.Key) []byte {
	t.Helper()
	initrdData, err := os.ReadFile(m.image.Initrd)
	check(t, err)
	initrdData = append(initrdData, make([]byte, initrd.Padding(int64(len(initrdData))))...)
	return append(initrdData, initrd.Overlay([]initrd.File{
		{Path: "ssh/ssh_host_ed25519_key", Mode: 0o600, Data: host.Private},
		{Path: "ssh/ssh_host_ed25519_key.pub", Mode: 0o644, Data: host.Public},
		{Path: "ssh/authorized_keys", Mode: 0o600, Data: m.login.Public},
		{Path: "addrs.json", Mode: 0o644, Data: []byte("[]")},
	})...)
}

// up waits until the machine has booted and answers with the host key, and uploads the program.
func (m *machine) up(t *testing.T, host lab.Key) {
	t.Helper()
	_, err := m.vm.Console().Expect(m.ctx, "sshd is up")
	check(t, err)
	address, err := m.router.Lease(m.ctx, m.vm.MAC)
	check(t, err)
	m.shell, err = lab.Dial(m.ctx, address, host.Signer.PublicKey(), m.login.Signer)
	for errors.Is(err, unix.EHOSTUNREACH) { // it was away, and the kernel has given up asking for its MAC
		m.shell, err = lab.Dial(m.ctx, address, host.Signer.PublicKey(), m.login.Signer)
	}
	check(t, err)
	binary, err := os.Open("../../../bin/provision")
	if err != nil {
		t.Fatalf("%v: make build makes it", err)
	}
	defer binary.Close()
	_, err = m.shell.Feed(m.ctx, binary, "cat >/run/provision && chmod 700 /run/provision")
	check(t, err)
}

// sh runs a command, which must succeed, and returns its stdout, trimmed.
func (m *machine) sh(t *testing.T, command string) string {
	t.Helper()
	out, err := m.shell.Run(m.ctx, command)
	check(t, err)
	return out
}

// says fails unless the program, run with the arguments, prints that.
func (m *machine) says(t *testing.T, args, want string) {
	t.Helper()
	var flat bytes.Buffer
	out := m.sh(t, "/run/provision target "+args)
	if json.Compact(&flat, []byte(out)) == nil {
		out = flat.String()
	}
	if out != want {
		t.Errorf("target %s: got %q, want %q", args, out, want)
	}
}

// refuses fails unless the program refuses, in these words.
func (m *machine) refuses(t *testing.T, stdin io.Reader, args string, words ...string) {
	t.Helper()
	out, err := m.shell.Feed(m.ctx, stdin, "/run/provision target "+args)
	if err == nil {
		t.Errorf("target %s was not refused: %q", args, out)
		return
	}
	t.Logf("target %s: %v", args, err)
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("target %s: %v; it should say %q", args, err, word)
		}
	}
}

func (m *machine) facts(t *testing.T) (f handover.Facts) {
	t.Helper()
	check(t, json.Unmarshal([]byte(m.sh(t, "/run/provision target facts")), &f))
	return f
}

// load is what kexec-load reads.
func load(t *testing.T, kernel, initrdData []byte, cmdline string) (handover.Load, io.Reader) {
	t.Helper()
	sum := sha256.New()
	sum.Write(kernel)
	sum.Write(initrdData)
	l := handover.Load{Kernel: uint64(len(kernel)), Initrd: uint64(len(initrdData)), SHA256: fmt.Sprintf("%x", sum.Sum(nil)), Cmdline: cmdline}
	return l, io.MultiReader(strings.NewReader(line(t, l)), bytes.NewReader(kernel), bytes.NewReader(initrdData))
}

func line(t *testing.T, l handover.Load) string {
	t.Helper()
	data, err := json.Marshal(l)
	check(t, err)
	return string(data) + "\n"
}

// TestTarget takes a machine that is up, and is not to be asked by hand.
func TestTarget(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	first, err := lab.NewKey("first")
	check(t, err)
	second, err := lab.NewKey("second")
	check(t, err)
	start := time.Now()
	m := newMachine(t, ctx, first)
	t.Logf("up after %.1f s", time.Since(start).Seconds())

	m.testFacts(t)
	t.Logf("facts after %.1f s", time.Since(start).Seconds())
	m.testBootNext(t)
	t.Logf("boot-next after %.1f s", time.Since(start).Seconds())
	m.testLoad(t, second)
	t.Logf("loaded after %.1f s", time.Since(start).Seconds())
	m.start(t)
	m.up(t, second)
	t.Logf("the next kernel is up after %.1f s", time.Since(start).Seconds())
	m.testNext(t)
	t.Logf("done after %.1f s", time.Since(start).Seconds())
}

func (m *machine) testFacts(t *testing.T) {
	t.Helper()
	f := m.facts(t)
	if f.Lockdown != "unknown" { // nothing has mounted securityfs
		t.Errorf("lockdown is %s", f.Lockdown)
	}
	m.sh(t, "mount -t securityfs securityfs /sys/kernel/security")
	f = m.facts(t)
	address, err := m.router.Lease(m.ctx, m.vm.MAC)
	check(t, err)
	got := fmt.Sprint(f.Kernel, f.Arch, f.UEFI, f.SecureBoot, f.Lockdown, f.Kexec, f.KexecFileLoad, f.KexecTool, f.KexecDisabled, f.KexecLoaded, f.ID, f.VariantID, f.Interfaces)
	want := fmt.Sprint(m.sh(t, "uname -r"), "x86_64", true, "off", "none", true, true, false, false, false, "nixos", "installer",
		[]handover.Interface{{Name: m.sh(t, "ls /sys/class/net | grep -v lo"), MAC: m.vm.MAC, Addresses: []string{address.String() + "/24"}}})
	if got != want {
		t.Errorf("facts are\n%s, and should be\n%s", got, want)
	}
	if f.Memory < 1400<<20 || f.Memory > 1536<<20 || f.Free < f.Memory/3 || f.Free > f.Memory {
		t.Errorf("memory: %d bytes, %d free", f.Memory, f.Free)
	}
	for what, raw := range map[string]json.RawMessage{`"address":"` + m.vm.MAC: f.Addrs, `"dev":"`: f.RoutesV4, "[": f.RoutesV6} {
		var flat bytes.Buffer
		check(t, json.Compact(&flat, raw))
		if !strings.Contains(flat.String(), what) {
			t.Errorf("no %s in what ip says: %s", what, raw)
		}
	}
}

func (m *machine) testBootNext(t *testing.T) {
	t.Helper()
	next := func() (text string) {
		for l := range strings.Lines(m.sh(t, "efibootmgr")) {
			if number, ok := strings.CutPrefix(l, "BootNext: "); ok {
				text = "Boot" + strings.TrimSpace(number)
			}
		}
		return text
	}
	entry := func(label string) string {
		name, _, _ := strings.Cut(m.sh(t, "efibootmgr | grep '"+label+"'"), "*")
		return name
	}
	order := m.sh(t, "efibootmgr | grep BootOrder")
	pxe, http := entry("PXEv4"), entry("HTTPv4")
	label := func(way string) string { return "UEFI " + way + " (MAC:525400123456)" }
	said := func(entry, way, had string) string {
		return fmt.Sprintf(`{"entry":%q,"label":%q,"first":%v,"had":%q}`, entry, label(way), way == "PXEv4", had)
	}
	expect := func(want string) {
		t.Helper()
		if got := next(); got != want {
			t.Errorf("BootNext is %q, want %q", got, want)
		}
	}
	mac := " --mac 52:54:00:00:00:01," + m.vm.MAC

	m.says(t, "boot-next"+mac, said(pxe, "PXEv4", ""))
	expect(pxe)
	m.sh(t, "chattr +i /sys/firmware/efi/efivars/BootNext-*")
	m.says(t, "boot-next --http"+mac, said(http, "HTTPv4", pxe))
	expect(http)
	m.says(t, "boot-next --restore "+pxe, said(pxe, "PXEv4", http))
	expect(pxe)
	m.sh(t, "chattr +i /sys/firmware/efi/efivars/BootNext-* && umount /sys/firmware/efi/efivars")
	m.says(t, "boot-next --clear", "") // mounts the variables again
	expect("")
	m.says(t, "boot-next --clear", "")
	m.refuses(t, nil, "boot-next --mac 52:54:00:00:00:01", "52:54:00:00:00:01", pxe, label("PXEv4"), "firmware's setup", "--via kexec")
	m.refuses(t, nil, "boot-next --restore Boot0FFF", "no entry Boot0FFF", label("PXEv4"))
	expect("")
	if got := m.sh(t, "efibootmgr | grep BootOrder"); got != order {
		t.Errorf("the order is %s and was %s", got, order)
	}
}

func (m *machine) testLoad(t *testing.T, next lab.Key) {
	t.Helper()
	kernel, err := os.ReadFile(m.image.Kernel)
	check(t, err)
	initrdData := m.initrd(t, next)
	m.refuses(t, nil, "kexec-start", "nothing is")

	large, _ := load(t, kernel, initrdData, "")
	large.Initrd = 3080<<20 - uint64(len(kernel))
	m.refuses(t, strings.NewReader(line(t, large)), "kexec-load", "3080 MiB", "6800 MiB",
		fmt.Sprintf("this one has %d MiB", (m.facts(t).Memory+1<<20-1)>>20), "--via netboot")
	bad, _ := load(t, kernel[:100], initrdData[:100], "")
	bytesOf := func(s string) io.Reader { return strings.NewReader(line(t, bad) + strings.Repeat(s, 200)) }
	m.refuses(t, bytesOf("x"), "kexec-load", "SHA-256", bad.SHA256, "nothing was loaded")
	m.refuses(t, strings.NewReader(line(t, bad)+"short"), "kexec-load", "5 of 100 bytes")
	_, noKernel := load(t, kernel[:100], initrdData[:100], "")
	m.refuses(t, noKernel, "kexec-load", "kexec-tools", "--via netboot")
	_, small := load(t, kernel, initrdData[:100], "")
	m.loads(t, small)
	m.says(t, "kexec-unload && cat /sys/kernel/kexec_loaded", "0")
	// Where the emulator gets no time for a moment, a kernel takes the timer for broken ("IO-APIC + timer doesn't work!")
	// and panics. Under other hypervisors than TCG it does not look.
	_, stream := load(t, kernel, initrdData, m.image.Cmdline+" lockdown=integrity")
	m.loads(t, stream)
}

// loads fails unless kexec-load takes what it reads.
func (m *machine) loads(t *testing.T, stream io.Reader) {
	t.Helper()
	out, err := m.shell.Feed(m.ctx, stream, "cat /sys/kernel/kexec_loaded && /run/provision target kexec-load && cat /sys/kernel/kexec_loaded")
	check(t, err)
	if out != "0\nloaded\n1" {
		t.Fatalf("kexec-load said %q", out)
	}
}

// start starts what is loaded, while a program writes to a file system on the disk.
func (m *machine) start(t *testing.T) {
	t.Helper()
	m.sh(t, "mkfs.ext4 -q /dev/vda && mount /dev/vda /mnt && { setsid sh -c 'exec sleep 1000 >/mnt/open' >/dev/null 2>&1 & } && echo kept >/mnt/file")
	session, err := m.shell.Client().NewSession()
	check(t, err)
	var said bytes.Buffer
	session.Stderr = &said
	stdout, err := session.StdoutPipe()
	check(t, err)
	check(t, session.Start("/run/provision target kexec-start"))
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "starting\n" {
		t.Fatalf("%q, %v: %s", line, err, said.String())
	}
}

// testNext looks at the machine after the start: it is in lockdown.
func (m *machine) testNext(t *testing.T) {
	t.Helper()
	if state := m.sh(t, "dumpe2fs -h /dev/vda 2>/dev/null"); strings.Contains(state, "needs_recovery") || !strings.Contains(state, "state:         clean") {
		t.Errorf("the file system was not made read-only before: %s", state)
	}
	if got := m.sh(t, "mount -o ro,noload /dev/vda /mnt && cat /mnt/file"); got != "kept" {
		t.Errorf("the file holds %q", got)
	}
	m.sh(t, "mount -t securityfs securityfs /sys/kernel/security")
	f := m.facts(t)
	if f.Lockdown != "integrity" || !f.UEFI || f.KexecLoaded {
		t.Errorf("after the start: %+v", f)
	}
	kernel, err := os.ReadFile(m.image.Kernel)
	check(t, err)
	kernel[len(kernel)/2] ^= 1 // whoever signed it did not sign this
	l, unsigned := load(t, kernel, []byte("initrd"), "")
	m.refuses(t, strings.NewReader(line(t, l)), "kexec-load", "in lockdown (integrity)", "Secure Boot", "--via netboot, --via wol or --via manual")
	m.sh(t, "umount /sys/kernel/security")
	m.refuses(t, unsigned, "kexec-load", "does not permit it", "in lockdown", "--via netboot")
	m.sh(t, "sysctl -w kernel.kexec_load_disabled=1")
	m.refuses(t, strings.NewReader(line(t, l)), "kexec-load", "kernel.kexec_load_disabled", "--via netboot")
}
