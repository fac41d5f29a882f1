package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"
)

// marker tells a process that it already runs in the lab's namespaces, and the process that stayed outside: its id.
const marker = "PROVISION_LAB_NAMESPACE"

// InNamespace runs inside in network and mount namespaces of its own, and returns the exit status. It does so by
// running the current program again there, with the same arguments; so call it first thing in main or TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(lab.InNamespace(m.Run)) }
//
// Nothing of the namespaces is left when the program has ended. It needs root.
func InNamespace(inside func() int) int {
	if os.Getenv(marker) != "" {
		if err := settle(); err != nil {
			fmt.Fprintln(os.Stderr, "lab:", err)
			return 1
		}
		return inside()
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", marker, os.Getpid()))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Pdeathsig:  unix.SIGKILL,
	}
	runtime.LockOSThread() // Pdeathsig watches the thread that started the child
	defer runtime.UnlockOSThread()
	// A terminal sends its interrupts to both of us; the inner one decides what they mean.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		fmt.Fprintf(os.Stderr, "lab: start in a network namespace (this needs root): %v\n", err)
		return 1
	}
	ended := make(chan struct{})
	passed := make(chan struct{})
	go func() {
		defer close(passed)
		for {
			select {
			case s := <-signals:
				_ = cmd.Process.Signal(s)
			case <-ended:
				return
			}
		}
	}()
	err := cmd.Wait()
	close(ended)
	<-passed
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	return 0
}

// settle finishes fresh namespaces: mounts stay private, /sys shows the new network, lo is up.
func settle() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount /sys of the namespace: %w", err)
	}
	_, err := run(context.Background(), "ip", "link", "set", "lo", "up")
	return err
}

// A namespace is a network namespace without a name: it lives as long as the file is open.
type namespace struct{ file *os.File }

// newNamespace makes a network namespace in which only lo exists, and is up.
func newNamespace(ctx context.Context) (namespace, error) {
	made := make(chan struct{})
	var file *os.File
	var err error
	go func() {
		defer close(made)
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("make a network namespace: %w", err)
			return
		}
		file, err = os.Open("/proc/thread-self/ns/net")
	}()
	<-made
	if err != nil {
		return namespace{}, err
	}
	ns := namespace{file}
	if _, err := ns.run(ctx, "ip", "link", "set", "lo", "up"); err != nil {
		return namespace{}, errors.Join(err, file.Close())
	}
	return ns, nil
}

// outside is run in the network namespace that InNamespace left, which may have a way to the internet.
func outside(ctx context.Context, name string, args ...string) (string, error) {
	pid := os.Getenv(marker)
	if pid == "" {
		return run(ctx, name, args...)
	}
	file, err := os.Open("/proc/" + pid + "/ns/net")
	if err != nil {
		return "", fmt.Errorf("find the host's network: %w", err)
	}
	out, err := namespace{file}.run(ctx, name, args...)
	return out, errors.Join(err, file.Close())
}

// path names the namespace for the ip command.
func (ns namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.file.Fd()) }

// do runs f on a thread that is in the namespace. Sockets that f itself opens, and processes that it starts, belong
// to the namespace for good; goroutines that it starts are not in it.
func (ns namespace) do(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if err := unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// run runs a command in the namespace and returns its stdout.
func (ns namespace) run(ctx context.Context, name string, args ...string) (string, error) {
	var out string
	err := ns.do(func() (err error) {
		out, err = run(ctx, name, args...)
		return err
	})
	return out, err
}
