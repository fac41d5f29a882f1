package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// unwanted are the parts of packages that no guest needs, as tar's --exclude takes them.
func unwanted() []string {
	var out []string
	for _, path := range []string{
		"./usr/share/doc*", "./usr/share/man*", "./usr/share/info*", "./usr/share/locale*", "./usr/share/lintian*",
		"./usr/share/bash-completion*", "./usr/share/zsh*", "./usr/share/doc-base*", "./usr/share/bug*",
		"./usr/share/initramfs-tools*", "./usr/lib/*-linux-gnu/gconv*", "./usr/lib/systemd/system/*",
		"./lib/systemd/system/*", "./lib/udev/hwdb.d*", "./usr/lib/udev/hwdb.d*", "./etc/init.d*", "./etc/cron*",
		"./etc/logrotate.d*", "./usr/lib/*-linux-gnu/perl*", "./usr/share/perl*", "./usr/share/fish*",
		"./usr/lib/linux-image-*", // device trees
		// Of systemd, guests have systemd-cryptenroll and what it loads.
		"./lib/systemd/systemd", "./lib/systemd/systemd-[a-t]*", "./lib/systemd/systemd-v*", "./lib/systemd/catalog", "./usr/lib/systemd/catalog",
		"./usr/lib/systemd/systemd", "./usr/lib/systemd/systemd-[a-t]*", "./usr/lib/systemd/systemd-v*", "./usr/lib/*/systemd/libsystemd-core-*",
	} {
		out = append(out, "--exclude="+path)
	}
	return out
}

// A base is what all guests share: an unpacked userland, a kernel and its modules.
type base struct {
	suite Suite
	arch  Arch
	dir   string
	key   string
	debs  []deb
}

// root is the userland, with merged /usr as Debian has it, and without kernel modules.
func (b base) root() string { return filepath.Join(b.dir, "root") }

// kernel is the folder that holds vmlinuz and lib/modules/VERSION.
func (b base) kernel() string { return filepath.Join(b.dir, "kernel") }

// makeBase unpacks the packages and picks the kernel modules that guests have.
func makeBase(ctx context.Context, cache string, arch Arch, log io.Writer) (base, error) {
	suite, err := CurrentSuite()
	if err != nil {
		return base{}, err
	}
	all, err := debs(ctx, cache, suite, arch, log)
	if err != nil {
		return base{}, err
	}
	inputs := append([]string{"base 5", string(suite), string(arch)}, unwanted()...)
	for _, d := range all {
		inputs = append(inputs, d.Name, d.Version)
	}
	name, err := key(inputs, guest)
	if err != nil {
		return base{}, err
	}
	dir, err := keep(ctx, cache, "base-"+name, func(dir string) error {
		fmt.Fprintf(log, "lab: unpacking %d packages for %s\n", len(all), arch)
		return unpackAll(ctx, base{suite: suite, arch: arch, dir: dir, debs: all})
	})
	return base{suite: suite, arch: arch, dir: dir, key: name, debs: all}, err
}

// unpackAll fills b's folder with root and kernel.
func unpackAll(ctx context.Context, b base) error {
	if err := unpackRoot(ctx, b.debs, b.root()); err != nil {
		return err
	}
	return pickKernel(ctx, b)
}

// unpackRoot makes the folder root a system with merged /usr, as Debian has it, of the packages.
func unpackRoot(ctx context.Context, all []deb, root string) error {
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.MkdirAll(filepath.Join(root, "usr", name), 0o755); err != nil {
			return err
		}
		if err := os.Symlink("usr/"+name, filepath.Join(root, name)); err != nil {
			return err
		}
	}
	for _, d := range all {
		if err := unpack(ctx, d.File, root, unwanted()...); err != nil {
			return err
		}
	}
	return nil
}

// unpack extracts a package into the folder to, following the links of a merged /usr.
func unpack(ctx context.Context, file, to string, args ...string) error {
	read := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", file)
	write := exec.CommandContext(ctx, "tar", append([]string{"-x", "-C", to, "--keep-directory-symlink"}, args...)...)
	pipe, err := read.StdoutPipe()
	if err != nil {
		return err
	}
	write.Stdin = pipe
	if err := read.Start(); err != nil {
		return err
	}
	_, err = output(write)
	if err != nil {
		_ = pipe.Close() // lets dpkg-deb end
	}
	if err := errors.Join(err, read.Wait()); err != nil {
		return fmt.Errorf("unpack %s: %w", filepath.Base(file), err)
	}
	return nil
}

// pickKernel moves the kernel out of root into a folder of its own, with those modules that guests have.
func pickKernel(ctx context.Context, b base) error {
	root, to := b.root(), b.kernel()
	versions, err := filepath.Glob(root + "/usr/lib/modules/*")
	if err != nil || len(versions) != 1 {
		return fmt.Errorf("want one kernel in %s, found %d", root, len(versions))
	}
	version := filepath.Base(versions[0])
	if _, err := run(ctx, "depmod", "-b", root, version); err != nil {
		return err
	}
	names, err := lines("modules", b.suite, b.arch)
	if err != nil {
		return err
	}
	show := append([]string{"-C", "/dev/null", "-d", root, "-S", version, "-a", "--show-depends"}, names...)
	out, err := run(ctx, "modprobe", show...)
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "insmod ")
		if !ok { // "builtin NAME"
			continue
		}
		path = strings.TrimPrefix(strings.Fields(path)[0], root)
		target := filepath.Join(to, path)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(root, path), target); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := inflate(ctx, to); err != nil {
		return err
	}
	for _, file := range []string{"modules.builtin", "modules.builtin.modinfo", "modules.order"} {
		path := "lib/modules/" + version + "/" + file
		if err := os.Rename(filepath.Join(root, path), filepath.Join(to, path)); err != nil {
			return err
		}
	}
	return finishKernel(ctx, root, to, version)
}

// inflate unpacks the modules in dir, which are compressed since Debian 13: guests have theirs compressed once, all
// together and by what is cheap to unpack.
func inflate(ctx context.Context, dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".xz" {
			return err
		}
		_, err = run(ctx, "xz", "--decompress", path)
		return err
	})
}

// finishKernel indexes the chosen modules and removes the rest of the kernel package.
func finishKernel(ctx context.Context, root, to, version string) error {
	vmlinuz := root + "/boot/vmlinuz-" + version
	if _, err := os.Stat(vmlinuz); errors.Is(err, os.ErrNotExist) {
		vmlinuz = root + "/usr/lib/modules/" + version + "/vmlinuz" // in packages of Linux 7.2
	}
	if err := os.Rename(vmlinuz, to+"/vmlinuz"); err != nil {
		return err
	}
	if err := os.RemoveAll(root + "/usr/lib/modules"); err != nil {
		return err
	}
	// depmod is run from the unpacked root, on the chosen modules laid into it.
	if err := os.Rename(to+"/lib/modules", root+"/usr/lib/modules"); err != nil {
		return err
	}
	if _, err := run(ctx, "depmod", "-b", root, version); err != nil {
		return err
	}
	if err := os.Rename(root+"/usr/lib/modules", to+"/lib/modules"); err != nil {
		return err
	}
	return os.RemoveAll(root + "/boot")
}
