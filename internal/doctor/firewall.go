package doctor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// packet is what is known of a packet that a machine sends here, or of an answer to it.
type packet struct {
	In, Out      string // interface on which it arrives or leaves; the other is empty
	Proto        string // udp, tcp
	Source, Port int    // port numbers; Source 0: not known
	From, To     netip.Prefix
	Broadcast    bool
	State        string // of connection tracking
	Transfer     bool   // it belongs to a TFTP transfer, which has a port of its own
}

// service returns the port on this machine.
func (p packet) service() int { return pick(p.Out == "", p.Port, p.Source) }

// packets returns the packets that a server on these ports must receive or, with out, its answers. The last one belongs
// to a TFTP transfer.
func packets(l link, ports []portUse, out bool) []packet {
	one := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
	self, anyone := one(l.Address.Addr()), l.Address.Masked()
	everyone := one(netip.AddrFrom4([4]byte{255, 255, 255, 255}))
	const client, transfer = 49152, 49153 // ports without a meaning
	var all []packet
	for _, p := range ports {
		k := packet{In: l.Name, Proto: p.Proto, Port: p.Number, From: anyone, To: self, State: "new"}
		answer := packet{Out: l.Name, Proto: p.Proto, Source: p.Number, Port: client,
			From: self, To: anyone, State: "established"}
		switch p.Number {
		case 67: // connection tracking does not recognise a broadcast as an answer
			k.Source, k.Broadcast = 68, true
			k.From, k.To = one(netip.IPv4Unspecified()), everyone
			answer.Port, answer.Broadcast = 68, true
			answer.To, answer.State = everyone, "new"
		case 69:
			if out {
				continue // it answers from the port of the transfer
			}
		}

		all = append(all, pick(out, answer, k))
	}

	if out {
		return append(all, packet{Out: l.Name, Proto: "udp", Source: transfer, Port: client,
			From: self, To: anyone, State: "new", Transfer: true})
	}
	return append(all, packet{In: l.Name, Proto: "udp", Source: client, Port: transfer,
		From: anyone, To: self, State: "established", Transfer: true})
}

// truth has three values, since a rule may test something that is not known of a packet.
type truth int

const (
	no truth = iota
	maybe
	yes
)

// truthOf converts a boolean.
func truthOf(b bool) truth { return pick(b, yes, no) }

// not returns the negation; that of maybe is maybe.
func (t truth) not() truth { return yes - t }

// ruleVerdict is what a rule does with a packet that it matches.
type ruleVerdict int

const (
	accept  ruleVerdict = iota
	drop                // includes reject
	leave               // return to the calling chain
	jump                // continue in a chain, and come back
	goTo                // continue in a chain, and come back where this chain would
	unknown             // accepted or dropped by another program
)

// rule is a rule of a firewall.
type rule struct {
	Text    string
	Match   func(packet) truth
	Verdict ruleVerdict
	Target  string // of jump and goTo: a key of firewall.Chains
}

// base is a chain at which the kernel starts with incoming packets or, if Out is set, with packets of this machine.
type base struct {
	Tool   string // nftables, iptables or iptables-legacy
	Chain  string // key of firewall.Chains
	Out    bool
	Policy ruleVerdict
	Kind   kind
}

// kind is the program that manages a firewall. It decides how a rule can be added.
type kind int

const (
	nftables kind = iota
	iptables
	nixOS
	ufw
	firewalld
)

// firewall holds the rules for incoming packets and for those of this machine.
type firewall struct {
	Chains map[string][]rule // by tool and chain
	Bases  []base
}

// chainExits are the ways in which a packet may leave a chain, each with the rule that causes it. If there is only one
// way, it is certain.
type chainExits struct {
	By     map[ruleVerdict]string
	Unsure string // the first rule whose effect is not certain
}

// add records a way, unless it is known already.
func (e *chainExits) add(v ruleVerdict, by string) {
	if _, ok := e.By[v]; !ok {
		e.By[v] = by
	}
}

// walk follows a packet through a chain. The kernel refuses loops, and nftables more than 16 nested jumps
// (NFT_JUMP_STACK_SIZE).
func (f *firewall) walk(name string, p packet, depth int) chainExits {
	out := chainExits{By: make(map[ruleVerdict]string)}
	if depth > 16 {
		out.add(leave, "")
		return out
	}
	for _, r := range f.Chains[name] {
		m := r.Match(p)
		if m == no {
			continue
		}
		if m == maybe && out.Unsure == "" {
			out.Unsure = r.Text
		}
		goesOn := m == maybe
		switch r.Verdict {
		case jump, goTo:
			in := f.walk(r.Target, p, depth+1)
			if out.Unsure == "" {
				out.Unsure = in.Unsure
			}
			for v, by := range in.By {
				if v == leave && r.Verdict == jump {
					goesOn = true
					continue
				}
				out.add(v, by)
			}
		case unknown:
			out.add(accept, r.Text)
			out.add(drop, r.Text)
			if out.Unsure == "" {
				out.Unsure = r.Text
			}
		default:
			out.add(r.Verdict, r.Text)
		}

		if !goesOn {
			return out
		}
	}

	out.add(leave, "")
	return out
}

// enter is walk for a base chain, at whose end its policy applies.
func (f *firewall) enter(b base, p packet) chainExits {
	out := f.walk(b.Chain, p, 0)
	if _, ok := out.By[leave]; ok {
		delete(out.By, leave)
		out.add(b.Policy, "the policy of chain "+strings.TrimPrefix(b.Chain, b.Tool+" "))
	}
	return out
}

// judge returns findings about packets to the server that are dropped, and about its answers that are, grouped by the
// rule that drops them.
func (f *firewall) judge(l link, ports []portUse) (found []Finding) {
	type cause struct{ words, by string }
	for _, b := range f.Bases {
		var causes []cause
		stopped := make(map[cause][]packet)
		for _, p := range packets(l, ports, b.Out) {
			e := f.enter(b, p)
			by, drops := e.By[drop]
			if !drops {
				continue
			}
			c := cause{"drops", by}
			if _, open := e.By[accept]; open {
				c = cause{"may drop", "it could not be judged what this does: " + e.Unsure}
			}
			if stopped[c] == nil {
				causes = append(causes, c)
			}
			stopped[c] = append(stopped[c], p)
		}

		for _, c := range causes {
			what := pick(b.Out, "answers from ", "") + packetWords(stopped[c])
			found = append(found, Finding{"firewall", pick(c.words == "drops", Stop, Warning), l.Name,
				fmt.Sprintf("%s %s %s: %s", b.Tool, c.words, what, c.by), b.remedy(l.Name, stopped[c])})
		}
	}

	return found
}

// split returns the UDP ports and TCP ports of packets, and whether one of them belongs to a TFTP transfer.
func split(ps []packet) (udp, tcp []string, transfer bool) {
	for _, p := range ps {
		switch {
		case p.Transfer:
			transfer = true
		case p.Proto == "udp":
			udp = append(udp, strconv.Itoa(p.service()))
		default:
			tcp = append(tcp, strconv.Itoa(p.service()))
		}
	}
	return udp, tcp, transfer
}

// packetWords lists packets for people.
func packetWords(ps []packet) string {
	udp, tcp, transfer := split(ps)
	var parts []string
	if len(udp) > 0 {
		parts = append(parts, "udp "+strings.Join(udp, ", "))
	}
	if len(tcp) > 0 {
		parts = append(parts, "tcp "+strings.Join(tcp, ", "))
	}
	if transfer {
		parts = append(parts, "TFTP transfers")
	}
	return enumerate(parts)
}

// remedy returns the line to add, for the program that manages the firewall.
func (b base) remedy(ifname string, ps []packet) string {
	if b.Out {
		return b.remedyOut(ifname, ps)
	}
	udp, tcp, transfer := split(ps)
	var lines []string
	each := func(format func(proto string, ports []string) string) {
		if len(udp) > 0 {
			lines = append(lines, format("udp", udp))
		}
		if len(tcp) > 0 {
			lines = append(lines, format("tcp", tcp))
		}
	}
	switch b.Kind {
	case nixOS:
		each(func(proto string, ports []string) string {
			return fmt.Sprintf("allowed%sPorts = [ %s ];", strings.ToUpper(proto), strings.Join(ports, " "))
		})
		return fmt.Sprintf("in configuration.nix: networking.firewall.interfaces.%q = { %s };", ifname, strings.Join(lines, " "))
	case ufw:
		each(func(proto string, ports []string) string {
			return fmt.Sprintf("ufw allow in on %s to any port %s proto %s", ifname, strings.Join(ports, ","), proto)
		})
	case firewalld:
		each(func(proto string, ports []string) string {
			return "--add-port=" + strings.Join(ports, "/"+proto+" --add-port=") + "/" + proto
		})
		return fmt.Sprintf("firewall-cmd --permanent --zone=$(firewall-cmd --get-zone-of-interface=%s) %s && "+
			"firewall-cmd --reload", ifname, strings.Join(lines, " "))
	case iptables:
		each(func(proto string, ports []string) string {
			return fmt.Sprintf("%s -I INPUT -i %s -p %s -m multiport --dports %s -j ACCEPT", b.Tool, ifname, proto, strings.Join(ports, ","))
		})
	default:
		each(func(proto string, ports []string) string {
			return fmt.Sprintf("nft insert rule %s iifname %q %s dport { %s } accept", b.Chain, ifname, proto, strings.Join(ports, ", "))
		})
	}

	switch {
	case transfer && b.Kind == nftables:
		lines = append(lines, "nft insert rule "+b.Chain+" ct state established,related accept")
	case transfer && b.Kind == iptables:
		lines = append(lines, b.Tool+" -I INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT")
	}

	return strings.Join(lines, "; ")
}

// remedyOut is remedy for answers. As a TFTP transfer may use any UDP port, it allows all UDP packets.
func (b base) remedyOut(ifname string, ps []packet) string {
	udp, tcp, transfer := split(ps)
	allow := func(proto string, ports []string) string {
		switch {
		case b.Kind == ufw && ports == nil:
			return fmt.Sprintf("ufw allow out on %s proto %s from any to any", ifname, proto)
		case b.Kind == ufw:
			return fmt.Sprintf("ufw allow out on %s proto %s from any port %s", ifname, proto, strings.Join(ports, ","))
		case b.Tool == "nftables" && ports == nil:
			return fmt.Sprintf("nft insert rule %s oifname %q meta l4proto %s accept", b.Chain, ifname, proto)
		case b.Tool == "nftables":
			return fmt.Sprintf("nft insert rule %s oifname %q %s sport { %s } accept", b.Chain, ifname, proto, strings.Join(ports, ", "))
		case ports == nil:
			return fmt.Sprintf("%s -I OUTPUT -o %s -p %s -j ACCEPT", b.Tool, ifname, proto)
		}

		return fmt.Sprintf("%s -I OUTPUT -o %s -p %s -m multiport --sports %s -j ACCEPT", b.Tool, ifname, proto, strings.Join(ports, ","))
	}
	var lines []string
	switch {
	case b.Kind == firewalld:
		return "let the server's answers out in firewalld's policies for this machine: firewall-cmd " +
			"--get-active-policies"
	case transfer:
		lines = append(lines, allow("udp", nil))
	case len(udp) > 0:
		lines = append(lines, allow("udp", udp))
	}

	if len(tcp) > 0 {
		lines = append(lines, allow("tcp", tcp))
	}
	return strings.Join(lines, "; ")
}

// loadFirewall reads the rules in the kernel with the tools that are installed. Findings say which could not be read.
func loadFirewall(ctx context.Context) (*firewall, []Finding) {
	f := &firewall{Chains: make(map[string][]rule)}
	var problems []Finding
	read := func(name string, args ...string) string {
		if _, err := exec.LookPath(name); err != nil {
			return ""
		}
		out, err := exec.CommandContext(ctx, name, args...).Output()
		if err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				err = fmt.Errorf("%w: %s", err, firstLine(exit.Stderr))
			}
			problems = append(problems, Finding{Check: "firewall", Severity: Warning,
				What: fmt.Sprintf("the rules cannot be read: %s: %v", name, err), Remedy: "look at them yourself"})
		}

		return string(out)
	}

	// iptables is either a front end of nftables, whose table is then read by iptables-save only, or the same as
	// iptables-legacy.
	saved := read("iptables-save")
	f.addIptables("iptables", saved)
	except := ""
	if strings.Contains(saved, "(nf_tables)") || saved == "" {
		f.addIptables("iptables-legacy", read("iptables-legacy-save"))
		if strings.Contains(saved, "*filter") {
			except = "ip filter"
		}
	}

	if data := read("nft", "-j", "list", "ruleset"); data != "" {
		if err := f.addNFT([]byte(data), nftTexts(read("nft", "-a", "list", "ruleset")), except); err != nil {
			problems = append(problems, Finding{Check: "firewall", Severity: Warning, What: err.Error(), Remedy: "look at them yourself"})
		}
	}

	return f, problems
}

// firstLine returns the first line of an output.
func firstLine(text []byte) string {
	first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return first
}

// manager recognises the program that made a ruleset by the names of its chains.
func manager(names []string, otherwise kind) kind {
	has := func(part string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return strings.Contains(n, part) })
	}
	switch {
	case has("nixos-fw"):
		return nixOS
	case has("ufw-"):
		return ufw
	case has("firewalld"), has("INPUT_ZONES"):
		return firewalld
	}
	return otherwise
}
