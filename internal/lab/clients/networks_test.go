package clients

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"provision/images"
	"provision/internal/doctor"
	"provision/internal/lab/netboot"
	"provision/pxe"
)

// TestRelay: machines behind a relay agent come up; without addresses for their network, the host's log says so.
func TestRelay(t *testing.T) {
	for _, tt := range []struct {
		mode  pxe.Mode
		more  []string // ranges
		kinds []netboot.Kind
	}{
		{pxe.Proxy, nil, []netboot.Kind{netboot.EDK2X64, netboot.HP, netboot.BIOS, netboot.HTTPARM64, netboot.IPXE}},
		{pxe.Full, []string{"10.88.0.100-10.88.0.199/24"}, []netboot.Kind{netboot.EDK2X64, netboot.HP, netboot.BIOS, netboot.HTTPARM64, netboot.IPXE, netboot.UBoot2025, netboot.System}},
		{pxe.Full, nil, []netboot.Kind{netboot.EDK2X64}},
	} {
		t.Run(fmt.Sprint(tt.mode, len(tt.more)), func(t *testing.T) {
			pace := brisk
			if tt.mode == pxe.Full && tt.more == nil {
				pace = hasty
			}
			w := newWorld(t, 1, pace)
			w.quiet = pace == hasty
			w.relays = []netip.Prefix{prefix("10.88.0.0/24")}
			ranges := tt.more
			if tt.mode == pxe.Full {
				ranges = append(ranges, "10.77.0.100-10.77.0.199")
			}
			w.serve(tt.mode, ranges...)
			c, err := w.lans[0].Client(w.ctx, "relay", "52:54:00:77:00:09", prefix("10.77.0.9/24"))
			must(t, err)
			defer c.Close()
			if out, err := exec.Command("ip", "route", "add", "10.88.0.0/24", "via", "10.77.0.9").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			wire, err := netboot.Open(c, c.Interface)
			must(t, err)
			defer wire.Close()
			relay, err := wire.Relay(addr("10.88.0.1"), self, []byte("\x01\x04port\x02\x05rack7"))
			must(t, err)
			defer relay.Close()
			var machines []*machine
			for i, kind := range tt.kinds {
				c := netboot.Client{Kind: kind, MAC: net.HardwareAddr{0x52, 0x54, 0, 0xbb, 0, byte(i)}, Relay: relay, Scale: w.pace}
				if tt.mode == pxe.Proxy { // a DHCP server elsewhere has leased this
					c.Address = netip.AddrFrom4([4]byte{10, 88, 0, 50 + byte(i)})
				}
				machines = append(machines, &machine{Client: c, w: w, name: "relayed-" + string(kind), wire: wire})
				w.enroll(archOf(kind), machines[i])
			}
			for i, r := range w.bootAll(machines...) {
				m := machines[i]
				switch {
				case w.quiet:
					if !strings.HasPrefix(r.Stopped, "PXE-E16") || !strings.Contains(m.log(), "asked through the relay 10.88.0.1, for whose network there are no addresses: serve with --dhcp-range FIRST-LAST/BITS for it too") {
						t.Errorf("%s:\n%s", m.Kind, m.conversation(r))
					}
				case m.Kind == netboot.System && r.Stopped == "" && prefix("10.88.0.0/24").Contains(r.Address):
				case !m.up(r) || m.rounds(r) > 2 || !prefix("10.88.0.0/24").Contains(r.Address) || strings.Contains(fmt.Sprint(r.Remarks), "relay"):
					t.Errorf("%s:\n%s", m.Kind, m.conversation(r))
				}
			}
		})
	}
}

// TestNICs: any of a host's NICs boots it, on either of two LANs that one server serves, and the installer is told which
// did (machine.up).
func TestNICs(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			w := newWorld(t, 2, brisk)
			var ranges []string
			for lan := range 2 {
				if mode == pxe.Proxy {
					w.router(lan)
					continue
				}
				ranges = append(ranges, fmt.Sprintf("10.%d.0.100-10.%d.0.199", 77+lan, 77+lan))
			}
			w.serve(mode, ranges...)
			for _, kind := range []netboot.Kind{netboot.EDK2X64, netboot.IPXE} {
				c := netboot.Client{Kind: kind}
				nics := []*machine{w.plug(0, c), w.plug(0, c), w.plug(1, c)}
				w.enroll(images.X86_64, nics...)
				for i, m := range nics {
					r := w.bootAll(m)[0]
					server := w.lans[i/2].Address
					if h := m.host(); !m.up(r) || r.Server != server.Addr() || !server.Masked().Contains(r.Address) || h.Permit.Boots != i+1 || h.Boot.MAC != m.MAC.String() {
						t.Errorf("%s, NIC %d, boot %+v:\n%s", kind, i, h.Boot, m.conversation(r))
					}
				}
			}
		})
	}
}

// lines is a log that can be waited for.
type lines chan string

func (l lines) Write(line []byte) (int, error) {
	l <- string(line)
	return len(line), nil
}

// await waits for a line that holds some text.
func (l lines) await(w *world, text string) {
	w.Helper()
	for said := ""; !strings.Contains(said, text); {
		select {
		case said = <-l:
		case <-w.ctx.Done():
			w.Fatalf("the log never said: %s", text)
		}
	}
}

// TestMTU: blocks of TFTP fit the MTU that the interface has by then.
func TestMTU(t *testing.T) {
	w := newWorld(t, 1, brisk)
	log := make(lines, 1000)
	w.log = slog.New(slog.NewTextHandler(log, nil))
	w.serve(pxe.Full, "10.77.0.100-10.77.0.199")
	log.await(w, "answering booting machines")
	if out, err := exec.Command("ip", "link", "set", w.lans[0].Interface, "mtu", "1400").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	log.await(w, "the MTU of an interface has changed")
	m := w.known(netboot.Client{Kind: netboot.BIOS})
	if r := w.bootAll(m)[0]; !m.up(r) {
		t.Error(m.conversation(r))
	}
	if tr, err := w.traces.Get(m.MAC.String()); err != nil || tr.Blksize != 1400-32 {
		t.Errorf("its blocks had %d bytes, %v", tr.Blksize, err)
	}
}

// TestAddressesInUse: a machine gets the one address that nobody on the LAN has already.
func TestAddressesInUse(t *testing.T) {
	w := newWorld(t, 1, brisk)
	c, err := w.lans[0].Client(w.ctx, "other", "52:54:00:77:00:09", prefix("10.77.0.9/24"))
	must(t, err)
	defer c.Close()
	for i := range 7 {
		_, err := c.Run(w.ctx, "ip", "address", "add", fmt.Sprintf("10.77.0.%d/24", 100+i), "dev", c.Interface)
		must(t, err)
	}
	log := make(lines, 1000)
	w.log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.serve(pxe.Full, "10.77.0.100-10.77.0.107")
	log.await(w, "probed free addresses")
	m := w.known(netboot.Client{Kind: netboot.EDK2X64})
	if r := w.bootAll(m)[0]; !m.up(r) || r.Address != addr("10.77.0.107") {
		t.Errorf("it got %s:\n%s", r.Address, m.conversation(r))
	}
}

// TestOff: the operator's own DHCP server, with what doctor prints for it, leads machines here.
func TestOff(t *testing.T) {
	w := newWorld(t, 1, brisk)
	text, err := doctor.Recipe("dnsmasq", self, 80)
	must(t, err)
	var args []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "#") {
			args = append(args, "--"+line)
		}
	}
	w.router(0, args...)
	w.serve(pxe.Off)
	var machines []*machine
	for _, kind := range []netboot.Kind{netboot.EDK2X64, netboot.EDK2ARM64, netboot.BIOS, netboot.HTTPX64, netboot.HTTPARM64, netboot.IPXE, netboot.UBoot2025} {
		machines = append(machines, w.known(netboot.Client{Kind: kind}))
	}
	known := len(machines)
	for _, kind := range []netboot.Kind{netboot.EDK2X64, netboot.HTTPX64, netboot.IPXE} {
		machines = append(machines, w.plug(0, netboot.Client{Kind: kind}))
	}
	for i, r := range w.bootAll(machines...) {
		m := machines[i]
		if i >= known {
			if r.Stopped == "" || heard(r) {
				t.Errorf("%s, which nobody knows:\n%v\n%s", m.Kind, r.Fetched, r.Stopped)
			}
		} else if !m.up(r) || m.rounds(r) != 1 || m.host().Permit.Boots != 1 {
			t.Errorf("%s:\n%s", m.Kind, m.conversation(r))
		}
	}
}
