package clients

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"provision/internal/lab"
	"provision/internal/lab/netboot"
	"provision/pxe"
)

// fetch asks for a path over HTTP, from a computer's network. No answer at all is "".
func fetch(t *testing.T, c *lab.Client, path string) (answer string) {
	t.Helper()
	must(t, c.Do(func() error {
		conn, err := net.Dial("tcp4", netip.AddrPortFrom(self, 80).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path)
		all, _ := io.ReadAll(conn) // a connection that is cut is the answer
		answer = string(all)
		return nil
	}))
	return answer
}

// TestBystander: who reads a token off the wire and wins every race gets nothing, though he takes the machine's address;
// the machine comes up.
func TestBystander(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			w := newWorld(t, 1, brisk)
			var ranges []string
			if mode == pxe.Proxy {
				w.router(0)
			} else {
				ranges = append(ranges, "10.77.0.100-10.77.0.199")
			}
			w.serve(mode, ranges...)
			m := w.known(netboot.Client{Kind: netboot.IPXE, Until: netboot.UntilLease})
			leased := w.bootAll(m)[0].Address
			token := m.host().Boot.Token
			for i, at := range []netip.Addr{addr("10.77.0.66"), leased} {
				name := fmt.Sprintf("bystander%d", i)
				c, err := w.lans[0].Client(w.ctx, name, fmt.Sprintf("52:54:00:66:00:0%d", i), netip.PrefixFrom(at, 24))
				must(t, err)
				for _, file := range []string{"script", "kernel", "initrd", "ipxe.efi"} {
					if got := fetch(t, c, "/boot/"+token+"/"+file); got != "" {
						t.Errorf("%s was given the %s: %.60q", at, file, got)
					}
				}
				must(t, c.Close())
			}
			m.Until = netboot.UntilImages
			if r := w.bootAll(m)[0]; !m.up(r) || m.host().Boot.Token != token {
				t.Errorf("the machine did not come up by the same boot:\n%s", m.conversation(r))
			}
			for _, mac := range []string{"52:54:00:66:00:00", "52:54:00:66:00:01"} {
				if !strings.Contains(m.log(), "has the MAC "+mac+", which is not one of "+m.name+"'s") {
					t.Errorf("the log does not tell of %s:\n%s", mac, m.log())
				}
			}
		})
	}
}

// TestSharedWire: machines on one wire have Ethernet addresses of their own, as the server sees them.
func TestSharedWire(t *testing.T) {
	w := newWorld(t, 1, brisk)
	w.router(0)
	w.serve(pxe.Proxy)
	one := w.known(netboot.Client{Kind: netboot.EDK2X64})
	two := &machine{Client: netboot.Client{Kind: netboot.BIOS, MAC: net.HardwareAddr{0x52, 0x54, 0, 0xbb, 0, 1}, Scale: w.pace}, w: w, name: "second", wire: one.wire}
	w.enroll(archOf(two.Kind), two)
	for i, r := range w.bootAll(one, two) {
		if m := []*machine{one, two}[i]; !m.up(r) {
			t.Errorf("%s:\n%s", m.Kind, m.conversation(r))
		}
	}
}
