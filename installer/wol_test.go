package installer

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWake sends from one end of a cable, and looks at each frame that comes out at the other: in a network namespace
// that is this test's alone.
func TestWake(t *testing.T) {
	runtime.LockOSThread() // and never unlocked: the thread is in the namespace, and ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace (this needs root): %v", err)
	}
	ip := func(args string) {
		t.Helper()
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	ip("link add wol0 address 52:54:00:00:00:aa type veth peer name wol1")
	ip("link add wol2 type veth peer name wol3") // where a packet must not go, though the route does
	for _, args := range []string{"link set lo up", "link set wol0 up", "link set wol1 up", "link set wol2 up",
		"address add 10.9.8.7/22 dev wol0", "address add 10.20.0.1/31 dev wol0", "route add default dev wol2"} {
		ip(args)
	}
	fd := listenFrames(t, "wol1")
	const mac = "52:54:00:12:34:56"
	if err := Wake(t.Context(), "wol0", mac); err != nil {
		t.Fatal(err)
	}
	want := []string{"10.20.0.1 255.255.255.255", "10.20.0.1 255.255.255.255",
		"10.9.8.7 10.9.11.255", "10.9.8.7 255.255.255.255", "frame"}
	var got []string
	hardware, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	for len(got) < len(want) {
		buf := make([]byte, 2000)
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			t.Fatalf("got %q, want %q: %v", got, want, err)
		}
		if wakes(buf[:n], hardware) {
			got = append(got, describe(t, buf[:n]))
		}
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}

	if err := Wake(t.Context(), "wol9", mac); err == nil || !strings.Contains(err.Error(), "wol9") {
		t.Errorf("without such an interface: %v", err)
	}
	if err := Wake(t.Context(), "wol0", "52:54"); err == nil || !strings.Contains(err.Error(), "six bytes") {
		t.Errorf("with a short MAC: %v", err)
	}
	if err := Wake(t.Context(), "lo", mac); err != nil {
		t.Errorf("lo, which has an address and no frames: %v", err)
	}
	ip("link set wol0 down")
	if err := Wake(t.Context(), "wol0", mac); err == nil {
		t.Error("a packet went out by an interface that is down")
	}
}

// listenFrames receives all frames that arrive at an interface, for a few seconds at most.
func listenFrames(t *testing.T, ifname string) int {
	t.Helper()
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		t.Fatal(err)
	}
	const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: ifi.Index}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// wakes is what a sleeping network card does: it looks for six bytes of ff and its own MAC sixteen times, anywhere in
// a frame.
func wakes(frame []byte, mac net.HardwareAddr) bool {
	_, after, found := bytes.Cut(frame[14:], []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	for i := 0; found && i < 16; i++ {
		after = bytes.TrimLeft(after, "\xff") // of 255.255.255.255 before
		after, found = bytes.CutPrefix(after, mac)
	}
	return found
}

// describe is "SOURCE DESTINATION" of a magic packet to UDP port 9, or "frame" if it is bare; it must be for all.
func describe(t *testing.T, frame []byte) string {
	t.Helper()
	if to := net.HardwareAddr(frame[:6]).String(); to != "ff:ff:ff:ff:ff:ff" {
		t.Errorf("a frame for %s", to)
	}
	if from := net.HardwareAddr(frame[6:12]).String(); from != "52:54:00:00:00:aa" {
		t.Errorf("a frame from %s", from)
	}
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x0842:
		if len(frame) != 14+6+16*6 {
			t.Errorf("a bare frame of %d bytes", len(frame))
		}
		return "frame"
	case unix.ETH_P_IP:
		if port := binary.BigEndian.Uint16(frame[14+20+2:]); frame[14+9] != unix.IPPROTO_UDP || port != 9 {
			t.Errorf("protocol %d, port %d", frame[14+9], port)
		}
		return netip.AddrFrom4([4]byte(frame[26:30])).String() + " " + netip.AddrFrom4([4]byte(frame[30:34])).String()
	}
	t.Errorf("a frame of type % x", frame[12:14])
	return ""
}

func TestBroadcast(t *testing.T) {
	for prefix, want := range map[string]string{
		"10.9.8.7/22": "10.9.11.255", "192.168.1.1/24": "192.168.1.255", "10.0.0.1/8": "10.255.255.255",
		"10.0.0.1/30": "10.0.0.3", "10.0.0.1/31": "255.255.255.255", "10.0.0.1/32": "255.255.255.255", "10.0.0.1/0": "255.255.255.255",
	} {
		if got := broadcast(netip.MustParsePrefix(prefix)).String(); got != want {
			t.Errorf("%s: %s, want %s", prefix, got, want)
		}
	}
}
