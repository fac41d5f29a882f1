package pxe

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/pin/tftp/v3"

	"provision/hosts"
	"provision/images"
)

// BenchmarkDHCP is one DISCOVER from bytes to bytes: parse, look up, decide,
// reply. The number of enrolled hosts must make no difference.
func BenchmarkDHCP(b *testing.B) {
	for _, n := range []int{10, 100_000} {
		s := server(b, Full)
		fill(b, s.Leases.(hosts.Store), n)
		inv, err := hosts.New(s.Leases.(hosts.Store), nil, s.Now)
		if err != nil {
			b.Fatal(err)
		}
		s.Hosts = inv
		raw := packet(b, "ovmf-x64-discover").ToBytes()
		copy(raw[28:34], []byte{0x52, 0x54, 0, 0, 0, 7})
		b.Run(fmt.Sprintf("hosts=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m, err := dhcpv4.FromBytes(raw)
				if err != nil {
					b.Fatal(err)
				}
				r := s.dhcp(m)
				if r == nil {
					b.Fatal("silence")
				}
				if len(r.ToBytes()) == 0 || r.BootFileName == "" {
					b.Fatal("no boot")
				}
			}
		})
	}
}

// fill writes n booting hosts straight into the store, many at a time: to
// enroll each by itself would take an fsync each.
func fill(b *testing.B, store hosts.Store, n int) {
	b.Helper()
	var writes []hosts.Write
	for i := range n {
		name := fmt.Sprintf("host%06d", i)
		mac := fmt.Sprintf("52:54:00:%02x:%02x:%02x", i>>16, i>>8&255, i&255)
		h := fmt.Sprintf(`{"name":%q,"macs":[%q],"arch":"x86_64","state":"booting","permit":{"issued":%q,"expires":%q},"boot":{"token":"%032x","expires":%q}}`,
			name, mac, noon.Format(time.RFC3339), noon.Add(time.Hour).Format(time.RFC3339), i, noon.Add(time.Hour).Format(time.RFC3339))
		writes = append(writes, hosts.Write{Key: "host/" + name, Value: []byte(h)}, hosts.Write{Key: "mac/" + mac, Value: []byte(name)})
		if len(writes) > 10_000 || i == n-1 {
			if err := store.Commit(nil, writes); err != nil {
				b.Fatal(err)
			}
			writes = nil
		}
	}
}

const imageSize = 500 << 20

// BenchmarkHTTP downloads one 500 MB file over loopback, from us and from
// nginx with the same file, with 1 and with 32 clients at a time.
func BenchmarkHTTP(b *testing.B) {
	s := server(b, Full)
	dir := b.TempDir()
	kernel := make([]byte, imageSize)
	copy(kernel[0x1fe:], "\x55\xaa")
	copy(kernel[0x202:], "HdrS\x0f\x02")
	copy(kernel[0x236:], "\x03\x00")
	initrd := images.Overlay([]images.OverlayFile{{Path: "init", Mode: 0o755, Data: []byte("x")}})
	src := images.Source{Kernel: filepath.Join(dir, "kernel"), Initrd: filepath.Join(dir, "initrd"), Cmdline: "init=/x"}
	if os.WriteFile(src.Kernel, kernel, 0o644) != nil || os.WriteFile(src.Initrd, initrd, 0o644) != nil {
		b.Fatal("write the image")
	}
	if _, err := s.Images.Add(b.Context(), "lab", images.X86_64, src, nil); err != nil {
		b.Fatal(err)
	}
	h := s.begin(b)
	ours := httptest.NewServer(s.routes(s.links[0]))
	defer ours.Close()
	for _, clients := range []int{1, 32} {
		for _, peer := range []struct{ name, url string }{
			{"provision", ours.URL + "/boot/" + h.Boot.Token + "/kernel"},
			{"nginx", nginx(b, dir) + "/kernel"},
		} {
			b.Run(fmt.Sprintf("clients=%d/%s", clients, peer.name), func(b *testing.B) {
				b.SetBytes(imageSize)
				download(b, peer.url, clients)
			})
		}
	}
}

func download(b *testing.B, url string, clients int) {
	b.SetParallelism((clients + 1) / 2) // times GOMAXPROCS, two here
	if clients == 1 {
		for b.Loop() {
			fetch(b, url)
		}
		return
	}
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			fetch(b, url)
		}
	})
}

func fetch(b *testing.B, url string) {
	resp, err := http.Get(url)
	if err != nil {
		b.Error(err)
		return
	}
	defer resp.Body.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 1<<20))
	if err != nil || n != imageSize {
		b.Errorf("%d bytes, %v", n, err)
	}
}

// nginx serves dir from a real nginx on a free port.
func nginx(b *testing.B, dir string) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	state := b.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	conf := filepath.Join(state, "nginx.conf")
	text := fmt.Sprintf("user root; daemon off; worker_processes auto; pid %s/pid; error_log stderr;\nevents {}\nhttp { access_log off; sendfile on; tcp_nopush on; server { listen %s; root %s; } }\n", state, addr, dir)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	run(b, "nginx", "-p", state, "-c", conf)
	for { // until it listens
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return "http://" + addr
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func run(b *testing.B, name string, args ...string) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // dnsmasq takes SIGINT for something else
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		b.Skipf("%s: %v; `./setup` installs it", name, err)
	}
	b.Cleanup(func() { cancel(); cmd.Wait() })
}

// BenchmarkTFTP downloads 4 MiB over loopback in blocks of 1468 bytes, from us
// and from dnsmasq. Run it in a network namespace: dnsmasq knows no other port
// than 69.
func BenchmarkTFTP(b *testing.B) {
	const size = 4 << 20
	data := bytes.Repeat([]byte("provision"), size/9+1)[:size]
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), data, 0o644); err != nil {
		b.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	// Our own server with the same settings and the same gate, serving data.
	s := server(b, Full)
	h := s.begin(b)
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	s.programs["ipxe.efi"], s.links[0].sock.tftp = data, conn
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- s.serveTFTP(ctx, s.links[0]) }()
	defer func() { cancel(); <-done }()
	run(b, "dnsmasq", "--keep-in-foreground", "--port=0", "--enable-tftp", "--tftp-root="+dir, "--listen-address=127.0.0.1", "--user=root", "--conf-file=/dev/null", "--pid-file=")
	for _, clients := range []int{1, 16} {
		for _, peer := range []struct{ name, addr, file string }{
			{"provision", conn.LocalAddr().String(), "boot/" + h.Boot.Token + "/ipxe.efi"},
			{"dnsmasq", "127.0.0.1:69", "file"},
		} {
			b.Run(fmt.Sprintf("clients=%d/%s", clients, peer.name), func(b *testing.B) {
				b.SetBytes(size)
				var failed atomic.Int32
				get := func() {
					if n, err := tftpGet(peer.addr, peer.file); err != nil || n != size {
						failed.Add(1)
						b.Logf("%d bytes, %v", n, err)
					}
				}
				if clients == 1 {
					for b.Loop() {
						get()
					}
				} else {
					b.SetParallelism(clients / 2)
					b.RunParallel(func(p *testing.PB) {
						for p.Next() {
							get()
						}
					})
				}
				if failed.Load() > 0 {
					b.Fatalf("%d transfers failed", failed.Load())
				}
			})
		}
	}
}

func tftpGet(addr, file string) (int64, error) {
	c, err := tftp.NewClient(addr)
	if err != nil {
		return 0, err
	}
	c.SetBlockSize(1468)
	from, err := c.Receive(file, "octet")
	if err != nil {
		return 0, err
	}
	return from.WriteTo(io.Discard)
}
