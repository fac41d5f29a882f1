package load

import (
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
	kinds := []netboot.Kind{netboot.EDK2X64, netboot.EDK2X64, netboot.BIOS, netboot.HTTPX64}
	clients := make([]netboot.Client, machines)
	for i := range clients {
		clients[i] = netboot.Client{Kind: kinds[i%len(kinds)], MAC: mac(i), UUID: uuid(i), Limit: -1}
	}
	w.enroll(clients, func(i int) (m hosts.Method) {
		if i%len(kinds) == 1 { // has to ask port 4011
			m.Offer = hosts.OfferBINL
		}
		return m
	})
	pid := w.serve("--dhcp", "server", "--dhcp-range", first.String()+"-"+last.String())
	w.check(w.boot(clients), pid)
}

// limit is what the server's memory must stay under, whatever happens.
const limit = 200 << 20

func (w *world) check(r *report, pid int) {
	w.Helper()
	peak := w.peak(pid)
	w.Logf("%d machines in %.1f s; the server took %.1f s of processor time and %d MB at most\n%s", len(r.results), r.total.Seconds(), w.cpu(pid).Seconds(), peak>>20, r)
	if lost := r.lost(); len(lost) > 0 {
		w.Errorf("%d machines gave up:\n%s", len(lost), strings.Join(lost[:min(len(lost), 20)], "\n"))
	}
	if peak > limit {
		w.Errorf("the server had %d MB", peak>>20)
	}
	for i, res := range r.results {
		if res.Stopped != "" {
			continue
		}
		for _, stage := range []string{"ipxe script", "ipxe kernel", "ipxe initrd"} {
			if _, ok := res.Got(stage); !ok {
				w.Errorf("%s, %s: no %s", mac(i), res.Chose, stage)
			}
		}
	}
}
