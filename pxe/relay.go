package pxe

import (
	"fmt"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// agent is what a relay agent said of a request that it relayed. Option 82 (RFC 3046) of a request that came
// directly is not heard: anybody can send one.
type agent struct {
	addr   netip.Addr // giaddr, to which answers go; invalid: the request came directly
	link   netip.Addr // on the client's link: that of the link selection (RFC 3527), else giaddr
	server netip.Addr // how the server is to call itself (server identifier override, RFC 5107); invalid: as it is
}

func (a agent) String() string {
	if a.link != a.addr {
		return fmt.Sprintf("through the relay %s, of the link %s", a.addr, a.link)
	}
	return "through the relay " + a.addr.String()
}

func agentOf(m *dhcpv4.DHCPv4) agent {
	a := agent{addr: addrOf(m.GatewayIPAddr)}
	a.link = a.addr
	info := m.RelayAgentInfo()
	if !a.addr.IsValid() || info == nil {
		return a
	}
	a.link = firstOf(addrOf(info.Get(dhcpv4.LinkSelectionSubOption)), a.addr)
	a.server = addrOf(info.Get(dhcpv4.ServerIdentifierOverrideSubOption))
	return a
}

// router is the agent's own address in the client's network, which is the way out of it; invalid if it told none. A
// link selection may be the network's number instead.
func (a agent) router(network netip.Prefix) netip.Addr {
	for _, own := range []netip.Addr{a.addr, a.server, a.link} {
		if network.Contains(own) && own != network.Addr() {
			return own
		}
	}
	return netip.Addr{}
}

// serverID is what we call ourselves as the DHCP server of a request, and what the client then calls us.
func serverID(l *servedLink, m *dhcpv4.DHCPv4) netip.Addr { return firstOf(agentOf(m).server, l.self) }

// isSelf reports whether a request names us as its server.
func isSelf(l *servedLink, m *dhcpv4.DHCPv4) bool {
	id := addrOf(m.ServerIdentifier())
	return id.IsValid() && (id == l.self || id == agentOf(m).server)
}
