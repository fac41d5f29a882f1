package doctor

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/iana"
	"golang.org/x/sys/unix"

	"provision/internal/lab"
	"provision/pxe"
)

var br0 = link{Name: "br0", Address: netip.MustParsePrefix("10.77.0.1/24")}

// load puts rules into the kernel and reads them back.
func load(t *testing.T, tool, rules string) *firewall {
	t.Helper()
	if err := put(t, tool, rules); err != nil {
		t.Fatal(err)
	}
	f, problems := loadFirewall(t.Context())
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return f
}

func put(t *testing.T, tool, rules string) error {
	t.Helper()
	flush(t)
	cmd := exec.CommandContext(t.Context(), "nft", "-f", "-")
	if tool != "nft" {
		cmd = exec.CommandContext(t.Context(), tool+"-restore")
	}
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s\n%s", tool, err, out, rules)
	}
	return nil
}

func flush(t *testing.T) {
	t.Helper()
	run(t, "nft", "flush", "ruleset")
	for _, args := range [][]string{{"-P", "INPUT", "ACCEPT"}, {"-P", "OUTPUT", "ACCEPT"}, {"-F"}, {"-X"}} {
		run(t, "iptables-legacy", args...)
	}
}

// Rulesets as they are found, what is said of them, and that the line which is
// said to help does.
var rulesets = []struct {
	name, tool, rules string
	want              []string
	mends             bool // the remedy is a command, and there are no others to be mended
}{
	{"Debian's example, closed", "nft", `table inet filter { chain input {
	type filter hook input priority filter; policy drop;
	iif lo accept
	ct state established,related accept
	tcp dport 22 accept; }
}`,
		[]string{`stop firewall: nftables drops udp 67, 69, 4011 and tcp 80: the policy of chain inet filter input → ` +
			`nft insert rule inet filter input iifname "br0" udp dport { 67, 69, 4011 } accept; nft insert rule inet filter input iifname "br0" tcp dport { 80 } accept`}, true},
	{"one rule too many", "nft", `table inet filter { set bad { type inet_service; elements = { 69 }; }
	chain input { type filter hook input priority filter; policy accept; udp dport @bad counter drop comment "100%s"; }
}`,
		[]string{`stop firewall: nftables drops udp 69: udp dport @bad counter packets 0 bytes 0 drop comment "100%s" (chain inet filter input) → ` +
			`nft insert rule inet filter input iifname "br0" udp dport { 69 } accept`}, true},
	{"no connection tracking", "nft", `table ip f { chain in { type filter hook input priority 0; policy drop; udp dport { 67, 69, 4011 } accept; tcp dport 80 accept; }
}`,
		[]string{`stop firewall: nftables drops TFTP transfers: the policy of chain ip f in → nft insert rule ip f in ct state established,related accept`}, true},
	{"open by a chain", "nft", `table inet filter { chain lan { udp dport { 67, 69, 4011 } accept; tcp dport 80 accept; }
	chain input { type filter hook input priority filter; policy drop;
	ct state vmap { established : accept, related : accept, invalid : drop }
	iifname vmap { "lo" : accept, "br0" : jump lan }; }
}`, nil, false},
	{"closed elsewhere", "nft", `table inet filter { chain input { type filter hook input priority filter; iifname "eth0" drop; ip6 nexthdr udp drop; tcp dport != { 22, 80 } drop; icmp type echo-request drop; }
}`, nil, false},
	{"undecided", "nft", `table inet filter { chain input { type filter hook input priority filter; meta mark 7 udp dport 67-69 drop; }
}`,
		[]string{`warning firewall: nftables may drop udp 67, 69: it could not be judged what this does: meta mark 0x00000007 udp dport 67-69 drop (chain inet filter input) → ` +
			`nft insert rule inet filter input iifname "br0" udp dport { 67, 69 } accept`}, true},
	{"undecided and of no matter", "nft", `table inet filter { chain input { type filter hook input priority filter; meta mark 7 accept; ether saddr 52:54:00:00:00:01 accept; }
}`, nil, false},
	{"two tables", "nft", `table inet a { chain input { type filter hook input priority 0; accept; }
}
table inet b { chain input { type filter hook input priority 1; udp dport 69 reject; }
}`,
		[]string{`stop firewall: nftables drops udp 69: udp dport 69 reject (chain inet b input) → nft insert rule inet b input iifname "br0" udp dport { 69 } accept`}, true},
	// As networking.nftables.enable makes it (nixpkgs, firewall-nftables.nix).
	{"NixOS with nftables", "nft", `table inet nixos-fw {
	chain rpfilter { type filter hook prerouting priority mangle + 10; policy drop;
		meta nfproto ipv4 udp sport . udp dport { 68 . 67, 67 . 68 } accept
		fib saddr . mark . iif oif exists accept; }
	chain input { type filter hook input priority filter; policy drop;
		iifname "lo" accept comment "trusted interfaces"
		ct state vmap { invalid : drop, established : accept, related : accept, new : jump input-allow, untracked : jump input-allow }
		tcp flags & (fin | syn | rst | ack) == syn log level info prefix "refused connection: "; }
	chain input-allow { tcp dport 22 accept
		iifname "eth0" tcp dport 80 accept
		icmp type echo-request accept comment "allow ping"
		icmpv6 type != { nd-redirect, 139 } accept
		ip6 daddr fe80::/64 udp dport 546 accept comment "DHCPv6 client"; }
}`,
		[]string{`stop firewall: nftables drops udp 67, 69, 4011 and tcp 80: the policy of chain inet nixos-fw input → ` +
			`in configuration.nix: networking.firewall.interfaces."br0" = { allowedUDPPorts = [ 67 69 4011 ]; allowedTCPPorts = [ 80 ]; };`}, false},
	// As networking.firewall makes it (nixpkgs, firewall-iptables.nix).
	{"NixOS with iptables", "iptables", nixosIPTables,
		[]string{`stop firewall: iptables drops udp 67, 69, 4011 and tcp 80: -A nixos-fw-refuse -j DROP → ` +
			`in configuration.nix: networking.firewall.interfaces."br0" = { allowedUDPPorts = [ 67 69 4011 ]; allowedTCPPorts = [ 80 ]; };`}, false},
	{"NixOS with old iptables", "iptables-legacy", nixosIPTables,
		[]string{`stop firewall: iptables-legacy drops udp 67, 69, 4011 and tcp 80: -A nixos-fw-refuse -j DROP → ` +
			`in configuration.nix: networking.firewall.interfaces."br0" = { allowedUDPPorts = [ 67 69 4011 ]; allowedTCPPorts = [ 80 ]; };`}, false},
	{"iptables, closed", "iptables", `*filter
:INPUT DROP [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p udp -m multiport --dports 67:68,4011 -m comment --comment "-j DROP, \"no\"" -j ACCEPT
-A INPUT ! -i br0 -j ACCEPT
COMMIT
`, []string{`stop firewall: iptables drops udp 69 and tcp 80: the policy of chain INPUT → ` +
		`iptables -I INPUT -i br0 -p udp -m multiport --dports 69 -j ACCEPT; iptables -I INPUT -i br0 -p tcp -m multiport --dports 80 -j ACCEPT`}, true},
	{"iptables, undecided", "iptables-legacy", `*filter
:INPUT ACCEPT [0:0]
-A INPUT -p udp -m limit --limit 5/sec -m udp --dport 69 -j DROP
COMMIT
`, []string{`warning firewall: iptables-legacy may drop udp 69: it could not be judged what this does: -A INPUT -p udp -m limit --limit 5/sec -m udp --dport 69 -j DROP → ` +
		`iptables-legacy -I INPUT -i br0 -p udp -m multiport --dports 69 -j ACCEPT`}, true},
	{"ufw", "iptables", `*filter
:INPUT DROP [0:0]
:ufw-before-input - [0:0]
:ufw-user-input - [0:0]
-A INPUT -j ufw-before-input
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -p udp -m udp --sport 67 --dport 68 -j ACCEPT
-A ufw-before-input -j ufw-user-input
-A ufw-user-input -p tcp -m tcp --dport 80 -j ACCEPT
COMMIT
`, []string{`stop firewall: iptables drops udp 67, 69, 4011: the policy of chain INPUT → ufw allow in on br0 to any port 67,69,4011 proto udp`}, false},
	{"firewalld", "nft", `table inet firewalld {
	chain filter_INPUT { type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		jump filter_INPUT_ZONES
		ct state invalid drop
		reject with icmpx admin-prohibited; }
	chain filter_INPUT_ZONES { iifname "br0" goto filter_IN_public; goto filter_IN_public; }
	chain filter_IN_public { tcp dport 80 ct state { new, untracked } accept; }
}`,
		[]string{`stop firewall: nftables drops udp 67, 69, 4011: reject with icmpx admin-prohibited (chain inet firewalld filter_INPUT) → ` +
			`firewall-cmd --permanent --zone=$(firewall-cmd --get-zone-of-interface=br0) --add-port=67/udp --add-port=69/udp --add-port=4011/udp && firewall-cmd --reload`}, false},
}

// Rulesets that stop answers, and not what comes in.
var outputRulesets = []struct {
	name, tool, rules string
	want              []string
	mends             bool
}{
	{"closed", "nft", `table inet filter { chain out { type filter hook output priority filter; policy drop; oif lo accept; }
}`, []string{`stop firewall: nftables drops answers from udp 67, 4011, tcp 80 and TFTP transfers: the policy of chain inet filter out → ` +
		`nft insert rule inet filter out oifname "br0" meta l4proto udp accept; nft insert rule inet filter out oifname "br0" tcp sport { 80 } accept`}, true},
	{"answers alone", "nft", `table ip f { chain out { type filter hook output priority 0; policy drop; ct state established,related accept; iifname != "br0" udp dport 68 accept; }
}`, []string{`stop firewall: nftables drops answers from TFTP transfers: the policy of chain ip f out → nft insert rule ip f out oifname "br0" meta l4proto udp accept`}, true},
	{"no DHCP", "nft", `table ip f { chain out { type filter hook output priority 0; udp sport { 67, 547 } reject; fib daddr type unicast oifname "br*" accept; oifname "br0" tcp dport 25 drop; }
}`, []string{`stop firewall: nftables drops answers from udp 67: udp sport { 67, 547 } reject (chain ip f out) → nft insert rule ip f out oifname "br0" udp sport { 67 } accept`}, true},
	{"by user", "nft", `table ip f { chain out { type filter hook output priority 0; policy drop; oifname "lo" accept; meta skuid 0 accept; }
}`, []string{`warning firewall: nftables may drop answers from udp 67, 4011, tcp 80 and TFTP transfers: it could not be judged what this does: meta skuid 0 accept (chain ip f out) → ` +
		`nft insert rule ip f out oifname "br0" meta l4proto udp accept; nft insert rule ip f out oifname "br0" tcp sport { 80 } accept`}, true},
	{"elsewhere", "nft", `table ip f { chain out { type filter hook output priority 0; oifname "eth0" drop; ip daddr 10.78.0.0/16 drop; ip saddr != 10.77.0.1 drop; }
}`, nil, false},
	{"iptables, closed", "iptables", `*filter
:INPUT ACCEPT [0:0]
:OUTPUT DROP [0:0]
-A OUTPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A OUTPUT ! -o br+ -j ACCEPT
COMMIT
`, []string{`stop firewall: iptables drops answers from udp 67 and TFTP transfers: the policy of chain OUTPUT → iptables -I OUTPUT -o br0 -p udp -j ACCEPT`}, true},
	{"iptables, one rule", "iptables-legacy", `*filter
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A OUTPUT -o br0 -m addrtype --dst-type BROADCAST -j DROP
-A OUTPUT -o br0 -p tcp -m tcp --sport 80 -j REJECT
COMMIT
`, []string{`stop firewall: iptables-legacy drops answers from udp 67: -A OUTPUT -o br0 -m addrtype --dst-type BROADCAST -j DROP → ` +
		`iptables-legacy -I OUTPUT -o br0 -p udp -m multiport --sports 67 -j ACCEPT`,
		`stop firewall: iptables-legacy drops answers from tcp 80: -A OUTPUT -o br0 -p tcp -m tcp --sport 80 -j REJECT --reject-with icmp-port-unreachable → ` +
			`iptables-legacy -I OUTPUT -o br0 -p tcp -m multiport --sports 80 -j ACCEPT`}, true},
	{"ufw", "iptables", `*filter
:INPUT ACCEPT [0:0]
:OUTPUT DROP [0:0]
:ufw-before-output - [0:0]
-A OUTPUT -j ufw-before-output
-A ufw-before-output -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-output -p udp -m udp ! --sport 67 -j ACCEPT
COMMIT
`, []string{`stop firewall: iptables drops answers from udp 67: the policy of chain OUTPUT → ufw allow out on br0 proto udp from any port 67`}, false},
}

const nixosIPTables = `*filter
:INPUT ACCEPT [0:0]
:nixos-fw - [0:0]
:nixos-fw-accept - [0:0]
:nixos-fw-log-refuse - [0:0]
:nixos-fw-refuse - [0:0]
-A INPUT -j nixos-fw
-A nixos-fw -i lo -j nixos-fw-accept
-A nixos-fw -m conntrack --ctstate RELATED,ESTABLISHED -j nixos-fw-accept
-A nixos-fw -p tcp -m tcp --dport 22 -j nixos-fw-accept
-A nixos-fw -p icmp -m icmp --icmp-type 8 -j nixos-fw-accept
-A nixos-fw -j nixos-fw-log-refuse
-A nixos-fw-accept -j ACCEPT
-A nixos-fw-log-refuse -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j LOG --log-prefix "refused connection: " --log-level 6
-A nixos-fw-log-refuse -m pkttype ! --pkt-type unicast -j nixos-fw-refuse
-A nixos-fw-log-refuse -j nixos-fw-refuse
-A nixos-fw-refuse -j DROP
COMMIT
`

func TestFirewall(t *testing.T) {
	w := newWire(t)
	for i, tt := range slices.Concat(rulesets, outputRulesets) {
		agree := func(name string, f *firewall) {
			t.Helper()
			if i < len(rulesets) {
				w.agrees(t, name, f)
			} else {
				w.answersAgree(t, name, f)
			}
		}
		f := load(t, tt.tool, tt.rules)
		found := f.judge(br0, usedPorts(pxe.Proxy, 80))
		same(t, tt.name, found, tt.want...)
		agree(tt.name, f)
		if !tt.mends {
			continue
		}
		for _, fd := range found {
			run(t, "sh", "-c", fd.Remedy)
		}
		f, _ = loadFirewall(t.Context())
		same(t, tt.name+", mended", f.judge(br0, usedPorts(pxe.Proxy, 80)))
		agree(tt.name+", mended", f)
	}
	flush(t)
}

// TestFirewallAtRandom compares what is said of rulesets that nobody would
// write with what the kernel does.
func TestFirewallAtRandom(t *testing.T) {
	w := newWire(t)
	r := rand.New(rand.NewPCG(1, 2))
	conditions := []string{`iifname "br0"`, `iifname != "br0"`, `iifname "br*"`, `iif lo`, "udp dport 67", "udp dport { 69, 4011 }", "udp dport 60-70",
		"udp dport != 67", "tcp dport 80", "tcp dport != 80", "meta l4proto udp", "meta l4proto { tcp, icmp }", "th dport { 67-69, 80 }", "ip saddr 10.77.0.0/24",
		"ip saddr != 10.77.0.0/16", "ip saddr 10.77.0.0-10.77.0.255", "ip daddr 255.255.255.255", "ip saddr 0.0.0.0", "meta pkttype broadcast", "meta pkttype != host",
		"fib daddr type broadcast", "fib daddr type local", "ct state new", "ct state established,related", "ct state { established, new }", "ct state != new", "ip protocol udp",
		"udp sport 68", "ip6 daddr ::1", "icmp type echo-request", `iifname . udp dport { "br0" . 69, "lo" . 67 }`, `iifname . th dport { "br0" . 80, "br0" . 1000-5000 }`,
		"udp dport @some", "tcp dport @some", "udp dport >= 4000", "udp dport < 69", "meta nfproto ipv4", "meta protocol ip", "tcp flags syn",
		"meta mark 0x1", "limit rate 100/second", "counter", "ip saddr 10.77.0.5-10.77.0.200", "ether saddr 52:54:00:77:00:09", "log prefix \"x\""}
	verdicts := []string{"accept", "drop", "return", "jump one", "goto one", "jump two", "counter", "reject", "accept", "drop"}
	maps := []string{"udp dport vmap { 67 : accept, 69 : drop, 4011 : jump two }", "th dport vmap { 67-69 : goto two, 80 : accept }",
		"ct state vmap { established : accept, new : jump two, invalid : drop }", `iifname vmap { "lo" : accept, "br0" : jump two }`, "meta l4proto vmap { tcp : accept, udp : return }"}
	pick := func(list []string) string { return list[r.IntN(len(list))] }
	rules := func(n int, down string) (s string) {
		for range n {
			line := pick(conditions) + " "
			if r.IntN(2) == 0 {
				line += pick(conditions) + " "
			}
			if r.IntN(5) == 0 {
				line = pick(maps)
			} else {
				line += pick(verdicts)
			}
			// A chain calls only those below it.
			line = strings.NewReplacer("jump one", "jump "+down, "goto one", "goto "+down, "jump two", "jump "+down, "goto two", "goto "+down).Replace(line)
			s += line + "\n"
		}
		return s
	}
	sure, rounds := 0, 40
	for n := 0; n < rounds; {
		text := fmt.Sprintf("table inet x {\nset some { type inet_service; flags interval; elements = { 67, 4000-4100 } }\n"+
			"chain three { tcp dport 80 accept; udp dport 67 return; udp dport 69 drop; }\nchain two {\n%s}\nchain one {\n%s}\n"+
			"chain input { type filter hook input priority filter; policy %s;\n%s}\n}\n",
			rules(2, "three"), rules(3, "two"), []string{"accept", "drop"}[r.IntN(2)], rules(4, "one"))
		if err := put(t, "nft", text); err != nil {
			if !strings.Contains(err.Error(), "conflicting protocols") { // such as udp and tcp in one rule
				t.Fatal(err)
			}
			continue
		}
		n++
		f, problems := loadFirewall(t.Context())
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		sure += w.agrees(t, text, f)
	}
	t.Logf("%d of %d packets were judged with certainty", sure, rounds*5)
	if sure < rounds*5/2 {
		t.Errorf("only %d of %d packets were judged with certainty", sure, rounds*5)
	}
	flush(t)
}

// wire sends the packets of netbooting machines through the kernel's firewall.
type wire struct {
	client *lab.Client
	udp    map[int]*net.UDPConn // this machine's
	dhcp   *segment             // the client's
	from   *net.UDPConn         // the client's
	deaf   *net.UDPConn         // the client's while it has no address: on port 68
	sent   map[int][]byte       // what was sent last, by port: one that comes late is not taken for it
	number int                  // of packets that were sent
}

// onBridge listens on br0 alone, as the server does: its broadcasts go there.
var onBridge = net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
	ctl := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), "br0") })
	return errors.Join(ctl, err)
}}

func newWire(t *testing.T) *wire {
	t.Helper()
	flush(t)
	l := lan(t)
	w := &wire{client: plug(t, l, "pc", "52:54:00:77:00:09", "10.77.0.9/24"), udp: make(map[int]*net.UDPConn), sent: make(map[int][]byte)}
	closes := func(c interface{ Close() error }) { t.Cleanup(func() { c.Close() }) }
	for _, p := range packets(br0, usedPorts(pxe.Proxy, 80), false) {
		if p.Proto != "udp" {
			continue
		}
		c, err := onBridge.ListenPacket(t.Context(), "udp4", fmt.Sprintf(":%d", p.Port))
		if err != nil {
			t.Fatal(err)
		}
		closes(c)
		w.udp[p.Port] = c.(*net.UDPConn)
	}
	tcp, err := net.Listen("tcp4", "10.77.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	closes(tcp)
	err = w.client.Do(func() (err error) {
		if w.dhcp, err = openSegment("eth0"); err != nil {
			return err
		}
		if w.from, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 49152}); err != nil {
			return err
		}
		w.deaf, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 68})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	closes(w.dhcp.conn)
	closes(w.from)
	closes(w.deaf)
	return w
}

// agrees sends every packet and compares what becomes of it with what is said.
// It returns how many were judged with certainty.
func (w *wire) agrees(t *testing.T, name string, f *firewall) (sure int) {
	t.Helper()
	for _, p := range packets(br0, usedPorts(pxe.Proxy, 80), false) {
		w.send(t, p)
	}
	for _, p := range packets(br0, usedPorts(pxe.Proxy, 80), false) {
		passes := f.passes(p)
		if passes == maybe {
			continue
		}
		sure++
		wait := 20 * time.Millisecond
		if passes == yes {
			wait = 5 * time.Second
		}
		if got := w.arrives(t, p, wait); got != (passes == yes) {
			t.Errorf("%s: a packet to %s port %d arrives: %t, and was judged otherwise", name, p.Proto, p.Port, got)
		}
	}
	return sure
}

// passes is what is said of a packet, by all chains together.
func (f *firewall) passes(p packet) truth {
	passes := yes
	for _, b := range f.Bases {
		if e := f.enter(b, p); b.Out == (p.Out != "") && e.By[drop] != "" {
			passes = min(passes, pick(len(e.By) > 1, maybe, no))
		}
	}
	return passes
}

// answersAgree is agrees for what the server sends, where nothing that comes in is stopped.
func (w *wire) answersAgree(t *testing.T, name string, f *firewall) {
	t.Helper()
	for _, p := range packets(br0, usedPorts(pxe.Proxy, 80), true) {
		passes := f.passes(p)
		if passes == maybe {
			continue
		}
		wait := pick(passes == yes, 5*time.Second, 20*time.Millisecond)
		if got := w.answered(t, p, wait); got != (passes == yes) {
			t.Errorf("%s: an answer from %s port %d arrives: %t, and was judged otherwise", name, p.Proto, p.Source, got)
		}
	}
}

// answered has the server send an answer, and reports whether it arrives.
func (w *wire) answered(t *testing.T, p packet, wait time.Duration) bool {
	t.Helper()
	if p.Proto == "tcp" {
		return w.client.Do(func() error { return connects([4]byte{10, 77, 0, 1}, p.Source, wait) }) == nil
	}
	here, there := w.udp[p.Source], w.deaf
	to := &net.UDPAddr{IP: net.IPv4bcast, Port: p.Port}
	if !p.Broadcast { // connection tracking remembers for long who spoke with whom: each time it is another port
		err := w.client.Do(func() (err error) {
			there, err = net.ListenUDP("udp4", nil)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer there.Close()
		to = &net.UDPAddr{IP: net.IPv4(10, 77, 0, 9), Port: there.LocalAddr().(*net.UDPAddr).Port}
	}
	if p.State == "established" { // the client spoke first
		if _, err := there.WriteToUDP([]byte("ask"), &net.UDPAddr{IP: net.IPv4(10, 77, 0, 1), Port: p.Source}); err != nil {
			t.Fatal(err)
		}
		here.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, _, err := here.ReadFromUDP(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	w.number++
	sent := fmt.Append(nil, "answer ", w.number)
	if _, err := here.WriteToUDP(sent, to); errors.Is(err, unix.EPERM) { // what is dropped is told to who sends it
		return false
	} else if err != nil {
		t.Fatal(err)
	}
	there.SetReadDeadline(time.Now().Add(wait))
	for got := make([]byte, 100); ; {
		n, _, err := there.ReadFromUDP(got)
		if err != nil {
			return false
		}
		if bytes.Equal(got[:n], sent) {
			return true
		}
	}
}

func (w *wire) send(t *testing.T, p packet) {
	t.Helper()
	var err error
	switch {
	case p.Proto == "tcp":
	case p.Port == 67:
		ask, _ := discover(net.HardwareAddr{0x52, 0x54, 0, 0x77, 0, 9}, iana.EFI_X86_64)
		w.sent[p.Port] = ask.ToBytes()
		err = w.dhcp.send(ask)
	default:
		if p.State == "established" { // we spoke first
			if _, err = w.udp[p.Port].WriteToUDP([]byte("data"), &net.UDPAddr{IP: net.IPv4(10, 77, 0, 9), Port: 49152}); err != nil {
				break
			}
			w.from.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, _, err = w.from.ReadFromUDP(make([]byte, 100)); err != nil {
				break
			}
		}
		w.number++
		w.sent[p.Port] = fmt.Append(nil, "ack ", w.number)
		_, err = w.from.WriteToUDP(w.sent[p.Port], &net.UDPAddr{IP: net.IPv4(10, 77, 0, 1), Port: p.Port})
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (w *wire) arrives(t *testing.T, p packet, wait time.Duration) bool {
	t.Helper()
	if p.Proto == "tcp" {
		return w.client.Do(func() error { return connects([4]byte{10, 77, 0, 1}, 80, wait) }) == nil
	}
	w.udp[p.Port].SetReadDeadline(time.Now().Add(wait))
	got := make([]byte, 2000)
	for {
		n, _, err := w.udp[p.Port].ReadFromUDP(got)
		if err != nil {
			return false
		}
		if bytes.Equal(got[:n], w.sent[p.Port]) {
			return true
		}
	}
}

// connects asks for a TCP connection, and whether it was answered. What the firewall does with the packets after the first
// is no matter: connect(2) fails if one of them is rejected at once.
func connects(to [4]byte, port int, wait time.Duration) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to, Port: port})
	for end := time.Now().Add(wait); err == unix.EINPROGRESS || err == unix.EINTR; {
		left := max(0, time.Until(end))
		_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, int(left.Milliseconds()))
	}
	if err != nil {
		return err
	}
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err == nil && info.State != unix.BPF_TCP_ESTABLISHED {
		err = unix.ETIMEDOUT
	}
	return err
}

// TestFirewallUnread reads what cannot come from a firewall.
func TestFirewallUnread(t *testing.T) {
	f := &firewall{Chains: make(map[string][]rule)}
	if err := f.addNFT([]byte("{"), nil, ""); err == nil {
		t.Error("half a ruleset is read")
	}
	f.addIptables("iptables", "*filter\n:INPUT\n-A INPUT\n-A INPUT !\n-A INPUT -j\n-A INPUT -g INPUT\n")
	f.judge(br0, usedPorts(pxe.Off, 80))
}
