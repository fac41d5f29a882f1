package pxe

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"provision/hosts"
	"provision/internal/tftp"
)

// told reports whether the host's log says something.
func (s *Server) told(t *testing.T, words string) bool {
	t.Helper()
	events, err := s.Hosts.Events("bravo", 0)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(fmt.Sprint(events), words)
}

var asRequest = dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest)

func wanting(ip net.IP) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(ip)) }

func mods(list ...dhcpv4.Modifier) []dhcpv4.Modifier { return list }

// TestBystanderGetsNothing: whoever read a token off the wire gets nothing for it, over HTTP or TFTP, whatever it asks
// for and however early; the host's machine does.
func TestBystanderGetsNothing(t *testing.T) {
	for _, mode := range []Mode{Proxy, Full, Off} {
		s := server(t, mode)
		h := s.begin(t)
		srv := httptest.NewServer(s.routes(s.links[0]))
		defer srv.Close()
		asker := "52:54:00:00:00:66"
		s.links[0].neighbour = func(netip.Addr) string { return asker }
		files := []string{"script", "kernel", "initrd", "ipxe.efi", "autoexec.ipxe", "pxelinux.cfg/01-52-54-00-12-34-56"}
		for _, file := range files {
			if resp, _, err := get(t, srv, http.MethodGet, "/boot/"+h.Boot.Token+"/"+file, ""); err == nil {
				t.Errorf("%s: HTTP %s: %s", mode, file, resp.Status)
			}
			if _, err := s.open(s.links[0], "boot/"+h.Boot.Token+"/"+file, addrPort("10.77.0.66:1024")); err != tftp.ErrNotServed {
				t.Errorf("%s: TFTP %s: %v", mode, file, err)
			}
		}
		told := s.told(t, "127.0.0.1 has the MAC 52:54:00:00:00:66, which is not one of bravo's")
		if h, _ := s.Hosts.Get("bravo"); h.Boot.TakenBy != "" || !told {
			t.Errorf("%s: the boot is that of %q, or the log does not tell", mode, h.Boot.TakenBy)
		}
		asker = mac
		_, script, err := get(t, srv, http.MethodGet, "/boot/"+h.Boot.Token+"/script", "")
		if err != nil || !strings.HasPrefix(string(script), "#!ipxe") {
			t.Errorf("%s: its own machine: %v", mode, err)
		}
	}
}

// TestBeyondTheLink: behind a router, DHCP has seen the host's machine take the address that fetches.
func TestBeyondTheLink(t *testing.T) {
	s := server(t, Proxy)
	h := s.begin(t)
	s.beyondTheLink()
	srv := httptest.NewServer(s.routes(s.links[0]))
	defer srv.Close()
	script := "/boot/" + h.Boot.Token + "/script"
	if resp, _, err := get(t, srv, http.MethodGet, script, ""); err == nil {
		t.Errorf("an address that nobody vouches for: %s", resp.Status)
	}
	s.dhcp(as(t, mac, 0, "", relayed("127.0.0.9"), asRequest, wanting(net.IPv4(127, 0, 0, 1))))
	if _, _, err := get(t, srv, http.MethodGet, script, ""); err != nil {
		t.Errorf("the address that DHCP saw: %v", err)
	}
}

// TestBeyondTheLinkSoon: a fetch that overtakes the DHCPREQUEST before it waits for that.
func TestBeyondTheLinkSoon(t *testing.T) {
	s := server(t, Proxy)
	h := s.begin(t)
	s.beyondTheLink()
	asked := make(chan struct{})
	s.links[0].neighbour = func(netip.Addr) string { close(asked); return "" }
	vouched := make(chan error)
	go func() { vouched <- s.vouchSoon(t.Context(), s.links[0], h, netip.MustParseAddr("127.0.0.1")) }()
	<-asked
	s.dhcp(as(t, mac, 0, "", relayed("127.0.0.9"), asRequest, wanting(net.IPv4(127, 0, 0, 1))))
	if err := <-vouched; err != nil {
		t.Error(err)
	}
}

// TestBorder: a packet from, by way of, or for a network that is not served changes nothing, and nothing is sent there.
func TestBorder(t *testing.T) {
	from := func(ip string) dhcpv4.Modifier {
		return func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = net.ParseIP(ip) }
	}
	for _, tt := range []struct {
		name   string
		from   string
		port   uint16
		mods   []dhcpv4.Modifier
		relays string
		to     string // "": nowhere
	}{
		{"a relay of the sender's choice", "10.20.0.66:67", 67, mods(relayed("10.20.0.66")), "", ""},
		{"such a relay beside a named one", "10.20.0.66:67", 67, mods(relayed("10.20.0.66")), "10.9.0.1/32", ""},
		{"a named relay", "10.20.0.66:67", 67, mods(relayed("10.9.0.1")), "10.9.0.1/32", "10.9.0.1:67"},
		{"in a named network", "10.20.0.66:67", 67, mods(relayed("10.9.0.1")), "10.9.0.0/24", "10.9.0.1:67"},
		{"on our link", "10.77.0.9:67", 67, mods(relayed("10.77.0.9")), "", "10.77.0.9:67"},
		{"from afar", "10.20.0.66:68", 67, nil, "", ""},
		{"from afar to port 4011", "10.20.0.66:68", 4011, mods(asRequest), "", ""},
		{"from afar to port 4011, as if through a relay of ours", "10.20.0.66:68", 4011,
			mods(asRequest, relayed("10.77.0.9")), "", ""},
		{"from a named network to port 4011", "10.9.0.66:68", 4011, mods(asRequest), "10.9.0.0/24", "10.9.0.66:68"},
		{"for an address of the sender's choice", "0.0.0.0:68", 67, mods(from("10.20.0.66")), "", "255.255.255.255:68"},
		{"for an address on our link", "0.0.0.0:68", 67, mods(from("10.77.0.66")), "", "10.77.0.66:68"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := server(t, Proxy)
			if tt.relays != "" {
				s.Relays = []netip.Prefix{netip.MustParsePrefix(tt.relays)}
			}
			s.mustEnroll(t, "bravo", mac)
			answer := (*exchange).answerDHCP
			if tt.port == 4011 {
				answer = (*exchange).answerBINL
			}
			m := as(t, mac, iana.EFI_X86_64, "PXEClient:Arch:00007", tt.mods...)
			r, to := s.handle(s.links[0], addrPort(tt.from), tt.port, nil, m, answer)
			if tt.to != "" {
				if r == nil || to != addrPort(tt.to) {
					t.Errorf("to %s: %v", to, r)
				}
				return
			}
			told := s.told(t, "in no network that is served, and got no answer: if it is yours, serve with --relay 10.20.0.66")
			if h, _ := s.Hosts.Get("bravo"); r != nil || h.State != hosts.StateReady || !told {
				t.Errorf("%s, to %s: %v", h.State, to, r)
			}
		})
	}
}

// TestForgedAddress: a packet through a relay makes a host's only what that network has.
func TestForgedAddress(t *testing.T) {
	s := server(t, Proxy)
	s.Relays = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/24")}
	s.mustEnroll(t, "bravo", mac)
	for asked, want := range map[string]string{"10.20.0.66": "", "10.9.0.50": "10.9.0.50"} {
		s.dhcp(as(t, mac, 0, "", relayed("10.9.0.1"), asRequest, wanting(net.ParseIP(asked))))
		if h, _ := s.Hosts.Get("bravo"); want != "" && h.Address != want || h.Address == "10.20.0.66" {
			t.Errorf("asked for %s: %q", asked, h.Address)
		}
	}
}

func TestParseRelay(t *testing.T) {
	for in, want := range map[string]string{
		"10.9.0.1": "10.9.0.1/32", "10.9.0.1/24": "10.9.0.0/24", "": "", "fe80::1": "", "10.9.0.1-10.9.0.9": "",
	} {
		if p, err := ParseRelay(in); (err == nil) != (want != "") || err == nil && p.String() != want {
			t.Errorf("%q: %s, %v", in, p, err)
		}
	}
}

// TestOnePacketLocksNobodyOut: forged DISCOVERs with other UUIDs, before and after the machine's own, keep nobody from
// its boot, nor from the next one.
func TestOnePacketLocksNobodyOut(t *testing.T) {
	uuid := func(b byte) dhcpv4.Modifier {
		return dhcpv4.WithGeneric(dhcpv4.OptionClientMachineIdentifier, append([]byte{0}, strings.Repeat(string(b), 16)...))
	}
	for name, order := range map[string]string{"before": "frr", "after": "rfr", "both": "frfr"} {
		t.Run(name, func(t *testing.T) {
			s := server(t, Proxy)
			now := noon
			s.Now = func() time.Time { return now }
			s.mustEnroll(t, "bravo", mac)
			var file string
			for _, who := range []byte(order) {
				r := s.dhcp(as(t, mac, iana.EFI_X86_64, "PXEClient:Arch:00007", uuid(who)))
				if r == nil {
					t.Fatalf("silence for %c", who)
				}
				file = r.BootFileNameOption()
			}
			script := hosts.Fetch{Client: "10.77.0.104", File: "script"}
			if _, err := s.Hosts.UseBoot(tokenPattern.FindString(file), script); err != nil {
				t.Fatal(err)
			}
			now = now.Add(time.Minute)
			if s.dhcp(as(t, mac, iana.EFI_X86_64, "PXEClient:Arch:00007", uuid('r'))) == nil {
				t.Error("it restarted and was refused")
			}
			if !s.told(t, "asked for one boot with the same MAC") {
				t.Error("the log does not tell")
			}
		})
	}
}

// TestForgedAddressesHoldNothingBack: after any number of forged REQUESTs in one moment, the machine's own address
// counts.
func TestForgedAddressesHoldNothingBack(t *testing.T) {
	s := server(t, Full)
	s.mustEnroll(t, "bravo", mac)
	for i := range 40 {
		address := fmt.Sprint("10.77.0.", i+2)
		forged := hosts.Event{Kind: hosts.EventAddress, Address: address, Message: "has address " + address}
		if _, err := s.Hosts.Apply("bravo", forged); err != nil {
			t.Fatal(err)
		}
	}
	offer := s.dhcp(as(t, mac, 0, ""))
	s.dhcp(as(t, mac, 0, "", asRequest, wanting(offer.YourIPAddr)))
	if h, _ := s.Hosts.Get("bravo"); h.Address != offer.YourIPAddr.String() {
		t.Errorf("it has %s, and its host %s", offer.YourIPAddr, h.Address)
	}
}

// TestStrangersMethods: whatever the method, a stranger gets the same silence.
func TestStrangersMethods(t *testing.T) {
	s := server(t, Proxy)
	h := s.begin(t)
	s.connections.most = 10
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := s.links[0]
	l.sock.http = ln
	served := make(chan error, 1)
	go func() { served <- s.serveHTTP(t.Context(), l) }()
	t.Cleanup(func() { <-served })
	for _, method := range []string{"OPTIONS", "TRACE", "POST", "PUT", "DELETE", "PATCH", "CONNECT", "FOO"} {
		for _, path := range []string{"*", "/", "/boot/" + h.Boot.Token + "/script", "/hold/" + mac, "/ipxe", "/cache/x/y"} {
			conn, err := net.Dial("tcp4", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\n\r\n", method, path)
			answer := make([]byte, 100)
			// To what is not a request at all net/http answers 400.
			if n, _ := conn.Read(answer); n > 0 && !strings.HasPrefix(string(answer), "HTTP/1.1 400") {
				t.Errorf("%s %s: %q", method, path, answer[:n])
			}
			conn.Close()
		}
	}
}

// TestConnectionsAreShared: one address has its share of connections, and all have theirs.
func TestConnectionsAreShared(t *testing.T) {
	var refused atomic.Int32
	c := connectionShares{most: perClient + 2, refused: func(netip.Addr) { refused.Add(1) }}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
	}))
	ended := make(chan struct{}, 2*perClient)
	srv.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		c.changed(conn, state)
		if state == http.StateClosed {
			ended <- struct{}{}
		}
	}
	srv.Start()
	defer srv.Close()
	var open []net.Conn // what is garbage is closed
	defer func() { runtime.KeepAlive(open) }()
	at := func(address string) (served bool, close func() error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
		conn, err := d.Dial("tcp4", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
		fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		n, _ := conn.Read(make([]byte, 100))
		return n > 0, conn.Close
	}
	var last func() error
	for i := range perClient {
		served, closeIt := at("127.0.0.66")
		if last = closeIt; !served {
			t.Fatalf("connection %d was refused", i)
		}
	}
	if served, _ := at("127.0.0.66"); served {
		t.Error("one address has more than its share")
	}
	<-ended // until then it counts among all
	for _, address := range []string{"127.0.0.2", "127.0.0.3"} {
		if served, _ := at(address); !served {
			t.Errorf("%s is refused, because another has its share", address)
		}
	}
	if served, _ := at("127.0.0.4"); served {
		t.Error("there are more than all may have")
	}
	if refused.Load() != 2 {
		t.Errorf("%d refused connections are told of", refused.Load())
	}
	last()
	for range 2 { // another that was refused, and this
		<-ended
	}
	if served, _ := at("127.0.0.4"); !served {
		t.Error("the place of a connection that ended stays taken")
	}
}

// TestShares: whatever the limit, descriptors stay for the operator and the builds.
func TestShares(t *testing.T) {
	for limit, want := range map[uint64][2]int{
		1024: {128, 256}, 4096: {512, 1024}, 1 << 20: {tftp.MaxTransfers, maxConnections},
	} {
		transfers, connections := shares(limit)
		if transfers != want[0] || connections != want[1] || uint64(2*transfers+2*connections) > limit*3/4 {
			t.Errorf("%d: %d and %d", limit, transfers, connections)
		}
	}
}
