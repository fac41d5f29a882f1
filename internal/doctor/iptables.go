package doctor

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// addIptables adds the filter table in the output of TOOL-save, where tool is iptables or iptables-legacy.
func (f *firewall) addIptables(tool, saved string) {
	prefix := tool + " "
	var chains []string
	policies := make(map[string]ruleVerdict)
	table := ""
	for line := range strings.Lines(saved) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case table != "filter":
		case strings.HasPrefix(line, ":"):
			name, rest, _ := strings.Cut(line[1:], " ")
			chains = append(chains, name)
			policies[name] = pick(strings.HasPrefix(rest, "DROP"), drop, accept)
		case strings.HasPrefix(line, "-A "):
			w := quotedWords(line)
			f.Chains[prefix+w[1]] = append(f.Chains[prefix+w[1]], iptablesRule(line, w[2:], prefix)...)
		}
	}

	for _, chain := range []string{"INPUT", "OUTPUT"} {
		if policy, ok := policies[chain]; ok {
			f.Bases = append(f.Bases, base{tool, prefix + chain, chain == "OUTPUT", policy, manager(chains, iptables)})
		}
	}
}

// quotedWords splits a line of iptables-save into words, which may be quoted.
func quotedWords(line string) (out []string) {
	var word strings.Builder
	quoted, escaped := false, false
	for _, r := range line + " " {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\':
			escaped = true
		case r == '"':
			quoted = !quoted
		case r == ' ' && !quoted:
			if word.Len() > 0 {
				out = append(out, word.String())
			}
			word.Reset()
		default:
			word.WriteRune(r)
		}
	}

	return out
}

// iptablesRule parses a rule (iptables-extensions(8)). A rule whose target does not end the packet's way returns no
// rule.
func iptablesRule(text string, w []string, prefix string) []rule {
	r := rule{Text: text}
	var conds []func(packet) truth
	decides := false
	for i := 0; i < len(w); {
		negated := w[i] == "!"
		if negated {
			i++
		}
		if i >= len(w) {
			break
		}
		option := w[i]
		i++
		var args []string
		for i < len(w) && w[i] != "!" && (!strings.HasPrefix(w[i], "-") || option == "--comment" && len(args) == 0) {
			args = append(args, w[i])
			i++
		}

		arg := strings.Join(args, " ")
		switch option {
		case "-m", "--comment":
		case "-j", "-g":
			r.Verdict, r.Target, decides = iptablesTarget(option, arg, prefix)
		case "--reject-with", "--log-prefix", "--log-level":
		default:
			conds = append(conds, func(p packet) truth {
				t := iptablesMatch(option, arg, p)
				if negated {
					t = t.not()
				}
				return t
			})
		}
	}

	if !decides {
		return nil
	}
	r.Match = func(p packet) truth {
		t := yes
		for _, c := range conds {
			t = min(t, c(p))
		}
		return t
	}
	return []rule{r}
}

// iptablesTarget parses the argument of -j or -g; decides is false if the packet only continues.
func iptablesTarget(option, name, prefix string) (v ruleVerdict, target string, decides bool) {
	switch name {
	case "ACCEPT":
		return accept, "", true
	case "DROP", "REJECT":
		return drop, "", true
	case "RETURN":
		return leave, "", true
	case "QUEUE", "NFQUEUE", "TARPIT", "SYNPROXY":
		return unknown, "", true
	}

	if slices.Contains(passing, name) {
		return 0, "", false
	}
	v = jump
	if option == "-g" {
		v = goTo
	}
	return v, prefix + name, true
}

// passing are the targets after which a packet continues.
var passing = []string{"LOG", "NFLOG", "ULOG", "MARK", "CONNMARK", "TRACE", "AUDIT", "CT", "NOTRACK", "SET", "CHECKSUM",
	"CLASSIFY", "DSCP", "TOS", "SECMARK", "CONNSECMARK", "TEE", "TCPMSS", "LED", "HMARK", "RATEEST"}

// iptablesMatch reports whether a packet matches an option.
func iptablesMatch(option, arg string, p packet) truth {
	switch option {
	case "-i", "-o":
		name := pick(option == "-i", p.In, p.Out)
		if stem, ok := strings.CutSuffix(arg, "+"); ok {
			return truthOf(strings.HasPrefix(name, stem))
		}
		return truthOf(name == arg)
	case "-p":
		return truthOf(arg == p.Proto || arg == "all")
	case "-s":
		return iptablesAddress(arg, p.From)
	case "-d":
		return iptablesAddress(arg, p.To)
	case "--dport", "--dports":
		return iptablesPorts(arg, p.Port)
	case "--sport", "--sports":
		return iptablesPorts(arg, p.Source)
	case "--ports":
		return max(iptablesPorts(arg, p.Port), iptablesPorts(arg, p.Source))
	case "--state", "--ctstate":
		return truthOf(slices.Contains(strings.Split(arg, ","), strings.ToUpper(p.State)))
	case "--pkt-type":
		if p.Out != "" {
			return maybe
		}
		return truthOf(arg == pick(p.Broadcast, "broadcast", "unicast"))
	case "--dst-type":
		return truthOf(slices.Contains(strings.Split(arg, ","), strings.ToUpper(p.destination())))
	}

	return maybe
}

// iptablesAddress reports whether the addresses match an address or network.
func iptablesAddress(arg string, from netip.Prefix) truth {
	if !strings.Contains(arg, "/") {
		arg += "/32"
	}
	net, err := netip.ParsePrefix(arg)
	if err != nil {
		return maybe
	}
	return overlap(from, net.Masked().Addr(), last(net))
}

// iptablesPorts reports whether a port matches a list of ports and ranges.
func iptablesPorts(arg string, port int) truth {
	if port == 0 {
		return maybe
	}
	for _, part := range strings.Split(arg, ",") {
		a, b, isRange := strings.Cut(part, ":")
		if !isRange {
			b = a
		}
		low, err1 := strconv.Atoi(a)
		high, err2 := strconv.Atoi(b)
		if err1 != nil || err2 != nil {
			return maybe
		}
		if low <= port && port <= high {
			return yes
		}
	}

	return no
}
