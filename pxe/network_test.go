package pxe

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"provision/hosts"
	"provision/images"
)

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// as makes a DISCOVER or REQUEST of some client.
func as(t *testing.T, mac string, arch iana.Arch, vendor string, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	all := []dhcpv4.Modifier{dhcpv4.WithHwAddr(hw), dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover),
		dhcpv4.WithOption(dhcpv4.OptClientArch(arch)), dhcpv4.WithOption(dhcpv4.OptClassIdentifier(vendor))}
	m, err := dhcpv4.New(append(all, mods...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func without(code dhcpv4.OptionCode) dhcpv4.Modifier {
	return func(m *dhcpv4.DHCPv4) { m.Options.Del(code) }
}

// TestClients: what each kind of client is and gets, in both modes.
func TestClients(t *testing.T) {
	const pi = "dc:a6:32:01:02:03"
	guid := func(b string) dhcpv4.Modifier {
		return dhcpv4.WithGeneric(dhcpv4.OptionClientMachineIdentifier, []byte(b))
	}
	for _, tt := range []struct {
		name, host, mac string
		arch            iana.Arch
		vendor          string
		mods            []dhcpv4.Modifier
		words           string
		file, class     string // proxy mode; silence if empty
	}{
		{"BIOS", "x86_64", mac, 0, "PXEClient:Arch:00000:UNDI:002001", nil, "x86 BIOS PXE", "boot/T/undionly.kpxe", "PXEClient"},
		{"x64", "x86_64", mac, 7, "PXEClient:Arch:00007:UNDI:003016", nil, "x86-64 UEFI PXE", "boot/T/ipxe.efi", "PXEClient"},
		{"x64, 9", "x86_64", mac, 9, "PXEClient:Arch:00009:UNDI:003016", nil, "x86-64 UEFI PXE", "boot/T/ipxe.efi", "PXEClient"},
		{"arm64", "aarch64", mac, 11, "PXEClient:Arch:00011:UNDI:003000", nil, "arm64 UEFI PXE", "boot/T/snponly-arm64.efi", "PXEClient"},
		{"x64 HTTP", "x86_64", mac, 16, "HTTPClient:Arch:00016:UNDI:003001", nil, "x86-64 UEFI HTTP", "http://10.77.0.1/boot/T/ipxe.efi", "HTTPClient"},
		{"arm64 HTTP", "aarch64", mac, 19, "HTTPClient:Arch:00019:UNDI:003000", nil, "arm64 UEFI HTTP", "http://10.77.0.1/boot/T/snponly-arm64.efi", "HTTPClient"},
		{"U-Boot", "aarch64", mac, 22, "U-Boot.armv8", nil, "arm64 U-Boot", "boot/T/u-boot", ""},
		{"U-Boot as UEFI", "aarch64", pi, 11, "PXEClient:Arch:00011:UNDI:003000", nil, "arm64 UEFI PXE", "boot/T/snponly-arm64.efi", "PXEClient"},
		{"no option 93", "x86_64", mac, 0, "PXEClient:Arch:00007:UNDI:003016", []dhcpv4.Modifier{without(dhcpv4.OptionClientSystemArchitectureType)},
			"x86-64 UEFI PXE", "boot/T/ipxe.efi", "PXEClient"},
		{"a list of architectures", "x86_64", mac, 0, "PXEClient", []dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptClientArch(99, 7))}, "x86-64 UEFI PXE", "boot/T/ipxe.efi", "PXEClient"},
		{"a plain PXEClient", "x86_64", mac, 0, "PXEClient", []dhcpv4.Modifier{without(dhcpv4.OptionClientSystemArchitectureType)}, "x86 BIOS PXE", "boot/T/undionly.kpxe", "PXEClient"},
		{"IA32", "x86_64", mac, 6, "PXEClient:Arch:00006:UNDI:003016", nil, "IA32 UEFI PXE", "", ""},
		{"arm64 for x86-64", "x86_64", mac, 11, "PXEClient:Arch:00011:UNDI:003000", nil, "arm64 UEFI PXE", "", ""},
		{"a Pi 4", "aarch64", pi, 0, "PXEClient:Arch:00000:UNDI:002001", []dhcpv4.Modifier{guid("\x00RPi4\x31\xc0\x12\x00\x9d\x6e\xef\xe5\x01\x02\x03\x04")}, "Raspberry Pi 4, 400 or CM4 04030201", "", ""},
		{"a Pi 4 without option 60", "aarch64", mac, 0, "", []dhcpv4.Modifier{guid("\x00RPi4\x31\xc0\x12\x00\x9d\x6e\xef\xe5\x01\x02\x03\x04")}, "Raspberry Pi 4, 400 or CM4 04030201", "", ""},
		{"a Pi 3B", "x86_64", "b8:27:eb:01:02:03", 0, "PXEClient:Arch:00000:UNDI:002001", []dhcpv4.Modifier{guid("\x00DDDDDDDDDDDDDDDD")}, "Raspberry Pi 3B, 3B+ or CM3", "", ""},
		{"Linux on a Pi", "aarch64", pi, 0, "", []dhcpv4.Modifier{without(dhcpv4.OptionClientSystemArchitectureType)}, "an operating system", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, mode := range []Mode{Proxy, Full} {
				s := server(t, mode)
				_, err := s.Hosts.Enroll(hosts.Host{Name: "bravo", MACs: []string{tt.mac}, Arch: tt.host, Choices: hosts.Choices{Image: s.imageFor(t, tt.host)}}, 1e12, nil)
				if err != nil {
					t.Fatal(err)
				}
				m := as(t, tt.mac, tt.arch, tt.vendor, tt.mods...)
				if c, err := identify(m); err != nil || c.String() != tt.words {
					t.Fatalf("%s, %v", c, err)
				}
				r := s.dhcp(m)
				file, class := "", ""
				if r != nil {
					file, class = tokenPattern.ReplaceAllString(r.BootFileNameOption(), "T"), r.ClassIdentifier()
				}
				if file != tt.file || class != tt.class || (r == nil) != (mode == Proxy && tt.file == "") {
					t.Errorf("%s: file %q, class %q: %v", mode, file, class, r)
				}
				events, _ := s.Hosts.Events("bravo", 0)
				refused := strings.Contains(events[len(events)-1].Message, "was refused: ")
				if want := tt.file == "" && tt.words != "an operating system"; refused != want {
					t.Errorf("%s: %s", mode, events[len(events)-1].Message)
				}
			}
		})
	}
}

// TestVendorInAnyCase: firmware that writes its vendor class in another case is answered as any other.
func TestVendorInAnyCase(t *testing.T) {
	for vendor, file := range map[string]string{
		"pxeclient:arch:00007:undi:003016":  "/" + images.ProgramNative,
		"PXECLIENT":                         "/" + images.ProgramUNDI,
		"httpclient:Arch:00016:UNDI:003001": "/" + images.ProgramNative,
		"pxeclien":                          "",
	} {
		s := server(t, Full)
		s.mustEnroll(t, "bravo", mac)
		r := s.dhcp(as(t, mac, 0, vendor, without(dhcpv4.OptionClientSystemArchitectureType)))
		if r == nil {
			t.Errorf("%q gets no answer", vendor)
			continue
		}
		name := strings.TrimRight(r.BootFileNameOption(), "\x00")
		if file == "" && name != "" || !strings.HasSuffix(name, file) {
			t.Errorf("%q gets the file %q", vendor, name)
		}
		if file != "" && !slices.Contains([]string{"PXEClient", "HTTPClient"}, r.ClassIdentifier()) {
			t.Errorf("%q gets the class %q", vendor, r.ClassIdentifier())
		}
	}
}

// TestImageOfAnotherArchitecture: it is an event, and nothing is offered.
func TestImageOfAnotherArchitecture(t *testing.T) {
	s := server(t, Proxy)
	if _, err := s.Hosts.Enroll(hosts.Host{Name: "bravo", MACs: []string{mac}, Arch: "aarch64", Choices: hosts.Choices{Image: "lab"}}, 1e12, nil); err != nil {
		t.Fatal(err)
	}
	if r := s.dhcp(as(t, mac, iana.EFI_ARM64, "PXEClient")); r != nil {
		t.Error(r)
	}
	events, _ := s.Hosts.Events("bravo", 0)
	if last := events[len(events)-1].Message; !strings.Contains(last, "image lab is for x86_64, and bravo is built for aarch64") {
		t.Error(last)
	}
	if h, _ := s.Hosts.Get("bravo"); h.Permit.Boots != 0 {
		t.Error("a boot was begun")
	}
}

func relayed(giaddr string) dhcpv4.Modifier {
	return func(m *dhcpv4.DHCPv4) {
		m.GatewayIPAddr, m.HopCount = net.ParseIP(giaddr), 1
		m.UpdateOption(dhcpv4.OptRelayAgentInfo(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(1), []byte("port 7"))))
	}
}

// TestRelay: replies go to the relay, with its option 82; addresses come from
// the range of its network, or not at all.
func TestRelay(t *testing.T) {
	discover := as(t, mac, iana.EFI_X86_64, "PXEClient:Arch:00007:UNDI:003016", relayed("10.9.0.1"))
	for _, tt := range []struct {
		mode   Mode
		ranges []Range
		yours  string
		router string
		relays string
	}{
		{mode: Proxy, yours: "0.0.0.0", relays: "10.9.0.0/24"},
		{mode: Proxy, yours: "0.0.0.0", relays: "10.9.0.1/32"},
		{mode: Full, relays: "10.9.0.1/32"},
		{Full, []Range{{netip.MustParseAddr("10.9.0.50"), netip.MustParseAddr("10.9.0.50"), 24}}, "10.9.0.50", "10.9.0.1", ""},
	} {
		s := server(t, tt.mode)
		s.Ranges = tt.ranges
		if err := s.openSubnets(false); err != nil {
			t.Fatal(err)
		}
		if tt.relays != "" {
			s.Relays = []netip.Prefix{netip.MustParsePrefix(tt.relays)}
		}
		s.mustEnroll(t, "bravo", mac)
		r, to := s.handle(s.links[0], addrPort("10.9.0.1:67"), 67, nil, discover, (*exchange).answerDHCP)
		if tt.yours == "" {
			events, _ := s.Hosts.Events("bravo", 0)
			if r != nil || !strings.Contains(events[len(events)-1].Message, "through the relay 10.9.0.1, for whose network there are no addresses") {
				t.Error(r, events)
			}
			continue
		}
		if r == nil || to != addrPort("10.9.0.1:67") || r.YourIPAddr.String() != tt.yours || r.BootFileName == "" || r.GatewayIPAddr.String() != "10.9.0.1" {
			t.Fatalf("%s: to %s: %v", tt.mode, to, r)
		}
		if info := r.RelayAgentInfo(); info == nil || string(info.Get(dhcpv4.GenericOptionCode(1))) != "port 7" {
			t.Errorf("%s: option 82 is %v", tt.mode, info)
		}
		if tt.router != "" && (len(r.Router()) != 1 || r.Router()[0].String() != tt.router) {
			t.Errorf("router %v", r.Router())
		}
	}
}

// agentInfo is option 82 of a relay agent.
func agentInfo(data string) dhcpv4.Modifier {
	return dhcpv4.WithGeneric(dhcpv4.OptionRelayAgentInformation, []byte(data))
}

// TestRelayAgentInfo: a relay whose giaddr is of another link than the client's says which that is, and how the server
// is to call itself (RFC 3527, RFC 5107). It is heard only if it is a relay that is served, and gets back what it sent.
func TestRelayAgentInfo(t *testing.T) {
	const (
		loopback = "10.255.0.7"
		link     = "\x05\x04\x0a\x09\x00\x01" // 10.9.0.1
		override = "\x0b\x04\x0a\x09\x00\x01"
	)
	for _, tt := range []struct {
		name, giaddr, info  string
		to, yours, serverID string
		router, log         string
	}{
		{"link and server", loopback, override + "\x01\x07Vlan100" + link,
			"10.255.0.7:67", "10.9.0.50", "10.9.0.1", "10.9.0.1", ""},
		{"the link by its network's number", loopback, "\x05\x04\x0a\x09\x00\x00",
			"10.255.0.7:67", "10.9.0.50", "10.77.0.1", "", ""},
		{"the server alone", "10.9.0.1", "\x0b\x04\x0a\x09\x00\x02",
			"10.9.0.1:67", "10.9.0.50", "10.9.0.2", "10.9.0.1", ""},
		{"not addresses", "10.9.0.1", "\x05\x02\x0a\x09\x0b\x04\x00\x00\x00\x00",
			"10.9.0.1:67", "10.9.0.50", "10.77.0.1", "10.9.0.1", ""},
		{"a link of ours", loopback, "\x05\x04\x0a\x4d\x00\x00", "10.255.0.7:67", "10.77.0.104", "10.77.0.1", "", ""},
		{name: "no link", giaddr: loopback, log: "through the relay 10.255.0.7, for whose network there are no addresses"},
		{name: "a link without addresses", giaddr: loopback, info: "\x05\x04\x0a\x08\x00\x01",
			log: "through the relay 10.255.0.7, of the link 10.8.0.1, for whose network there are no addresses"},
		{name: "another relay", giaddr: "10.255.0.8", info: link,
			log: "through the relay 10.255.0.8, which is in no network that is served"},
		{"no relay", "", link + override, "255.255.255.255:68", "10.77.0.104", "10.77.0.1", "", ""},
	} {
		s := server(t, Full)
		s.Ranges = append(s.Ranges, Range{netip.MustParseAddr("10.9.0.50"), netip.MustParseAddr("10.9.0.50"), 24})
		if err := s.openSubnets(false); err != nil {
			t.Fatal(err)
		}
		s.Relays = []netip.Prefix{netip.MustParsePrefix(loopback + "/32")}
		s.mustEnroll(t, "bravo", mac)
		m := as(t, mac, 0, "", agentInfo(tt.info))
		m.GatewayIPAddr = net.ParseIP(tt.giaddr)
		r, to := s.handle(s.links[0], addrPort("10.77.0.9:67"), 67, nil, m, (*exchange).answerDHCP)
		if tt.log != "" {
			if r != nil || !strings.Contains(s.logOf(t, "bravo"), tt.log) {
				t.Errorf("%s: %v, log %s", tt.name, r, s.logOf(t, "bravo"))
			}
			continue
		}
		if r == nil || to.String() != tt.to || r.YourIPAddr.String() != tt.yours ||
			r.ServerIdentifier().String() != tt.serverID {
			t.Errorf("%s: to %s: %v", tt.name, to, r)
			continue
		}
		if router := addrOf(net.IP(r.Options.Get(dhcpv4.OptionRouter))); router != addrOf(net.ParseIP(tt.router)) {
			t.Errorf("%s: router %s", tt.name, router)
		}
		sent := m.Options.Get(dhcpv4.OptionRelayAgentInformation)
		back := r.Options.Get(dhcpv4.OptionRelayAgentInformation)
		if !bytes.Equal(sent, back) || !bytes.HasSuffix(bytes.TrimRight(r.ToBytes(), "\x00"), append(back, 0xff)) {
			t.Errorf("%s: option 82 was %q, and came back as %q in %x", tt.name, sent, back, r.ToBytes())
		}
	}
}

// TestServerIdentifierOverride: who calls us as the relay had us call ourselves means us.
func TestServerIdentifierOverride(t *testing.T) {
	info := agentInfo("\x05\x04\x0a\x09\x00\x00\x0b\x04\x0a\x09\x00\x01")
	ask := func(s *Server, kind dhcpv4.MessageType, id, addr string) *dhcpv4.DHCPv4 {
		m := as(t, mac, 0, "", dhcpv4.WithMessageType(kind), info,
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(id))),
			dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(addr))))
		m.GatewayIPAddr = net.ParseIP("10.255.0.7")
		r, _ := s.handle(s.links[0], addrPort("10.255.0.7:67"), 67, nil, m, (*exchange).answerDHCP)
		return r
	}
	s := server(t, Full)
	s.Ranges = []Range{{netip.MustParseAddr("10.9.0.50"), netip.MustParseAddr("10.9.0.51"), 24}}
	if err := s.openSubnets(false); err != nil {
		t.Fatal(err)
	}
	s.Relays = []netip.Prefix{netip.MustParsePrefix("10.255.0.0/24")}
	s.mustEnroll(t, "bravo", mac)
	addr := ask(s, dhcpv4.MessageTypeDiscover, "0.0.0.0", "0.0.0.0").YourIPAddr.String()
	for _, tt := range []struct {
		id, addr string
		want     dhcpv4.MessageType
	}{
		{"10.9.0.1", addr, dhcpv4.MessageTypeAck},
		{"10.77.0.1", addr, dhcpv4.MessageTypeAck},        // offered before the relay was set so
		{"10.9.0.2", addr, dhcpv4.MessageTypeNone},        // another server
		{"10.9.0.1", "10.9.0.52", dhcpv4.MessageTypeNone}, // another server's address behind the same relay
		{"10.9.0.1", "10.66.0.1", dhcpv4.MessageTypeNak},
	} {
		r := ask(s, dhcpv4.MessageTypeRequest, tt.id, tt.addr)
		if got := messageType(r); got != tt.want || r != nil && r.ServerIdentifier().String() != "10.9.0.1" {
			t.Errorf("%s asks %s for %s: %v", mac, tt.id, tt.addr, r)
		}
	}
	if h, _ := s.Hosts.Get("bravo"); h.Address != addr { // which the boot's token needs for a witness
		t.Errorf("the host is at %q", h.Address)
	}
	ask(s, dhcpv4.MessageTypeRelease, "10.9.0.1", addr)
	if r := ask(s, dhcpv4.MessageTypeRequest, "10.9.0.1", addr); messageType(r) != dhcpv4.MessageTypeNak {
		t.Errorf("after its release: %v", r)
	}

	// A proxy has no lease to be asked for again, and the DHCP server beside it is called the same.
	s = server(t, Proxy)
	s.Relays = []netip.Prefix{netip.MustParsePrefix("10.255.0.7/32")}
	s.mustEnroll(t, "bravo", mac)
	m := as(t, mac, iana.EFI_X86_64, "PXEClient:Arch:00007:UNDI:003016", info)
	m.GatewayIPAddr = net.ParseIP("10.255.0.7")
	r, to := s.handle(s.links[0], addrPort("10.255.0.7:67"), 67, nil, m, (*exchange).answerDHCP)
	if r == nil || r.ServerIdentifier().String() != "10.77.0.1" || to != addrPort("10.255.0.7:67") {
		t.Fatalf("to %s: %v", to, r)
	}
	m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeRequest))
	m.UpdateOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 9, 0, 1)))
	if r, _ := s.handle(s.links[0], addrPort("10.255.0.7:67"), 67, nil, m, (*exchange).answerDHCP); r != nil {
		t.Errorf("it answers for the other server: %v", r)
	}
}

// messageType is that of a reply; none for silence.
func messageType(r *dhcpv4.DHCPv4) dhcpv4.MessageType {
	if r == nil {
		return dhcpv4.MessageTypeNone
	}
	return r.MessageType()
}

// TestConfigured: DHCPINFORM and BOOTP of machines that are known get what a plain DHCP server gives; strangers, and
// all beside another DHCP server, get silence.
func TestConfigured(t *testing.T) {
	const own = "10.77.0.60"
	inform := func(ciaddr string) dhcpv4.Modifier {
		return func(m *dhcpv4.DHCPv4) {
			m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeInform))
			m.ClientIPAddr = net.ParseIP(ciaddr)
		}
	}
	bootp := func(m *dhcpv4.DHCPv4) { m.Options = dhcpv4.Options{} }
	through := func(giaddr string, next dhcpv4.Modifier) dhcpv4.Modifier {
		return func(m *dhcpv4.DHCPv4) {
			next(m)
			m.GatewayIPAddr = net.ParseIP(giaddr)
		}
	}
	// Mask, router, DNS server, domain; message type and server identifier.
	const plain = "\x01\x04\xff\xff\xff\x00\x03\x04\x0a\x4d\x00\xfe\x06\x04\x0a\x4d\x00\xfd\x0f\x03lan"
	const dhcp = "\x35\x01\x05\x36\x04\x0a\x4d\x00\x01"
	const relayed = "\x01\x04\xff\xff\xff\x00\x03\x04\x0a\x09\x00\x01\x06\x04\x0a\x4d\x00\xfd\x0f\x03lan"
	for _, tt := range []struct {
		name, address      string
		ask                dhcpv4.Modifier
		to, yours, options string // silence if empty
		log                string
	}{
		{"INFORM", "", inform("10.77.0.50"), "10.77.0.50:68", "0.0.0.0", plain + dhcp, ""},
		{"INFORM with a fixed address", own, inform("10.77.0.50"), "10.77.0.50:68", "0.0.0.0", plain + dhcp, ""},
		{"INFORM through a relay", "", through("10.9.0.1", inform("10.9.0.77")),
			"10.9.0.77:68", "0.0.0.0", relayed + dhcp, ""},
		{name: "INFORM without an address", ask: inform("0.0.0.0")},
		{name: "INFORM from another network", ask: inform("10.99.0.50")},
		{"BOOTP", own, bootp, "255.255.255.255:68", own, plain, "has address " + own},
		{"BOOTP through a relay", "10.9.0.60", through("10.9.0.1", bootp),
			"10.9.0.1:67", "10.9.0.60", relayed, "has address 10.9.0.60"},
		{name: "BOOTP without a fixed address", ask: bootp,
			log: "asked by BOOTP, which knows no leases, and got no address: give it one outside of --dhcp-range"},
		{name: "BOOTP on another network", address: own, ask: through("10.9.0.1", bootp), log: "asked by BOOTP"},
	} {
		s := configuring(t, Full)
		h := hosts.Host{Name: "bravo", MACs: []string{mac}, Arch: "x86_64", Choices: hosts.Choices{Image: "lab"}}
		h.FixedAddress = tt.address
		if _, err := s.Hosts.Enroll(h, 1e12, nil); err != nil {
			t.Fatal(err)
		}
		r, to := s.handle(s.links[0], addrPort("10.77.0.50:68"), 67, nil, as(t, mac, 0, "", tt.ask), (*exchange).answerDHCP)
		if (r != nil) != (tt.to != "") ||
			r != nil && (to.String() != tt.to || r.YourIPAddr.String() != tt.yours || options(r) != tt.options) {
			t.Errorf("%s: to %s: %v", tt.name, to, r)
		}
		if !strings.Contains(s.logOf(t, "bravo"), tt.log) {
			t.Errorf("%s: %s", tt.name, s.logOf(t, "bravo"))
		}
		for _, mode := range []Mode{Full, Proxy} {
			s := configuring(t, mode)
			if mode == Proxy {
				s.mustEnroll(t, "bravo", mac)
			}
			if r := s.dhcp(as(t, mac, 0, "", tt.ask)); r != nil {
				t.Errorf("%s, %s: %v", tt.name, mode, r)
			}
		}
	}
}

// configuring is a server that would tell all that a plain DHCP server tells, strangers too.
func configuring(t *testing.T, mode Mode) *Server {
	t.Helper()
	s := server(t, mode)
	s.Router, s.DNS = netip.MustParseAddr("10.77.0.254"), []netip.Addr{netip.MustParseAddr("10.77.0.253")}
	s.Domain, s.Unknown = "lan", Hold
	s.Ranges = append(s.Ranges, Range{netip.MustParseAddr("10.9.0.50"), netip.MustParseAddr("10.9.0.59"), 24})
	if err := s.openSubnets(false); err != nil {
		t.Fatal(err)
	}
	return s
}

// options are the bytes of a reply's options, without the end and the padding behind it.
func options(r *dhcpv4.DHCPv4) string {
	const begin = 240 // header and magic cookie
	return strings.TrimSuffix(strings.TrimRight(string(r.ToBytes()[begin:]), "\x00"), "\xff")
}

// TestLinks: each interface has its own address and range; a host's NIC may
// hang on either.
func TestLinks(t *testing.T) {
	s := server(t, Full)
	s.subnets = nil
	s.links = append(s.links, &servedLink{name: "eth0.20", self: netip.MustParseAddr("10.88.0.1"), net: netip.MustParsePrefix("10.88.0.0/24")})
	s.Ranges = []Range{{First: netip.MustParseAddr("10.77.0.100"), Last: netip.MustParseAddr("10.77.0.199")},
		{First: netip.MustParseAddr("10.88.0.100"), Last: netip.MustParseAddr("10.88.0.199")}}
	if err := s.openSubnets(false); err != nil {
		t.Fatal(err)
	}
	const second = "52:54:00:00:00:22"
	if _, err := s.Hosts.Enroll(hosts.Host{Name: "bravo", MACs: []string{mac, second}, Arch: "x86_64", Choices: hosts.Choices{Image: "lab"}}, 1e12, nil); err != nil {
		t.Fatal(err)
	}
	for i, nic := range []string{mac, second} {
		l := s.links[i]
		r, _ := s.handle(l, addrPort("0.0.0.0:68"), 67, nil, as(t, nic, iana.EFI_X86_64, "PXEClient:Arch:00007"), (*exchange).answerDHCP)
		if r == nil || !l.net.Contains(addrOf(r.YourIPAddr)) || addrOf(r.ServerIPAddr) != l.self || r.BootFileName == "" {
			t.Errorf("%s: %v", l.name, r)
		}
		if h, _ := s.Hosts.Get("bravo"); h.Boot.MAC != nic || h.Boot.Server != l.self.String() {
			t.Errorf("%s: boot of %s by %s", l.name, h.Boot.MAC, h.Boot.Server)
		}
	}
}

func TestSubnetErrors(t *testing.T) {
	for in, want := range map[string]string{
		"10.66.0.1-10.66.0.9":                       "is in the network of none of the interfaces (eth0: 10.77.0.0/24); for machines behind a relay write its prefix length, as in 10.66.0.1-10.66.0.9/24",
		"10.66.0.1-10.66.1.9/24":                    "is not within 10.66.0.0/24",
		"10.77.0.1-10.78.0.9":                       "is not within 10.77.0.0/24",
		"10.77.0.1-10.77.0.9,10.77.0.20-10.77.0.30": "there is another range in 10.77.0.0/24",
	} {
		s := server(t, Full)
		s.subnets, s.Ranges = nil, nil
		for part := range strings.SplitSeq(in, ",") {
			r, err := ParseRange(part)
			if err != nil {
				t.Fatal(err)
			}
			s.Ranges = append(s.Ranges, r)
		}
		if err := s.openSubnets(false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", in, err)
		}
	}
}

// TestUnicastRenewal: a system that has its address renews it from us, and is
// answered there.
func TestUnicastRenewal(t *testing.T) {
	s := server(t, Full)
	s.mustEnroll(t, "bravo", mac)
	offer := s.dhcp(as(t, mac, 0, ""))
	renew := as(t, mac, 0, "", dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithClientIP(offer.YourIPAddr))
	r, to := s.handle(s.links[0], netip.AddrPortFrom(addrOf(offer.YourIPAddr), 68), 67, nil, renew, (*exchange).answerDHCP)
	if r == nil || r.MessageType() != dhcpv4.MessageTypeAck || to != netip.AddrPortFrom(addrOf(offer.YourIPAddr), 68) {
		t.Errorf("to %s: %v", to, r)
	}
}

// TestRelayedRenewal: a system that had its address by a relay renews it without
// one, and gives it back so.
func TestRelayedRenewal(t *testing.T) {
	s := server(t, Full)
	s.Ranges = []Range{{netip.MustParseAddr("10.9.0.50"), netip.MustParseAddr("10.9.0.50"), 24}}
	if err := s.openSubnets(false); err != nil {
		t.Fatal(err)
	}
	s.mustEnroll(t, "bravo", mac)
	offer, _ := s.handle(s.links[0], addrPort("10.9.0.1:67"), 67, nil, as(t, mac, 0, "", relayed("10.9.0.1")), (*exchange).answerDHCP)
	if offer == nil {
		t.Fatal("silence")
	}
	ask := func(kind dhcpv4.MessageType) (*dhcpv4.DHCPv4, netip.AddrPort) {
		m := as(t, mac, 0, "", dhcpv4.WithMessageType(kind), dhcpv4.WithClientIP(offer.YourIPAddr))
		if kind == dhcpv4.MessageTypeRelease {
			m.UpdateOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 77, 0, 1)))
		}
		return s.handle(s.links[0], addrPort("10.9.0.50:68"), 67, nil, m, (*exchange).answerDHCP)
	}
	r, to := ask(dhcpv4.MessageTypeRequest)
	if r == nil || r.MessageType() != dhcpv4.MessageTypeAck || to != addrPort("10.9.0.50:68") || len(r.Router()) != 1 || r.Router()[0].String() != "10.9.0.1" {
		t.Errorf("to %s: %v", to, r)
	}
	ask(dhcpv4.MessageTypeRelease)
	if r, _ := ask(dhcpv4.MessageTypeRequest); r == nil || r.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("after its release: %v", r)
	}
}

// TestOldAddress: a system that comes back and asks for the address that it had (RFC 2131, section 4.3.2, INIT-REBOOT) is
// told at once that it is of another network, and not refused what another server may have given.
func TestOldAddress(t *testing.T) {
	s := server(t, Full) // hands out a part of 10.77.0.0/24
	s.mustEnroll(t, "bravo", mac)
	mine := addrOf(s.dhcp(as(t, mac, 0, "")).YourIPAddr)
	inRange := s.subnets[0].rng.First
	if inRange == mine {
		inRange = inRange.Next()
	}
	for _, tt := range []struct {
		asked string
		want  dhcpv4.MessageType // 0: silence
	}{
		{mine.String(), dhcpv4.MessageTypeAck},
		{inRange.String(), dhcpv4.MessageTypeNak},
		{"10.77.0.9", 0},
		{"10.99.0.9", dhcpv4.MessageTypeNak},
	} {
		ip := net.ParseIP(tt.asked)
		for how, with := range map[string]dhcpv4.Modifier{"asked for": dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ip)), "renewed": dhcpv4.WithClientIP(ip)} {
			var got dhcpv4.MessageType
			if r := s.dhcp(as(t, mac, 0, "", dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), with)); r != nil {
				got = r.MessageType()
			}
			if got != tt.want {
				t.Errorf("%s, %s: %v, want %v", tt.asked, how, got, tt.want)
			}
		}
	}
}

// TestExhausted: a machine that gets no address is told of, where it can be seen.
func TestExhausted(t *testing.T) {
	s := server(t, Full)
	var log bytes.Buffer
	s.Log = slog.New(slog.NewTextHandler(&log, nil))
	s.subnets[0].rng.Last = s.subnets[0].rng.First
	s.mustEnroll(t, "alpha", "52:54:00:aa:00:01")
	s.mustEnroll(t, "bravo", mac)
	if s.dhcp(as(t, "52:54:00:aa:00:01", 0, "")) == nil {
		t.Fatal("no offer")
	}
	for range 2 {
		if r := s.dhcp(as(t, mac, 0, "")); r != nil {
			t.Fatal("an offer of what was offered to another")
		}
	}
	events, err := s.Hosts.Events("bravo", 0)
	if err != nil {
		t.Fatal(err)
	}
	if last := events[len(events)-1].Message; !strings.Contains(last, "got no address: no address left in 10.77.0.") {
		t.Errorf("the host's log ends with %q", last)
	}
	// Of which `provision doctor` makes a finding.
	if tr, err := s.Traces.Get(mac); err != nil || tr.Stage != hosts.StageRefused ||
		!strings.HasPrefix(tr.Why, "no address left in 10.77.0.") || !strings.HasSuffix(tr.Why, ": end leases, or serve with a larger --dhcp-range") {
		t.Errorf("its trace: %s, %q, %v", tr.Stage, tr.Why, err)
	}
	if strings.Count(log.String(), "no address is left to hand out") != 1 {
		t.Errorf("the log: %s", &log)
	}
}

// TestCheckAddress: what a machine could never get is said when it is asked for.
func TestCheckAddress(t *testing.T) {
	s := server(t, Full)
	s.mustEnroll(t, "bravo", mac)
	leased := addrOf(s.dhcp(as(t, mac, 0, "")).YourIPAddr)
	if r := s.dhcp(as(t, mac, 0, "", dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithClientIP(leased.AsSlice()))); r == nil {
		t.Fatal("no lease")
	}
	for addr, want := range map[string]string{
		"10.77.0.1":     "address 10.77.0.1: it is this server's own",
		"10.99.0.1":     "address 10.99.0.1 is in none of the networks whose addresses are handed out (10.77.0.0/24)",
		leased.String(): "it is leased to " + mac + " until ",
		"10.77.0.9":     "",
	} {
		err := s.CheckAddress(netip.MustParseAddr(addr), []string{"52:54:00:aa:00:01"})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", addr, err, want)
		}
	}
	if err := s.CheckAddress(leased, []string{mac}); err != nil {
		t.Errorf("its own: %v", err)
	}
	if s.Mode = Proxy; s.CheckAddress(netip.MustParseAddr("10.99.0.1"), nil) != nil {
		t.Error("where another server hands out the addresses, nothing is known of them")
	}
}

// TestUnsent: an answer that this machine does not let out is told of, where it can be seen.
func TestUnsent(t *testing.T) {
	s := server(t, Full)
	var log bytes.Buffer
	s.Log = slog.New(slog.NewTextHandler(&log, nil))
	s.mustEnroll(t, "bravo", mac)
	conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}) // it sends to nobody else
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 2 {
		m := as(t, mac, 0, "")
		s.answer(s.links[0], conn, dhcpRequest{m, m.ToBytes(), addrPort("0.0.0.0:68")}, (*exchange).answerDHCP)
	}
	events, err := s.Hosts.Events("bravo", 0)
	if err != nil {
		t.Fatal(err)
	}
	if last := events[len(events)-1].Message; !strings.HasPrefix(last, "the answer to "+mac+" could not be sent to ") {
		t.Errorf("the host's log ends with %q", last)
	}
	// Of which `provision doctor` makes a finding.
	if tr, err := s.Traces.Get(mac); err != nil || tr.Stage != hosts.StageRefused ||
		!strings.HasPrefix(tr.Why, "the answer could not be sent (") || strings.Count(tr.Why, ": ") != 1 {
		t.Errorf("its trace: %s, %q, %v", tr.Stage, tr.Why, err)
	}
	if strings.Count(log.String(), "an answer could not be sent") != 1 {
		t.Errorf("the log: %s", &log)
	}
}

// TestLeaseAll: as the LAN's only DHCP server we give other devices addresses, and nothing to boot.
func TestLeaseAll(t *testing.T) {
	const phone = "02:11:22:33:44:55"
	for _, all := range []bool{false, true} {
		s := server(t, Full)
		if all {
			s.Unknown = Lease
		}
		if err := s.openSubnets(false); err != nil {
			t.Fatal(err)
		}
		for _, vendor := range []string{"", "PXEClient:Arch:00007"} {
			discover := as(t, phone, iana.EFI_X86_64, vendor)
			r, _ := s.handle(s.links[0], addrPort("0.0.0.0:68"), 67, nil, discover, (*exchange).answerDHCP)
			if (r != nil) != all {
				t.Fatalf("lease all %t, vendor class %q: %v", all, vendor, r)
			}
			if r == nil {
				continue
			}
			if !addrOf(r.YourIPAddr).IsValid() || r.BootFileName != "" || len(r.BootFileNameOption()) > 0 {
				t.Errorf("vendor class %q is offered %s, file %q", vendor, r.YourIPAddr, r.BootFileName)
			}
			request, err := dhcpv4.NewRequestFromOffer(r)
			if err != nil {
				t.Fatal(err)
			}
			if r, _ = s.handle(s.links[0], addrPort("0.0.0.0:68"), 67, nil, request, (*exchange).answerDHCP); r == nil ||
				r.MessageType() != dhcpv4.MessageTypeAck {
				t.Errorf("vendor class %q: %v", vendor, r)
			}
		}
	}
}
