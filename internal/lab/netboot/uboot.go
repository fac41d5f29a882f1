package netboot

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"strings"
	"time"
)

// ubootLease is U-Boot's DHCP: the first offer with an address is taken.
func (r *run) ubootLease(ctx context.Context) (boot reply, err error) {
	p := r.ask
	p.setXID(randomXID())
	var o reply
	if r.Address.IsValid() {
		// Whoever gives leases elsewhere tells nothing of a boot; U-Boot does not listen to proxies.
		if !r.Server.IsValid() {
			return boot, stopf("U-Boot takes no offer of a proxy, and the DHCP server tells no boot")
		}
		boot = r.static()
		copy(boot.head[20:], r.Server.AsSlice())
		return boot, r.take(r.Address)
	}
	begin := time.Now()
	waits := seconds(0.25, 0.5, 1, 2, 4, 8)
	tries, err := r.rounds(ctx, p, waits, func(got reply) bool {
		o = got
		return got.kind() == offer && !got.proxy()
	}, never)
	if err != nil {
		return o, err
	}
	if tries == 0 {
		return o, stopf("Retry time exceeded; starting again: no lease was offered, %d DHCPDISCOVERs", len(waits))
	}
	r.chose(choice{how: "a lease", lease: o}, begin, tries)
	if err := r.reached(UntilOffer); err != nil {
		return o, err
	}
	boot, err = r.lease(ctx, o, seconds(0.25, 0.5, 1, 2, 4, 8))
	if err != nil {
		return boot, err
	}
	r.res.File = boot.file()
	if r.Server.IsValid() {
		copy(boot.head[20:], r.Server.AsSlice())
	}
	if boot.siaddr().IsUnspecified() {
		return boot, stopf("the lease names no TFTP server: siaddr is not set")
	}
	return boot, r.reached(UntilLease)
}

// uboot is U-Boot's `dhcp; pxe get; pxe boot` with autoload off: it looks for an extlinux file under many names, all
// of them beside the boot file, and fetches what it names.
func (r *run) uboot(ctx context.Context) error {
	boot, err := r.ubootLease(ctx)
	if err != nil {
		return err
	}
	dir := path.Dir(r.res.File) + "/"
	if dir == "./" {
		dir = ""
	}
	for _, name := range r.extlinuxNames() {
		f, body, err := r.tftp(ctx, "script", boot.siaddr(), dir+"pxelinux.cfg/"+name, 0)
		if f.Failed != "" {
			continue
		}
		if err != nil {
			return err
		}
		r.res.Script = string(body)
		if err := r.reached(UntilScript); err != nil {
			return err
		}
		return r.extlinux(ctx, boot, dir)
	}
	return stopf("Config file not found: no extlinux file under any of the names below %spxelinux.cfg/", dir)
}

func (r *run) extlinuxNames() []string {
	var names []string
	if len(r.UUID) == 16 {
		u := r.UUID
		names = append(names, fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]))
	}
	names = append(names, "01-"+strings.ReplaceAll(r.mac.String(), ":", "-"))
	ip := fmt.Sprintf("%X", r.own.AsSlice())
	for n := 8; n >= 1; n-- {
		names = append(names, ip[:n])
	}
	if soc, _, ok := strings.Cut(r.Board, "-"); ok {
		names = append(names, "default-arm-"+r.Board, "default-arm-"+soc)
	}
	return append(names, "default-arm", "default")
}

// extlinux fetches the default label's files.
func (r *run) extlinux(ctx context.Context, boot reply, dir string) error {
	labels, chosen, label := map[string]map[string]string{}, "", ""
	for line := range strings.Lines(r.res.Script) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		key, value = strings.ToLower(key), strings.TrimSpace(value)
		switch {
		case key == "default":
			chosen = value
		case key == "label":
			if label = value; chosen == "" {
				chosen = label
			}
			labels[label] = map[string]string{}
		case labels[label] != nil:
			labels[label][strings.Replace(key, "linux", "kernel", 1)] = value
		}
	}
	l := labels[chosen]
	if l == nil || l["kernel"] == "" {
		return stopf("the extlinux file starts nothing: %s", r.res.Script)
	}
	r.res.Args = l["append"]
	for _, key := range []string{"initrd", "kernel", "fdt"} { // U-Boot's order
		if l[key] == "" {
			continue
		}
		if _, _, err := r.tftp(ctx, key, boot.siaddr(), dir+l[key], r.Limit); err != nil {
			return err
		}
	}
	return errReached
}

// ubootEFI is U-Boot's attempt at EFI's network boot: it calls itself PXEClient, takes any lease, and fetches the boot
// file, which has a name even if nobody told one.
func (r *run) ubootEFI(ctx context.Context) error {
	boot, err := r.ubootLease(ctx)
	if err != nil {
		return err
	}
	if r.res.File == "" {
		r.res.File = "boot.scr.uimg"
	}
	if _, _, err := r.tftp(ctx, "program", boot.siaddr(), r.res.File, 0); err != nil {
		return err
	}
	if err := r.reached(UntilProgram); err != nil {
		return err
	}
	return r.chain(ctx)
}

// system is the DHCP client of an operating system: a lease, and its renewal by unicast.
func (r *run) system(ctx context.Context) error {
	p := r.ask
	p.setXID(randomXID())
	var o reply
	begin := time.Now()
	tries, err := r.rounds(ctx, p, seconds(4, 8, 16, 32), func(got reply) bool {
		o = got
		return got.kind() == offer && !got.proxy()
	}, never)
	if err != nil {
		return err
	}
	if tries == 0 {
		return stopf("no lease was offered")
	}
	r.chose(choice{how: "a lease", lease: o}, begin, tries)
	if err := r.reached(UntilOffer); err != nil {
		return err
	}
	got, err := r.lease(ctx, o, seconds(4, 8, 16, 32))
	if err != nil {
		return err
	}
	if got.pxe() || got.file() != "" {
		r.remark("an operating system was told to boot: %s", got)
	}
	if err := r.reached(UntilLease); err != nil {
		return err
	}
	return r.renew(ctx, got)
}

// renew asks the server for more time, from the leased address (RFC 2131 section 4.4.5).
func (r *run) renew(ctx context.Context, lease reply) error {
	conn, err := r.w.udp(netip.AddrPortFrom(r.own, 68))
	if err != nil {
		return err
	}
	defer conn.Close()
	p := r.ask.clone()
	p.setXID(randomXID())
	p.setCI(r.own)
	p.set(optType, []byte{request})
	begin := time.Now()
	waits := seconds(4, 8, 16)
	for i, wait := range waits {
		got, ok, err := r.unicast(ctx, conn, p, netip.AddrPortFrom(lease.serverID(), 67), wait, func(got reply) bool {
			return got.kind() == ack || got.kind() == nak
		})
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if got.kind() == nak || got.yiaddr() != r.own {
			return stopf("the renewal of %s was answered with %s", r.own, got)
		}
		r.timed("renewal", begin, got.at, i+1)
		return errReached
	}
	return stopf("%s does not answer the renewal of %s, asked %d times", lease.serverID(), r.own, len(waits))
}
