package pxe

import (
	"encoding/hex"
	"net"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"provision/hosts"
)

// TestAnotherCard: an installer that asks from another card than its firmware did is known by its client's name: as the
// DHCP server we give it an address, beside another one its address is learned. A stranger is given nothing.
func TestAnotherCard(t *testing.T) {
	const dock = "52:54:00:00:00:d0"
	id := func(h hosts.Host) dhcpv4.Modifier {
		duid, err := hex.DecodeString(h.DUID())
		if err != nil {
			t.Fatal(err)
		}
		return dhcpv4.WithOption(dhcpv4.OptClientIdentifier(append([]byte{255, 1, 2, 3, 4}, duid...)))
	}
	ask := func(kind dhcpv4.MessageType, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
		hw, err := net.ParseMAC(dock)
		if err != nil {
			t.Fatal(err)
		}
		m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(hw), dhcpv4.WithMessageType(kind)}, mods...)...)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	request := func(server, addr string) dhcpv4.Modifier {
		return func(m *dhcpv4.DHCPv4) {
			m.UpdateOption(dhcpv4.OptServerIdentifier(net.ParseIP(server)))
			m.UpdateOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(addr)))
		}
	}
	for _, mode := range []Mode{Full, Proxy} {
		s := server(t, mode)
		h := s.mustEnroll(t, "bravo", mac)
		if r := s.dhcp(ask(dhcpv4.MessageTypeDiscover, id(h))); r != nil {
			t.Fatalf("%s: before there is an installer: %s", mode, r)
		}
		s.reach(t, "bravo", hosts.StateLive)
		offered := s.dhcp(ask(dhcpv4.MessageTypeDiscover, id(h)))
		if (offered != nil) != (mode == Full) || offered != nil && offered.BootFileName != "" {
			t.Fatalf("%s: offered %v", mode, offered)
		}
		addr, from := "10.77.0.150", "10.77.0.2"
		if offered != nil {
			addr, from = offered.YourIPAddr.String(), "10.77.0.1"
		}
		s.dhcp(ask(dhcpv4.MessageTypeRequest, id(h), request(from, addr)))
		if h, err := s.Hosts.Get("bravo"); err != nil || h.Address != addr {
			t.Errorf("%s: it is at %s, not %s: %v", mode, h.Address, addr, err)
		}
		// Another client's name: an installer without systemd, or anybody.
		if r := s.dhcp(ask(dhcpv4.MessageTypeDiscover)); r != nil {
			t.Errorf("%s: a stranger was offered %s", mode, r)
		}
		s.dhcp(ask(dhcpv4.MessageTypeRequest, request("10.77.0.2", "10.77.0.160")))
		s.dhcp(ask(dhcpv4.MessageTypeRequest, request("10.77.0.2", "192.0.2.1")))
		if seen := s.Hosts.Discovered(); len(seen) != 1 || seen[0].MAC != dock || seen[0].Address != "10.77.0.160" {
			t.Errorf("%s: seen were %+v", mode, seen)
		}
	}
}
