package clients

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"provision/hosts"
	"provision/images"
	"provision/internal/lab/netboot"
	"provision/pxe"
)

// fromUs are the DHCP replies of the server's that a machine heard.
func (m *machine) fromUs(r netboot.Result) (replies []*dhcpv4.DHCPv4) {
	m.w.Helper()
	for _, msg := range r.Trace {
		if msg.Sent || msg.Packet == nil || msg.Peer.Addr() != self {
			continue
		}
		p, err := dhcpv4.FromBytes(msg.Packet)
		must(m.w.T, err)
		replies = append(replies, p)
	}
	return replies
}

// plain reports whether a reply tells nothing of a boot, not even how a PC is told to do without.
func plain(p *dhcpv4.DHCPv4) bool {
	none := func(code dhcpv4.OptionCode) bool { return p.Options.Get(code) == nil }
	return p.BootFileName == "" && p.ServerHostName == "" && p.ServerIPAddr.IsUnspecified() && none(dhcpv4.OptionBootfileName) &&
		none(dhcpv4.OptionTFTPServerName) && none(dhcpv4.OptionClassIdentifier) && none(dhcpv4.OptionVendorSpecificInformation)
}

// got reports whether anything was fetched.
func got(r netboot.Result) bool {
	return slices.ContainsFunc(r.Fetched, func(f netboot.Fetch) bool { return f.Failed == "" && f.Size+f.Bytes > 0 })
}

const noFirmware = " asked to boot and was refused: no such image: there is no firmware \"raspberrypi\" yet; add it with: provision images firmware add raspberrypi --from DIR"

// refusals are machines that cannot be booted, what they say themselves, and what the host's log says.
var refusals = []struct {
	kind         netboot.Kind
	host         images.Arch
	mac          net.HardwareAddr
	stopped, log string
}{
	{netboot.Pi3B, images.AArch64, net.HardwareAddr{0xb8, 0x27, 0xeb, 0, 0, 1}, "no reply for a Raspberry Pi", "Raspberry Pi 3B, 3B+ or CM3" + noFirmware}, // nothing but the MAC tells these from PCs
	{netboot.Pi3BPlus, images.AArch64, net.HardwareAddr{0xb8, 0x27, 0xeb, 0, 0, 2}, "no reply for a Raspberry Pi", "Raspberry Pi 3B, 3B+ or CM3 b2000002" + noFirmware},
	{netboot.Pi4, images.AArch64, net.HardwareAddr{0xdc, 0xa6, 0x32, 0, 0, 3}, "no reply for a Raspberry Pi", "Raspberry Pi 4B e5000003" + noFirmware},
	{netboot.Pi5, images.X86_64, net.HardwareAddr{0x2c, 0xcf, 0x67, 0, 0, 4}, "no reply for a Raspberry Pi",
		"Raspberry Pi 5 e5000004 asked to boot and was refused: the machine is aarch64 (Raspberry Pi 5 e5000004) and HOST is built for x86_64"},
	{netboot.EDK2IA32, images.X86_64, nil, "PXE-E16: no valid offer received",
		"IA32 UEFI PXE asked to boot and was refused: it asks as IA32 UEFI, for which there is no installer: choose 64-bit UEFI or BIOS in its firmware, if it has that"},
	{netboot.EDK2X64, images.AArch64, nil, "PXE-E16: no valid offer received",
		"x86-64 UEFI PXE asked to boot and was refused: the machine is x86_64 (x86-64 UEFI PXE) and HOST is built for aarch64"},
	{netboot.HTTPARM64, images.X86_64, nil, "PXE-E16: no valid offer received",
		"arm64 UEFI HTTP asked to boot and was refused: the machine is aarch64 (arm64 UEFI HTTP) and HOST is built for x86_64"},
}

func refusedKinds() (kinds []netboot.Kind) {
	for _, r := range refusals[:5] {
		kinds = append(kinds, r.kind)
	}
	return kinds
}

// heard reports whether anything was answered to a request for a file, be it a refusal.
func heard(r netboot.Result) bool {
	return got(r) || slices.ContainsFunc(r.Fetched, func(f netboot.Fetch) bool { return f.Failed != "" })
}

// TestRefused: what cannot be booted is never answered like a machine that can, and the host's log says why.
func TestRefused(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			w := newWorld(t, 1, hasty)
			w.begin(mode)
			var machines []*machine
			for _, s := range refusals {
				m := w.plug(0, netboot.Client{Kind: s.kind, MAC: s.mac})
				w.enroll(s.host, m)
				machines = append(machines, m)
			}
			for i, r := range w.bootAll(machines...) {
				m, want := machines[i], refusals[i]
				if !strings.HasPrefix(r.Stopped, want.stopped) || got(r) || len(m.host().Tokens) != 0 || strings.Count(m.log(), strings.ReplaceAll(want.log, "HOST", m.name)) != 1 {
					t.Errorf("%s:\n%s", m.Kind, m.conversation(r))
				}
				replies := m.fromUs(r)
				if (len(replies) > 0) != (mode == pxe.Full) || slices.ContainsFunc(replies, func(p *dhcpv4.DHCPv4) bool { return !plain(p) }) {
					t.Errorf("%s was answered by: %v", m.Kind, replies)
				}
				m.tftpRefused()
				if mode == pxe.Full {
					m.leased()
				}
			}
		})
	}
}

// tftpRefused asks by TFTP for what the machine may have heard of.
func (m *machine) tftpRefused() {
	m.w.Helper()
	_, err := m.port.Run(m.w.ctx, "ip", "address", "replace", "10.77.0.60/24", "dev", "eth0")
	must(m.w.T, err)
	must(m.w.T, m.port.Do(func() error {
		conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(self, 69)))
		if err != nil {
			return err
		}
		conn.Close()
		for _, name := range []string{"bootcode.bin", "start4.elf", "e5ef6e9d/start4.elf", "config.txt", "undionly.kpxe", "ipxe.efi", "snponly-arm64.efi", "kernel"} {
			conn, err := net.ListenUDP("udp4", nil)
			if err != nil {
				return err
			}
			defer conn.Close()
			if _, err := conn.WriteToUDPAddrPort([]byte("\x00\x01"+name+"\x00octet\x00"), netip.AddrPortFrom(self, 69)); err != nil {
				return err
			}
			if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				return err
			}
			b := make([]byte, 2000)
			n, _, err := conn.ReadFromUDPAddrPort(b)
			if err != nil || !bytes.HasPrefix(b[:n], []byte("\x00\x05\x00\x01")) {
				m.w.Errorf("%s asked for %s by TFTP and got %q, %v", m.Kind, name, b[:n], err)
			}
		}
		return nil
	}))
	_, err = m.port.Run(m.w.ctx, "ip", "address", "delete", "10.77.0.60/24", "dev", "eth0")
	must(m.w.T, err)
}

// leased has the machine lease an address.
func (m *machine) leased() {
	m.w.Helper()
	all := netip.AddrPortFrom(addr("255.255.255.255"), 67)
	ask := func(question []byte, err error) *dhcpv4.DHCPv4 {
		m.w.Helper()
		must(m.w.T, err)
		answer, err := m.wire.Ask(m.w.ctx, question, all, 5*time.Second)
		must(m.w.T, err)
		p, err := dhcpv4.FromBytes(answer)
		must(m.w.T, err)
		return p
	}
	offer := ask(m.Discover())
	mine, _ := netip.AddrFromSlice(offer.YourIPAddr.To4())
	ack := ask(m.Request(self, mine))
	if ack.MessageType() != dhcpv4.MessageTypeAck || !prefix("10.77.0.0/24").Contains(mine) || !ack.YourIPAddr.Equal(offer.YourIPAddr) || !plain(ack) {
		m.w.Errorf("%s leased: %v", m.Kind, ack)
	}
}

// install makes the machine's host an installed one.
func (m *machine) install() {
	m.w.Helper()
	h, err := m.w.hosts.BeginBoot(m.name, hosts.Boot{Expires: m.w.now().Add(time.Hour)}, "")
	must(m.w.T, err)
	for _, ev := range []hosts.Event{{Kind: hosts.EventContacted, Address: "10.77.0.99", Boot: &h.Boot}, {Kind: hosts.EventBurned}, {Kind: hosts.EventRebooted}, {Kind: hosts.EventProved}} {
		h, err = m.w.hosts.Apply(m.name, ev)
		must(m.w.T, err)
	}
	if h.State != hosts.StateInstalled {
		m.w.Fatal(h.State)
	}
}

// TestNoBoot: a machine that is not enrolled hears nothing, whatever its firmware, and is listed; and that of an installed
// host gets no boot. UEFI that listens is then told to go on to its disk at once, by HTTP boot and for a Raspberry Pi by
// files that are not there.
func TestNoBoot(t *testing.T) {
	local := map[pxe.Mode][]netboot.Kind{
		pxe.Proxy: append(on(netboot.EDK2X64, netboot.EDK2X64As9, netboot.EDK2ARM64), pis...),
		pxe.Full:  append(on(netboot.EDK2X64, netboot.EDK2X64As9, netboot.EDK2ARM64, netboot.OldEDK2), pis...),
	}
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			w := newWorld(t, 1, hasty)
			w.begin(mode)
			var machines []*machine
			for _, kind := range netboot.Kinds() {
				c := netboot.Client{Kind: kind}
				if mode == pxe.Proxy {
					c.Server = self
				}
				machines = append(machines, w.plug(0, c))
			}
			for i, r := range w.bootAll(machines...) {
				m := machines[i]
				if len(m.fromUs(r)) > 0 || heard(r) {
					t.Errorf("%s, which nobody knows, was answered:\n%v\n%v", m.Kind, m.fromUs(r), r.Fetched)
				}
				if !slices.ContainsFunc(w.hosts.Discovered(), func(d hosts.Discovered) bool { return d.MAC == m.MAC.String() }) {
					t.Errorf("%s is not listed", m.Kind)
				}
				w.enroll(archOf(m.Kind), m)
				m.install()
			}
			for i, r := range w.bootAll(machines...) {
				m := machines[i]
				h := m.host()
				if want := slices.Contains(local[mode], m.Kind); r.Local != want || (r.Stopped == "") != (want || m.Kind == netboot.System) || got(r) || h.State != hosts.StateInstalled || len(h.Tokens) != 1 {
					t.Errorf("%s, %s with %d boots:\n%s", m.Kind, h.State, len(h.Tokens), m.conversation(r))
				}
				if http := slices.Contains(on(netboot.HTTPX64, netboot.HTTPARM64), m.Kind); http && !strings.HasSuffix(r.Stopped, "404 Not Found") {
					t.Errorf("%s waits for more:\n%s", m.Kind, m.conversation(r))
				}
				if strings.Contains(m.log(), "refused") {
					t.Errorf("%s: that an installed host starts is not worth a word:\n%s", m.Kind, m.log())
				}
			}
		})
	}
}
