package lab

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// debianRecipe is the code that makes the system; a change of it makes a new one.
//
//go:embed debianroot.go
var debianRecipe embed.FS

// DebianOptions are what a Debian machine is set up with.
type DebianOptions struct {
	Login   []byte // authorized_keys of root, one key a line
	HostKey Key    // of its sshd
	Serial  string // of the disk
}

// DebianDisk makes a disk of 2 GiB at path that holds a plain Debian, as a person would have installed it: systemd,
// sshd, UEFI boot, its address by DHCP. It knows nothing of provision. Making the system takes minutes and is kept in
// the folder cache; what takes long is told to log.
func DebianDisk(ctx context.Context, cache, path string, o DebianOptions, log io.Writer) (Disk, error) {
	suite, err := CurrentSuite()
	if err != nil {
		return Disk{}, err
	}
	name, err := key([]string{mirror, string(suite)}, debianRecipe)
	if err != nil {
		return Disk{}, err
	}
	dir, err := keep(ctx, cache, "debian-"+name, func(dir string) error {
		fmt.Fprintf(log, "lab: installing Debian %s from %s\n", suite, mirror)
		return makeDebian(ctx, suite, dir)
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
	var script string
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
