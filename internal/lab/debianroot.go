package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// Where the partitions are on the disk, in MiB.
const (
	debianESPStart, debianESPSize   = 1, 64
	debianRootStart, debianRootSize = 65, 1500
	debianSize                      = 2048
)

// makeDebian installs Debian to the file disk in dir.
func makeDebian(ctx context.Context, suite Suite, dir string) error {
	root := filepath.Join(dir, "root")
	packages := "systemd-sysv,udev,dbus,libpam-systemd,openssh-server,iproute2,kmod,zstd,initramfs-tools,efibootmgr," +
		"systemd-boot-efi,linux-image-cloud-amd64," + tpmPackages(suite)
	if _, err := outside(ctx, "debootstrap", "--variant=minbase", "--include="+packages, string(suite), root, mirror); err != nil {
		return fmt.Errorf("%w: %s", err, logEnd(root+"/debootstrap/debootstrap.log"))
	}
	if err := configure(ctx, root); err != nil {
		return err
	}
	if err := assemble(ctx, dir, root); err != nil {
		return err
	}
	return os.RemoveAll(root)
}

// tpmPackages are those that let systemd talk to a TPM.
func tpmPackages(suite Suite) string {
	if suite == Bookworm {
		return "libtss2-esys-3.0.2-0,libtss2-mu0,libtss2-rc0,libtss2-tcti-device0"
	}
	return "libtss2-esys-3.0.2-0t64,libtss2-mu-4.0.1-0t64,libtss2-rc0t64,libtss2-tcti-device0t64"
}

func logEnd(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return tail(string(data), 1000)
}

// configure does what an installation would ask a person for. What a machine of its own makes at its first boot, and
// takes long to do when it is emulated, is off.
func configure(ctx context.Context, root string) error {
	keys, err := filepath.Glob(root + "/etc/ssh/ssh_host_*")
	if err != nil {
		return err
	}
	for _, file := range append(keys, root+"/etc/machine-id") {
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(root+"/root/.ssh", 0o700); err != nil {
		return err
	}
	for file, text := range map[string]string{
		"etc/hostname":                       "debian\n",
		"etc/fstab":                          "PARTLABEL=root / ext4 defaults 0 0\n",
		"etc/machine-id":                     "", // made at the first boot
		"etc/systemd/network/10-lan.network": "[Match]\nName=en*\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=no\n[DHCPv4]\nClientIdentifier=mac\n",
		"etc/initramfs-tools/modules":        "virtio_pci\nvirtio_blk\n",
		// "most" has every driver, and takes twice as long to unpack.
		"etc/initramfs-tools/conf.d/lab": "MODULES=list\n",
	} {
		if err := os.WriteFile(filepath.Join(root, file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if _, err := run(ctx, "chroot", root, "update-initramfs", "-u"); err != nil {
		return err
	}
	systemctl := []string{"--root=" + root}
	if _, err := run(ctx, "systemctl", append(systemctl, "enable", "systemd-networkd")...); err != nil {
		return err
	}
	slow := []string{"mask", "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
		"fstrim.timer", "systemd-networkd-wait-online.service", "systemd-binfmt.service", "systemd-pstore.service",
		"modprobe@configfs.service", "modprobe@dm_mod.service", "modprobe@drm.service", "modprobe@fuse.service", "modprobe@loop.service",
		"dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-kernel-config.mount",
		"sys-fs-fuse-connections.mount", "proc-sys-fs-binfmt_misc.automount"}
	_, err = run(ctx, "systemctl", append(systemctl, slow...)...)
	return err
}

// assemble makes the disk of what is in root.
func assemble(ctx context.Context, dir, root string) error {
	disk, esp, tree := filepath.Join(dir, "disk"), filepath.Join(dir, "esp"), filepath.Join(dir, "tree")
	if err := bootFiles(root, tree); err != nil {
		return err
	}
	mib := func(n int) string { return fmt.Sprintf("%dM", n) }
	part := func(number, start, size int, kind, label string) []string {
		return []string{fmt.Sprintf("--new=%d:%s:+%s", number, mib(start), mib(size)), fmt.Sprintf("--typecode=%d:%s", number, kind),
			fmt.Sprintf("--change-name=%d:%s", number, label)}
	}
	table := slices.Concat(part(1, debianESPStart, debianESPSize, "ef00", "esp"), part(2, debianRootStart, debianRootSize, "8300", "root"), []string{disk})
	folders, err := filepath.Glob(tree + "/*")
	if err != nil {
		return err
	}
	for _, argv := range [][]string{
		{"truncate", "--size=" + mib(debianSize), disk},
		{"truncate", "--size=" + mib(debianESPSize), esp},
		append([]string{"sgdisk"}, table...),
		{"mkfs.vfat", "-F", "32", "-n", "ESP", esp},
		append(append([]string{"mcopy", "-s", "-i", esp}, folders...), "::/"),
		{"dd", "status=none", "conv=notrunc,sparse", "bs=1M", "if=" + esp, "of=" + disk, fmt.Sprintf("seek=%d", debianESPStart)},
		{"mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", root, "-E", fmt.Sprintf("offset=%d", debianRootStart<<20), disk, mib(debianRootSize)},
	} {
		if _, err := run(ctx, argv[0], argv[1:]...); err != nil {
			return err
		}
	}
	return errors.Join(os.Remove(esp), os.RemoveAll(tree))
}

// bootFiles fills the folder to with what is on the ESP: the boot loader where firmware looks for it on any disk, and
// one entry.
func bootFiles(root, to string) error {
	for file, from := range map[string]string{
		"EFI/BOOT/BOOTX64.EFI": root + "/usr/lib/systemd/boot/efi/systemd-bootx64.efi",
		"debian/vmlinuz":       root + "/boot/vmlinuz-*",
		"debian/initrd":        root + "/boot/initrd.img-*",
	} {
		found, err := filepath.Glob(from)
		if err != nil || len(found) != 1 {
			return fmt.Errorf("want one %s, found %d", from, len(found))
		}
		data, err := os.ReadFile(found[0])
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(to, file), data); err != nil {
			return err
		}
	}
	// The last two are for TCG, which emulates every guard of the kernel dearly.
	options := "root=PARTLABEL=root rw console=tty0 console=ttyS0,115200n8 mitigations=off cryptomgr.notests quiet"
	entry := "title Debian\nlinux /debian/vmlinuz\ninitrd /debian/initrd\noptions " + options + "\n"
	return errors.Join(writeFile(filepath.Join(to, "loader/loader.conf"), []byte("timeout 0\n")),
		writeFile(filepath.Join(to, "loader/entries/debian.conf"), []byte(entry)))
}

func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}
