package e2e

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"provision/hosts"
	"provision/internal/lab"
)

// TestNetworks: a machine is installed across a network that takes smaller packets, and one that waits while the
// server's bridge is made again.
func TestNetworks(t *testing.T) {
	t.Parallel()
	t.Run("relay_1400", func(t *testing.T) {
		t.Parallel()
		installsAcross(t)
	})
	t.Run("bridge", func(t *testing.T) {
		t.Parallel()
		bridgeMadeAgain(t)
	})
}

// installsAcross: two routers are between server and machine, and between them a network with an MTU of 1,400 bytes, as
// a tunnel has. The farther router is a relay agent, dnsmasq's. The first way that the machine is answered leads it up.
func installsAcross(t *testing.T) {
	w := newWorld(t, "server", "--relay", "10.88.0.0/24", "--dhcp-range", "10.88.0.100-10.88.0.199/24")
	far, err := lab.NewLAN(w.ctx, "far", netip.Prefix{})
	w.must(err)
	t.Cleanup(func() { far.Close() })
	router := func(lan *lab.LAN, mac, address string) *lab.Client {
		c, err := lan.Client(w.ctx, lan.Interface+"-router", mac, netip.MustParsePrefix(address))
		w.must(err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	nearer := router(w.lan, "52:54:00:88:00:01", w.addr(254).String()+"/24")
	farther := router(far, "52:54:00:88:00:02", "10.88.0.1/24")
	w.must(nearer.Cable(w.ctx, farther, "tunnel", 1400))
	for _, c := range []struct {
		*lab.Client
		command string
	}{
		{nearer, "ip address add 10.99.0.1/24 dev tunnel"},
		{farther, "ip address add 10.99.0.2/24 dev tunnel"},
		{nearer, "ip route add 10.88.0.0/24 via 10.99.0.2"},
		{farther, "ip route add default via 10.99.0.1"},
		{nearer, "sysctl -qw net.ipv4.ip_forward=1"},
		{farther, "sysctl -qw net.ipv4.ip_forward=1"},
	} {
		words := strings.Fields(c.command)
		_, err := c.Run(w.ctx, words[0], words[1:]...)
		w.must(err)
	}
	w.must(exec.CommandContext(w.ctx, "ip", "route", "add", "10.88.0.0/24", "via", w.addr(254).String()).Run())
	_, err = farther.Start(exec.CommandContext(w.ctx, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root",
		"--port=0", "--pid-file=", fmt.Sprintf("--dhcp-relay=10.88.0.1,%s", w.addr(1))))
	w.must(err)

	m := w.machine("alpha")
	m.LAN = far
	w.enroll(m, "alpha")
	w.on(m)
	w.installed(m, "alpha")
	booted := 0
	for _, ev := range w.events("alpha") {
		if ev.Kind == hosts.EventNetboot {
			booted++
		}
	}
	if s := w.status("alpha"); booted != 1 || s.Method.String() != "first+native" || !strings.HasPrefix(s.Address, "10.88.0.") {
		t.Errorf("%d netboots, at last by %s; it is at %s:\n%s", booted, s.Method, s.Address, w.provision("logs", "alpha"))
	}
}

// bridgeMadeAgain: the bridge goes when the machine has been switched on, and is made again while its firmware asks.
func bridgeMadeAgain(t *testing.T) {
	w := newWorld(t, "server")
	m := w.machine("alpha")
	w.enroll(m, "alpha")
	w.on(m)
	w.must(w.lan.Close())
	w.awaitLog("an interface went away", 1)
	_, err := m.Console().Expect(w.ctx, "Start PXE over IPv4")
	w.must(err)
	w.lan, err = lab.NewLAN(w.ctx, w.lan.Interface, w.lan.Address)
	w.must(err)
	w.must(w.lan.Tap(w.ctx, "tap-"+m.Name))
	w.installed(m, "alpha")
}
