package netboot

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// ipxe is iPXE: it asks after 0, 1 and 3 seconds, goes on as soon as it has a lease and a proxy's offer (or was told not
// to wait for one), asks port 4011 unless the proxy's offer has siaddr and a file name, and runs the script it is given.
func (r *run) ipxe(ctx context.Context) error {
	lease, proxy, err := r.ipxeOffers(ctx)
	if err != nil {
		return err
	}
	got, err := r.lease(ctx, lease, seconds(1, 2, 4, 8))
	if err != nil {
		return err
	}
	boot := got
	if proxy.raw != nil {
		if proxy.siaddr().IsUnspecified() || proxy.file() == "" {
			if proxy, err = r.ipxeProxy(ctx, proxy); err != nil {
				return err
			}
		}
		if proxy.file() != "" || proxy.ten() {
			boot = proxy
		}
	}
	if boot.ten() && !boot.useFile() && len(boot.vendor()[9]) > 0 {
		if boot, err = r.menu(ctx, boot); err != nil {
			return err
		}
	}
	r.res.File = boot.file()
	if r.res.File == "" {
		return stopf("No more network devices: DHCP told no file name: %s", boot)
	}
	if err := r.reached(UntilLease); err != nil {
		return err
	}
	return r.ipxeLoad(ctx, r.link(boot), 0)
}

func (r *run) ipxeOffers(ctx context.Context) (lease, proxy reply, err error) {
	p := r.ask
	p.setXID(randomXID())
	if r.Address.IsValid() {
		lease = r.static()
	}
	noProxy := false
	begin, rounds := time.Now(), 0
	waits := seconds(1, 2, 4, 8, 10)
	tries, err := r.rounds(ctx, p, waits, func(o reply) bool {
		switch {
		case o.kind() != offer && o.kind() != 0:
		case o.proxy() && o.pxe() && proxy.raw == nil:
			proxy = o
		case !o.proxy() && lease.at.IsZero():
			lease = o
			noProxy = subOption(o.get(optEtherboot), 176) == 1
		}
		return !lease.at.IsZero() && (proxy.raw != nil || noProxy)
	}, func() bool {
		rounds++
		return !lease.at.IsZero() && rounds >= 2 // two seconds for proxies are over
	})
	if err != nil {
		return lease, proxy, err
	}
	if tries == 0 {
		return lease, proxy, stopf("no configuration methods succeeded: no lease was offered, %d DHCPDISCOVERs", len(waits))
	}
	how := "a lease"
	if proxy.raw != nil {
		how += " and a proxy's offer"
	}
	r.chose(choice{how: how, lease: lease, boot: proxy}, begin, tries)
	return lease, proxy, r.reached(UntilOffer)
}

// subOption is the first byte of a sub-option, 0 if there is none.
func subOption(b []byte, code byte) byte {
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		if b[0] == code && b[1] > 0 {
			return b[2]
		}
		b = b[2+int(b[1]):]
	}
	return 0
}

// ipxeProxy asks the proxy on port 4011. The answer must come from there; without one, iPXE goes on with what it has.
func (r *run) ipxeProxy(ctx context.Context, proxy reply) (reply, error) {
	server := proxy.serverID()
	if !server.IsValid() {
		server = proxy.from.Addr()
	}
	conn, err := r.w.udp(netip.AddrPortFrom(r.own, 68))
	if err != nil {
		return reply{}, err
	}
	defer conn.Close()
	p := r.family().asked4011(r.ask, 0, server, r.own, nil)
	p.setXID(proxy.xid())
	begin := time.Now()
	for i, wait := range seconds(1, 2, 4) {
		got, ok, err := r.unicast(ctx, conn, p, netip.AddrPortFrom(server, 4011), wait, func(got reply) bool {
			if got.from.Port() != 4011 {
				r.remark("iPXE dropped an answer that came from port %d, not 4011", got.from.Port())
			}
			return got.from.Port() == 4011 && (got.kind() == ack || got.kind() == offer)
		})
		if err != nil || ok {
			r.timed("boot server", begin, got.at, i+1)
			return got, err
		}
	}
	r.remark("the proxy %s did not answer on port 4011", server)
	return proxy, nil
}

// link is where a boot file name points to.
func (r *run) link(boot reply) string {
	if file := boot.file(); !strings.Contains(file, "://") {
		return "tftp://" + boot.server().String() + "/" + strings.TrimPrefix(file, "/")
	}
	return boot.file()
}

// ipxeGet fetches by either protocol.
func (r *run) ipxeGet(ctx context.Context, stage, link string, limit int64) (Fetch, []byte, error) {
	u, err := url.Parse(link)
	if err != nil {
		return Fetch{}, nil, stopf("%q is no URL", link)
	}
	if u.Scheme != "tftp" {
		method := http.MethodGet
		if limit < 0 {
			method = http.MethodHead
		}
		return r.http(ctx, stage, method, link, limit)
	}
	server, err := netip.ParseAddr(u.Host)
	if err != nil {
		return Fetch{}, nil, stopf("%s names its server %q; only addresses need no DNS", link, u.Host)
	}
	return r.tftp(ctx, stage, server, strings.TrimPrefix(u.Path, "/"), limit)
}

// ipxeLoad fetches what DHCP or a script named: a script, which is run, or a program.
func (r *run) ipxeLoad(ctx context.Context, link string, depth int) error {
	if depth == 8 {
		return stopf("the scripts chain each other without end: %s", link)
	}
	_, body, err := r.ipxeGet(ctx, "script", link, 0)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(body), "#!ipxe") {
		r.res.Fetched[len(r.res.Fetched)-1].Stage = r.stage + "program"
		if err := r.reached(UntilProgram); err != nil {
			return err
		}
		if r.stage != "" {
			return stopf("iPXE was given a program again, not a script: %s", link)
		}
		return r.chain(ctx)
	}
	r.res.Script = string(body)
	if err := r.reached(UntilScript); err != nil {
		return err
	}
	return r.script(ctx, link, depth)
}

// script runs the commands of a script that load something, one after another. It knows no conditions: what comes after
// || or behind a boot is not run.
func (r *run) script(ctx context.Context, base string, depth int) error {
	for line := range strings.Lines(r.res.Script) {
		line, _, _ = strings.Cut(line, "||")
		words := strings.Fields(r.expand(line))
		if len(words) == 0 {
			continue
		}
		args := words[1:]
		for len(args) > 0 && strings.HasPrefix(args[0], "-") {
			takes := 2 // --name VALUE
			switch args[0] {
			case "--replace", "--autofree", "-a", "-r":
				takes = 1
			}
			args = args[min(takes, len(args)):]
		}
		link := ""
		if len(args) > 0 {
			link = resolve(base, args[0])
		}
		var err error
		switch words[0] {
		case "exit":
			r.res.Local = true
			return errReached
		case "dhcp", "prompt", "menu", "choose", "shell":
			return stopf("the script waits: %s", strings.TrimSpace(r.res.Script))
		case "chain":
			return r.ipxeLoad(ctx, link, depth+1)
		case "kernel", "linux", "imgfetch":
			_, _, err = r.ipxeGet(ctx, "kernel", link, r.Limit)
			r.res.Args = strings.Join(args[min(1, len(args)):], " ")
		case "initrd", "module":
			_, _, err = r.ipxeGet(ctx, "initrd", link, r.Limit)
		case "boot":
			if r.res.Args == "" {
				r.remark("the kernel has no command line")
			}
			return errReached
		}
		if err != nil {
			return err
		}
	}
	return stopf("the script starts nothing: %s", strings.TrimSpace(r.res.Script))
}

// expand puts the machine's settings into a line.
func (r *run) expand(line string) string {
	mac := r.mac.String()
	hyphen := strings.ReplaceAll(mac, ":", "-")
	bare := strings.ReplaceAll(mac, ":", "")
	platform, arch := "efi", "x86_64"
	switch be16(r.ask.get(optArch)) {
	case 0:
		platform, arch = "pcbios", "i386" // on all PCs
	case 11:
		arch = "arm64"
	}
	var pairs []string
	for _, net := range []string{"", "net0/", "netX/"} {
		pairs = append(pairs, "${"+net+"mac}", mac, "${"+net+"mac:hexhyp}", hyphen, "${"+net+"mac:hexraw}", bare)
	}
	uuid := ""
	if id := r.ask.get(optUUID); len(id) == 17 { // as SMBIOS from 2.6 on has it: the first three fields in the other order
		swapped := append([]byte{id[4], id[3], id[2], id[1], id[6], id[5], id[8], id[7]}, id[9:]...)
		uuid = fmt.Sprintf("%x-%x-%x-%x-%x", swapped[:4], swapped[4:6], swapped[6:8], swapped[8:10], swapped[10:])
	}
	return strings.NewReplacer(append(pairs, "${platform}", platform, "${buildarch}", arch, "${filename}", r.res.File, "${uuid}", uuid)...).Replace(line)
}

func resolve(base, link string) string {
	b, err1 := url.Parse(base)
	u, err2 := url.Parse(link)
	if err1 != nil || err2 != nil {
		return link
	}
	return b.ResolveReference(u).String()
}
