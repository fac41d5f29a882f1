package lab

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(InNamespace(m.Run)) }

// A bed is a LAN with a home router on it.
type bed struct {
	lan    *LAN
	router *Router
}

func newBed(t *testing.T, routerArgs ...string) bed {
	t.Helper()
	ctx := t.Context()
	lan, err := NewLAN(ctx, "br0", netip.MustParsePrefix("10.77.0.1/24"))
	check(t, err)
	t.Cleanup(func() { check(t, lan.Close()) })
	router, err := lan.Router(ctx, t.TempDir(), netip.MustParsePrefix("10.77.0.2/24"),
		netip.MustParseAddr("10.77.0.100"), netip.MustParseAddr("10.77.0.199"), routerArgs...)
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
func (b bed) installer(t *testing.T, arch Arch, host, login *Key, disks ...Disk) *Machine {
	t.Helper()
	img, err := Image(t.Context(), CacheDir(), arch, os.Stderr)
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
	if arch == AArch64 {
		m.Firmware = AAVMFPXE
	}
	t.Cleanup(func() { check(t, m.PowerOff()) })
	return m
}

func TestInstallerHonoursContract(t *testing.T) { testContract(t, X86_64) }

func TestArm64InstallerHonoursContractByHand(t *testing.T) { testContract(t, AArch64) }

func testContract(t *testing.T, arch Arch) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	b := newBed(t)
	host, login, stranger := newKey(t), newKey(t), newKey(t)
	m := b.installer(t, arch, &host, &login, allDisks(t)...)
	lap := stopwatch(t)
	check(t, m.Start(ctx))
	address := b.up(t, ctx, m, "sshd is up")
	shell, err := Dial(ctx, address, host.Signer.PublicKey(), login.Signer)
	check(t, err)
	lap("power-on to shell")
	if _, err := Dial(ctx, address, host.Signer.PublicKey(), stranger.Signer); err == nil {
		t.Error("a key that is not in ssh/authorized_keys can log in")
	}
	if _, err := Dial(ctx, address, stranger.Signer.PublicKey(), login.Signer); err == nil {
		t.Error("the pinned host key is not looked at")
	}
	for command, want := range map[string]string{
		"lsblk --nodeps -n -o NAME,SERIAL | sort | xargs": "nvme0n1 LAB-nvme sda LAB-sata vda LAB-virtio",
		"cat /etc/machine-id":                             "0123456789abcdef0123456789abcdef",
		"ls /root/network":                                "addrs.json",
		"stat -c %a /etc/ssh/ssh_host_ed25519_key":        "600",
		"stat -c %a /etc/ssh/ssh_host_ed25519_key.pub":    "644",
		"stat -c %a /root/.ssh/authorized_keys":           "600",
		"ls -d /ssh /addrs.json /machine-id || true":      "",
		". /etc/os-release; echo $ID $VARIANT_ID":         "nixos installer",
		"findmnt -n -o FSTYPE /sys/firmware/efi/efivars":  "efivarfs",
		"cut -d: -f2 /etc/passwd | sort -u":               "*\nx",
		"ls /etc/shadow || true":                          "",
		"for c in nix nix-store nixos-install nixos-enter nixos-generate-config cryptsetup sgdisk mkfs.vfat mkfs.ext4 " +
			"mkfs.xfs mkfs.btrfs lsblk wipefs blkid findmnt partprobe udevadm efibootmgr cpio tar awk reboot poweroff; " +
			"do command -v $c >/dev/null || echo $c; done": "",
	} {
		if got, err := shell.Run(ctx, command); err != nil || got != want {
			t.Errorf("%s: got %q (%v), want %q", command, got, err, want)
		}
	}
	_, err = shell.Run(ctx, "poweroff")
	check(t, err)
	check(t, m.Wait(ctx))
}

func TestInstallerWithoutKeysLetsNobodyIn(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	b := newBed(t)
	m := b.installer(t, X86_64, nil, nil)
	check(t, m.Start(ctx))
	address := b.up(t, ctx, m, "nobody can log in")
	_, err := net.Dial("tcp", netip.AddrPortFrom(address, 22).String())
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("dial port 22: %v, want it refused", err)
	}
	if strings.Contains(m.Console().Text(), "login:") {
		t.Error("there is a login prompt on the console")
	}
}

func TestInstallerNeedsItsCommandLine(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	m := newBed(t).installer(t, X86_64, nil, nil)
	_, m.Cmdline, _ = strings.Cut(m.Cmdline, " ") // init= is its first word
	check(t, m.Start(ctx))
	_, err := m.Console().Expect(ctx, "stage 1: init= of this image is missing from the command line")
	check(t, err)
}
