package netboot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"provision/internal/lab/dnsmasq"
)

// TestAddress: leases come from elsewhere, and only a proxy is on the wire.
func TestAddress(t *testing.T) {
	w := newWorld(t)
	w.dnsmasq(dnsmasq.Proxy(addr("10.77.0.0"), addr("10.77.0.1"))...)
	for kind, chose := range map[Kind]string{EDK2X64: "plain DHCP and a proxy's BINL", BIOS: "plain DHCP and a proxy's PXE 1.0"} {
		r := w.boot(t, Client{Kind: kind, Address: addr("10.77.0.77")})
		check(t, r, chose, viaIPXE, "")
		if r.Address != addr("10.77.0.77") {
			t.Errorf("it has %s", r.Address)
		}
	}
	check(t, w.boot(t, Client{Kind: Tinkerbell, Address: addr("10.77.0.77")}), "a lease and a proxy's offer", "script, kernel, initrd", "")
}

// serve answers datagrams to a port of the server's until the test ends.
func (w *world) serve(port uint16, answer func(conn *net.UDPConn, p []byte, from netip.AddrPort)) {
	w.t.Helper()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr("10.77.0.1"), port)))
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			answer(conn, buf[:n], from)
		}
	}()
	w.t.Cleanup(func() { conn.Close(); <-done })
}

// TestRelayFaults: what a relay agent could not deliver does not reach the machine, and its result says why.
func TestRelayFaults(t *testing.T) {
	w := newWorld(t)
	wire, mac := w.wire()
	relay, err := wire.Relay(addr("10.77.0.9"), addr("10.77.0.1"), []byte("\x01\x01x"))
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	w.serve(67, func(conn *net.UDPConn, b []byte, from netip.AddrPort) {
		p, err := parsePacket(b)
		if err != nil || p.head[3] != 1 || from.String() != "10.77.0.9:67" {
			t.Errorf("relayed: %v, %d hops, from %s", err, p.head[3], from)
		}
		p.head[0] = 2
		copy(p.head[16:], []byte{10, 77, 0, 50})
		p.set(optType, []byte{offer})
		p.remove(optRelay)
		conn.WriteToUDPAddrPort(p.bytes(), from)
		p.insert(1, option{optRelay, []byte("\x01\x01x")})
		p.head[27] = 8
		conn.WriteToUDPAddrPort(p.bytes(), from)
	})
	r, err := Client{Kind: EDK2X64, MAC: mac, Relay: relay, Scale: pace}.Boot(w.ctx, wire)
	if err != nil || !strings.Contains(r.Stopped, "heard nothing") || len(r.Remarks) != 8 ||
		!strings.Contains(r.Remarks[0], "option 82 is , not the 010178") || !strings.Contains(r.Remarks[1], "giaddr is [10 77 0 8]") {
		t.Errorf("%v\n%s", err, r)
	}
}

// TestTFTP: a server that keeps to windows and loses blocks, one that knows no options, and ones that do wrong.
func TestTFTP(t *testing.T) {
	file := bytes.Repeat([]byte("0123456789"), 2000)
	for _, tt := range []struct {
		name    string
		oack    string
		block   int
		window  int
		stopped string
	}{
		{"windows", "blksize\x001468\x00windowsize\x004\x00", 1468, 4, ""},
		{"lock-step", "blksize\x001024\x00", 1024, 1, ""},
		{"no options", "", 512, 1, ""},
		{"an option that nobody asked for", "multicast\x00x\x00", 512, 1, "tftp://10.77.0.1/f: the server answers option multicast=x"},
		{"a larger block", "blksize\x009000\x00", 9000, 1, "tftp://10.77.0.1/f: the server answers option blksize=9000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			wire, mac := w.wire()
			var lost atomic.Bool
			last, repeats := -1, 0
			window := func(conn *net.UDPConn, after int, to netip.AddrPort) {
				for n := after + 1; n <= after+tt.window && (n-1)*tt.block <= len(file); n++ {
					if n == 3 && lost.CompareAndSwap(false, true) {
						continue
					}
					data := file[(n-1)*tt.block : min(n*tt.block, len(file))]
					for range 1 + n%2 { // every second block comes twice
						conn.WriteToUDPAddrPort(append([]byte{0, opData, byte(n >> 8), byte(n)}, data...), to)
					}
				}
			}
			w.serve(69, func(conn *net.UDPConn, p []byte, from netip.AddrPort) {
				switch {
				case p[1] == opRead && tt.oack != "":
					conn.WriteToUDPAddrPort(append([]byte{0, opOACK}, tt.oack...), from)
				case p[1] == opRead:
					window(conn, 0, from)
				case p[1] == opAck:
					n := int(binary.BigEndian.Uint16(p[2:]))
					if repeats++; n > last {
						last, repeats = n, 0
					}
					if n == last && repeats < 2 {
						window(conn, n, from)
					}
				}
			})
			r := &run{Client: Client{Kind: EDK2X64, Scale: 0.02}, w: wire, mac: mac}
			var err error
			if r.in, err = wire.plug(mac); err != nil {
				t.Fatal(err)
			}
			defer wire.unplug(mac)
			if err := r.take(addr("10.77.0.50")); err != nil {
				t.Fatal(err)
			}
			f, _, err := r.tftp(w.ctx, "program", addr("10.77.0.1"), "f", 0)
			if tt.stopped != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tt.stopped) {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil || f.SHA256 != fmt.Sprintf("%x", sha256.Sum256(file)) || !lost.Load() {
				t.Errorf("%v, %+v\n%s", err, f, r.res)
			}
		})
	}
}
