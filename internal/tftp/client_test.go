package tftp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// shelf is a server under test: its files, its options, and what became of its transfers.
type shelf struct {
	files map[string][]byte
	open  func(name string) (File, error) // in place of files

	// Options of the Server.
	ackTimeout time.Duration
	resolve    func()
	group      func(name string) string
	completed  func(Completed)
	dropped    func(netip.Addr)

	ended chan bool // of each transfer, whether it was whole
	log   bytes.Buffer

	mu     sync.Mutex
	opened int // files
	closed int
	texts  []string // the outcomes
}

func (s *shelf) Open(name string, client netip.AddrPort) (File, error) {
	if client.Port() == 0 || !client.Addr().Is4() {
		return File{}, errors.New("a client without an address")
	}
	f, err := s.find(name)
	if err != nil {
		return f, err
	}
	s.mu.Lock()
	s.opened++
	s.mu.Unlock()
	f.Content = struct {
		io.Reader
		io.Closer
	}{f.Content, closer(s.countClosed)}
	f.Done = func(whole bool) { s.ended <- whole }
	return f, nil
}

func (s *shelf) countClosed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
	return nil
}

func (s *shelf) find(name string) (File, error) {
	if s.open != nil {
		return s.open(name)
	}
	if data, ok := s.files[name]; ok {
		return fileOf(bytes.NewReader(data), len(data)), nil
	}
	if name == "missing" {
		return File{}, ErrNotFound
	}
	return File{}, ErrNotServed
}

func fileOf(content io.Reader, size int) File {
	return File{Content: io.NopCloser(content), Size: int64(size)}
}

type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

type closer func() error

func (c closer) Close() error { return c() }

func (s *shelf) Observe(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Packet == nil {
		s.texts = append(s.texts, e.Text)
	}
}

// said reports whether the text occurs in an outcome.
func (s *shelf) said(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(strings.Join(s.texts, "\n"), text)
}

// whole waits for the end of a transfer.
func (s *shelf) whole(t testing.TB) bool {
	t.Helper()
	select {
	case whole := <-s.ended:
		return whole
	case <-time.After(20 * time.Second):
		t.Fatal("no transfer ended")
		return false
	}
}

func (s *shelf) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened
}

// serve runs a server of these files on loopback. When the test ends or calls stop, the server must end, must have
// closed each file, and must not have logged a warning, unless the test took that out of the log.
func (s *shelf) serve(t testing.TB, mtu int) (addr netip.AddrPort, stop func()) {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s.ended = make(chan bool, 10*MaxTransfers)
	srv := &Server{
		MTU:        func() int { return mtu },
		AckTimeout: s.ackTimeout,
		Open:       s.Open,
		Resolve:    func(context.Context, netip.Addr) { s.resolve() },
		Group:      s.group,
		Observe:    s.Observe,
		Completed:  s.completed,
		Dropped:    s.dropped,
		Log:        slog.New(slog.NewTextHandler(&s.log, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx, conn) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if s.opened != s.closed {
			t.Errorf("%d files opened, %d closed", s.opened, s.closed)
		}
		if s.log.Len() > 0 {
			t.Errorf("in the log: %s", s.log.String())
		}
	})
	t.Cleanup(stop)
	return conn.LocalAddr().(*net.UDPAddr).AddrPort(), stop
}

// bootROM is a client that speaks TFTP by hand, from one port.
type bootROM struct {
	testing.TB
	conn   *net.UDPConn
	server netip.AddrPort // port 69
	tid    netip.AddrPort // where the last packet came from
	buf    []byte
	window int // blocks that are acknowledged together; 0: one
}

// newROM is a client with an address of its own.
func newROM(t testing.TB, server netip.AddrPort) *bootROM {
	t.Helper()
	n := roms.Add(1)
	return newROMAt(t, server, net.IPv4(127, 1, byte(n>>8), byte(n)))
}

var roms atomic.Uint32

func newROMAt(t testing.TB, server netip.AddrPort, at net.IP) *bootROM {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: at})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &bootROM{TB: t, conn: conn, server: server, buf: make([]byte, 9000)}
}

// readRequest is an RRQ in octet mode.
func readRequest(name string, options ...string) []byte {
	return []byte("\x00\x01" + strings.Join(append([]string{name, "octet"}, options...), "\x00") + "\x00")
}

func (f *bootROM) ask(p []byte) {
	f.Helper()
	if _, err := f.conn.WriteToUDPAddrPort(p, f.server); err != nil {
		f.Fatal(err)
	}
}

func (f *bootROM) send(p []byte) {
	f.Helper()
	if _, err := f.conn.WriteToUDPAddrPort(p, f.tid); err != nil {
		f.Fatal(err)
	}
}

func (f *bootROM) ack(block uint16) { f.Helper(); f.send([]byte{0, 4, byte(block >> 8), byte(block)}) }

// quit answers an ERROR, as a client does that only asked for the size.
func (f *bootROM) quit() { f.Helper(); f.send([]byte("\x00\x05\x00\x00Early terminate\x00")) }

// within returns the next packet, or nil when none came in time.
func (f *bootROM) within(d time.Duration) []byte {
	f.Helper()
	if err := f.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		f.Fatal(err)
	}
	n, from, err := f.conn.ReadFromUDPAddrPort(f.buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	if err != nil {
		f.Fatal(err)
	}
	f.tid = from
	return f.buf[:n]
}

func (f *bootROM) next() []byte {
	f.Helper()
	p := f.within(20 * time.Second)
	if p == nil {
		f.Fatal("no answer")
	}
	return p
}

// expect takes the next packet and compares it.
func (f *bootROM) expect(want string) {
	f.Helper()
	if got := f.next(); string(got) != want {
		f.Fatalf("got %q, want %q", got[:min(len(got), 100)], want)
	}
}

// options takes an OACK, in whatever order.
func (f *bootROM) options() map[string]string {
	f.Helper()
	p := f.next()
	if len(p) < 3 || p[1] != 6 {
		f.Fatalf("not an OACK: %q", p[:min(len(p), 100)])
	}
	fields := strings.Split(strings.TrimSuffix(string(p[2:]), "\x00"), "\x00")
	m := make(map[string]string)
	for i := 0; i+1 < len(fields); i += 2 {
		m[fields[i]] = fields[i+1]
	}
	return m
}

// download takes a whole file into to, acknowledging each block once; p is its
// first packet. A block that comes once more was not acknowledged within a
// second, which happens to one of a thousand clients on a busy machine.
func (f *bootROM) download(to io.Writer, p []byte, blksize int) {
	f.Helper()
	for block := uint16(1); ; block++ {
		if len(p) < 4 || p[1] != 3 || binary.BigEndian.Uint16(p[2:]) != block {
			f.Fatalf("not block %d: %q", block, p[:min(len(p), 100)])
		}
		if _, err := to.Write(p[4:]); err != nil {
			f.Fatal(err)
		}
		last := len(p) < 4+blksize
		if last || f.window < 2 || int(block)%f.window == 0 {
			f.ack(block)
		}
		if last {
			return
		}
		for p = f.next(); len(p) >= 4 && p[1] == 3 && block-binary.BigEndian.Uint16(p[2:]) < uint16(max(1, f.window)); {
			p = f.next()
		}
	}
}

// capturedRequests are requests of real firmware.
func capturedRequests(t testing.TB) (packets [][]byte) {
	t.Helper()
	text, err := os.ReadFile("testdata/requests.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		p, err := strconv.Unquote(strings.TrimSpace(line))
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		packets = append(packets, []byte(p))
	}
	return packets
}
