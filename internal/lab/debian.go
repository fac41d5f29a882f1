package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// DebianOptions are what a Debian machine is set up with.
type DebianOptions struct {
	Login   []byte // authorized_keys of root, one key a line
	HostKey Key    // of its sshd
	Serial  string // of the disk
}

// Names of partitions, and where they are on the disk, in MiB.
const (
	debianESPStart, debianESPSize   = 1, 64
	debianRootStart, debianRootSize = 65, 1500
	debianSize                      = 2048
)

// DebianDisk makes a disk of 2 GiB at path that holds a plain Debian 12, as a person would have installed it: systemd,
// sshd, UEFI boot, its address by DHCP. It knows nothing of provision. Making the system takes minutes and is kept in
// the folder cache; what takes long is told to log.
func DebianDisk(ctx context.Context, cache, path string, o DebianOptions, log io.Writer) (Disk, error) {
	name, err := key([]string{mirror, suite}, debianRecipe)
	if err != nil {
		return Disk{}, err
	}
	dir, err := keep(ctx, cache, "debian-"+name, func(dir string) error {
		fmt.Fprintf(log, "lab: installing Debian from %s\n", mirror)
		return makeDebian(ctx, dir)
	})
	if err != nil {
		return Disk{}, err
	}
	if _, err := run(ctx, "cp", "--sparse=always", filepath.Join(dir, "disk"), path); err != nil {
		return Disk{}, err
	}
	if err := personal(ctx, path, o); err != nil {
		return Disk{}, fmt.Errorf("set up Debian on %s: %w", path, err)
	}
	return Disk{Path: path, Serial: o.Serial}, nil
}

// personal writes what one machine has of its own to its root file system.
func personal(ctx context.Context, disk string, o DebianOptions) error {
	dir, err := os.MkdirTemp(filepath.Dir(disk), "debian")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	script := "mkdir /root/.ssh\nset_inode_field /root/.ssh mode 040700\n"
	for _, f := range []struct {
		path string
		mode string
		data []byte
	}{
		{"/root/.ssh/authorized_keys", "0100600", o.Login},
		{"/etc/ssh/ssh_host_ed25519_key", "0100600", o.HostKey.Private},
		{"/etc/ssh/ssh_host_ed25519_key.pub", "0100644", o.HostKey.Public},
	} {
		local := filepath.Join(dir, filepath.Base(f.path))
		if err := os.WriteFile(local, f.data, 0o600); err != nil {
			return err
		}
		script += fmt.Sprintf("write %s %s\nset_inode_field %s mode %s\n", local, f.path, f.path, f.mode)
	}
	// debugfs returns success for commands that failed, and says so on stderr, below its own name.
	cmd := exec.CommandContext(ctx, "debugfs", "-w", "-f", "-", fmt.Sprintf("%s?offset=%d", disk, debianRootStart<<20))
	cmd.Stdin = strings.NewReader(script)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	err = cmd.Run()
	_, said, _ := strings.Cut(stderr.String(), "\n")
	if err != nil || strings.TrimSpace(said) != "" {
		return fmt.Errorf("debugfs: %w: %s", errors.Join(err, errors.New("a command failed")), tail(stderr.String(), 1000))
	}
	return nil
}

// makeDebian installs Debian to the file disk in dir.
func makeDebian(ctx context.Context, dir string) error {
	root := filepath.Join(dir, "root")
	packages := "systemd-sysv,udev,dbus,libpam-systemd,openssh-server,ifupdown,isc-dhcp-client,iproute2,kmod,zstd," +
		"initramfs-tools,efibootmgr,systemd-boot-efi,linux-image-cloud-amd64"
	if _, err := outside(ctx, "debootstrap", "--variant=minbase", "--include="+packages, suite, root, mirror); err != nil {
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
	for file, text := range map[string]string{
		"etc/hostname":                      "debian\n",
		"etc/fstab":                         "PARTLABEL=root / ext4 defaults 0 1\n",
		"etc/machine-id":                    "uninitialized\n",
		"etc/network/interfaces":            "auto lo\niface lo inet loopback\nallow-hotplug enp0s2\n",
		"etc/systemd/network/10-lan.network": "[Match]\nName=en*\n[Network]\nDHCP=ipv4\nIPv6AcceptRA=no\n[DHCPv4]\nClientIdentifier=mac\n",
		"etc/initramfs-tools/modules":       "virtio_pci\nvirtio_blk\nnvme\next4\n",
		// "most" holds every driver, and takes twice as long to unpack.
		"etc/initramfs-tools/conf.d/lab": "MODULES=list\nCOMPRESS=lz4\n",
	} {
		if err := os.WriteFile(filepath.Join(root, file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
