package lab

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestMain(m *testing.M) { os.Exit(InNamespace(m.Run)) }

// A bed is a LAN with a home router on it.
type bed struct {
	lan    *LAN
	router *Router
}

func newBed(t *testing.T) bed {
	t.Helper()
	ctx := t.Context()
	lan, err := NewLAN(ctx, "br0", netip.MustParsePrefix("10.77.0.1/24"))
	check(t, err)
	t.Cleanup(func() { check(t, lan.Close()) })
	router, err := lan.Router(ctx, t.TempDir(), netip.MustParsePrefix("10.77.0.2/24"),
		netip.MustParseAddr("10.77.0.100"), netip.MustParseAddr("10.77.0.199"))
	check(t, err)
	t.Cleanup(func() { check(t, router.Close()) })
	return bed{lan, router}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// installer returns a machine that boots the installer image, with the keys appended to its initrd as the server does.
func (b bed) installer(t *testing.T, host, login *Key, disks ...Disk) *Machine {
	t.Helper()
	img, err := Image(t.Context(), CacheDir(), os.Stderr)
	check(t, err)
	data, err := os.ReadFile(img.Initrd)
	check(t, err)
	initrd := bytes.NewBuffer(data)
	a := &archive{w: initrd}
	check(t, a.folder("ssh"))
	if host != nil {
		check(t, a.file("ssh/ssh_host_ed25519_key", 0o600, host.Private))
		check(t, a.file("ssh/ssh_host_ed25519_key.pub", 0o644, host.Public))
		check(t, a.file("ssh/authorized_keys", 0o600, login.Public))
	}
	check(t, a.file("addrs.json", 0o644, []byte("[]")))
	check(t, a.file("machine-id", 0o444, []byte("0123456789abcdef0123456789abcdef\n")))
	check(t, a.close())
	dir := t.TempDir()
	path := filepath.Join(dir, "initrd")
	check(t, os.WriteFile(path, initrd.Bytes(), 0o644))
	m := &Machine{
		Name: "vm", Dir: dir, LAN: b.lan, MAC: "52:54:00:12:34:56", Disks: disks,
		Kernel: img.Kernel, Initrd: path, Cmdline: img.Cmdline,
	}
	t.Cleanup(func() { check(t, m.PowerOff()) })
	return m
}

func TestInstallerHonoursContract(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	b := newBed(t)
	host, err := NewKey("host")
	check(t, err)
	login, err := NewKey("login")
	check(t, err)
	m := b.installer(t, &host, &login)
	start := time.Now()
	check(t, m.Start(ctx))
	_, err = m.Console().Expect(ctx, "sshd is up")
	check(t, err)
	t.Logf("power-on to sshd: %s", time.Since(start))
	address, err := b.router.Lease(ctx, m.MAC)
	check(t, err)
	shell, err := Dial(ctx, address, host.Signer.PublicKey(), login.Signer)
	check(t, err)
	t.Logf("power-on to shell: %s", time.Since(start))
	out, err := shell.Run(ctx, "cat /etc/machine-id; ls /root/network; stat -c %a:%n /etc/ssh/ssh_host_* /root/.ssh/*; nix-store --version; dmesg -T | tail -3")
	check(t, err)
	t.Log(out)
	_, err = shell.Run(ctx, "poweroff")
	t.Log(err)
	check(t, m.Wait(ctx))
}
