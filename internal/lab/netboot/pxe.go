package netboot

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// choice is what a PXE client makes of the offers it has.
type choice struct {
	how         string
	lease, boot reply
	ask4011     bool
}

// choose collects offers and picks from them at the end of each round.
func (r *run) choose(ctx context.Context, waits []time.Duration, pick func([]reply) (choice, bool)) (choice, error) {
	p := r.ask
	p.setXID(randomXID())
	var offers []reply
	if r.Address.IsValid() {
		offers = append(offers, r.static())
	}
	var c choice
	begin := time.Now()
	tries, err := r.rounds(ctx, p, waits, func(o reply) bool {
		if o.kind() == offer || o.kind() == 0 {
			offers = append(offers, o)
		}
		return false
	}, func() (ok bool) {
		c, ok = pick(offers)
		return ok
	})
	if err != nil {
		return c, err
	}
	if tries == 0 {
		return c, stopf("PXE-E16: no valid offer received, after %d DHCPDISCOVERs; heard %s", len(waits), heard(offers))
	}
	r.chose(c, begin, tries)
	return c, r.reached(UntilOffer)
}

func (r *run) chose(c choice, begin time.Time, tries int) {
	if r.res.Chose == "" {
		r.res.Chose = c.how
	}
	last := c.lease.at
	if c.boot.at.After(last) {
		last = c.boot.at
	}
	r.timed("offer", begin, last, tries)
}

func heard(offers []reply) string {
	if len(offers) == 0 {
		return "nothing"
	}
	var words []string
	for _, o := range offers {
		w := o.from.Addr().String() + ": " + o.String()
		if !slices.Contains(words, w) {
			words = append(words, w)
		}
	}
	return strings.Join(words, "; ")
}

// edk2 is PXE in UEFI firmware, and in Intel's boot agent: offers are collected for 4, 8, 16 and 32 seconds, the best
// is taken, the file name is asked for on port 4011 where the offer says so, and the program comes by TFTP.
func (r *run) edk2(ctx context.Context) error {
	c, err := r.choose(ctx, seconds(4, 8, 16, 32), func(offers []reply) (choice, bool) {
		switch r.Kind {
		case HP:
			return pickComplete(offers, true)
		case HPSingle:
			return pickComplete(offers, false)
		case BIOS:
			return pickEDK2(r.echoing(offers), false)
		}
		return pickEDK2(offers, r.Kind == OldEDK2)
	})
	if err != nil {
		return err
	}
	got, err := r.lease(ctx, c.lease, seconds(4, 8, 16, 32))
	if err != nil {
		return err
	}
	boot := c.boot
	if !boot.proxy() {
		boot = got // what counts is what was acknowledged
	}
	if c.ask4011 {
		if boot, err = r.bootServer(ctx, boot.server(), nil); err != nil {
			return err
		}
	}
	return r.start(ctx, boot)
}

// echoing leaves out the PXE offers that do not echo option 97, which BIOS clients insist on (PXE 2.1 section 2.2.1).
func (r *run) echoing(offers []reply) (ok []reply) {
	for _, o := range offers {
		if !o.pxe() || bytes.Equal(o.get(optUUID), r.ask.get(optUUID)) {
			ok = append(ok, o)
		}
	}
	return ok
}

// pickEDK2 is EDK2's order of preference (NetworkPkg/UefiPxeBcDxe/PxeBcDhcp4.c, PxeBcSelectDhcp4Offer). Before 2018 it
// dropped proxy offers of the PXE 1.0 kind.
func pickEDK2(offers []reply, old bool) (choice, bool) {
	find := func(is func(reply) bool) (reply, bool) {
		for _, o := range offers {
			if is(o) {
				return o, true
			}
		}
		return reply{}, false
	}
	ten, tenOK := find(func(o reply) bool { return !o.proxy() && o.ten() })
	plain, plainOK := find(func(o reply) bool { return !o.proxy() && !o.pxe() && !o.http() })
	proxyTen, proxyTenOK := find(func(o reply) bool { return o.proxy() && o.ten() && !old })
	binl, binlOK := find(func(o reply) bool { return !o.proxy() && o.pxe() && !o.ten() })
	proxyBINL, proxyBINLOK := find(func(o reply) bool { return o.proxy() && o.pxe() && !o.ten() })
	file, fileOK := find(func(o reply) bool { return !o.proxy() && !o.pxe() && !o.http() && o.file() != "" })
	switch {
	case tenOK:
		return choice{"DHCP and PXE 1.0", ten, ten, false}, true
	case plainOK && proxyTenOK:
		return choice{"plain DHCP and a proxy's PXE 1.0", plain, proxyTen, false}, true
	case binlOK:
		return choice{"DHCP and BINL", binl, binl, true}, true
	case plainOK && proxyBINLOK:
		return choice{"plain DHCP and a proxy's BINL", plain, proxyBINL, true}, true
	case fileOK:
		return choice{"plain DHCP with a file name", file, file, false}, true
	}
	return choice{}, false
}

// pickComplete is firmware that never asks port 4011. It needs the file name, siaddr and PXE's "use the file name" in
// the first offer; without proxies, it needs them in one offer together with the lease, and then any file name will do.
func pickComplete(offers []reply, proxies bool) (choice, bool) {
	for _, boot := range offers {
		whole := boot.file() != "" && !boot.siaddr().IsUnspecified()
		switch {
		case !whole || proxies && !(boot.pxe() && boot.useFile()):
		case !boot.proxy():
			return choice{"one complete offer", boot, boot, false}, true
		case proxies:
			for _, lease := range offers {
				if !lease.proxy() {
					return choice{"a lease and a proxy's complete offer", lease, boot, false}, true
				}
			}
		}
	}
	return choice{}, false
}

// bootServer asks a boot server on port 4011 (PXE 2.1 section 2.2.4), four times in 1, 2, 3 and 4 seconds.
func (r *run) bootServer(ctx context.Context, server netip.Addr, item []byte) (reply, error) {
	if !server.IsValid() {
		return reply{}, stopf("PXE-E16: the offer names no boot server: no siaddr and no option 54")
	}
	conn, err := r.w.udp(netip.AddrPortFrom(r.own, 4011))
	if err != nil {
		return reply{}, err
	}
	defer conn.Close()
	p := r.family().asked4011(r.ask, randomXID(), server, r.own, item)
	to := netip.AddrPortFrom(server, 4011)
	begin := time.Now()
	waits := seconds(1, 2, 3, 4)
	for i, wait := range waits {
		got, ok, err := r.unicast(ctx, conn, p, to, wait, func(got reply) bool {
			return got.pxe() && (got.kind() == ack || got.kind() == 0) &&
				(r.Kind != BIOS || bytes.Equal(got.get(optUUID), r.ask.get(optUUID)))
		})
		if err != nil {
			return reply{}, err
		}
		if ok {
			r.timed("boot server", begin, got.at, i+1)
			return got, nil
		}
	}
	return reply{}, stopf("PXE-E16: no valid offer received: %s does not answer on port 4011, asked %d times", server, len(waits))
}

// unicast sends one question from the machine's own address and returns the first answer that is acceptable.
func (r *run) unicast(ctx context.Context, conn udpConn, p packet, to netip.AddrPort, wait time.Duration, acceptable func(reply) bool) (reply, bool, error) {
	raw := p.bytes()
	r.note(true, to, raw, "DHCPREQUEST from %s", r.own)
	err := r.question(func() error {
		_, err := conn.WriteToUDPAddrPort(raw, to)
		return err
	})
	if err != nil {
		return reply{}, false, fmt.Errorf("ask %s: %w", to, err)
	}
	deadline := time.Now().Add(r.scaled(wait))
	buf := make([]byte, 4096)
	for {
		n, from, err := readUntil(ctx, conn, buf, deadline)
		if err != nil {
			return reply{}, false, err
		}
		if n < 0 {
			return reply{}, false, nil
		}
		got, ok := r.parse(datagram{from: from, data: bytes.Clone(buf[:n]), at: time.Now()}, p.xid())
		if ok && acceptable(got) {
			return got, true, nil
		}
	}
}

// start follows the reply that holds the boot information: to the local disk, to a boot server chosen from a menu, or
// to the program by TFTP.
func (r *run) start(ctx context.Context, boot reply) error {
	if boot.ten() && !boot.useFile() && len(boot.vendor()[9]) > 0 {
		var err error
		if boot, err = r.menu(ctx, boot); err != nil {
			return err
		}
	}
	server, file := boot.server(), boot.file()
	if list := boot.vendor()[8]; boot.useFile() && len(list) >= 7 && list[2] > 0 {
		server = address4(list[3:7])
	}
	r.res.File, r.res.Server = file, server
	if file == "" || !server.IsValid() {
		return stopf("PXE-E16: the boot information has no file name, or no server: %s", boot)
	}
	r.inspect(boot)
	if err := r.reached(UntilLease); err != nil {
		return err
	}
	if _, _, err := r.tftp(ctx, "program", server, file, 0); err != nil {
		return err
	}
	if err := r.reached(UntilProgram); err != nil {
		return err
	}
	return r.chain(ctx)
}

// menu takes the first entry of a boot menu (PXE 2.1 section 2.2.2: sub-option 9), as a client does when its prompt's
// time is over.
func (r *run) menu(ctx context.Context, boot reply) (reply, error) {
	subs := boot.vendor()
	if prompt := subs[10]; first(prompt) == 255 {
		return boot, stopf("the boot menu waits for a person: %q", prompt[1:])
	}
	entry := subs[9]
	if len(entry) < 3 {
		return boot, stopf("the boot menu's first entry is cut short: %x", entry)
	}
	if entry[0] == 0 && entry[1] == 0 {
		r.res.Local = true
		return boot, errReached
	}
	server := boot.server()
	for list := subs[8]; len(list) >= 3 && len(list) >= 3+4*int(list[2]); list = list[3+4*int(list[2]):] {
		if bytes.Equal(list[:2], entry[:2]) && list[2] > 0 {
			server = address4(list[3:7])
		}
	}
	return r.bootServer(ctx, server, []byte{entry[0], entry[1], 0, 0})
}

// inspect remarks on what other firmware would not tolerate in a reply that this one took.
func (r *run) inspect(boot reply) {
	if !boot.pxe() {
		r.remark("the boot information has no option 60 PXEClient")
	}
	if id := r.ask.get(optUUID); id != nil && !bytes.Equal(id, boot.get(optUUID)) {
		r.remark("option 97 is not echoed")
	}
	if boot.siaddr().IsUnspecified() {
		r.remark("siaddr is not set")
	}
	if untilNUL(boot.head[108:236]) == "" {
		r.remark("the file name is not in the header")
	}
	if boot.text(optFile) == "" {
		r.remark("the file name is not in option 67")
	}
}
