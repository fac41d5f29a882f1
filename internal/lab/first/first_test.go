package first

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"provision/internal/lab"
)

// TestFaults boots one machine through everything that can go wrong on the way to its image, and sees each said on the
// console; at the end the image is up.
func TestFaults(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	w := newWorld(t, ctx, lab.X86_64)
	cable := w.cables(t)
	// A second card gets an address, from where the server is not to be reached.
	other, err := lab.NewLAN(ctx, "br1", netip.MustParsePrefix("10.78.0.1/24"))
	check(t, err)
	t.Cleanup(func() { check(t, other.Close()) })
	// Linux answers for all of its addresses on each of its cards, if it is not told otherwise.
	check(t, os.WriteFile("/proc/sys/net/ipv4/conf/br1/arp_ignore", []byte("1"), 0))
	check(t, other.Tap(ctx, "tap-other"))
	w.router(t, other, "10.78.0.", "--dhcp-option=3")
	w.vm.Args = append(w.vm.Args, "-netdev", "tap,id=other,script=no,downscript=no,ifname=tap-other",
		"-device", "e1000,netdev=other,mac=52:54:00:12:34:57,romfile=")
	check(t, w.vm.Start(ctx))
	w.sees(t, "SeaBIOS") // QEMU is up
	cable.set(t, "lan", false)

	w.sees(t, "eth0: no link: is its cable in?")
	w.sees(t, "address 10.78.0.")
	w.sees(t, "cannot connect to 10.77.0.1:80 through eth1: no answer in time")
	cable.set(t, "lan", true)
	w.sees(t, "no DHCP answer")
	router := w.router(t, w.lan, "10.77.0.")
	w.sees(t, "address 10.77.0.")
	w.sees(t, "connection refused: is provision running?")

	const megabyte = 1 << 20
	s := newFaulty(t, w, fault{status: 503}, fault{status: -1}, fault{status: 404},
		fault{cut: 10 * megabyte}, fault{cut: 5 * megabyte, kill: true}, fault{flip: true}, fault{})
	s.start(t)
	w.sees(t, `answered "503 Service Unavailable"`)
	w.sees(t, "closed the connection without an answer")
	w.sees(t, `answered "404 Not Found": this boot is over`)
	w.sees(t, "downloading the image:")
	w.sees(t, "the download broke off at 10.5 MB: the connection was closed")
	<-s.killed
	w.sees(t, "the download broke off at 15.7 MB")
	w.sees(t, "connection refused")
	s.start(t)
	w.sees(t, "the sha256 of this boot's part is")
	w.sees(t, "thrown away")
	w.sees(t, "the image is here and is the right one")
	shell := w.up(t, router)

	out, err := shell.Run(ctx, "cat /proc/1/cmdline | tr '\\0' ' '; ls /modules /init; ip -br link; mount; dmesg | grep provision: | head -n 3")
	t.Log(out, err)
	if want := []string{"", "", "", "", "bytes=10485760-", "bytes=15728640-", ""}; strings.Join(s.requests, ",") != strings.Join(want, ",") {
		t.Errorf("the ranges asked for were %q, want %q", s.requests, want)
	}
}
