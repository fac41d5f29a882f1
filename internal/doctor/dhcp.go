package doctor

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"provision/pxe"
)

// offer is the answer of a DHCP server, or a ProxyDHCP server, to the probe.
type offer struct {
	Server  netip.Addr
	MAC     string     // source MAC of the answer
	Address bool       // it offers an address; false: it comes from a proxy
	Class   string     // option 60
	Vendor  []byte     // option 43
	Next    netip.Addr // siaddr, or option 66 if that is an address
	TFTP    string     // option 66
	File    string     // the header's file, or option 67
}

// readOffer extracts what matters from a DHCPOFFER. mac and from are the source of the packet.
func readOffer(m *dhcpv4.DHCPv4, mac string, from netip.Addr) offer {
	o := offer{
		MAC:    mac,
		Server: from,
		Class:  m.ClassIdentifier(),
		Vendor: m.Options.Get(dhcpv4.OptionVendorSpecificInformation),
		TFTP:   m.TFTPServerName(),
		File:   cmp.Or(m.BootFileNameOption(), m.BootFileName),
	}
	if id, ok := netip.AddrFromSlice(m.ServerIdentifier().To4()); ok {
		o.Server = id
	}
	o.Address = m.YourIPAddr != nil && !m.YourIPAddr.IsUnspecified()
	if next, ok := netip.AddrFromSlice(m.ServerIPAddr.To4()); ok && !next.IsUnspecified() {
		o.Next = next
	}
	if tftp, err := netip.ParseAddr(o.TFTP); err == nil {
		o.Next = tftp
	}
	return o
}

func (o offer) String() string { return fmt.Sprintf("%s (%s)", o.Server, o.MAC) }

// dhcp probes the LAN for DHCP servers and judges their offers. local means that another program on this machine has
// the DHCP port: the probe does not reach it, since a machine does not receive its own broadcasts.
func (d *Doctor) dhcp(ctx context.Context, l link, local bool) []Finding {
	offers, err := probe(ctx, l, d.Wait)
	if err != nil {
		return []Finding{{"dhcp", Warning, l.Name, fmt.Sprintf("other DHCP servers cannot be looked for: %v", err), "see what the error says; the system's log may tell more"}}
	}
	offers = slices.DeleteFunc(offers, func(o offer) bool { return slices.Contains(l.Local, o.Server) })
	return judgeOffers(l, d.Mode, offers, local)
}

// judgeOffers judges offers by the DHCP mode of this server.
func judgeOffers(l link, mode pxe.Mode, offers []offer, local bool) []Finding {
	switch mode {
	case pxe.Off:
		return judgeForeign(l, offers, local)
	case pxe.Full:
		return judgeRivals(l, offers)
	}
	return judgeBeside(l, offers, local)
}

// judgeRivals judges offers if this server is to be the only DHCP server.
func judgeRivals(l link, offers []offer) (found []Finding) {
	for _, o := range offers {
		what, remedy := "another DHCP server answers: ", "switch it off, or serve with --dhcp proxy"
		if !o.Address {
			what, remedy = "another netboot server answers: ", "switch it off"
		}
		found = append(found, Finding{"dhcp", Stop, l.Name, what + o.String() + o.boots() + "; machines take what " +
			"comes first", remedy})
	}
	return found
}

// judgeBeside judges offers if this server is a proxy. Which offer a client prefers is decided as in EDK2: first an
// address offer with PXE options, and an address offer with option 60 alone before any proxy (fog-docs#188).
func judgeBeside(l link, offers []offer, local bool) (found []Finding) {
	add := func(s Severity, what, remedy string) {
		found = append(found, Finding{"dhcp", s, l.Name, what, remedy})
	}
	var servers []string
	for _, o := range offers {
		if o.Address {
			servers = append(servers, o.String())
		}
		bootless := "switch off network boot there (options 60, 43, 66, 67), or switch its DHCP off and serve with " +
			"--dhcp server"
		switch {
		case !o.Address:
			add(Stop, "another netboot server "+
				"answers: "+o.String()+o.boots()+"; machines take what comes first", "switch it off")
		case strings.HasPrefix(o.Class, "PXEClient") && o.discovery():
			add(Stop, "DHCP server "+o.String()+o.boots()+": UEFI machines boot what it says, never from here", bootless)
		case strings.HasPrefix(o.Class, "PXEClient"):
			add(Stop, "DHCP server "+o.String()+" sends option 60 without 43: UEFI machines ask it for their file, "+
				"in vain, and never this server", bootless)
		case o.File != "":
			add(Warning, "DHCP server "+o.String()+o.boots()+": BIOS, iPXE and U-Boot may take that for this "+
				"server's", bootless)
		case o.TFTP != "":
			add(Warning, "DHCP server "+o.String()+o.boots()+": Raspberry Pis fetch from there", bootless)
		}
	}

	switch {
	case len(servers) == 0 && !local:
		add(Stop, "no DHCP server answers, and a proxy gives no "+
			"addresses", "switch the LAN's DHCP server on, or serve with --dhcp server --dhcp-range FIRST-LAST")
	case len(servers) > 1:
		add(Warning, fmt.Sprintf("%d DHCP servers answer: %s; machines take an address from any", len(servers), enumerate(servers)),
			"switch off all but one, unless they are meant to share the LAN")
	}

	return found
}

// judgeForeign judges offers if another DHCP server has to point machines to this one.
func judgeForeign(l link, offers []offer, local bool) []Finding {
	if len(offers) == 0 && local {
		return nil
	}
	remedy := "give it these lines: provision doctor --dhcp-config dnsmasq (or kea, isc, opnsense, mikrotik) " +
		"--interface " + l.Name
	if len(offers) == 0 {
		return []Finding{{"dhcp", Stop, l.Name, "no DHCP server answers, and with --dhcp off this one gives no " +
			"addresses", "switch the LAN's DHCP server on; " + remedy}}
	}
	var names []string
	for _, o := range offers {
		if o.File != "" && o.Next == l.Address.Addr() {
			return nil
		}
		names = append(names, o.String()+o.boots())
	}

	return []Finding{{"dhcp", Stop, l.Name, fmt.Sprintf("no DHCP server points machines to %s: there is %s", l.Address.Addr(), enumerate(names)), remedy}}
}

// discovery reports whether option 43 has one of the sub-options 6 to 10, which make the offer a "PXE 1.0" offer for
// EDK2.
func (o offer) discovery() bool {
	for rest := o.Vendor; len(rest) >= 2 && rest[0] != 255; {
		if rest[0] >= 6 && rest[0] <= 10 {
			return true
		}
		if rest[0] == 0 {
			rest = rest[1:]
			continue
		}
		rest = rest[min(len(rest), 2+int(rest[1])):]
	}
	return false
}

// boots describes the boot information in the offer, as a clause that starts with a comma.
func (o offer) boots() string {
	var has []string
	if o.Class != "" {
		has = append(has, fmt.Sprintf("option 60 %q", o.Class))
	}
	if len(bytes.Trim(o.Vendor, "\xff")) > 0 {
		has = append(has, "option 43")
	}
	if o.TFTP != "" {
		has = append(has, fmt.Sprintf("option 66 %q", o.TFTP))
	}
	if o.File != "" {
		has = append(has, fmt.Sprintf("boot file %q", o.File))
		if o.Next.IsValid() && o.TFTP == "" {
			has = append(has, "next server "+o.Next.String())
		}
	}

	if len(has) == 0 {
		return ", which sends no boot options"
	}
	return ", which sends " + enumerate(has)
}
