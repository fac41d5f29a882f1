package clients

import (
	"testing"

	"provision/internal/lab/netboot"
	"provision/pxe"
)

// boots is how each firmware comes up: in which round, and by which method. ipxe.efi is the only program for x86-64 that
// is built in.
var boots = []struct {
	kind        netboot.Kind
	proxyRounds int // 0: TestNoBoot has it
	proxy       string
	full        string // in the first round
}{
	{netboot.EDK2X64, 1, "binl+native", "first+native"},
	{netboot.EDK2X64As9, 1, "binl+native", "first+native"},
	{netboot.EDK2ARM64, 1, "binl+snponly", "first+snponly"},
	{netboot.OldEDK2, 1, "binl+native", "first+native"}, // it drops the other kind
	{netboot.HP, 2, "first+native", "first+native"},     // it leaves the first offer, for which it would have to ask 4011
	{netboot.HPSingle, 0, "", "first+native"},           // nobody can boot it beside another DHCP server
	{netboot.BIOS, 1, "first+snponly", "first+snponly"},
	{netboot.HTTPX64, 1, "http+native", "http+native"},
	{netboot.HTTPARM64, 1, "http+snponly", "http+snponly"},
	{netboot.IPXE, 1, "rom", "rom"},
	{netboot.Tinkerbell, 1, "rom", "rom"},
	{netboot.TinkerbellBIOS, 1, "rom", "rom"},
	{netboot.UBoot2023, 1, "u-boot", "u-boot"},
	{netboot.UBoot2025, 1, "u-boot", "u-boot"},
	{netboot.UBootEFI, 0, "", "first+snponly"}, // it takes no proxy's offer, and its file's name from nowhere else
}

// TestLadder: each firmware comes up within three rounds, all at the same time; once the server has been restarted, in one,
// by what worked.
func TestLadder(t *testing.T) {
	for _, mode := range []pxe.Mode{pxe.Proxy, pxe.Full} {
		t.Run(string(mode), func(t *testing.T) {
			w := newWorld(t, 1, brisk)
			ranges := []string{"10.77.0.100-10.77.0.199"}
			if mode == pxe.Proxy {
				ranges = nil
				w.router(0)
			}
			w.serve(mode, ranges...)
			var machines []*machine
			var want []struct {
				rounds int
				method string
			}
			for _, b := range boots {
				c := netboot.Client{Kind: b.kind}
				rounds, method := 1, b.full
				if mode == pxe.Proxy {
					if rounds, method = b.proxyRounds, b.proxy; rounds == 0 {
						continue
					}
					c.Server = self // for U-Boot
				}
				machines = append(machines, w.known(c))
				want = append(want, struct {
					rounds int
					method string
				}{rounds, method})
			}
			for n := 1; n <= 2; n++ {
				for i, r := range w.bootAll(machines...) {
					m := machines[i]
					if n == 2 {
						want[i].rounds = 1
					}
					h := m.host()
					if !m.up(r) || m.rounds(r) != want[i].rounds || h.Method.String() != want[i].method || h.Permit.Boots != n {
						t.Errorf("%s, boot %d: method %q, %d boots under its permit\n%s", m.Kind, n, h.Method, h.Permit.Boots, m.conversation(r))
					}
				}
				if n == 1 {
					w.serve(mode, ranges...)
				}
			}
		})
	}
}
