package pxe

import (
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNeighbour asks a real kernel, in a network namespace of one thread.
func TestNeighbour(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("make a network namespace (this needs root): %v", err)
			return
		}
		for _, args := range []string{"link add port1 type bridge", "link add port2 type bridge", "address add 10.77.0.1/24 dev port1", "link set port1 up", "link set port2 up",
			"neighbour add 10.77.0.104 lladdr " + mac + " dev port1", "neighbour add 10.77.0.105 lladdr " + mac + " dev port2"} {
			if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
				t.Errorf("ip %s: %v: %s", args, err, out)
			}
		}
		l := &link{name: "port1"}
		for addr, want := range map[string]string{"10.77.0.104": mac, "10.77.0.105": "", "10.77.0.106": "", "fe80::1": ""} {
			if got := l.kernelNeighbour(netip.MustParseAddr(addr)); got != want {
				t.Errorf("%s is %q, want %q", addr, got, want)
			}
		}
	}()
	<-done
}
