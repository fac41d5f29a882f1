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

// byHand holds the commands that make the disks of some of the fleet's hosts: what disko does for these layouts.
func byHand() map[string][]string {
	const luks = "cryptsetup -q luksFormat /dev/disk/by-partlabel/disk-main-luks --pbkdf pbkdf2 " +
		"--pbkdf-force-iterations 1000 --key-file /tmp/disk.key && " +
		"cryptsetup open /dev/disk/by-partlabel/disk-main-luks crypted --key-file /tmp/disk.key --persistent"
	const settle = "partprobe /dev/vda; udevadm trigger --subsystem-match=block; udevadm settle --timeout 60"
	const esp = "mount /dev/disk/by-partlabel/disk-main-ESP /mnt/boot -t vfat -o umask=0077 -o X-mount.mkdir"
	subvolume := func(name, mountpoint string) string {
		return "mount /dev/mapper/crypted /mnt" + mountpoint + " -t btrfs -o compress=zstd -o noatime -o subvol=" + name +
			" -o X-mount.mkdir"
	}
	return map[string][]string{
		"bravo": {
			"sgdisk --clear /dev/vda",
			"sgdisk --align-end --new=1:0:+192M --change-name=1:disk-main-ESP --typecode=1:EF00 /dev/vda",
			"sgdisk --align-end --new=2:0:-0 --change-name=2:disk-main-luks --typecode=2:8300 /dev/vda",
			settle, "mkfs.vfat /dev/disk/by-partlabel/disk-main-ESP", luks, "mkfs.ext4 -q /dev/mapper/crypted",
			"mount /dev/mapper/crypted /mnt -t ext4 -o defaults -o X-mount.mkdir", esp,
		},
		"charlie": {
			"sgdisk --clear /dev/vda",
			"sgdisk --align-end --new=1:0:+192M --change-name=1:disk-main-ESP --typecode=1:EF00 /dev/vda",
			"sgdisk --align-end --new=2:0:+64M --change-name=2:disk-main-swap --typecode=2:8200 /dev/vda",
			"sgdisk --align-end --new=3:0:-0 --change-name=3:disk-main-luks --typecode=3:8300 /dev/vda",
			settle, "mkfs.vfat /dev/disk/by-partlabel/disk-main-ESP", "mkswap /dev/disk/by-partlabel/disk-main-swap", luks,
			"mkfs.btrfs -q /dev/mapper/crypted -f",
			"mkdir /run/top && mount /dev/mapper/crypted /run/top -o subvol=/ && " +
				"for s in home nix root; do btrfs -q subvolume create /run/top/$s; done && umount /run/top",
			subvolume("/root", "/"), subvolume("/home", "/home"), subvolume("/nix", "/nix"), esp,
		},
		"delta": {
			"sgdisk --clear /dev/vda",
			"sgdisk --align-end --new=1:0:+192M --change-name=1:disk-main-ESP --typecode=1:EF00 /dev/vda",
			"sgdisk --align-end --new=2:0:-0 --change-name=2:disk-main-root --typecode=2:8300 /dev/vda",
			settle, "mkfs.vfat /dev/disk/by-partlabel/disk-main-ESP", "mkfs.ext4 -q /dev/disk/by-partlabel/disk-main-root",
			"mount /dev/disk/by-partlabel/disk-main-root /mnt -t ext4 -o defaults -o X-mount.mkdir", esp,
		},
	}
}

// TestInstallByHand installs hosts as their flake says, with plain commands and without the product: this shows that
// image, fleet, machine and LAN are a fair ground for it.
func TestInstallByHand(t *testing.T) {
	for _, name := range []string{"bravo", "charlie", "delta"} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
			defer cancel()
			b := newBed(t)
			login, final := newKey(t), newKey(t)
			disk, err := NewDisk(t.TempDir()+"/disk.raw", 4<<30, "LAB-DISK-1")
			check(t, err)
			m, system := installByHand(t, ctx, b, name, disk, login, final)
			table, err := disk.PartitionTable()
			check(t, err)

			lap := stopwatch(t)
			m.Kernel = "" // from now on the firmware asks the network, where nobody boots it, and then takes the disk
			if name == "charlie" {
				m.LAN, m.Dir = nil, t.TempDir() // one minute of waiting for the network is enough
			}
			check(t, m.Start(ctx))
			if name != "delta" {
				unlock(t, ctx, m)
			}
			for _, text := range []string{"booted " + system, name + " login:"} {
				_, err := m.Console().Expect(ctx, text)
				check(t, err)
			}
			lap("power-on to login prompt")
			if m.LAN != nil {
				askAndReboot(t, ctx, b, m, final, login, system)
				lap("reboot to the firmware asking the network")
			}
			check(t, m.PowerOff())
			if again, err := disk.PartitionTable(); err != nil || again != table {
				t.Fatalf("partition table was %s and is %s (%v)", table, again, err)
			}
		})
	}
}

// installByHand leaves the machine switched off, with the host's system on its disk.
func installByHand(t *testing.T, ctx context.Context, b bed, name string, disk Disk, login, final Key) (*Machine, string) {
	t.Helper()
	arch := X86_64
	if name == "delta" {
		arch = AArch64
	}
	fleet := Fleet{AuthorizedKeys: string(login.Public), AArch64: arch == AArch64}
	flake, err := fleet.Write(ctx, CacheDir(), t.TempDir()+"/fleet", os.Stderr)
	check(t, err)
	host := newKey(t)
	m := b.installer(t, arch, &host, &login, disk)
	lap := stopwatch(t)
	check(t, m.Start(ctx))
	address := b.up(t, ctx, m, "sshd is up")
	shell, err := Dial(ctx, address, host.Signer.PublicKey(), login.Signer)
	check(t, err)
	lap("power-on to shell")

	var built []struct{ Outputs map[string]string }
	check(t, json.Unmarshal([]byte(nix(t, "build", "--json", "--no-link",
		flake+"#nixosConfigurations."+name+".config.system.build.toplevel")), &built))
	system := built[0].Outputs["out"]
	lap("nix build")

	for _, command := range append([]string{"umask 077 && printf secret >/tmp/disk.key"}, byHand()[name]...) {
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
	_, err = shell.Run(ctx, "umount -R /mnt && { [ ! -e /dev/mapper/crypted ] || cryptsetup close crypted; } && poweroff")
	check(t, err)
	check(t, m.Wait(ctx))
	lap("nixos-install and poweroff")
	return m, system
}

// unlock types the passphrase, wrongly at first.
func unlock(t *testing.T, ctx context.Context, m *Machine) {
	t.Helper()
	for _, text := range []string{"wrong\n", "secret\n"} {
		_, err := m.Console().Expect(ctx, "Passphrase for /dev/disk/by-partlabel/disk-main-luks: ")
		check(t, err)
		check(t, m.Console().Type(text))
	}
}

// askAndReboot looks at the installed host over SSH, and reboots it.
func askAndReboot(t *testing.T, ctx context.Context, b bed, m *Machine, host, login Key, system string) {
	t.Helper()
	address, err := b.router.Lease(ctx, m.MAC)
	check(t, err)
	shell, err := Dial(ctx, address, host.Signer.PublicKey(), login.Signer)
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
	paths := nix(t, "path-info", "--recursive", system)
	t.Logf("closure: %d paths; %s", strings.Count(paths, "\n")+1, nix(t, "path-info", "--closure-size", "--human-readable", system))
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
	k, err := NewKey("lab")
	check(t, err)
	return k
}
