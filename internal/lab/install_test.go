package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestInstallByHand installs bravo as its flake says, with plain commands and without the product: this shows that
// image, fleet, machine and LAN are a fair ground for it.
func TestInstallByHand(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	b := newBed(t)
	host, login, final := newKey(t), newKey(t), newKey(t)
	flake, err := Fleet{AuthorizedKeys: string(login.Public)}.Write(ctx, CacheDir(), t.TempDir()+"/fleet", os.Stderr)
	check(t, err)
	disk, err := NewDisk(t.TempDir()+"/disk.raw", 4<<30, "LAB-DISK-1")
	check(t, err)
	m := b.installer(t, &host, &login, disk)
	lap := stopwatch(t)

	check(t, m.Start(ctx))
	address := b.up(t, ctx, m, "sshd is up")
	shell, err := Dial(ctx, address, host.Signer.PublicKey(), login.Signer)
	check(t, err)
	lap("power-on to shell")

	var built []struct{ Outputs map[string]string }
	check(t, json.Unmarshal([]byte(nix(t, "build", "--json", "--no-link",
		flake+"#nixosConfigurations.bravo.config.system.build.toplevel")), &built))
	system := built[0].Outputs["out"]
	lap("nix build")

	for _, command := range []string{
		"umask 077 && printf secret >/tmp/disk.key",
		"sgdisk --clear /dev/vda",
		"sgdisk --align-end --new=1:0:+192M --change-name=1:disk-main-ESP --typecode=1:EF00 /dev/vda",
		"sgdisk --align-end --new=2:0:-0 --change-name=2:disk-main-luks --typecode=2:8300 /dev/vda",
		"partprobe /dev/vda; udevadm trigger --subsystem-match=block; udevadm settle --timeout 60",
		"mkfs.vfat /dev/disk/by-partlabel/disk-main-ESP",
		"cryptsetup -q luksFormat /dev/disk/by-partlabel/disk-main-luks --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /tmp/disk.key",
		"cryptsetup open /dev/disk/by-partlabel/disk-main-luks crypted --key-file /tmp/disk.key --persistent",
		"mkfs.ext4 -q /dev/mapper/crypted",
		"mount /dev/mapper/crypted /mnt -t ext4 -o defaults -o X-mount.mkdir",
		"mount /dev/disk/by-partlabel/disk-main-ESP /mnt/boot -t vfat -o umask=0077 -o X-mount.mkdir",
	} {
		_, err := shell.Run(ctx, command)
		check(t, err)
	}
	lap("disks")

	copyClosure(t, address, host, login, system)
	lap("nix copy")

	_, err = shell.Run(ctx, "mkdir -p -m 755 /mnt/etc/ssh")
	check(t, err)
	_, err = shell.Feed(ctx, bytes.NewReader(final.Private), "umask 077; cat >/mnt/etc/ssh/ssh_host_ed25519_key")
	check(t, err)
	out, err := shell.Run(ctx, "nixos-install --root /mnt --system "+system+" --no-root-passwd --no-channel-copy 2>&1")
	t.Log(out)
	check(t, err)
	_, err = shell.Run(ctx, "umount -R /mnt && cryptsetup close crypted && poweroff")
	check(t, err)
	check(t, m.Wait(ctx))
	lap("nixos-install and poweroff")

	table, err := disk.PartitionTable()
	check(t, err)
	m.Kernel = "" // from now on the firmware asks the network, where nobody boots it, and then takes the disk
	check(t, m.Start(ctx))
	bootBravo(t, ctx, m)
	lap("power-on to login prompt")
	address, err = b.router.Lease(ctx, m.MAC)
	check(t, err)
	shell, err = Dial(ctx, address, final.Signer.PublicKey(), login.Signer)
	check(t, err)
	running, err := shell.Run(ctx, "readlink -f /run/current-system")
	check(t, err)
	if running != system {
		t.Fatalf("the host runs %s, not %s", running, system)
	}
	_, err = shell.Run(ctx, "reboot")
	check(t, err)
	_, err = m.Console().Expect(ctx, ">>Start PXE over IPv4")
	check(t, err)
	lap("reboot to the firmware asking the network")
	check(t, m.PowerOff())
	if again, err := disk.PartitionTable(); err != nil || again != table {
		t.Fatalf("partition table was %s and is %s (%v)", table, again, err)
	}
}

// bootBravo types bravo's passphrase, wrongly at first, and waits for the login prompt.
func bootBravo(t *testing.T, ctx context.Context, m *Machine) {
	t.Helper()
	for _, text := range []string{"wrong\n", "secret\n"} {
		_, err := m.Console().Expect(ctx, "Passphrase for /dev/disk/by-partlabel/disk-main-luks: ")
		check(t, err)
		check(t, m.Console().Type(text))
	}
	_, err := m.Console().Expect(ctx, "bravo login:")
	check(t, err)
}

// up waits until the machine says text and has a lease.
func (b bed) up(t *testing.T, ctx context.Context, m *Machine, text string) netip.Addr {
	t.Helper()
	_, err := m.Console().Expect(ctx, text)
	check(t, err)
	address, err := b.router.Lease(ctx, m.MAC)
	check(t, err)
	return address
}

// copyClosure copies a system to the installer's /mnt with nix copy.
func copyClosure(t *testing.T, address netip.Addr, host, login Key, system string) {
	t.Helper()
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "key"), login.Private, 0o600))
	known := append([]byte(address.String()+" "), host.Public...)
	check(t, os.WriteFile(filepath.Join(dir, "known"), known, 0o600))
	cmd := exec.CommandContext(t.Context(), "nix", "copy", "--to",
		"ssh://root@"+address.String()+"?remote-store=local%3Froot=%2Fmnt", system)
	cmd.Env = append(NixEnv(), fmt.Sprintf("NIX_SSHOPTS=-i %[1]s/key -o UserKnownHostsFile=%[1]s/known "+
		"-o StrictHostKeyChecking=yes -o IdentitiesOnly=yes", dir))
	_, err := output(cmd)
	check(t, err)
	info := nix(t, "path-info", "--recursive", "--size", system)
	t.Logf("closure: %d paths; %s", strings.Count(info, "\n")+1, nix(t, "path-info", "--closure-size", "--human-readable", system))
}

// stopwatch returns a function that logs the time since it was called last.
func stopwatch(t *testing.T) func(what string) {
	last := time.Now()
	return func(what string) {
		t.Helper()
		t.Logf("%-28s %6.1f s", what, time.Since(last).Seconds())
		last = time.Now()
	}
}

func newKey(t *testing.T) Key {
	t.Helper()
	k, err := NewKey(t.Name())
	check(t, err)
	return k
}
