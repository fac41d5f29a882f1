package wire

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"provision/internal/lab"
)

// peer is a server with what it serves, as the client gets it.
type peer struct {
	server
	get func() (int64, error)
}

// result is what one download of each client came to.
type result struct {
	rate float64 // MB/s, all clients together
	cpu  float64 // of the server, seconds per GB
}

// round has n clients at a time download once (more often, if n is 1 and times is more).
func (p peer) round(w *world, n, times int) result {
	w.Helper()
	var group sync.WaitGroup
	errs := make([]error, n)
	used, begun := p.cpu(), time.Now()
	for i := range n {
		group.Go(func() {
			for range times {
				if size, err := p.get(); err != nil || size != w.size {
					errs[i] = fmt.Errorf("%s: %d of %d bytes: %w", p.name, size, w.size, err)
				}
			}
		})
	}
	group.Wait()
	took := time.Since(begun)
	w.must(errors.Join(errs...))
	bytes := float64(w.size) * float64(n*times)
	return result{bytes / 1e6 / took.Seconds(), (p.cpu() - used).Seconds() / (bytes / 1e9)}
}

// beside measures the first peer beside the others, in turn, and reports the medians. With cpu, the servers' processor
// time, too; that of in.tftpd is in processes for which nobody waits.
func beside(b *testing.B, w *world, n, times int, cpu bool, peers []peer) {
	b.Helper()
	for _, p := range peers {
		p.round(w, n, 1) // into the page cache
	}
	all := make([][]result, len(peers))
	for b.Loop() {
		for i := range peers {
			all[i] = append(all[i], peers[i].round(w, n, times))
		}
	}
	for i, p := range peers {
		b.ReportMetric(median(all[i], func(_ int, r result) float64 { return r.rate }), "MB/s-"+p.name)
		if cpu {
			b.ReportMetric(median(all[i], func(_ int, r result) float64 { return r.cpu }), "cpu-s/GB-"+p.name)
		}
		if i > 0 {
			b.ReportMetric(median(all[i], func(k int, r result) float64 { return all[0][k].rate / r.rate }), "rate:"+p.name)
			if cpu {
				b.ReportMetric(median(all[i], func(k int, r result) float64 { return all[0][k].cpu / r.cpu }), "cpu:"+p.name)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
}

func median(rounds []result, of func(int, result) float64) float64 {
	var all []float64
	for k, r := range rounds {
		all = append(all, of(k, r))
	}
	slices.Sort(all)
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

// BenchmarkHTTP is a kernel of 128 MB, from us and from nginx, with 1 and with 32 clients at a time.
func BenchmarkHTTP(b *testing.B) {
	w := newWorld(b, 128<<20, 0)
	ours, nginx := w.provision(), w.nginx()
	peers := []peer{
		{ours, func() (int64, error) { return httpGet(w.ours.addr(80), "/boot/"+w.token+"/kernel") }},
		{nginx, func() (int64, error) { return httpGet(w.theirs.addr(80), "/kernel") }},
	}
	b.Run("clients=1", func(b *testing.B) { beside(b, w, 1, 8, true, peers) })
	b.Run("clients=32", func(b *testing.B) { beside(b, w, 32, 1, true, peers) })
}

// BenchmarkTFTP is a file in blocks of 1468 bytes, from us, tftpd-hpa and dnsmasq, with 1 and with 16 clients, lock-step.
func BenchmarkTFTP(b *testing.B) {
	for _, c := range []struct {
		delay time.Duration
		size  int64
	}{{0, 8 << 20}, {time.Millisecond, 1 << 20}} {
		b.Run(fmt.Sprintf("delay=%s", c.delay), func(b *testing.B) {
			w := newWorld(b, c.size, c.delay)
			ours, hpa, dnsmasq := w.provision(), w.tftpd(), w.dnsmasq()
			kernel := "boot/" + w.token + "/kernel"
			peers := []peer{
				{ours, func() (int64, error) { return tftpGet(w.ours.addr(69), kernel, 1) }},
				{hpa, func() (int64, error) { return tftpGet(w.theirs.addr(6900), "kernel", 1) }},
				{dnsmasq, func() (int64, error) { return tftpGet(w.theirs.addr(69), "kernel", 1) }},
			}
			for _, n := range []int{1, 16} {
				b.Run(fmt.Sprintf("clients=%d%s", n, w.delayed), func(b *testing.B) { beside(b, w, n, 1, false, peers) })
			}
			// The peers are not asked for windows: this is beside ourselves.
			lockstep := peers[0]
			lockstep.name = "lock-step"
			windows := []peer{{ours, func() (int64, error) { return tftpGet(w.ours.addr(69), kernel, 4) }}, lockstep}
			b.Run("windows=4, clients=1"+w.delayed, func(b *testing.B) { beside(b, w, 1, 1, false, windows) })
		})
	}
}

func (w *world) nginx() server {
	w.Helper()
	addr := w.theirs.addr(80).String()
	argv, err := lab.Nginx(w.TempDir(), addr, w.dir)
	w.must(err)
	return w.start("nginx", w.theirs, nil, func() error {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err
	}, argv...)
}

func (w *world) tftpd() server {
	w.Helper()
	return w.start("tftpd-hpa", w.theirs, nil, w.listens(6900), "in.tftpd", "--foreground", "--listen", "--address", w.theirs.addr(6900).String(), "--user", "root", "--secure", w.dir)
}

func (w *world) dnsmasq() server {
	w.Helper()
	return w.start("dnsmasq", w.theirs, nil, w.listens(69), "dnsmasq", "--keep-in-foreground", "--port=0", "--enable-tftp", "--tftp-root="+w.dir,
		"--listen-address="+w.theirs.addr(69).Addr().String(), "--bind-interfaces", "--user=root", "--conf-file=/dev/null", "--pid-file=")
}

// listens tells when a peer has its UDP port, by proc_net(5): to try to have it would keep the peer from it.
func (w *world) listens(port int) func() error {
	a := w.theirs.addr(port).Addr().As4()
	want := fmt.Sprintf(" %02X%02X%02X%02X:%04X ", a[3], a[2], a[1], a[0], port)
	return func() error {
		return w.theirs.host.Do(func() error { return hasLine(want) })
	}
}

func hasLine(want string) error {
	table, err := os.ReadFile("/proc/thread-self/net/udp")
	if err == nil && !strings.Contains(string(table), want) {
		err = errors.New("not yet")
	}
	return err
}
