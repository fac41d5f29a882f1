// The first stage is the /init of a small initrd. It downloads the image's initrd over HTTP, which the machine's
// firmware could not load, verifies it, unpacks it, and becomes its /init.
//
// If process 1 ends, the kernel panics. So process 1 does almost nothing: a second process does the work. It may fail
// or run out of memory, and is then started again. Process 1 hands over to the image when everything is ready.
//
// It imports only internal/initrd of this module, since every machine that needs the first stage downloads it; "make
// firststage" shows its size.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// workerMark is the environment variable that marks the second process.
const workerMark = "PROVISION_FIRST_STAGE"

func main() {
	switch {
	case filepath.Base(os.Args[0]) == "modprobe":
		os.Exit(modprobe(os.Args[1:]))
	case os.Getenv(workerMark) != "":
		os.Exit(work(openConsole()))
	case os.Getpid() == 1:
		for {
			if err := guarded(runFirst); err != nil {
				fmt.Fprintln(os.Stderr, "provision:", err)
			}
			time.Sleep(10 * time.Second)
		}
	default:
		fmt.Fprintln(os.Stderr, "this is the /init of provision's first stage, which the kernel starts")
		os.Exit(2)
	}
}

// runFirst is what process 1 does. It returns only if that failed.
func runFirst() error {
	if err := mountAll(); err != nil {
		return err
	}
	con := openConsole()
	con.say("first stage: getting the installer's image")
	for {
		switch status, why := runWorker(); status {
		case statusReady:
			if err := handOver(con); err != nil {
				restart(con, err.Error())
			}
		case statusRestart:
			restart(con, "this boot is over")
		default:
			con.say("the first stage %s. Starting it again.", why)
		}

		_ = unix.Unmount(newRoot, unix.MNT_DETACH)
		time.Sleep(10 * time.Second)
	}
}

// mountAll mounts the kernel's own file systems.
func mountAll() error {
	for _, m := range []struct{ kind, on string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := os.MkdirAll(m.on, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.on, m.kind, 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m.on, err)
		}
	}
	return nil
}

// runWorker runs the worker until it ends, and reaps all other processes that end meanwhile. why completes a sentence
// about the first stage.
func runWorker() (status int, why string) {
	p, err := os.StartProcess("/proc/self/exe", os.Args[:1], &os.ProcAttr{
		Env:   append(os.Environ(), workerMark+"=1"),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return statusFailed, "could not be started: " + err.Error()
	}

	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return statusFailed, "was lost: " + err.Error()
		case pid != p.Pid:
			continue
		case ws.Signaled() && ws.Signal() == syscall.SIGKILL:
			return statusFailed, "was killed by the kernel: the machine has not enough memory for the image"
		case ws.Signaled():
			return statusFailed, "ended by " + ws.Signal().String()
		}

		return ws.ExitStatus(), "could not go on"
	}
}

// handOver becomes the image's init: with the image's initrd as the root, without anything of the first stage, and with
// the arguments and environment that the kernel gave. As after the kernel's own unpacking, nothing is mounted then. It
// returns only if that failed.
//
// The image's root is a separate file system, and not the kernel's initial one, which pivot_root cannot replace. The
// image's switch_root works with both, since it only checks for a tmpfs or ramfs, and moves the next root over it.
func handOver(con *console) error {
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}

	o, err := parseOrder(string(cmdline))
	if err != nil {
		return err
	}

	con.say("starting the image")
	con.close()
	_ = unix.Mount("", newRoot, "", unix.MS_REMOUNT, "mode=755,size=100%")
	for _, mounted := range []string{"/dev", "/sys", "/proc"} {
		_ = unix.Unmount(mounted, unix.MNT_DETACH)
	}
	for _, ours := range []string{modulesDir, "/sbin", "/init", os.Args[0]} {
		_ = os.RemoveAll(ours)
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"go to the image's root", func() error { return unix.Chdir(newRoot) }},
		{"move the image's root", func() error { return unix.Mount(".", "/", "", unix.MS_MOVE, "") }},
		{"change to the image's root", func() error { return unix.Chroot(".") }},
		{"go to the root", func() error { return unix.Chdir("/") }},
		{"start " + o.init, func() error { return unix.Exec(o.init, append([]string{o.init}, os.Args[1:]...), os.Environ()) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("hand over to the image: %s: %w", step.what, err)
		}
	}

	return nil
}

// restart restarts the machine after a minute, so that the reason can be read.
func restart(con *console, why string) {
	con.say("%s. The machine restarts in one minute.", why)
	time.Sleep(time.Minute)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}
