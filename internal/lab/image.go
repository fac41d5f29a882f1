package lab

import (
	"bufio"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// imageFiles are the installer's own scripts and settings.
//
//go:embed image
var imageFiles embed.FS

// recipe is the code that makes the image; a change of it makes a new one.
//
//go:embed arch.go cpio.go image.go tree.go
var recipe embed.FS

// An Installer is a netboot image that honours the contract of nix-community's installer images: its stage 1 takes
// SSH keys, host keys, network state and machine id from the root of the initrd, where the server appends them.
// Without those it lets nobody in. It has no password and runs no agent.
type Installer struct {
	Kernel  string // path of a bzImage, for aarch64 of an Image
	Initrd  string // path of a compressed cpio, a multiple of four bytes long
	Cmdline string // with the init= of this very image, without which it stops in stage 1
}

// Image returns the installer image, and builds it from Debian packages if it is not in the folder cache. What takes
// long is told to log.
func Image(ctx context.Context, cache string, arch Arch, log io.Writer) (Installer, error) {
	dir, err := imageDir(ctx, cache, arch, log)
	if err != nil {
		return Installer{}, err
	}
	cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return Installer{}, err
	}
	return Installer{
		Kernel:  filepath.Join(dir, arch.names().kernel+"-"+arch.names().system),
		Initrd:  filepath.Join(dir, "initrd-"+arch.names().system),
		Cmdline: string(cmdline),
	}, nil
}

// ReleaseDir returns a folder that holds the installer image as a release of nixos-images does: bzImage-x86_64-linux
// or Image-aarch64-linux, initrd-ARCH-linux, and netboot-ARCH-linux.ipxe, whose "kernel" line has the command line.
func ReleaseDir(ctx context.Context, cache string, arch Arch, log io.Writer) (string, error) {
	return imageDir(ctx, cache, arch, log)
}

// imageDir returns the cached folder of the image, which has the shape of a release.
func imageDir(ctx context.Context, cache string, arch Arch, log io.Writer) (string, error) {
	b, err := makeBase(ctx, cache, arch, log)
	if err != nil {
		return "", err
	}
	name, err := key([]string{"image", b.key}, imageFiles, recipe)
	if err != nil {
		return "", err
	}
	return keep(ctx, cache, "image-"+name, func(dir string) error {
		fmt.Fprintln(log, "lab: packing the installer image for", arch)
		return buildImage(ctx, b, name, dir)
	})
}

// buildImage writes kernel, initrd, command line and iPXE script into dir.
func buildImage(ctx context.Context, b base, name, dir string) error {
	names := b.arch.names()
	init := "/nix/store/" + name + "-nixos-system-nixos-installer-25.05.lab/init"
	// The next to last two make TCG, which emulates every guard of the kernel dearly, boot in a bearable time. Without the
	// last, a kernel that kexec started under TCG now and then panics, for it counts too few ticks of its timer.
	params := "nohibernate loglevel=4 console=tty0 console=" + names.console + ",115200n8 mitigations=off cryptomgr.notests no_timer_check"
	kernel, initrd := names.kernel+"-"+names.system, "initrd-"+names.system
	script := "#!ipxe\n# Use the cmdline variable to allow the user to specify custom kernel params\n" +
		"# when chainloading this script from other iPXE scripts like netboot.xyz\n" +
		"kernel " + kernel + " init=" + init + " initrd=" + initrd + " " + params + " ${cmdline}\n" +
		"initrd " + initrd + "\nboot\n"
	vmlinuz, err := os.ReadFile(b.kernel() + "/vmlinuz")
	if err != nil {
		return err
	}
	for file, data := range map[string][]byte{
		"cmdline":                           []byte("init=" + init + " " + params),
		"netboot-" + names.system + ".ipxe": []byte(script),
		kernel:                              vmlinuz,
	} {
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o644); err != nil {
			return err
		}
	}
	f, err := os.Create(filepath.Join(dir, initrd))
	if err != nil {
		return err
	}
	return errors.Join(packImage(ctx, f, b, init), f.Close())
}

// packImage writes the initrd: the whole system, compressed by lz4 (in the old format, which is the kernel's), for that
// is what an emulated machine unpacks quickest.
func packImage(ctx context.Context, f *os.File, b base, init string) error {
	z := exec.CommandContext(ctx, "lz4", "-l", "-9", "-q", "-c")
	var stderr strings.Builder
	z.Stdout, z.Stderr = f, &stderr
	pipe, err := z.StdinPipe()
	if err != nil {
		return err
	}
	if err := z.Start(); err != nil {
		return fmt.Errorf("compress the image: %w", err)
	}
	buffered := bufio.NewWriterSize(pipe, 1<<20)
	a := &archive{w: buffered}
	err = fillImage(a, b, init)
	if err == nil {
		err = errors.Join(a.close(), buffered.Flush())
	}
	if err := errors.Join(err, pipe.Close(), z.Wait()); err != nil {
		return fmt.Errorf("compress the image: %w: %s", err, stderr.String())
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	// What the server appends must start four-byte aligned; the kernel skips zeros between archives. Without any, it
	// would take the next archive for another block of this one: the old lz4 format has no mark for its end.
	_, err = f.Write(make([]byte, 8+(-info.Size()&3)))
	return err
}

// fillImage adds the userland, the kernel's modules, and our own files over them.
func fillImage(a *archive, b base, init string) error {
	if err := a.tree(b.root(), ""); err != nil {
		return err
	}
	for _, dir := range []string{"nix", "nix/store", filepath.Dir(init)[1:], "etc/nix", "usr/lib/modules", "dev", "proc", "sys", "run", "mnt"} {
		if err := a.folder(dir); err != nil {
			return err
		}
	}
	if err := a.tree(b.kernel()+"/lib/modules", "usr/lib/modules"); err != nil {
		return err
	}
	for _, file := range []string{"passwd", "group"} {
		data, err := os.ReadFile(b.root() + "/usr/share/base-passwd/" + file + ".master")
		if err != nil {
			return err
		}
		if file == "passwd" {
			data = append(data, "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"...)
		}
		if err := a.file("etc/"+file, 0o644, data); err != nil {
			return err
		}
	}
	if err := a.file("etc/installer-init", 0o644, []byte(init+"\n")); err != nil {
		return err
	}
	for name, to := range map[string]string{
		"usr/sbin/reboot": "/bin/busybox", "usr/sbin/poweroff": "/bin/busybox", "usr/sbin/halt": "/bin/busybox",
		"usr/bin/awk": "mawk",
	} {
		if err := a.add(name, 0o120777, []byte(to)); err != nil {
			return err
		}
	}
	return fs.WalkDir(imageFiles, "image", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := imageFiles.ReadFile(path)
		if err != nil {
			return err
		}
		name, mode := strings.TrimPrefix(path, "image/"), fs.FileMode(0o644)
		if strings.HasPrefix(string(data), "#!") {
			mode = 0o755
		}
		switch name {
		case "stage2":
			name = init[1:]
		case "etc/nix.conf":
			name = "etc/nix/nix.conf"
		}
		return a.file(name, mode, data)
	})
}
