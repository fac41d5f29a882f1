package model

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"provision/internal/lab"
	"provision/internal/lab/netboot"
)

// stranger is a computer on the LAN that lies, and reads all that goes over the wire.
type stranger struct {
	*world
	rand *rand.Rand
	c    *lab.Client
	addr netip.Addr
	wire *netboot.Wire
}

var everyone = netip.MustParseAddrPort("255.255.255.255:67")

func (w *world) newStranger() *stranger {
	w.Helper()
	s := &stranger{world: w, rand: w.rand(50), addr: netip.MustParseAddr("10.77.0.66")}
	var err error
	s.c, err = w.lan.Client(w.ctx, "stranger", "52:54:66:66:66:66", netip.PrefixFrom(s.addr, self.Bits()))
	w.must(err)
	w.Cleanup(func() { s.c.Close() })
	s.wire, err = netboot.Open(s.c, s.c.Interface)
	w.must(err)
	w.Cleanup(func() { s.wire.Close() })
	return s
}

// annoy bothers the server once for each step of the operators, until ctx ends.
func (s *stranger) annoy(ctx context.Context) {
	w := s.world
	for ctx.Err() == nil {
		next := w.steps.after(1)
		if err := s.lie(ctx, w.machines[s.rand.IntN(len(w.machines))]); err != nil && ctx.Err() == nil {
			w.Errorf("the stranger: %v", err)
		}
		select {
		case <-next:
		case <-ctx.Done():
		}
	}
}

// lie says something about a machine, or tries to get what is its.
func (s *stranger) lie(ctx context.Context, m *machine) error {
	client := netboot.Client{Kind: netboot.IPXE, MAC: m.mac, UUID: m.uuid}
	switch s.rand.IntN(7) {
	case 0:
		return s.impersonate(ctx, m)
	case 1: // somebody whom nobody knows
		client.MAC = net.HardwareAddr{0x52, 0x54, 0x77, 0, byte(s.rand.Uint32()), byte(s.rand.Uint32())}
		return s.discover(ctx, client, netip.Addr{})
	case 2: // the machine, through a relay agent that there is not
		return s.discover(ctx, client, netip.AddrFrom4([4]byte{10, 77, 15, byte(s.rand.Uint32())}))
	case 3:
		return s.send(ctx, m, dhcpv4.MessageTypeRelease)
	case 4:
		return s.send(ctx, m, dhcpv4.MessageTypeDecline)
	}
	if token := m.token.Load(); token != nil {
		for _, file := range []string{"/script", "/kernel", "/initrd"} {
			// No answer is one, too: the server may be down.
			if got, _ := fetch(s.c, s.addr, *token+file); got != nil {
				s.Errorf("the stranger at %s was given %s%s, of %s: %.80q", s.addr, *token, file, m.name, got)
			}
		}
	}
	return nil
}

// impersonate asks for a boot as another machine with the same MAC.
func (s *stranger) impersonate(ctx context.Context, m *machine) error {
	uuid := slices.Clone(m.uuid)
	uuid[0] = 0xff
	return s.discover(ctx, netboot.Client{Kind: netboot.IPXE, MAC: m.mac, UUID: uuid}, netip.Addr{})
}

// patience is for what is answered, if it is; nobody waits for more.
const patience = 20 * time.Millisecond

func (s *stranger) discover(ctx context.Context, c netboot.Client, relay netip.Addr) error {
	raw, err := c.Discover()
	if err != nil {
		return err
	}
	if relay.IsValid() {
		copy(raw[24:28], relay.AsSlice())
	}
	_, err = s.wire.Ask(ctx, raw, everyone, patience)
	return err
}

// send gives up an address of the LAN in a machine's name.
func (s *stranger) send(ctx context.Context, m *machine, what dhcpv4.MessageType) error {
	addr := net.IPv4(10, 77, 4, byte(s.rand.IntN(8)))
	p, err := dhcpv4.New(dhcpv4.WithHwAddr(m.mac), dhcpv4.WithMessageType(what), dhcpv4.WithClientIP(addr),
		dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(addr)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(self.Addr().AsSlice())))
	if err != nil {
		return err
	}
	_, err = s.wire.Ask(ctx, p.ToBytes(), everyone, time.Millisecond)
	return err
}
