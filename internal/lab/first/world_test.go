// Package first runs the first stage on virtual machines: what it shows when things go wrong, and that the image comes
// up when they do not.
package first

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"provision/images"
	"provision/internal/initrd"
	"provision/internal/lab"
)

func TestMain(m *testing.M) { os.Exit(lab.InNamespace(m.Run)) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a LAN with a machine that boots an image by its first stage.
type world struct {
	ctx         context.Context
	net, server string // 10.77.1., 10.77.1.1:80
	lan         *lab.LAN
	image       lab.Installer
	added       images.Image
	first       string // path of the first stage
	tail        []byte
	host, login lab.Key
	vm          *lab.Machine
}

// newWorld makes the LAN number n, 10.77.n.0/24, for a machine that is still off. More replaces files of the image.
func newWorld(t testing.TB, ctx context.Context, n int, arch lab.Arch, more ...initrd.File) *world {
	t.Helper()
	w := &world{ctx: ctx, net: fmt.Sprintf("10.77.%d.", n)}
	w.server = w.net + "1:80"
	var err error
	w.lan, err = lab.NewLAN(ctx, fmt.Sprintf("br%d", n), netip.MustParsePrefix(w.net+"1/24"))
	check(t, err)
	t.Cleanup(func() { check(t, w.lan.Close()) })
	w.image, err = lab.Image(ctx, lab.CacheDir(), arch, os.Stderr)
	check(t, err)
	w.host, err = lab.NewKey("host")
	check(t, err)
	w.login, err = lab.NewKey("login")
	check(t, err)
	w.pack(t, arch, more)

	firmware := lab.SeaBIOS
	if arch == lab.AArch64 {
		firmware = lab.AAVMFPXE
	}
	w.vm = &lab.Machine{Name: fmt.Sprintf("vm%d", n), Dir: t.TempDir(), LAN: w.lan, MAC: "52:54:00:12:34:56", Firmware: firmware,
		Kernel: w.image.Kernel, Initrd: w.first,
		Cmdline: w.image.Cmdline + " " + images.FirstStageCmdline("http://"+w.server+"/boot/token/initrd", w.added, w.tail)}
	t.Cleanup(func() { check(t, w.vm.PowerOff()) })
	t.Cleanup(func() {
		if console := w.vm.Console(); t.Failed() && console != nil {
			text := console.Text()
			t.Logf("the end of the console:\n%s", text[max(0, len(text)-6000):])
		}
	})
	return w
}

// pack makes the first stage and the tail of one boot, as the server does.
func (w *world) pack(t testing.TB, arch lab.Arch, more []initrd.File) {
	t.Helper()
	catalog, err := images.Open(t.TempDir())
	check(t, err)
	w.added, err = catalog.Add(w.ctx, "lab", images.Arch(arch), images.Source{Kernel: w.image.Kernel, Initrd: w.image.Initrd,
		Cmdline: w.image.Cmdline}, nil)
	check(t, err)
	first, err := catalog.FirstStage(w.ctx, w.added)
	check(t, err)
	in, err := catalog.OpenFile(first)
	check(t, err)
	w.first = in.Name()
	check(t, in.Close())
	t.Logf("the first stage has %.1f MB, the image's initrd %.1f MB", float64(first.Size)/1e6, float64(w.added.Initrd.Size)/1e6)
	if len(more) > 0 {
		w.tail = append(make([]byte, initrd.Padding(w.added.Initrd.Size)), initrd.Overlay(more)...)
		return
	}
	w.tail = images.Contract{Login: strings.TrimSpace(string(w.login.Public)), HostKey: w.host.Private,
		HostKeyPublic: strings.TrimSpace(string(w.host.Public)), MachineID: strings.Repeat("ab", 16),
		Network: map[string][]byte{"addrs.json": []byte("[]")}}.Tail(w.added)
}

// router leases addresses on a LAN.
func (w *world) router(t testing.TB, lan *lab.LAN, network string, args ...string) *lab.Router {
	t.Helper()
	at := func(last string) netip.Addr { return netip.MustParseAddr(network + last) }
	r, err := lan.Router(w.ctx, t.TempDir(), netip.PrefixFrom(at("2"), 24), at("100"), at("199"), args...)
	check(t, err)
	t.Cleanup(func() { check(t, r.Close()) })
	return r
}

// sees waits until the console shows a text.
func (w *world) sees(t testing.TB, text string) {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(w.ctx, 90*time.Second)
	defer cancel()
	_, err := w.vm.Console().Expect(ctx, text, "Kernel panic")
	check(t, err)
	t.Logf("%5.1f s more: %s", time.Since(began).Seconds(), text)
	if strings.Contains(w.vm.Console().Text(), "Kernel panic") {
		t.Fatal("the kernel panicked")
	}
}

// up waits until the image's sshd answers with this boot's key, and returns a shell.
func (w *world) up(t testing.TB, r *lab.Router) *lab.Shell {
	t.Helper()
	w.sees(t, "sshd is up")
	address, err := r.Lease(w.ctx, w.vm.MAC)
	check(t, err)
	shell, err := lab.Dial(w.ctx, address, w.host.Signer.PublicKey(), w.login.Signer)
	for errors.Is(err, unix.EHOSTUNREACH) {
		shell, err = lab.Dial(w.ctx, address, w.host.Signer.PublicKey(), w.login.Signer)
	}
	check(t, err)
	return shell
}

// A fault is what a server does wrong in answering one request.
type fault struct {
	status int   // answered instead of the file; -1: the connection is closed without an answer
	cut    int64 // bytes after which the connection is cut
	flip   bool  // the last byte is another
	kill   bool  // after cut, the server is killed
}

// A faulty is a server of the image's initrd that commits a fault for each request, and then none any more.
type faulty struct {
	file, addr string

	mu       sync.Mutex
	faults   []fault
	requests []string // their Range
	killed   chan struct{}
	srv      *http.Server
	done     chan struct{}
}

func newFaulty(t testing.TB, w *world, faults ...fault) *faulty {
	t.Helper()
	initrdData, err := os.ReadFile(w.image.Initrd)
	check(t, err)
	s := &faulty{file: string(append(initrdData, w.tail...)), addr: w.server, faults: faults, killed: make(chan struct{})}
	if sum := sha256.Sum256(initrdData); hex.EncodeToString(sum[:]) != w.added.Initrd.SHA256 {
		t.Fatal("the image has changed")
	}
	return s
}

// ranges are those of the requests so far.
func (s *faulty) ranges() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// start opens the port and serves; a second time too, after it was killed.
func (s *faulty) start(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", s.addr)
	check(t, err)
	srv, done := &http.Server{Handler: s}, make(chan struct{})
	s.mu.Lock()
	s.srv, s.done = srv, done
	s.mu.Unlock()
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
}

func (s *faulty) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	var f fault
	if len(s.faults) > 0 {
		f, s.faults = s.faults[0], s.faults[1:]
	}
	s.requests = append(s.requests, r.Header.Get("Range"))
	srv := s.srv
	s.mu.Unlock()
	switch {
	case f.status < 0:
		panic(http.ErrAbortHandler)
	case f.status > 0:
		rw.WriteHeader(f.status)
		return
	}
	file := s.file
	if f.flip {
		file = file[:len(file)-5] + "?" + file[len(file)-4:]
	}
	if f.cut > 0 {
		rw = &cutter{rw, f.cut}
	}
	http.ServeContent(rw, r, "", time.Time{}, strings.NewReader(file))
	if f.cut == 0 {
		return
	}
	if f.kill {
		_ = srv.Close()
		close(s.killed)
	}
	panic(http.ErrAbortHandler)
}

// A cutter passes on a number of bytes only.
type cutter struct {
	http.ResponseWriter
	left int64
}

func (c *cutter) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b[:min(int64(len(b)), c.left)])
	if c.left -= int64(n); c.left == 0 && err == nil {
		err = io.ErrShortWrite
	}
	return n, err
}

// cable plugs in the machine's cable, or pulls it.
func (w *world) cable(t testing.TB, state string) {
	t.Helper()
	said, err := w.vm.Monitor(t.Context(), "set_link lan "+state)
	check(t, err)
	if said != "" {
		t.Fatal(said)
	}
}
