package pxe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"provision/hosts"
)

// exchange is a DHCP request in hand: where it came in, and whose it is.
type exchange struct {
	*Server
	link    *servedLink
	request *dhcpv4.DHCPv4
	client  bootClient
	host    *hosts.Host // nil: the MAC is not enrolled
}

// discovered records a machine that is not enrolled.
func (e *exchange) discovered() {
	d := hosts.Discovered{MAC: e.client.MAC, Vendor: e.client.Vendor, Board: e.client.board()}
	if addr := requested(e.request); addr.IsValid() && e.link.net.Contains(addr) &&
		e.request.MessageType() == dhcpv4.MessageTypeRequest {
		d.Address = addr.String()
	}
	if e.client.profile().loads != nothing {
		d.Arch = e.client.String()
	}
	e.Hosts.See(d)
}

// answerDHCP answers what came to port 67.
func (e *exchange) answerDHCP() (*dhcpv4.DHCPv4, error) {
	if e.host != nil && e.client.profile().loads == tree && e.pis.askedBefore(e.request, e.client, e.Now()) {
		return nil, nil
	}
	if e.Mode == Proxy {
		return e.answerProxy()
	}
	switch e.request.MessageType() {
	case dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest:
		return e.answerFull()
	case dhcpv4.MessageTypeInform, dhcpv4.MessageTypeNone: // none: BOOTP
		if e.host == nil {
			return nil, nil
		}
		return e.answerFull()
	case dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeDecline:
		sub := e.subnetFor(e.link, e.request)
		if e.host == nil || sub == nil || !isSelf(e.link, e.request) {
			return nil, nil
		}
		if e.request.MessageType() == dhcpv4.MessageTypeDecline {
			return nil, e.decline(sub)
		}
		_, err := sub.release(e.client.MAC, requested(e.request), false)
		return nil, err
	}

	return nil, nil
}

// decline takes an address back that a machine found in use, and tells of it.
func (e *exchange) decline(sub *subnet) error {
	mac := e.client.MAC
	addr := requested(e.request)
	lost, err := sub.release(mac, addr, true)
	if errors.Is(err, errDeclines) {
		e.drops.add("declined addresses", mac)
		e.note(*e.host, "%s declined %s, and keeps it: %v; look for what answers its ARP probes", mac, addr, err)
		return nil
	}

	if !lost {
		return err
	}
	until := e.Now().Add(e.Lease).Format(time.DateTime)
	const help = "look for the machine that uses it; if others are in use, too, serve with another --dhcp-range"
	e.note(*e.host, "%s declined %s: it found that another machine uses it, so it is handed out to nobody until %s; %s",
		mac, addr, until, help)
	e.Log.Warn("a machine declined its address, because another one uses it; "+help,
		"host", e.host.Name, "mac", mac, "address", addr, "kept back until", until)
	return err
}

// answerProxy is ProxyDHCP on port 67 (PXE 2.1 section 2.2): offers to those
// who may boot. An address is never given. Requests to the real server pass
// by and tell where the machine will be.
func (e *exchange) answerProxy() (*dhcpv4.DHCPv4, error) {
	switch e.request.MessageType() {
	case dhcpv4.MessageTypeRequest:
		if e.host != nil {
			e.moved(e.link, *e.host, e.request, requested(e.request))
		}
		// A server identifier override (RFC 5107) is that of the server which gave the address.
		if addrOf(e.request.ServerIdentifier()) != e.link.self {
			return nil, nil
		}
	case dhcpv4.MessageTypeDiscover:
	default:
		// DHCPINFORM is for the server that configures the client's network; who wants to boot sends it to port 4011.
		// A BOOTP client takes one reply for its whole configuration (RFC 951), and a proxy has no address to put in it.
		return nil, nil
	}

	b, err := e.load(e.decide(e.client, e.host))
	if err != nil || b.empty() {
		return nil, err
	}
	return proxyReply(e.request, b)
}

// answerBINL answers on port 4011, where a PXE client asks for its file name
// after it has an address.
func (e *exchange) answerBINL() (*dhcpv4.DHCPv4, error) {
	t := e.request.MessageType()
	if t != dhcpv4.MessageTypeRequest && t != dhcpv4.MessageTypeInform || e.client.profile().loads == tree {
		return nil, nil
	}
	b, err := e.load(e.decide(e.client, e.host))
	if err != nil || b.empty() {
		return nil, err
	}
	r, err := proxyReply(e.request, b)
	if err == nil && !b.Local {
		r.Options.Del(dhcpv4.OptionVendorSpecificInformation) // discovery is over; this is the server that was found
	}
	return r, err
}

// answerFull is DHCP (RFC 2131) for those who may have a lease. What the machine
// loads is arranged last, so that a request that comes to nothing uses
// no boot up.
func (e *exchange) answerFull() (*dhcpv4.DHCPv4, error) {
	a := e.decide(e.client, e.host)
	if !a.Lease {
		return nil, nil
	}
	via := agentOf(e.request)
	sub := e.subnetFor(e.link, e.request)
	if sub == nil {
		if via.addr.IsValid() && e.host != nil {
			e.note(*e.host, "%s asked %s, for whose network there are no addresses: "+
				"serve with --dhcp-range FIRST-LAST/BITS for it too", e.client, via)
		}
		return nil, nil
	}

	addr, ok, err := e.lease(sub)
	if err != nil || !addr.IsValid() {
		return nil, err
	}

	if !ok {
		return nak(e.request, serverID(e.link, e.request))
	}
	b, err := e.load(a)
	if err != nil {
		return nil, err
	}

	n := bootNetwork{
		Server: serverID(e.link, e.request),
		Mask:   net.CIDRMask(sub.prefix.Bits(), 32),
		Router: sub.router,
		DNS:    e.DNS,
		Domain: e.Domain,
		Lease:  e.Lease,
	}
	if !n.Router.IsValid() && !e.link.net.Overlaps(sub.prefix) {
		n.Router = sub.relayed(via.router(sub.prefix))
	}
	return leaseReply(e.request, addr, n, b)
}

// lease is the address for a DISCOVER, or the one that a REQUEST confirms.
// With ok false the request is to be refused; with no address it is another
// server's.
func (e *exchange) lease(sub *subnet) (addr netip.Addr, ok bool, err error) {
	var fixed netip.Addr
	if e.host != nil && e.host.FixedAddress != "" && slices.Contains(e.host.MACs, e.client.MAC) {
		if fixed, err = netip.ParseAddr(e.host.FixedAddress); err != nil {
			return addr, false, fmt.Errorf("fixed address of %s: %w", e.host.Name, err)
		}
		if !sub.prefix.Contains(fixed) { // the machine hangs on another network today
			fixed = netip.Addr{}
		}
	}

	want := requested(e.request)
	switch e.request.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		if addr, err = sub.offer(e.client.MAC, fixed, want, e.host != nil); err == nil && e.host != nil {
			e.tellDoubt(sub.doubt(e.client.MAC, addr))
		}
		return addr, true, err
	case dhcpv4.MessageTypeInform:
		if has := addrOf(e.request.ClientIPAddr); sub.prefix.Contains(has) { // whoever gave it (RFC 2131 section 4.3.5)
			addr = has
		}
		return addr, true, nil
	case dhcpv4.MessageTypeNone:
		return e.leaseBOOTP(sub, fixed)
	}

	if id := e.request.ServerIdentifier(); id != nil && !id.IsUnspecified() && !isSelf(e.link, e.request) {
		return addr, false, nil // it chose another server
	}
	if !want.IsValid() {
		return addr, false, nil
	}
	if !fixed.IsValid() || want == fixed {
		if ok, err = sub.confirm(e.client.MAC, want); ok && e.host != nil {
			e.moved(e.link, *e.host, e.request, want)
		}
	}

	// What is in this network and was not ours to give may be another server's (RFC 2131, section 4.3.2, INIT-REBOOT),
	// and that one is called by the same server identifier override.
	named := addrOf(e.request.ServerIdentifier()) == e.link.self
	if !ok && err == nil && !named && !fixed.IsValid() && sub.prefix.Contains(want) && !sub.rng.contains(want) {
		return addr, false, nil
	}

	return want, ok, err
}

// leaseBOOTP is the host's fixed address, the only one for a BOOTP client: it never renews, so that a lease of it would
// have to last for ever (RFC 1534 section 2).
func (e *exchange) leaseBOOTP(sub *subnet, fixed netip.Addr) (addr netip.Addr, ok bool, err error) {
	if !fixed.IsValid() {
		e.note(*e.host, "%s asked by BOOTP, which knows no leases, and got no address: give it one outside of "+
			"--dhcp-range "+
			"with `provision set %s --address ADDRESS`", e.client.MAC, e.host.Name)
		return addr, false, nil
	}

	if _, err = sub.offer(e.client.MAC, fixed, fixed, true); err != nil {
		return addr, false, err
	}
	if ok, err = sub.confirm(e.client.MAC, fixed); err != nil || !ok {
		return addr, false, err
	}
	e.moved(e.link, *e.host, e.request, fixed)
	return fixed, true, nil
}

// tellDoubt tells of an address that was handed out although it may be in use.
func (e *exchange) tellDoubt(why string) {
	if why == "" {
		return
	}
	const help = "look for the machine with that MAC; if the addresses are really in use, serve with another " +
		"--dhcp-range"
	e.note(*e.host, "%s got an address that may be in use: %s; %s", e.client, why, help)
	if e.doubted.due(e.Now()) {
		e.Log.Warn("an address was handed out that may be in use; "+help,
			"host", e.host.Name, "mac", e.client.MAC, "why", why)
	}
}

// load is where the machine finds what was decided that it loads. It begins a
// boot where that is a new one.
func (e *exchange) load(a answer) (bootInfo, error) {
	b := bootInfo{Server: e.link.self, Kind: e.client.Kind, Arch: e.client.Arch, Local: a.Load == local}
	if a.Load == local && e.client.profile().url {
		b.File, b.Local = e.url(e.link.self.String(), localPath), false
		return b, nil
	}
	if a.Load == nothing || a.Load == local {
		return b, nil
	}
	if a.Load == tree {
		boot, err := e.bootPi(e.link, e.client, *e.host)
		b.Tree = boot.Token != ""
		return b, err
	}

	var pinned, worked hosts.Method
	if e.host != nil {
		pinned, worked = e.host.BootMethod, e.host.Method
	}
	if a.Load == script && !e.client.Ours && pinned != (hosts.Method{}) && !e.ladders.loaded(e.client.MAC) {
		// An iPXE in ROM is not trusted: it loads another as firmware does.
		a.Load, b.Kind = loadProgram, pxeFirmware
	}
	file := map[loader]string{script: "script", config: "u-boot"}[a.Load]
	if a.Load == loadProgram {
		rungs := stepsFor(e.client, e.Mode, e.programs)
		anew := e.request.MessageType() == dhcpv4.MessageTypeDiscover
		how := e.ladders.ask(e.client, rungs, anew, pinned, worked, e.Now())
		if file = programFile(e.client, how.Program); file == "" || how.Program == "" {
			if e.host != nil {
				e.note(*e.host, "%s asked, and its boot method %s cannot be used with it in %s mode: enroll it "+
					"with another --boot-method", e.client, pinned, e.Mode)
			}
			return b, nil
		}
		b.Offer = how.Offer
	}

	if e.host == nil {
		b.File = e.holdFile(a.Load, e.client.MAC, file)
	} else {
		boot, err := e.boot(e.link, e.client, *e.host)
		if err != nil || boot.Token == "" {
			return b, err
		}
		b.File = bootPath + boot.Token + "/" + file
	}

	if a.Load == script || profiles[b.Kind].url {
		b.File = e.url(e.link.self.String(), b.File)
	}
	return b, nil
}

// tellError tells why a request got no answer.
func (e *exchange) tellError(err error) {
	switch {
	case errors.Is(err, errNoAddress):
		const help = "end leases, or serve with a larger --dhcp-range"
		e.traceFailure(e.client.MAC, err, help)
		if e.host != nil {
			e.note(*e.host, "%s got no address: %v; %s", e.client, err, help)
		}
		if e.exhausted.due(e.Now()) {
			e.Log.Warn("no address is left to hand out: serve with a larger "+
				"--dhcp-range", "mac", e.client.MAC, "err", err)
		}
	case !overtaken(err):
		e.Log.Error("answer DHCP", "mac", e.client.MAC, "err", err)
	}
}
