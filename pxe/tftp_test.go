package pxe

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"provision/hosts"
	"provision/internal/tftp"
)

// bootROM is a client that speaks TFTP by hand. What the server does with packets is tested in internal/tftp.
type bootROM struct {
	testing.TB
	conn     *net.UDPConn
	server   netip.AddrPort // port 69
	transfer netip.AddrPort // where the last packet came from
}

func newROM(t testing.TB, server netip.AddrPort) *bootROM {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 1, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &bootROM{TB: t, conn: conn, server: server}
}

func (f *bootROM) send(to netip.AddrPort, packet string) {
	f.Helper()
	if _, err := f.conn.WriteToUDPAddrPort([]byte(packet), to); err != nil {
		f.Fatal(err)
	}
}

// ask sends a read request in octet mode.
func (f *bootROM) ask(name string, options ...string) {
	f.Helper()
	fields := append([]string{name, "octet"}, options...)
	f.send(f.server, "\x00\x01"+strings.Join(fields, "\x00")+"\x00")
}

func (f *bootROM) ack(block byte) {
	f.Helper()
	f.send(f.transfer, string([]byte{0, 4, 0, block}))
}

// next waits for a packet.
func (f *bootROM) next() string {
	f.Helper()
	if err := f.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		f.Fatal(err)
	}
	buf := make([]byte, 9000)
	n, from, err := f.conn.ReadFromUDPAddrPort(buf)
	if err != nil {
		f.Fatal(err)
	}
	f.transfer = from
	return string(buf[:n])
}

// expect takes the next packet and compares it.
func (f *bootROM) expect(want string) {
	f.Helper()
	if got := f.next(); got != want {
		f.Fatalf("got %q, want %q", got[:min(len(got), 100)], want)
	}
}

// requestedName is a name as the TFTP server hands it on.
func requestedName(t testing.TB, name string) string {
	t.Helper()
	r, ok := tftp.ParseRequest([]byte("\x00\x01" + name + "\x00octet\x00"))
	if !ok {
		t.Fatalf("%q cannot be asked for", name)
	}
	return r.Name
}

// capturedRequests are requests of real firmware.
func capturedRequests(t testing.TB) (packets [][]byte) {
	t.Helper()
	text, err := os.ReadFile("../internal/tftp/testdata/requests.txt")
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

// The server's own files, on an interface with an MTU of its own.
func TestServeTFTP(t *testing.T) {
	s := server(t, Full)
	s.mustEnroll(t, "bravo", mac)
	s.dhcp(packet(t, "ovmf-x64-discover"))
	h, err := s.Hosts.Get("bravo")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	s.links[0].sock.tftp = conn
	s.links[0].mtu.Store(65536)
	s.programs["ipxe.efi"] = []byte("iPXE")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.serveTFTP(ctx, s.links[0]) }()

	f := newROM(t, conn.LocalAddr().(*net.UDPAddr).AddrPort())
	dir := "boot/" + h.Boot.Token
	f.ask("boot/00000000000000000000000000000000/ipxe.efi")
	f.ask("boot/hold/autoexec.ipxe")
	f.ask(dir + "/autoexec.ipxe\xff")
	f.expect("\x00\x05\x00\x01file not found\x00")
	const missing = `boot/…/autoexec.ipxe\xff`
	tr := s.traceUntil(t, "TFTP refused: file not found")
	if tr.Missing != missing || tr.Packets[len(tr.Packets)-2].Text != "TFTP asks for "+missing {
		t.Errorf("%+v", tr)
	}

	f.ask("/"+dir+"//ipxe.efi", "blksize", "65464", "tsize", "0")
	f.expect("\x00\x06blksize\x0065464\x00tsize\x004\x00") // what fits that MTU

	s.links[0].mtu.Store(1400)
	f = newROM(t, conn.LocalAddr().(*net.UDPAddr).AddrPort())
	f.ask(dir+"/ipxe.efi", "blksize", "1468")
	f.expect("\x00\x06blksize\x001368\x00") // and what fits the one that it has now
	f.ack(0)
	f.expect("\x00\x03\x00\x01iPXE")
	f.ack(1)

	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	tr, _ = s.Traces.Get(mac)
	if tr.Missing != "" {
		t.Errorf("it got its program, and %q is kept", tr.Missing)
	}
}

// traceUntil waits until the last packet of a machine's trace has this text. A packet is traced after it was sent.
func (s *Server) traceUntil(t *testing.T, last string) hosts.Trace {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		tr, err := s.Traces.Get(mac)
		if err != nil {
			t.Fatal(err)
		}
		if tr.Packets[len(tr.Packets)-1].Text == last {
			return tr
		}
		if time.Now().After(deadline) {
			t.Fatalf("not %q: %+v", last, tr)
		}
		time.Sleep(time.Millisecond)
	}
}

// TestBootToken: the transfers of one boot are bounded together, but not those of all machines that wait.
func TestBootToken(t *testing.T) {
	token := strings.Repeat("0", 32)
	for name, want := range map[string]string{
		"boot/" + token + "/kernel":               token,
		"boot/" + token + "/pxelinux.cfg/default": token,
		"boot/" + token:                           token,
		"boot/hold/ipxe.efi":                      "",
		"boot":                                    "",
		"ipxe.efi":                                "",
		"other/boot/" + token:                     "",
	} {
		if got := bootToken(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// TestTraceBlocks: only transfers that are long enough tell how long a block takes.
func TestTraceBlocks(t *testing.T) {
	s := server(t, Full)
	s.dhcp(packet(t, "ovmf-x64-discover"))
	for _, tt := range []struct {
		blocks int64
		took   time.Duration
		want   time.Duration
	}{
		{10, time.Second, 0},
		{1000, time.Second, time.Millisecond},
		{63, time.Hour, time.Millisecond},
	} {
		s.traceBlocks(mac, tftp.Completed{Blocks: tt.blocks, Blksize: 1468, Took: tt.took})
		tr, err := s.Traces.Get(mac)
		if err != nil || tr.Block != tt.want {
			t.Errorf("%d blocks in %s: %s, want %s, %v", tt.blocks, tt.took, tr.Block, tt.want, err)
		}
	}
}
