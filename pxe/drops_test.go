package pxe

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
)

// TestTellDropped: however much was dropped, it is one line with the counts.
func TestTellDropped(t *testing.T) {
	s := server(t, Full)
	var log bytes.Buffer
	s.Log = slog.New(slog.NewTextHandler(&log, nil))
	s.tellDropped()
	if log.Len() > 0 {
		t.Errorf("nothing was dropped: %s", &log)
	}
	for range 1000 {
		s.drops.add("TFTP requests", "10.77.0.66")
	}
	s.drops.addMany("DHCP requests", "", 17)
	s.tellDropped()
	s.tellDropped()
	const counts = `"DHCP requests"=17 "TFTP requests"="1000, the last from 10.77.0.66"`
	if got := log.String(); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, counts) {
		t.Errorf("the log: %s", got)
	}
}

// TestOverflow: what the kernel drops of a flood is counted.
func TestOverflow(t *testing.T) {
	s := server(t, Full)
	s.beyondTheLink()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 8192)
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := net.Dial("udp4", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	send := func(last byte) {
		m := as(t, "52:54:00:00:00:66", 0, "")
		m.TransactionID[3] = last
		if _, err := out.Write(m.ToBytes()); err != nil {
			t.Fatal(err)
		}
	}
	const flood = 100
	for range flood {
		send(0)
	}

	came := make(chan byte, flood+1)
	respond := func(e *exchange) (*dhcpv4.DHCPv4, error) {
		m := e.request
		came <- m.TransactionID[3]
		return nil, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.serveDHCP(ctx, s.links[0], conn, respond) }()
	<-came
	send(1) // the kernel tells with the next packet
	heard := uint64(1)
	for <-came != 1 {
		heard++
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if got := s.drops.take()["DHCP requests"]; heard == flood || got.count != flood-heard {
		t.Errorf("%d packets of %d were heard, and %d are counted as dropped", heard, flood, got.count)
	}
}

// TestDeclined: that a machine found its address in use is told in its log and the server's; what it declines beyond the
// bound is counted.
func TestDeclined(t *testing.T) {
	s := server(t, Full)
	var log bytes.Buffer
	s.Log = slog.New(slog.NewTextHandler(&log, nil))
	s.mustEnroll(t, "bravo", mac)
	decline := func() string {
		offer := s.dhcp(as(t, mac, 0, ""))
		ours := dhcpv4.WithOption(dhcpv4.OptServerIdentifier(offer.ServerIdentifier()))
		if ack := s.dhcp(as(t, mac, 0, "", asRequest, wanting(offer.YourIPAddr), ours)); ack == nil {
			t.Fatal("no lease")
		}
		declines := dhcpv4.WithMessageType(dhcpv4.MessageTypeDecline)
		if r := s.dhcp(as(t, mac, 0, "", declines, wanting(offer.YourIPAddr), ours)); r != nil {
			t.Errorf("answered by %s", r)
		}
		return offer.YourIPAddr.String()
	}
	addr := decline()
	if !s.told(t, mac+" declined "+addr+": it found that another machine uses it") {
		t.Error("the host's log does not tell")
	}
	warned := log.String()
	if !strings.Contains(warned, "level=WARN") || !strings.Contains(warned, "mac="+mac+" address="+addr) {
		t.Errorf("the log: %s", warned)
	}
	for range maxDeclines {
		decline()
	}
	if n := strings.Count(log.String(), "declined its address"); n != maxDeclines {
		t.Errorf("%d warnings", n)
	}
	if got := s.drops.take()["declined addresses"]; got.count != 1 || got.last != mac || !s.told(t, "and keeps it") {
		t.Errorf("beyond the bound %+v is counted", got)
	}
}
