package pxe

import (
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"provision/hosts"
)

// bootInfo is where a machine finds what it is to load.
type bootInfo struct {
	Server netip.Addr // ours, on the machine's link
	File   string     // TFTP file name or URL; "": nothing to load
	Kind   clientKind
	Arch   iana.Arch
	Offer  string // hosts.OfferBINL, …: how firmware is told
	Local  bool   // tell firmware to start from its disk
	Tree   bool   // tell a Raspberry Pi where its files are
}

func (b bootInfo) empty() bool { return b.File == "" && !b.Local && !b.Tree }

// Vendor options of PXE (PXE 2.1 section 2.2): 6 is discovery control, 9 the
// boot menu, 10 its prompt.
var (
	// useFile switches boot server discovery off (bit 3): the file name is
	// in this reply.
	useFile = []byte{6, 1, 8, 0xff}
	// localDisk is a menu with one entry of type 0, local boot, that is
	// chosen at once. Firmware that tries the network first and gets no file
	// name waits a minute for one (EDK2: 4, 8, 16 and 32 seconds); with this it
	// goes on to the disk immediately.
	localDisk = append(append([]byte{6, 1, 7, 9, 13, 0, 0, 10}, "local disk"...), 10, 2, 0, ' ', 0xff)
)

// bootNetwork is what a lease tells about the LAN.
type bootNetwork struct {
	Server netip.Addr
	Mask   net.IPMask
	Router netip.Addr   // invalid: none
	DNS    []netip.Addr //
	Domain string
	Lease  time.Duration
}

// proxyReply answers beside another DHCP server: boot information, no
// address. On port 67 it offers; on 4011 (and to a REQUEST) it acknowledges.
// b must not be empty: with nothing to say a proxy is silent.
//
// Option 54 is our own address also behind a relay that asks to be named there (RFC 5107). It does so to be sent what
// clients send to the server that gave them their address, their renewals, and there is none of a proxy's. A PXE client
// takes from option 54 whom it asks at port 4011 (EDK2, PXE 2.1 section 2.2), which no relay forwards; and were it the
// relay's, who chose the real server would seem to have chosen us.
func proxyReply(m *dhcpv4.DHCPv4, b bootInfo) (*dhcpv4.DHCPv4, error) {
	r, err := replyTo(m, b.Server)
	if err != nil {
		return nil, err
	}
	addBoot(r, b, profiles[b.Kind].proxied)
	return r, nil
}

// leaseReply answers as the DHCP server: the address, the network, and boot
// information if b names a file. To DHCPINFORM it tells no address and no lease
// time (RFC 2131 section 4.3.5), and BOOTP has no lease.
func leaseReply(m *dhcpv4.DHCPv4, yours netip.Addr, n bootNetwork, b bootInfo) (*dhcpv4.DHCPv4, error) {
	r, err := replyTo(m, n.Server)
	if err != nil {
		return nil, err
	}

	kind := m.MessageType()
	if kind != dhcpv4.MessageTypeInform { // it has an address, of somebody
		r.YourIPAddr = yours.AsSlice()
	}
	if kind != dhcpv4.MessageTypeInform && kind != dhcpv4.MessageTypeNone {
		r.UpdateOption(dhcpv4.OptIPAddressLeaseTime(n.Lease))
	}
	r.UpdateOption(dhcpv4.OptSubnetMask(n.Mask))
	if n.Router.IsValid() {
		r.UpdateOption(dhcpv4.OptRouter(n.Router.AsSlice()))
	}
	var dns []net.IP
	for _, a := range n.DNS {
		dns = append(dns, a.AsSlice())
	}
	if len(dns) > 0 {
		r.UpdateOption(dhcpv4.OptDNS(dns...))
	}
	if n.Domain != "" {
		r.UpdateOption(dhcpv4.OptDomainName(n.Domain))
	}
	if b.empty() {
		return r, nil
	}
	addBoot(r, b, profiles[b.Kind].leased)
	return r, nil
}

// nak refuses a request for an address that is not the client's (RFC 2131
// section 4.3.2).
func nak(m *dhcpv4.DHCPv4, server netip.Addr) (*dhcpv4.DHCPv4, error) {
	r, err := replyTo(m, server)
	if err != nil {
		return nil, err
	}
	r.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeNak))
	r.SetBroadcast()
	return r, nil
}

// replyTo fills in what every reply has. Options 82 (RFC 3046 section 2.2: unchanged) and 61 are echoed by
// NewReplyFromRequest, 97 here (RFC 4578 section 2.3).
func replyTo(m *dhcpv4.DHCPv4, server netip.Addr) (*dhcpv4.DHCPv4, error) {
	kind := dhcpv4.MessageTypeAck
	if m.MessageType() == dhcpv4.MessageTypeDiscover {
		kind = dhcpv4.MessageTypeOffer
	}
	what := []dhcpv4.Modifier{dhcpv4.WithOptionCopied(m, dhcpv4.OptionClientMachineIdentifier)}
	if m.MessageType() != dhcpv4.MessageTypeNone { // a reply to BOOTP is not of DHCP (RFC 1534 section 2)
		what = append(what, dhcpv4.WithMessageType(kind), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server.AsSlice())))
	}
	return dhcpv4.NewReplyFromRequest(m, what...)
}

// addBoot says what to load, in the way of the client's kind, and adds what else that kind needs.
func addBoot(r *dhcpv4.DHCPv4, b bootInfo, more []dhcpv4.Option) {
	for _, o := range more {
		r.UpdateOption(o)
	}
	p := profiles[b.Kind]
	if b.File != "" {
		nameFile(r, b)
	}
	if p.reply != nil {
		p.reply(r, b)
	}
}

// nameFile names the file, both in the header, which old firmware reads, and in
// option 67.
//
// For firmware that option ends in a NUL: some takes it for a C string and reads on into what lies behind it, no
// client is known to mind (receivers must delete it, RFC 2132 section 2), EDK2 writes one over the byte behind a
// name that has none, and dnsmasq has always sent one. iPXE and U-Boot go by the length, and get none.
func nameFile(r *dhcpv4.DHCPv4, b bootInfo) {
	r.ServerIPAddr = b.Server.AsSlice()
	if len(b.File) < 128 { // the header's field, with its NUL
		r.BootFileName = b.File
	}
	name := b.File
	if profiles[b.Kind].firmware {
		name += "\x00"
	}
	if b.Offer != hosts.OfferHeader {
		r.UpdateOption(dhcpv4.OptBootFileName(name))
	}
}

// addPXE is what PXE firmware is told beside the file, or instead of it.
func addPXE(r *dhcpv4.DHCPv4, b bootInfo) {
	if b.Local {
		r.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient"))
		r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, localDisk))
		return
	}

	r.UpdateOption(dhcpv4.OptTFTPServerName(b.Server.String()))
	if b.Arch == iana.INTEL_X86PC {
		r.ServerHostName = b.Server.String()
	}
	if b.Offer != hosts.OfferPlain {
		r.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient"))
	}
	if b.Offer == hosts.OfferFirst || b.Offer == hosts.OfferHeader {
		r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, useFile))
	}
}

// destination is where a reply goes (RFC 2131 section 4.1): to the relay, unless the client asked by DHCPINFORM
// (section 4.3.5), to a client that has its address, else to everyone on the link, since a client
// without an address cannot be asked for its MAC. A client that says that it has
// an address which is not served is not believed.
func destination(m, r *dhcpv4.DHCPv4, served func(netip.Addr) bool) netip.AddrPort {
	has, via := addrOf(m.ClientIPAddr), addrOf(m.GatewayIPAddr)
	direct := !via.IsValid() || m.MessageType() == dhcpv4.MessageTypeInform
	switch {
	case direct && served(has) && r.MessageType() != dhcpv4.MessageTypeNak:
		return netip.AddrPortFrom(has, dhcpv4.ClientPort)
	case via.IsValid():
		return netip.AddrPortFrom(via, dhcpv4.ServerPort)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), dhcpv4.ClientPort)
}
