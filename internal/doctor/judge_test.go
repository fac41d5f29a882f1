package doctor

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"provision/hosts"
	"provision/images"
	"provision/pxe"
)

func TestJudgeOffers(t *testing.T) {
	router := offer{Server: netip.MustParseAddr("10.77.0.2"), MAC: "52:54:00:77:00:02", Address: true, Next: netip.MustParseAddr("10.77.0.2")}
	with := func(change func(*offer)) offer {
		o := router
		change(&o)
		return o
	}
	binl := with(func(o *offer) { o.Class = "PXEClient" })
	menu := with(func(o *offer) { o.Class, o.Vendor = "PXEClient", []byte{0, 6, 1, 8, 255} })
	pi := with(func(o *offer) { o.TFTP, o.Next = "10.77.0.5", netip.MustParseAddr("10.77.0.5") })
	file := with(func(o *offer) { o.File = "pxelinux.0" })
	here := with(func(o *offer) { o.File, o.Next = "snponly.efi", netip.MustParseAddr("10.77.0.1") })
	proxy := with(func(o *offer) { o.Address, o.Class, o.File = false, "PXEClient", "x.efi" })
	second := with(func(o *offer) { o.Server, o.MAC = netip.MustParseAddr("10.77.0.3"), "52:54:00:77:00:03" })
	const bootless = " → switch off network boot there (options 60, 43, 66, 67), or switch its DHCP off and serve with --dhcp server"
	const lines = "give it these lines: provision doctor --dhcp-config dnsmasq (or kea, isc, opnsense, mikrotik) --interface br0"
	for _, tt := range []struct {
		name   string
		mode   pxe.Mode
		local  bool
		offers []offer
		want   []string
	}{
		{"proxy, healthy", pxe.Proxy, false, []offer{router}, nil},
		{"proxy, none", pxe.Proxy, false, nil, []string{"stop dhcp: no DHCP server answers, and a proxy gives no addresses → " +
			"switch the LAN's DHCP server on, or serve with --dhcp server --dhcp-range FIRST-LAST"}},
		{"proxy, one on this machine", pxe.Proxy, true, nil, nil},
		{"proxy, BINL", pxe.Proxy, false, []offer{binl}, []string{"stop dhcp: DHCP server 10.77.0.2 (52:54:00:77:00:02) sends option 60 without 43: " +
			"UEFI machines ask it for their file, in vain, and never this server" + bootless}},
		{"proxy, PXE 1.0", pxe.Proxy, false, []offer{menu}, []string{"stop dhcp: DHCP server 10.77.0.2 (52:54:00:77:00:02), which sends " +
			"option 60 \"PXEClient\" and option 43: UEFI machines boot what it says, never from here" + bootless}},
		{"proxy, boot file", pxe.Proxy, false, []offer{file}, []string{"warning dhcp: DHCP server 10.77.0.2 (52:54:00:77:00:02), which sends " +
			"boot file \"pxelinux.0\" and next server 10.77.0.2: BIOS, iPXE and U-Boot may take that for this server's" + bootless}},
		{"proxy, option 66", pxe.Proxy, false, []offer{pi}, []string{"warning dhcp: DHCP server 10.77.0.2 (52:54:00:77:00:02), which sends " +
			"option 66 \"10.77.0.5\": Raspberry Pis fetch from there" + bootless}},
		{"proxy, two", pxe.Proxy, false, []offer{router, second}, []string{"warning dhcp: 2 DHCP servers answer: 10.77.0.2 (52:54:00:77:00:02) and " +
			"10.77.0.3 (52:54:00:77:00:03); machines take an address from any → switch off all but one, unless they are meant to share the LAN"}},
		{"proxy, another proxy", pxe.Proxy, false, []offer{router, proxy}, []string{"stop dhcp: another netboot server answers: 10.77.0.2 (52:54:00:77:00:02), " +
			"which sends option 60 \"PXEClient\", boot file \"x.efi\" and next server 10.77.0.2; machines take what comes first → switch it off"}},
		{"server, healthy", pxe.Full, false, nil, nil},
		{"server, rival", pxe.Full, false, []offer{router}, []string{"stop dhcp: another DHCP server answers: 10.77.0.2 (52:54:00:77:00:02), " +
			"which sends no boot options; machines take what comes first → switch it off, or serve with --dhcp proxy"}},
		{"server, proxy", pxe.Full, false, []offer{proxy}, []string{"stop dhcp: another netboot server answers: 10.77.0.2 (52:54:00:77:00:02), " +
			"which sends option 60 \"PXEClient\", boot file \"x.efi\" and next server 10.77.0.2; machines take what comes first → switch it off"}},
		{"off, healthy", pxe.Off, false, []offer{second, here}, nil},
		{"off, one on this machine", pxe.Off, true, nil, nil},
		{"off, none", pxe.Off, false, nil, []string{"stop dhcp: no DHCP server answers, and with --dhcp off this one gives no addresses → switch the LAN's DHCP server on; " + lines}},
		{"off, points elsewhere", pxe.Off, false, []offer{file}, []string{"stop dhcp: no DHCP server points machines to 10.77.0.1: there is " +
			"10.77.0.2 (52:54:00:77:00:02), which sends boot file \"pxelinux.0\" and next server 10.77.0.2 → " + lines}},
	} {
		same(t, tt.name, judgeOffers(br0, tt.mode, tt.offers, tt.local), tt.want...)
	}
}

func TestReadOffer(t *testing.T) {
	m, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer), dhcpv4.WithYourIP([]byte{10, 77, 0, 100}),
		dhcpv4.WithServerIP([]byte{10, 77, 0, 2}), dhcpv4.WithOption(dhcpv4.OptTFTPServerName("10.77.0.9")),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier([]byte{10, 77, 0, 3})))
	if err != nil {
		t.Fatal(err)
	}
	m.BootFileName = "a"
	packet := broadcast(m.ToBytes())
	o, ok := parse(packet, []byte{1, 2, 3, 4, 5, 6}, m.TransactionID)
	if !ok || !o.Address || o.Next.String() != "10.77.0.9" || o.File != "a" || o.String() != "10.77.0.3 (01:02:03:04:05:06)" {
		t.Errorf("%+v, %t", o, ok)
	}
	for n := range packet[:260] { // and none of its halves
		if _, ok := parse(packet[:n], nil, m.TransactionID); ok {
			t.Errorf("%d bytes are an offer", n)
		}
	}
	for _, vendor := range []string{"", "\x00", "\x06", "\x01\xff", "\x01\x02a", "\xff\x06\x01\x08"} {
		if (offer{Vendor: []byte(vendor)}).discovery() {
			t.Errorf("%q has discovery options", vendor)
		}
	}
}

// FuzzParse looks for offers that crash, or that write on the operator's
// terminal as they like.
func FuzzParse(f *testing.F) {
	m, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer), dhcpv4.WithServerIP([]byte{10, 77, 0, 2}),
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient")), dhcpv4.WithOption(dhcpv4.OptTFTPServerName("\x1b[31m")),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, []byte{6, 1, 8, 255})))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(broadcast(m.ToBytes()))
	f.Fuzz(func(t *testing.T, packet []byte) {
		o, ok := parse(packet, make([]byte, 6), m.TransactionID)
		if !ok {
			return
		}
		for _, mode := range []pxe.Mode{pxe.Proxy, pxe.Full, pxe.Off} {
			for _, fd := range judgeOffers(br0, mode, []offer{o}, false) {
				if strings.ContainsFunc(fd.What, unicode.IsControl) {
					t.Errorf("%q", fd.What)
				}
			}
		}
	})
}

func TestJudgeLink(t *testing.T) {
	fine := link{Name: "br0", Up: true, Carrier: true, MTU: 1500, Address: br0.Address}
	with := func(change func(*link)) link {
		l := fine
		change(&l)
		return l
	}
	for _, tt := range []struct {
		name   string
		link   link
		mode   pxe.Mode
		usable bool
		want   []string
	}{
		{"fine", fine, pxe.Full, true, nil},
		{"missing", link{Name: "eth9", Missing: true, Others: []string{"lo", "br0"}}, pxe.Proxy, false,
			[]string{"stop interface: it does not exist → name one that does with --interface: lo, br0"}},
		{"down", with(func(l *link) { l.Up = false }), pxe.Proxy, false, []string{"stop interface: it is down → ip link set br0 up"}},
		{"no cable", with(func(l *link) { l.Carrier = false }), pxe.Proxy, false, []string{"stop interface: it has no carrier → " +
			"plug a cable in at both ends; if it is a bridge, give it a member: ip link set IF master br0"}},
		{"no address", with(func(l *link) { l.Address = netip.Prefix{} }), pxe.Proxy, false,
			[]string{"stop interface: it has no IPv4 address → ip address add ADDRESS/24 dev br0"}},
		{"wireless", with(func(l *link) { l.Wireless = true }), pxe.Proxy, true, []string{"warning interface: it is wireless: " +
			"firmware netboots by cable, and access points often keep broadcasts from one → serve on a wired interface"}},
		{"default route", with(func(l *link) { l.Default = true }), pxe.Full, true, []string{"warning interface: it carries the default route, " +
			"so that LAN likely has a DHCP server already → if so, serve with --dhcp proxy"}},
		{"default route beside the router", with(func(l *link) { l.Default = true }), pxe.Proxy, true, nil},
		{"small MTU", with(func(l *link) { l.MTU = 1400 }), pxe.Proxy, true, []string{"warning interface: its MTU is 1400: " +
			"firmware asks for TFTP blocks that need 1500, and often drops fragments → ip link set br0 mtu 1500"}},
		{"jumbo frames", with(func(l *link) { l.MTU = 9000 }), pxe.Proxy, true, []string{"hint interface: its MTU is 9000 and firmware's is 1500: " +
			"all is well only if every switch between takes both → if large files stall: ip link set br0 mtu 1500"}},
		{"mixed bridge", with(func(l *link) { l.Members = map[string]int{"a": 9000, "b": 1500, "c": 1400} }), pxe.Proxy, true,
			[]string{"warning interface: the bridge has MTU 1500 and its member a has 9000 and c has 1400: the larger frames are lost → " +
				"give all the same, such as: ip link set IF mtu 1500"}},
	} {
		found, usable := judgeLink(tt.link, tt.mode)
		same(t, tt.name, found, tt.want...)
		if usable != tt.usable {
			t.Errorf("%s: usable is %t", tt.name, usable)
		}
	}
}

// TestJudgeServed: what the running server uses is compared with what is there.
func TestJudgeServed(t *testing.T) {
	up := link{Name: "br0", Up: true, Carrier: true, MTU: 1500, All: []netip.Prefix{netip.MustParsePrefix("10.77.0.1/24"), netip.MustParsePrefix("10.78.0.1/16")}}
	down, bare := up, up
	down.Up, bare.All = false, nil
	for _, tt := range []struct {
		name    string
		link    link
		address string // "": it waits for the interface; "none": it does not serve it
		use     string // the address that is looked at
		want    []string
	}{
		{"the first", up, "10.77.0.1", "10.77.0.1/24", nil},
		{"the second", up, "10.78.0.1", "10.78.0.1/16", nil},
		{"another", up, "10.77.0.9", "10.77.0.1/24", []string{"stop interface: the running server answers with its address 10.77.0.9, and the interface has 10.77.0.1 and 10.78.0.1 now → " +
			"ip address add 10.77.0.9/24 dev br0, or restart the server"}},
		{"waited for", up, "", "10.77.0.1/24", []string{"stop interface: the running server waits for it, although it is up and has 10.77.0.1 and 10.78.0.1 → " +
			"see in the server's log what it waits for: a port that is taken, or the address that --interface br0=ADDRESS chose"}},
		{"not served", up, "none", "10.77.0.1/24", []string{"warning interface: the running server does not answer there → if it is to, start it with --interface br0, too"}},
		{"down", down, "10.77.0.9", "10.77.0.1/24", nil},
		{"no address", bare, "", "", nil},
		{"missing", link{Name: "br0", Missing: true}, "10.77.0.1", "", nil},
	} {
		address, err := netip.ParseAddr(tt.address)
		same(t, tt.name, judgeServed(tt.link, address, tt.address != "none"), tt.want...)
		if len(tt.link.All) > 0 {
			tt.link.Address = tt.link.All[0]
		}
		if tt.link.use(address); tt.use != "" && tt.link.Address.String() != tt.use {
			t.Errorf("%s: looks at %s, %v", tt.name, tt.link.Address, err)
		}
	}
}

func TestTakenPort(t *testing.T) {
	for _, tt := range []struct {
		port  portUse
		owner string
		want  string
	}{
		{portUse{"udp", 67}, "dnsmasq (pid 7)", "udp port 67 is taken by dnsmasq (pid 7) → stop that program, or leave DHCP to it: --dhcp off, and `provision doctor --dhcp-config dnsmasq` for its settings"},
		{portUse{"udp", 69}, "", "udp port 69 is taken → stop that program"},
		{portUse{"tcp", 80}, "nginx (pid 8)", "tcp port 80 is taken by nginx (pid 8) → stop that program, or choose another port: --http :8080"},
		{portUse{"udp", 4011}, "provision (pid 9)", "udp port 4011 is taken by provision (pid 9) → if that is the server, name its socket with --socket"},
	} {
		same(t, tt.owner, []Finding{takenPort("br0", tt.port, tt.owner)}, "stop port: "+tt.want)
	}
}

func TestTools(t *testing.T) {
	for version, want := range map[string]bool{"nix (Nix) 2.8.0": false, "nix (Nix) 2.7.1pre": true, "nix (Nix) 1.11.16": true,
		"nix (Nix) 3.0": false, "nix (Determinate Nix 3.6.2) 2.29.0": false, "strange": false} {
		if old(version) != want {
			t.Errorf("%s is old: %t", version, !want)
		}
	}
	failed := errors.New("exit status 1")
	for _, tt := range []struct {
		out  string
		err  error
		want bool
	}{
		{"error: experimental Nix feature 'nix-command' is disabled; use '--extra-experimental-features nix-command' to override", failed, false},
		{"cores = 0\nexperimental-features = nix-command\n", nil, false},
		{"warning: 'show-config' is a deprecated alias for 'config show'\nexperimental-features = flakes nix-command\n", nil, true},
		{"cores = 0\n", nil, true},
		{"error: cannot open connection to the daemon", failed, true}, // that is not this fault
	} {
		if got := flakesOn([]byte(tt.out), tt.err); got != tt.want {
			t.Errorf("%q: %t", tt.out, got)
		}
	}
}

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func waiting(state hosts.State) hosts.Host {
	return hosts.Host{Name: "bravo", MACs: []string{"52:54:00:12:34:56"}, Arch: "x86_64", Choices: hosts.Choices{Image: "nixos"}, State: state,
		Permit: hosts.Permit{Issued: noon.Add(-time.Hour), Expires: noon.Add(time.Hour)}}
}

func TestStalled(t *testing.T) {
	trace := func(stage hosts.Stage, client string) hosts.Trace {
		return hosts.Trace{MAC: "52:54:00:12:34:56", Client: client, Stage: stage, Last: noon.Add(-4 * time.Minute)}
	}
	const uefi = "x86-64 UEFI PXE"
	for _, tt := range []struct {
		stage  hosts.Stage
		client string
		want   string // what it did, and part of the remedy
		remedy string
	}{
		{hosts.StageAsked, uefi, "asked and took no answer", "portfast on its switch port"},
		{hosts.StageAddress, uefi, "took an address and never asked for its boot file", "sends option 60"},
		{hosts.StageBINL, uefi, "asked port 4011 for its boot file and never fetched it", "udp port 69"},
		{hosts.StageProgram, uefi, "asked for its boot program and did not get it whole", "MTU"},
		{hosts.StageLoaded, uefi, "has its boot program, which never came back as iPXE", "Secure Boot"},
		{hosts.StageIPXE, "iPXE x86-64 UEFI", "came as iPXE and never fetched its script", "HTTP port"},
		{hosts.StageScript, "iPXE x86-64 UEFI", "fetched its script and no kernel", "screen"},
		{hosts.StageKernel, "iPXE x86-64 UEFI", "asked for its kernel and never for its initrd", "MTU"},
		{hosts.StageInitrd, "iPXE x86 BIOS", "asked for its initrd and did not get it whole", "memory"},
		{hosts.StageScript, "Raspberry Pi 4B e5ef6e9d", "read its config.txt and loaded no kernel", "LED"},
		{hosts.StageInitrd, "Raspberry Pi 4B e5ef6e9d", "loaded its kernel and first stage, which did not get its image whole", "device trees"},
		{hosts.StageStarted, "iPXE x86-64 UEFI", "started its installer, which never answered", "init="},
	} {
		h := waiting(hosts.StateBooting)
		f, ok := stalled(trace(tt.stage, tt.client), &h, noon)
		what := "bravo 52:54:00:12:34:56 " + tt.want + " (" + tt.client + ", 4 min ago)"
		if !ok || f.Severity != Stop || f.What != what || !strings.Contains(f.Remedy, tt.remedy) {
			t.Errorf("%s: %t, %+v", tt.stage, ok, f)
		}
	}
	h := waiting(hosts.StateReady)
	for _, tt := range []struct {
		stage  hosts.Stage
		client string
		want   string
	}{
		{hosts.StageAddress, uefi, `asked for a file that there is not, boot/…/ipxe.efi\xff (`},
		{hosts.StageBINL, uefi, `asked for a file that there is not, boot/…/ipxe.efi\xff (`},
		{hosts.StageIPXE, "iPXE x86-64 UEFI", "came as iPXE"}, // which looks for autoexec.ipxe
		{hosts.StageAsked, "Raspberry Pi 4B e5ef6e9d", "asked and took no answer"},
	} {
		tr := trace(tt.stage, tt.client)
		tr.Missing = `boot/…/ipxe.efi\xff`
		f, ok := stalled(tr, &h, noon)
		remedied := strings.Contains(f.Remedy, "--boot-method header")
		if !ok || !strings.Contains(f.What, tt.want) || remedied != strings.Contains(tt.want, "file") {
			t.Errorf("%s of %s: %t, %+v", tt.stage, tt.client, ok, f)
		}
	}
	h.BootMethod = hosts.Method{Offer: hosts.OfferFirst}
	if f, ok := stalled(trace(hosts.StageAddress, uefi), &h, noon); !ok || !strings.HasSuffix(f.Remedy, "enroll it again without --boot-method first") {
		t.Errorf("pinned: %t, %+v", ok, f)
	}
}

func TestRefused(t *testing.T) {
	fresh, expired := waiting(hosts.StateReady), waiting(hosts.StateFailed)
	expired.Phase, expired.Permit.Expires = hosts.PhaseNetboot, noon.Add(-time.Minute)
	for _, tt := range []struct {
		client, why string
		host        hosts.Host
		remedy      string
	}{
		{"IA32 UEFI PXE", "it asks as IA32 UEFI, for which there is no installer: choose 64-bit UEFI", fresh, "choose 64-bit UEFI"},
		{"x86-64 UEFI PXE", "the permit expired", expired, "provision enroll 52:54:00:12:34:56 bravo"},
		{"x86-64 UEFI PXE", "another machine uses this MAC", fresh, "provision logs bravo"},
	} {
		tr := hosts.Trace{MAC: "52:54:00:12:34:56", Client: tt.client, Stage: hosts.StageRefused, Why: tt.why, Last: noon.Add(-30 * time.Minute)}
		f, ok := stalled(tr, &tt.host, noon)
		if !ok || !strings.HasPrefix("asked and was refused: "+tt.why, strings.TrimPrefix(strings.TrimSuffix(f.What, " ("+tt.client+", 30 min ago)"), "bravo 52:54:00:12:34:56 ")) || !strings.Contains(f.Remedy, tt.remedy) {
			t.Errorf("%s: %t, %+v", tt.client, ok, f)
		}
	}
}

func TestNotStalled(t *testing.T) {
	tr := hosts.Trace{MAC: "52:54:00:12:34:56", Client: "x86-64 UEFI PXE", Stage: hosts.StageAsked, Last: noon.Add(-4 * time.Minute)}
	failed := waiting(hosts.StateFailed)
	failed.Phase = hosts.PhaseCopy
	again := waiting(hosts.StateReady)
	again.Permit.Issued = noon.Add(-time.Minute)
	for name, h := range map[string]hosts.Host{"installed": waiting(hosts.StateInstalled), "live": waiting(hosts.StateLive),
		"rebooting": waiting(hosts.StateRebooting), "failed later": failed, "enrolled since": again} {
		if f, ok := stalled(tr, &h, noon); ok {
			t.Errorf("%s: %+v", name, f)
		}
	}
	h := waiting(hosts.StateReady)
	for name, last := range map[string]time.Time{"just now": noon.Add(-59 * time.Second), "yesterday": noon.Add(-25 * time.Hour)} {
		tr := tr
		tr.Last = last
		if f, ok := stalled(tr, &h, noon); ok {
			t.Errorf("%s: %+v", name, f)
		}
	}
	f, ok := stalled(tr, nil, noon)
	if !ok || f.Severity != Hint || f.What != "52:54:00:12:34:56 asked to boot and is not enrolled (x86-64 UEFI PXE, 4 min ago)" ||
		f.Remedy != "if it is yours: provision enroll 52:54:00:12:34:56 HOST" {
		t.Errorf("a stranger: %t, %+v", ok, f)
	}
	tr.Client, tr.Stage = "", ""
	if f, ok := stalled(tr, nil, noon); ok {
		t.Errorf("a stranger's lease: %+v", f)
	}
}

func TestImages(t *testing.T) {
	good := images.Image{Name: "nixos", Arch: images.X86_64, Cmdline: "init=/nix/store/x/init"}
	mute := good
	mute.Cmdline = "quiet"
	arm := images.Image{Name: "nixos", Arch: images.AArch64, Cmdline: good.Cmdline}
	other := good
	other.Name = "other"
	const again = " → provision images add nixos --arch x86_64 --from SOURCE"
	for _, tt := range []struct {
		name   string
		state  hosts.State
		images []images.Image
		verify error
		want   []string
	}{
		{"fine", hosts.StateReady, []images.Image{good}, nil, nil},
		{"none", hosts.StateReady, nil, nil, []string{"stop image: there is no installer image for x86_64, which bravo needs" + again}},
		{"none needed", hosts.StateInstalled, nil, nil, nil},
		{"gone", hosts.StateReady, []images.Image{other}, nil, []string{"stop image: image nixos, with which bravo is enrolled, is gone" + again}},
		{"other architecture", hosts.StateBooting, []images.Image{arm}, nil, []string{"stop image: image nixos is for aarch64 now, and bravo is built for x86_64" + again}},
		{"damaged", hosts.StateFailed, []images.Image{good}, errors.New("verify image nixos: its kernel is damaged"),
			[]string{"stop image: verify image nixos: its kernel is damaged" + again}},
		{"without init=", hosts.StateReady, []images.Image{mute}, nil, []string{"warning image: image nixos has no init= in its command line: " +
			"a NixOS image then ends in an emergency shell → add it with --from, or give its own init=/nix/store/…/init with --cmdline"}},
	} {
		d := &Doctor{Images: tt.images, Hosts: []hosts.Host{waiting(tt.state)},
			Verify: func(context.Context, string) error { return tt.verify }}
		same(t, tt.name, d.images(t.Context()), tt.want...)
	}
}

func TestJudgeNeighbours(t *testing.T) {
	for _, tt := range []struct{ limit, enrolled, found int }{{1024, 10, 0}, {1024, 900, 1}, {4096, 900, 0}, {0, 5000, 0}} {
		got := judgeNeighbours(tt.limit, tt.enrolled)
		if len(got) != tt.found || tt.found > 0 && !strings.Contains(got[0].Remedy, "gc_thresh3=4096") {
			t.Errorf("%d of %d: %v", tt.enrolled, tt.limit, got)
		}
	}
}
