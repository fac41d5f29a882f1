package handover

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	kexecLoaded   = "sys/kernel/kexec_loaded"
	kexecDisabled = "proc/sys/kernel/kexec_load_disabled"
	kexecLimit    = "proc/sys/kernel/kexec_load_limit_reboot" // how many more kernels may be loaded; -1: no limit

	// otherWays ends the error messages: how the machine can boot its installer without kexec.
	otherWays = "use --via netboot, --via wol or --via manual"
)

// Load is the line of JSON that precedes the bytes of kernel and initrd.
type Load struct {
	Kernel  uint64 `json:"kernel"`  // size in bytes
	Initrd  uint64 `json:"initrd"`  // size in bytes
	SHA256  string `json:"sha256"`  // of kernel and initrd, concatenated; in hex
	Cmdline string `json:"cmdline"` // command line of the new kernel
}

// KexecLoad reads a [Load] as one line of JSON from r, and then the bytes that it announces, and loads them, so that
// KexecStart can start them. Everything that can be checked before the bytes are read is checked before.
func (m Machine) KexecLoad(ctx context.Context, r io.Reader) error {
	buffered := bufio.NewReaderSize(r, 1<<16)
	load, sum, err := readLoad(buffered)
	if err != nil {
		return err
	}

	if err := m.kexecPermitted(); err != nil {
		return err
	}

	mem, err := parseMemory(m.read("proc/meminfo"))
	if err != nil {
		return err
	}

	if err := mem.fits(load.Kernel, load.Initrd); err != nil {
		return err
	}

	hash := sha256.New()
	kernel, err := receive(io.TeeReader(buffered, hash), "kernel", load.Kernel)
	if err != nil {
		return err
	}
	defer kernel.Close()

	initrd, err := receive(io.TeeReader(buffered, hash), "initrd", load.Initrd)
	if err != nil {
		return err
	}
	defer initrd.Close()

	if got := hash.Sum(nil); !bytes.Equal(got, sum) {
		return fmt.Errorf("receive kernel and initrd: their SHA-256 is %x and should be %x; nothing was loaded", got, sum)
	}
	err = unix.KexecFileLoad(int(kernel.Fd()), int(initrd.Fd()), load.Cmdline, 0)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOEXEC) {
		return kexecByTool(ctx, kexecTool(), kernel, initrd, load.Cmdline, err)
	}

	return refused(err)
}

// readLoad reads and checks the line before the bytes.
func readLoad(r *bufio.Reader) (load Load, sum []byte, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return Load{}, nil, fmt.Errorf("read what is to be loaded: there is no line of JSON of at most %d bytes: %w", r.Size(), err)
	}

	strict := json.NewDecoder(bytes.NewReader(line))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&load); err != nil {
		return Load{}, nil, fmt.Errorf("read what is to be loaded: %w", err)
	}

	sum, err = hex.DecodeString(load.SHA256)
	const most = 4 << 30 // KEXEC_FILE_SIZE_MAX of Linux
	switch {
	case err != nil || len(sum) != sha256.Size:
		return Load{}, nil, fmt.Errorf("read what is to be loaded: sha256 is %q, not %d hexadecimal digits", load.SHA256, 2*sha256.Size)
	case load.Kernel == 0 || load.Initrd == 0 || load.Kernel > most || load.Initrd > most:
		return Load{}, nil, fmt.Errorf("read what is to be loaded: a kernel of %d bytes and an initrd of %d; each "+
			"has 1 to %d", load.Kernel, load.Initrd, most)
	case strings.ContainsAny(load.Cmdline, "\x00\n"):
		return Load{}, nil, fmt.Errorf("read what is to be loaded: the command line %q has more than one line", load.Cmdline)
	}

	return load, sum, nil
}

// kexecPermitted returns an error that says why the running kernel would not start another one.
func (m Machine) kexecPermitted() error {
	const doing = "start the installer by kexec: "
	switch lockdown := m.lockdown(); {
	case !m.exists(kexecLoaded):
		return errors.New(doing + "this machine's kernel is built without kexec (CONFIG_KEXEC_CORE), or this is a " +
			"container; " + otherWays)
	case m.read(kexecDisabled) == "1":
		return errors.New(doing + "this machine forbids it until its next boot (sysctl kernel.kexec_load_disabled " +
			"is 1); restart it without that setting, or " + otherWays)
	case m.read(kexecLimit) == "0":
		return errors.New(doing + "this machine forbids it until its next boot (sysctl " +
			"kernel.kexec_load_limit_reboot is 0); restart it without that setting, or " + otherWays)
	case lockdown != unknown && lockdown != "none":
		return fmt.Errorf("%sthis machine's kernel is in lockdown (%s), as with Secure Boot, and starts no kernel "+
			"that was not signed for it; %s", doing, lockdown, otherWays)
	case os.Geteuid() != 0:
		return errors.New(doing + "only root may; log in as root")
	case !m.hasKexecFileLoad() && kexecTool() == "":
		return errors.New(doing + "this machine's kernel has no kexec_file_load (CONFIG_KEXEC_FILE), and there is " +
			"no program kexec; install kexec-tools on it, or " + otherWays)
	}

	return nil
}

// refused explains the error with which the kernel refused to load a kernel.
func refused(err error) error {
	const doing = "load the installer for kexec: "
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%sthe kernel does not permit it (%w): it is in lockdown, as with Secure Boot, or the "+
			"session lacks CAP_SYS_BOOT, as in a container; %s", doing, err, otherWays)
	case errors.Is(err, unix.EKEYREJECTED), errors.Is(err, unix.ENOKEY),
		errors.Is(err, unix.ENODATA), errors.Is(err, unix.EBADMSG):
		return fmt.Errorf("%sthe kernel takes only kernels that are signed for it (%w); %s", doing, err, otherWays)
	case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("%sthe kernel found no room in memory (%w); stop what uses it, or %s", doing, err, otherWays)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%ssomebody else is just loading a kernel (%w); try again", doing, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%sthe kernel does not take this kernel or its command line, which may be too long (%w); "+
			"use another image, or %s", doing, err, otherWays)
	}

	return fmt.Errorf("%s%w; %s", doing, err, otherWays)
}

// receive reads size bytes into memory that has a file descriptor.
func receive(r io.Reader, name string, size uint64) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make room for the %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if n, err := io.CopyN(f, r, int64(size)); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, errors.Join(fmt.Errorf("receive the %s: %d of %d bytes came: %w", name, n, size, err), f.Close())
	}
	return f, nil
}

// hasKexecFileLoad makes a system call that no kernel can carry out, and looks at the error. If the kernel limits the
// number of loads, the call would count as one; kernels with limits (6.3 and later) usually have the system call, and
// KexecLoad notices if not.
func (m Machine) hasKexecFileLoad() bool {
	if limit := m.read(kexecLimit); limit != "" && limit != "-1" {
		return true
	}
	const undefined = 1 << 30 // a flag that does not exist
	return !errors.Is(unix.KexecFileLoad(-1, -1, "", undefined), unix.ENOSYS)
}

// kexecTool returns the path of the program kexec from kexec-tools; "" if it is not installed.
func kexecTool() string { return tool("kexec") }

// kexecByTool loads with the program from kexec-tools and the older system call kexec_load, for which the program takes
// the kernel apart. It is used if kexec_file_load is missing or does not know the format of the kernel.
func kexecByTool(ctx context.Context, program string, kernel, initrd *os.File, cmdline string, why error) error {
	if program == "" {
		return fmt.Errorf("load the installer for kexec: the kernel's kexec_file_load does not do it (%w), and "+
			"there is no program kexec; install kexec-tools on the machine, or %s", why, otherWays)
	}
	cmd := exec.CommandContext(ctx, program, "--load", "--kexec-syscall", "--initrd=/proc/self/fd/4", "--command-line="+cmdline, "/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{kernel, initrd} // file descriptors 3 and 4
	said, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("load the installer with %s: %w: %s; %s", program, err, bytes.TrimSpace(said), otherWays)
	}
	return nil
}

// KexecUnload discards what KexecLoad loaded.
func (m Machine) KexecUnload() error {
	err := unix.KexecFileLoad(-1, -1, "", unix.KEXEC_FILE_UNLOAD)
	if errors.Is(err, unix.ENOSYS) {
		_, _, errno := unix.Syscall6(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0, 0, 0) // no segments means unload
		err = nil
		if errno != 0 {
			err = errno
		}
	}
	if err != nil {
		return fmt.Errorf("unload what is loaded for kexec: %w", err)
	}
	return nil
}

// KexecStart starts the loaded kernel at once, without stopping services. Before that it syncs the disks and makes
// their file systems read-only, so that they are intact if nothing is installed after all. It reports to w before it
// starts the kernel, as it cannot do so afterwards. It returns only if it fails.
func (m Machine) KexecStart(ctx context.Context, w io.Writer) error {
	if m.read(kexecLoaded) != "1" {
		return errors.New("start what is loaded for kexec: nothing is; run kexec-load first")
	}
	if _, err := fmt.Fprintln(w, "starting"); err != nil {
		return err
	}
	unix.Sync()
	m.readOnly(ctx)
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_KEXEC); err != nil {
		return fmt.Errorf("start what is loaded for kexec: %w; the machine's file systems are read-only now: "+
			"restart it", err)
	}
	return errors.New("start what is loaded for kexec: the kernel came back")
}

// readOnly makes the file systems on disks read-only, as far as that succeeds within three seconds. It uses the
// kernel's emergency remount (sysrq u), which works in spite of open files. That runs in the background without
// reporting its end, so readOnly watches the mounts. It does not change btrfs and ZFS, for which sync is enough.
func (m Machine) readOnly(ctx context.Context) {
	if os.WriteFile(m.path("proc/sysrq-trigger"), []byte("u"), 0) != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for writable(m.read("proc/self/mounts")) {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// writable reports whether a file system that an emergency remount makes read-only is still writable. The lines are
// those of proc_pid_mounts(5): device, folder, type, options.
func writable(mounts string) bool {
	for line := range strings.Lines(mounts) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "/dev/") || fields[2] == "btrfs" {
			continue
		}
		if fields[3] == "rw" || strings.HasPrefix(fields[3], "rw,") {
			return true
		}
	}
	return false
}
