package load

import (
	"net/netip"
	"strings"
	"testing"

	"provision/hosts"
	"provision/internal/lab/netboot"
)

// TestFull: a thousand machines, of four kinds, are switched on at once, and
// boot as far as the headers of kernel and initrd. The simulated firmware
// gives up when real firmware does; that none did is what is asserted. How
// fast it went is told.
func TestFull(t *testing.T) {
	w := newWorld(t)
	clients := crowd(netboot.EDK2X64, netboot.EDK2X64, netboot.BIOS, netboot.HTTPX64)
	w.enroll(clients, func(i int) (m hosts.Method) {
		if i%4 == 1 { // has to ask port 4011
			m.Offer = hosts.OfferBINL
		}
		return m
	})
	w.check(clients, w.serve(full()...))
}

// TestProxy: the same beside a DHCP server that leased them their addresses,
// where UEFI firmware asks port 4011.
func TestProxy(t *testing.T) {
	w := newWorld(t)
	clients := crowd(netboot.EDK2X64, netboot.EDK2ARM64, netboot.BIOS, netboot.IPXE)
	for i, at := range addresses() {
		clients[i].Address = at
	}
	w.enroll(clients, func(int) (m hosts.Method) { return m })
	w.check(clients, w.serve("--dhcp", "proxy"))
}

// limit is what the server's memory must stay under, whatever happens.
const limit = 200 << 20

// check boots the machines as far as the headers of kernel and initrd.
func (w *world) check(clients []netboot.Client, pid int) {
	w.Helper()
	for i := range clients {
		clients[i].Limit = -1
	}
	r := w.boot(clients)
	peak := w.peak(pid)
	w.Logf("%d machines in %.1f s; the server took %.1f s of processor time and %d MB at most\n%s",
		len(clients), r.total.Seconds(), w.cpu(pid).Seconds(), peak>>20, r)
	if lost := r.lost(); len(lost) > 0 {
		w.Errorf("%d machines gave up:\n%s", len(lost), strings.Join(lost[:min(len(lost), 20)], "\n"))
	}
	if peak > limit {
		w.Errorf("the server had %d MB", peak>>20)
	}
	for i, res := range r.results {
		for _, stage := range []string{"script", "kernel", "initrd"} {
			_, chained := res.Got("ipxe " + stage)
			if _, direct := res.Got(stage); res.Stopped == "" && !chained && !direct {
				w.Errorf("%s, %s: no %s", clients[i].Kind, mac(i), stage)
			}
		}
	}
}

// BenchmarkBoot boots a thousand machines as far as their program, from us and
// from dnsmasq.
func BenchmarkBoot(b *testing.B) {
	for _, peer := range []string{"provision", "dnsmasq"} {
		b.Run(peer, func(b *testing.B) {
			for b.Loop() {
				w := newWorld(b)
				clients := crowd(netboot.EDK2X64, netboot.BIOS)
				for i := range clients {
					clients[i].Until = netboot.UntilProgram
				}
				var pid int
				if peer == "dnsmasq" {
					pid = w.dnsmasq()
				} else {
					w.enroll(clients, func(int) (m hosts.Method) { return m })
					pid = w.serve(full()...)
				}
				r := w.boot(clients)
				b.Logf("%s\n%s", peer, r)
				b.ReportMetric(float64(len(r.lost())), "lost")
				b.ReportMetric(r.total.Seconds(), "s-all")
				b.ReportMetric(percentile(r.waited(), 50).Seconds(), "s-wait-p50")
				b.ReportMetric(percentile(r.waited(), 99).Seconds(), "s-wait-p99")
				b.ReportMetric(w.cpu(pid).Seconds(), "s-cpu")
				b.ReportMetric(float64(w.peak(pid)>>20), "MB")
			}
		})
	}
}

// crowd is a thousand machines of these kinds in turn.
func crowd(kinds ...netboot.Kind) []netboot.Client {
	clients := make([]netboot.Client, machines)
	for i := range clients {
		clients[i] = netboot.Client{Kind: kinds[i%len(kinds)], MAC: mac(i), UUID: uuid(i)}
	}
	return clients
}

func full() []string {
	return []string{"--dhcp", "server", "--dhcp-range", first.String() + "-" + last.String()}
}

// addresses are those that another DHCP server leased.
func addresses() []netip.Addr {
	all := []netip.Addr{first}
	for len(all) < machines {
		all = append(all, all[len(all)-1].Next())
	}
	return all
}
