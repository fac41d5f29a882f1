package main

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// A fakeLAN answers each packet at once, with what answer makes of it.
type fakeLAN struct {
	net.PacketConn
	t      *testing.T
	answer func(*dhcpv4.DHCPv4) [][]byte
	queue  [][]byte
}

func (f *fakeLAN) SetDeadline(time.Time) error { return nil }

func (f *fakeLAN) WriteTo(b []byte, to net.Addr) (int, error) {
	p, err := dhcpv4.FromBytes(b)
	if err != nil || to.String() != "255.255.255.255:67" || !p.IsBroadcast() {
		f.t.Errorf("sent to %s: %v, %v", to, p, err)
	}
	f.queue = append(f.queue, f.answer(p)...)
	return len(b), nil
}

func (f *fakeLAN) ReadFrom(b []byte) (int, net.Addr, error) {
	if len(f.queue) == 0 {
		return 0, nil, os.ErrDeadlineExceeded
	}
	n := copy(b, f.queue[0])
	f.queue = f.queue[1:]
	return n, nil, nil
}

func TestExchange(t *testing.T) {
	home := func(p *dhcpv4.DHCPv4, more ...dhcpv4.Modifier) []byte {
		kind := dhcpv4.MessageTypeOffer
		if p.MessageType() == dhcpv4.MessageTypeRequest {
			kind = dhcpv4.MessageTypeAck
		}
		r, err := dhcpv4.NewReplyFromRequest(p, append([]dhcpv4.Modifier{dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 5)),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 0, 0, 254))), dhcpv4.WithNetmask(net.CIDRMask(22, 32)),
			dhcpv4.WithRouter(net.IPv4(10, 0, 0, 254)), dhcpv4.WithLeaseTime(7200)}, more...)...)
		if err != nil {
			t.Fatal(err)
		}
		return r.ToBytes()
	}
	stranger := func(p *dhcpv4.DHCPv4) []byte {
		q := *p
		q.TransactionID[0]++
		return home(&q, dhcpv4.WithYourIP(net.IPv4(6, 6, 6, 6)))
	}
	for _, test := range []struct {
		name, want, err string
		answer          func(*dhcpv4.DHCPv4) [][]byte
	}{
		{"a home router", "10.0.0.5/22 10.0.0.254 10.0.0.254 2h0m0s", "", func(p *dhcpv4.DHCPv4) [][]byte { return [][]byte{home(p)} }},
		{"others before it: noise, a stranger's answer, a ProxyDHCP server", "10.0.0.5/22 10.0.0.254 10.0.0.254 2h0m0s", "",
			func(p *dhcpv4.DHCPv4) [][]byte {
				return [][]byte{nil, []byte("noise"), p.ToBytes(), stranger(p),
					home(p, dhcpv4.WithYourIP(net.IPv4zero), dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient"))), home(p)}
			}},
		{"a plain one", "10.0.0.5/8 invalid IP invalid IP 1h0m0s", "", func(p *dhcpv4.DHCPv4) [][]byte {
			return [][]byte{home(p, func(r *dhcpv4.DHCPv4) {
				for _, o := range []dhcpv4.OptionCode{dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionServerIdentifier, dhcpv4.OptionIPAddressLeaseTime} {
					r.Options.Del(o)
				}
			})}
		}},
		{"a lease of a second", "10.0.0.5/22 10.0.0.254 10.0.0.254 1m0s", "", func(p *dhcpv4.DHCPv4) [][]byte { return [][]byte{home(p, dhcpv4.WithLeaseTime(1))} }},
		{"nobody", "", "no server answers", func(*dhcpv4.DHCPv4) [][]byte { return nil }},
		{"an offer and no more", "", "no server answers", func(p *dhcpv4.DHCPv4) [][]byte {
			if p.MessageType() == dhcpv4.MessageTypeRequest {
				return nil
			}
			return [][]byte{home(p)}
		}},
		{"refused", "", "refused the address", func(p *dhcpv4.DHCPv4) [][]byte {
			if p.MessageType() == dhcpv4.MessageTypeRequest {
				return [][]byte{home(p, dhcpv4.WithMessageType(dhcpv4.MessageTypeNak))}
			}
			return [][]byte{home(p)}
		}},
		{"a mask with a hole", "", "which is none", func(p *dhcpv4.DHCPv4) [][]byte {
			return [][]byte{home(p, dhcpv4.WithNetmask(net.IPv4Mask(255, 0, 255, 0)))}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, err := exchange(&fakeLAN{t: t, answer: test.answer}, net.HardwareAddr{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("10.0.0.7"), time.Second, time.Minute)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want %q", err, test.err)
				}
				return
			}
			if got := strings.Join([]string{l.addr.String(), l.gateway.String(), l.server.String(), l.time.String()}, " "); got != test.want || err != nil {
				t.Errorf("got %s, %v, want %s", got, err, test.want)
			}
		})
	}
}
