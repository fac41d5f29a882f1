package pxe

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inNamespace runs f in a network namespace of one thread.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("make a network namespace (this needs root): %v", err)
			return
		}
		f()
	}()
	<-done
}

// run runs a command, in the namespace of the thread.
func run(t *testing.T, command string) {
	t.Helper()
	args := strings.Fields(command)
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s", command, err, out)
	}
}

// TestNeighbour asks a real kernel.
func TestNeighbour(t *testing.T) {
	inNamespace(t, func() {
		for _, args := range []string{"link add port1 type bridge", "link add port2 type bridge", "address add 10.77.0.1/24 dev port1", "link set port1 up", "link set port2 up",
			"neighbour add 10.77.0.104 lladdr " + mac + " dev port1", "neighbour add 10.77.0.105 lladdr " + mac + " dev port2"} {
			run(t, "ip "+args)
		}
		l := &servedLink{name: "port1"}
		for addr, want := range map[string]string{"10.77.0.104": mac, "10.77.0.105": "", "10.77.0.106": "", "fe80::1": ""} {
			if got := l.kernelNeighbour(netip.MustParseAddr(addr)); got != want {
				t.Errorf("%s is %q, want %q", addr, got, want)
			}
		}
	})
}

// besideMachine runs f in a network namespace that has a cable, port1 with the address 10.77.0.1, to a machine whose MAC
// is mac. That is another namespace, in which there runs a command.
func besideMachine(t *testing.T, f func(l *servedLink, there func(command string))) {
	t.Helper()
	machine := exec.Command("sleep", "infinity") // its namespace is the machine's
	machine.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	inNamespace(t, func() {
		if err := machine.Start(); err != nil {
			t.Error(err)
			return
		}
		defer machine.Wait()
		defer machine.Process.Kill()
		there := func(command string) {
			t.Helper()
			run(t, fmt.Sprintf("nsenter --net --target %d %s", machine.Process.Pid, command))
		}
		run(t, "ip link add port1 type veth peer name port2 address "+mac)
		run(t, fmt.Sprint("ip link set port2 netns ", machine.Process.Pid))
		run(t, "ip address add 10.77.0.1/24 dev port1")
		run(t, "ip link set port1 up")
		there("ip link set port2 up")
		l, err := openLink("port1", nil)
		if err != nil {
			t.Error(err)
			return
		}
		f(l, there)
	})
}

// TestForgottenNeighbour: a neighbour that the kernel has forgotten is asked for before it is taken for nobody.
func TestForgottenNeighbour(t *testing.T) {
	besideMachine(t, func(l *servedLink, there func(string)) {
		there("ip address add 10.77.0.104/24 dev port2")
		if got := l.neighbour(netip.MustParseAddr("10.77.0.104")); got != "" {
			t.Errorf("it was known before it was asked for: %s", got)
		}
		for addr, want := range map[string]string{"10.77.0.104": mac, "10.77.0.105": "", "10.78.0.1": ""} {
			if got := l.resolve(t.Context(), netip.MustParseAddr(addr)); got != want {
				t.Errorf("%s is %q, want %q", addr, got, want)
			}
		}
	})
}

// TestPortOwner: who listens on [::] has IPv4's port, too, and is named.
func TestPortOwner(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::]:0"} {
		tcp, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer tcp.Close()
		udp, err := net.ListenPacket("udp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer udp.Close()
		for proto, port := range map[string]int{"tcp": tcp.Addr().(*net.TCPAddr).Port, "udp": udp.LocalAddr().(*net.UDPAddr).Port} {
			if owner := PortOwner(proto, port); !strings.HasSuffix(owner, fmt.Sprintf(" (pid %d)", os.Getpid())) {
				t.Errorf("%s, %s: it is %q", proto, at, owner)
			}
		}
	}
}
