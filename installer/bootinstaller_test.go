package installer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"provision/hosts"
	"provision/images"
	"provision/internal/handover"
	"provision/internal/initrd"
)

const theMAC = "52:54:00:12:34:56"

// taken is a host that may be taken over, with our program on its machine played by a script.
type taken struct {
	*reconciler
	host hosts.Host
	addr string
	dir  string // the script's "said" and "stdin"
	woke []string
}

// takeOver makes it; program is the script's body, with what it is asked in $what.
func takeOver(t *testing.T, via hosts.Via, pinned, shown ssh.Signer, admit bool, program string) *taken {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	inv := inventory(t, dir)
	catalog, err := images.Open(filepath.Join(dir, "images"))
	must(err)
	kernel := make([]byte, 4096)
	copy(kernel[0x1fe:], "\x55\xaa")
	copy(kernel[0x202:], "HdrS\x0f\x02")
	copy(kernel[0x236:], "\x03\x00")
	must(os.WriteFile(filepath.Join(dir, "kernel"), kernel, 0o600))
	must(os.WriteFile(filepath.Join(dir, "initrd"), initrd.Overlay(nil), 0o600))
	_, err = catalog.Add(t.Context(), "lab", images.X86_64, images.Source{Kernel: filepath.Join(dir, "kernel"), Initrd: filepath.Join(dir, "initrd"),
		Cmdline: "init=/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-nixos/init loglevel=4"}, func(int64, int64) {})
	must(err)

	x := &taken{dir: dir}
	tools := filepath.Join(dir, "bin")
	must(os.Mkdir(tools, 0o755))
	// The server runs commands on this very machine.
	must(os.WriteFile(filepath.Join(tools, "reboot"), []byte("#!/bin/sh\necho reboot >>"+dir+"/said\n[ ! -e "+dir+"/stuck ] || { echo no systemd >&2; exit 1; }\n"), 0o755))
	t.Setenv("PATH", tools+":"+os.Getenv("PATH"))
	script := fmt.Sprintf(`#!/bin/sh
shift # target
what=$*
echo "$what" >>%s/said
case $1 in facts) echo '{"arch":"x86_64","addrs":[{"ifname":"eth0"}]}'; exit;; esac
%s`, dir, strings.ReplaceAll(program, "DIR", dir))
	must(os.WriteFile(filepath.Join(dir, "program"), []byte(script), 0o755))

	login := newSigner(t)
	x.addr, _ = sshServer(t, shown, admit)
	take := &hosts.Takeover{Address: x.addr, HostKey: strings.TrimSpace(authorizedKey(pinned))}
	x.host, err = inv.Enroll(hosts.Host{Name: "bravo", MACs: []string{theMAC}, Choices: hosts.Choices{Image: "lab"}, Arch: "x86_64", Permit: hosts.Permit{Via: via, Take: take}}, time.Hour, nil)
	must(err)
	x.reconciler = &reconciler{name: "bravo", Installer: &Installer{Hosts: inv, Images: catalog, Now: time.Now, Log: slog.New(slog.DiscardHandler), signer: login,
		Program: func(string) (string, error) { return filepath.Join(dir, "program"), nil },
		Wake:    func(_ context.Context, mac string) error { x.woke = append(x.woke, mac); return nil }}}
	return x
}

func (x *taken) file(name string) string {
	data, _ := os.ReadFile(filepath.Join(x.dir, name))
	return string(data)
}

const (
	kexecWorks  = `case $1 in kexec-load) cat >DIR/stdin; echo loaded;; kexec-start) echo starting;; esac`
	kexecLocked = `case $1 in
kexec-load) echo "the kernel is locked down" >&2; exit 1;;
boot-next) case $what in *--mac*) echo '{"entry":"Boot0003","label":"UEFI PXEv4","had":"Boot0001"}';; esac;;
esac`
	allLocked = `echo "not $1" >&2; exit 1`
)

// TestCome: what is done to make a machine come, and what is said where that does not go.
func TestCome(t *testing.T) {
	for _, tt := range []struct {
		name    string
		via     hosts.Via
		program string
		said    string // by the server to our program, a line each; the facts come first
		how     string // part of what came of it
		err     string // part of the error
	}{
		{"kexec", hosts.ViaKexec, kexecWorks, "kexec-load kexec-start", "kexec: sent", ""},
		{"auto", hosts.ViaAuto, kexecWorks, "kexec-load kexec-start", "kexec: sent", ""},
		{"kexec is locked", hosts.ViaKexec, kexecLocked, "kexec-load", "", "the kernel is locked down"},
		{"auto where kexec is locked", hosts.ViaAuto, kexecLocked, "kexec-load boot-next --mac " + theMAC + " reboot", "BootNext is Boot0003, UEFI PXEv4", ""},
		{"auto where nothing goes", hosts.ViaAuto, allLocked, "kexec-load boot-next --mac " + theMAC, "", "provision retry bravo --via manual"},
		{"netboot", hosts.ViaNetboot, kexecLocked, "boot-next --mac " + theMAC + " reboot", "BootNext is Boot0003", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			key := newSigner(t)
			x := takeOver(t, tt.via, key, key, true, tt.program)
			how, err := x.bringUp(t.Context(), x.host)
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want one about %q", err, tt.err)
			}
			if !strings.Contains(how, tt.how) {
				t.Errorf("it came by %q, want %q", how, tt.how)
			}
			if got := strings.Join(strings.Fields(x.file("said")), " "); got != strings.TrimSpace("facts "+tt.said) {
				t.Errorf("the machine was asked for %q, want facts %s", got, tt.said)
			}
		})
	}
}

func TestComeByKexec(t *testing.T) {
	key := newSigner(t)
	x := takeOver(t, hosts.ViaKexec, key, key, true, kexecWorks)
	params := []string{"console=ttyS0,115200"}
	if _, err := x.Hosts.Set("bravo", hosts.Change{Choices: hosts.Choices{KernelParams: params}, Named: []string{"kernel_params"}}, "a test"); err != nil {
		t.Fatal(err)
	}
	x.host.KernelParams = params
	if _, err := x.bringUp(t.Context(), x.host); err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(x.file("stdin"), "\n")
	var load handover.Load
	if err := json.Unmarshal([]byte(head), &load); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(rest))
	if load.SHA256 != hex.EncodeToString(sum[:]) || load.Kernel+load.Initrd != uint64(len(rest)) ||
		load.Cmdline != "init=/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-nixos/init loglevel=4 console=ttyS0,115200 BOOTIF=01-52-54-00-12-34-56" {
		t.Errorf("%+v, with %d bytes", load, len(rest))
	}
	h, err := x.Hosts.Get("bravo")
	if err != nil || h.State != hosts.StateBooting || h.Boot.Used.IsZero() || h.Boot.TakenBy != x.addr || h.MustBeBroughtUp() {
		t.Errorf("%+v, %v", h, err)
	}
	for _, part := range []string{h.Boot.HostKey, "ssh/ssh_host_ed25519_key", "ssh/authorized_keys", `[{"ifname":"eth0"}]`, "addrs.json"} {
		if !strings.Contains(rest, part) {
			t.Errorf("the initrd lacks %s", part)
		}
	}
	if left, _ := filepath.Glob("/run/provision.??????"); len(left) > 0 {
		t.Errorf("left on the machine: %s", left)
	}
}

func TestBootNextIsUndone(t *testing.T) {
	key := newSigner(t)
	x := takeOver(t, hosts.ViaNetboot, key, key, true, kexecLocked)
	if err := os.WriteFile(filepath.Join(x.dir, "stuck"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := x.bringUp(t.Context(), x.host); err == nil || !strings.Contains(err.Error(), "no systemd") {
		t.Errorf("%v", err)
	}
	if said := x.file("said"); !strings.HasSuffix(said, "reboot\nboot-next --restore Boot0001\n") {
		t.Errorf("%s", said)
	}
}

// TestReach: only the machine that is known is touched.
func TestReach(t *testing.T) {
	known, other := newSigner(t), newSigner(t)
	x := takeOver(t, hosts.ViaAuto, known, other, true, "")
	_, err := x.bringUp(t.Context(), x.host)
	for _, key := range []ssh.Signer{known, other} {
		if err == nil || !strings.Contains(err.Error(), ssh.FingerprintSHA256(key.PublicKey())) {
			t.Errorf("another key: %v", err)
		}
	}
	x = takeOver(t, hosts.ViaAuto, known, known, false, "")
	if _, err := x.bringUp(t.Context(), x.host); err == nil || !strings.Contains(err.Error(), "does not let this server in") || x.file("said") != "" {
		t.Errorf("a machine that lets nobody in: %v", err)
	}

	x = takeOver(t, hosts.ViaAuto, known, known, true, "")
	x.host.Permit.Take.Port = 1 // nobody listens
	how, err := x.bringUp(t.Context(), x.host)
	if err != nil || !strings.Contains(how, "magic packets to "+theMAC) || len(x.woke) != 1 {
		t.Errorf("nobody answers: %q, %v, woke %s", how, err, x.woke)
	}
	x.host.Permit.Via = hosts.ViaKexec
	if _, err := x.bringUp(t.Context(), x.host); !errors.Is(err, errSilent) || len(x.woke) != 1 {
		t.Errorf("nobody answers, and kexec is wanted: %v", err)
	}
	x.host.Permit.Take = nil
	if _, err := x.bringUp(t.Context(), x.host); err == nil || !strings.Contains(err.Error(), "provision install bravo --ssh") {
		t.Errorf("nothing is known of the machine: %v", err)
	}
	x.host.Permit.Via = hosts.ViaAuto
	if how, err := x.bringUp(t.Context(), x.host); err != nil || !strings.Contains(how, "magic packets") || len(x.woke) != 2 {
		t.Errorf("nothing is known of the machine: %q, %v", how, err)
	}
}

// TestAdopt: an installer that is up is this boot's, without a byte.
func TestAdopt(t *testing.T) {
	key := newSigner(t)
	x := takeOver(t, hosts.ViaKexec, key, key, true, "")
	x.host.Permit.Take.Installer = true
	if _, err := x.bringUp(t.Context(), x.host); err != nil {
		t.Fatal(err)
	}
	h, err := x.Hosts.Get("bravo")
	if err != nil || h.Boot.HostKey != strings.TrimSpace(authorizedKey(key)) || h.Boot.Used.IsZero() || x.file("said") != "" {
		t.Errorf("%+v, %v", h.Boot, err)
	}
}

// TestUnwantedInstallerIsRestarted: a reinstall is cancelled when its installer is about to come up.
func TestUnwantedInstallerIsRestarted(t *testing.T) {
	key := newSigner(t)
	x := takeOver(t, hosts.ViaManual, key, key, true, "")
	x.LiveWithin = time.Minute
	apply := func(h hosts.Host, err error) hosts.Host {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	boot := func(hostKey string) hosts.Host {
		h := apply(x.Hosts.BeginBoot("bravo", hosts.Boot{HostKey: hostKey, Expires: time.Now().Add(time.Hour)}, ""))
		return apply(x.Hosts.UseBoot(h.Boot.Token, hosts.Fetch{Client: x.addr, File: "initrd", Whole: true}))
	}
	h := boot("")
	for _, ev := range []hosts.Event{{Kind: hosts.EventContacted, Boot: &h.Boot, Address: x.addr}, {Kind: hosts.EventBurned, Disks: []hosts.Disk{{Device: "/dev/vda"}}},
		{Kind: hosts.EventRebooted}, {Kind: hosts.EventProved}} {
		h = apply(x.Hosts.Apply("bravo", ev))
	}
	if x.reconcile(t.Context(), h); x.file("said") != "" {
		t.Fatalf("an installed host was restarted: %s", x.file("said"))
	}
	apply(x.Hosts.Reinstall(h, time.Hour, nil, false))
	boot(strings.TrimSpace(authorizedKey(key)))
	h = apply(x.Hosts.Apply("bravo", hosts.Event{Kind: hosts.EventCancelled}))
	if again := x.reconcile(t.Context(), h); again == nil || x.file("said") != "reboot\n" {
		t.Errorf("what was done with its installer: %q", x.file("said"))
	}
}

// TestLostNotAtOnce: after a session broke, the installer is not tried again at once.
func TestLostNotAtOnce(t *testing.T) {
	key := newSigner(t)
	x := takeOver(t, hosts.ViaManual, key, key, true, "")
	h, err := x.Hosts.BeginBoot("bravo", hosts.Boot{HostKey: strings.TrimSpace(authorizedKey(key)), Expires: time.Now().Add(time.Hour)}, "")
	if err == nil {
		h, err = x.Hosts.UseBoot(h.Boot.Token, hosts.Fetch{Client: x.addr, File: "initrd", Whole: true})
	}
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	x.Now = func() time.Time { return now }
	h.Lost = now.Add(-lostPause / 2)
	if s := x.contact(t.Context(), h); s != nil {
		t.Error("it was tried at once")
	}
	h.Lost = now.Add(-lostPause)
	if s := x.contact(t.Context(), h); s == nil {
		t.Error("it was not tried")
	}
}

// TestAnotherCard: an installer that has another network card than its firmware is found where machines that are not
// enrolled went meanwhile, and the operator is told the card and the command that adds it.
func TestAnotherCard(t *testing.T) {
	const dock = "52:54:00:00:00:d0"
	key, stranger := newSigner(t), newSigner(t)
	x := takeOver(t, hosts.ViaManual, key, key, true, "")
	other, _ := sshServer(t, stranger, true)
	x.Hosts.See(hosts.Discovered{MAC: "52:54:00:00:00:d1", Address: x.addr}) // before the boot: somebody else's
	h, err := x.Hosts.BeginBoot("bravo", hosts.Boot{HostKey: strings.TrimSpace(authorizedKey(key)), MAC: theMAC, Expires: time.Now().Add(time.Hour)}, "")
	if err == nil {
		h, err = x.Hosts.UseBoot(h.Boot.Token, hosts.Fetch{Client: "192.0.2.9", File: "initrd", Whole: true})
	}
	if err != nil {
		t.Fatal(err)
	}
	h.Address, h.Boot.TakenBy = "", "" // where the firmware was
	if s := x.contact(t.Context(), h); s != nil {
		t.Fatal("it was looked for where it cannot be")
	}
	x.Hosts.See(hosts.Discovered{MAC: dock, Address: x.addr})
	x.Hosts.See(hosts.Discovered{MAC: "52:54:00:00:00:d2", Address: other})
	s := x.contact(t.Context(), h)
	if s == nil {
		t.Fatal("it was not found")
	}
	if err := inHand(x.reconciler, h, s).knownCard([]string{dock}); err != nil {
		t.Fatal(err)
	}
	events, err := x.Hosts.Events("bravo", h.LastEvent)
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	for _, ev := range events {
		said = append(said, ev.Message)
	}
	if all := strings.Join(said, "\n"); !strings.Contains(all, "`provision set bravo --mac=+"+dock+"`") || strings.Contains(all, other) {
		t.Errorf("said was:\n%s", all)
	}
	if h.Boot.SSH = true; len(x.newcomers(h)) > 0 {
		t.Error("an installer that we started ourselves is looked for elsewhere")
	}
	if err := inHand(x.reconciler, h, s).knownCard([]string{dock}); err == nil || !strings.Contains(err.Error(), dock) {
		t.Errorf("another machine than that which was taken over: %v", err)
	}
}
