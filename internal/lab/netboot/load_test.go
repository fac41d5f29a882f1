package netboot

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"provision/internal/lab/dnsmasq"
)

// TestManyAtOnce: machines share one wire, keep the firmware's own timeouts, and none is lost. dnsmasq serves them; what
// it needs for so many is in its arguments. They start within three seconds: of 1,000 DISCOVERs in one instant dnsmasq's
// socket holds 166 (measured, default buffer), and firmware that lost asks again in one instant.
func TestManyAtOnce(t *testing.T) {
	const n = 300
	w := newWorldAt(t, netip.MustParsePrefix("10.77.0.1/16"))
	w.file("ipxe.efi", strings.Repeat("x", 60_000))
	// Each has its address: dnsmasq offers a free one to several machines until one of them asks for it (measured: of
	// 1,000 EDK2s, which take four seconds until they ask, 195 were refused).
	var macs []net.HardwareAddr
	var fixed strings.Builder
	for i := range n {
		macs = append(macs, net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)})
		fmt.Fprintf(&fixed, "%s,10.77.%d.%d\n", macs[i], 16+i/250, 1+i%250)
	}
	w.file("hosts", fixed.String())
	w.dnsmasq(append(dnsmasq.Full(addr("10.77.16.1"), addr("10.77.31.254"), addr("10.77.0.1")),
		"--dhcp-lease-max=2000", "--tftp-max=2000", "--dhcp-hostsfile="+filepath.Join(w.tftp, "hosts"))...)
	c, err := w.lan.Client(w.ctx, "many", "52:54:00:77:00:09", netip.MustParsePrefix("10.77.0.9/16"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// By way of one neighbour: the kernel's table of them holds 1,024.
	if out, err := exec.Command("ip", "route", "add", "10.77.16.0/20", "via", "10.77.0.9").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	wire, err := Open(c, c.Interface)
	if err != nil {
		t.Fatal(err)
	}
	defer wire.Close()
	results := make([]Result, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			time.Sleep(time.Duration(i) * 10 * time.Millisecond)
			r, err := Client{Kind: EDK2X64, MAC: macs[i], Limit: 4096}.Boot(w.ctx, wire)
			if err != nil {
				t.Error(err)
			}
			results[i] = r
		})
	}
	wg.Wait()
	addresses := map[netip.Addr]bool{}
	failed := 0
	for _, r := range results {
		addresses[r.Address] = true
		if r.Stopped != "" || fetched(r) != viaIPXE {
			if failed++; failed <= 3 {
				t.Error(r)
			}
		}
	}
	if len(addresses) != n || failed > 0 {
		t.Errorf("%d addresses, %d machines did not boot", len(addresses), failed)
	}
	t.Log("\n" + Table(Latencies(results)))
}
