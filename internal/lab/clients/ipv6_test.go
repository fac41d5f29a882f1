package clients

import (
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"provision/internal/lab/netboot"
)

// TestIPv6: an installed host's firmware that asks for a boot over IPv6 is told that there is none, though a DHCPv6 server
// on our machine has the port, which goes on hearing everything.
func TestIPv6(t *testing.T) {
	text, err := os.ReadFile("../../../pxe/testdata/ovmf-x64-solicit.hex")
	must(t, err)
	solicit, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	must(t, err)
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			w := newWorld(t, 1, brisk)
			w.quiet = true // over IPv4
			ifi, err := net.InterfaceByName(w.lans[0].Interface)
			must(t, err)
			servers := net.UDPAddr{IP: net.ParseIP("ff02::1:2"), Port: 547}
			other, err := net.ListenMulticastUDP("udp6", ifi, &servers)
			must(t, err)
			defer other.Close()
			w.begin(mode)
			m := w.known(netboot.Client{Kind: netboot.EDK2X64})
			m.install()
			a := [16]byte{0: 0xfe, 1: 0x80, 8: m.MAC[0] ^ 2, 9: m.MAC[1], 10: m.MAC[2], 11: 0xff, 12: 0xfe, 13: m.MAC[3], 14: m.MAC[4], 15: m.MAC[5]}
			own := netip.AddrFrom16(a)
			for _, command := range []string{"flush dev eth0", "add " + own.String() + "/64 dev eth0 nodad"} { // usable at once
				_, err = m.port.Run(w.ctx, "ip", strings.Fields("-6 address "+command)...)
				must(t, err)
			}
			buf := make([]byte, 1500)
			must(t, m.port.Do(func() error {
				card, err := net.InterfaceByName(m.port.Interface)
				if err != nil {
					return err
				}
				zone := strconv.Itoa(card.Index)
				conn, err := net.ListenUDP("udp6", &net.UDPAddr{IP: own.AsSlice(), Port: 546, Zone: zone})
				if err != nil {
					return err
				}
				defer conn.Close()
				var n int
				var from netip.AddrPort
				for range 10 { // our own link-local address is not usable at once, and firmware asks again, too
					if _, err = conn.WriteTo(solicit, &net.UDPAddr{IP: servers.IP, Port: servers.Port, Zone: zone}); err != nil {
						return err
					}
					if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
						return err
					}
					if n, from, err = conn.ReadFromUDPAddrPort(buf); err == nil {
						break
					}
				}
				if err != nil {
					return err
				}
				const advertise = 2
				if from.Port() != 547 || buf[0] != advertise || string(buf[1:4]) != string(solicit[1:4]) {
					t.Errorf("%s answered %x", from, buf[:n])
				}
				return nil
			}))
			must(t, other.SetReadDeadline(time.Now().Add(5*time.Second)))
			if n, err := other.Read(buf); err != nil || string(buf[:n]) != string(solicit) {
				t.Errorf("the other server heard %x, %v", buf[:n], err)
			}
		})
	}
}
