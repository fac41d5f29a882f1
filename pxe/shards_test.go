package pxe

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// TestOneMachineInOrder: requests of one machine are answered as they came,
// and while one machine's waits for the disk, others' are answered.
func TestOneMachineInOrder(t *testing.T) {
	s := server(t, Full)
	s.beyondTheLink()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	const machines, each = 20, 4                         // what waits for machine 0 has room in its lane
	if err := roomFor(conn, machines*each); err != nil { // serveDHCP might begin after the packets
		t.Fatal(err)
	}
	var mu sync.Mutex
	came := make(map[byte][]uint32)
	var all sync.WaitGroup
	all.Add(machines * each)
	// Closed once an eighth of all are answered: some may share a lane with
	// machine 0, and a full one holds up all.
	others := make(chan struct{})
	var answered atomic.Int32
	respond := func(e *exchange) (*dhcpv4.DHCPv4, error) {
		m := e.request
		defer all.Done()
		who := m.ClientHWAddr[5]
		if who == 0 {
			<-others
		} else if answered.Add(1) == machines*each/8 {
			close(others)
		}
		mu.Lock()
		defer mu.Unlock()
		came[who] = append(came[who], binary.BigEndian.Uint32(m.TransactionID[:]))
		return nil, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.serveDHCP(ctx, s.links[0], conn, respond) }()

	out, err := net.Dial("udp4", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	raw := packet(t, "ovmf-x64-discover").ToBytes()
	for i := range each {
		for who := range machines {
			raw[33] = byte(who)
			binary.BigEndian.PutUint32(raw[4:], uint32(i))
			if _, err := out.Write(raw); err != nil {
				t.Fatal(err)
			}
		}
	}
	all.Wait()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for who, xids := range came {
		for i, xid := range xids {
			if xid != uint32(i) {
				t.Fatalf("machine %d: request %d came as number %d", who, xid, i)
			}
		}
	}
}
