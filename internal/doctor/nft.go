package doctor

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// nftObject is an entry in the output of `nft -j list ruleset` (libnftables-json(5)).
type nftObject struct {
	Chain *struct {
		Family, Table, Name, Type, Hook, Policy string
	}
	Rule *struct {
		Family, Table, Chain string
		Handle               int
		Expr                 []map[string]any
	}
	Set, Map *nftSet
}

// nftSet is a named set or map.
type nftSet struct {
	Family, Table, Name string
	Elem                []any
}

// nftSets holds the elements of named sets and maps, by "FAMILY TABLE @NAME".
type nftSets map[string][]any

// addNFT adds the tables of nftables, except the table that is read with another tool. texts are the rules in the form
// that people write, see nftTexts.
func (f *firewall) addNFT(data []byte, texts map[string]string, except string) error {
	var all struct{ Nftables []nftObject }
	if err := json.Unmarshal(data, &all); err != nil {
		return fmt.Errorf("read nftables' rules: %w", err)
	}

	sets := make(nftSets)
	chains := make(map[string][]string) // names of tables and chains, by table
	for _, o := range all.Nftables {
		for _, s := range []*nftSet{o.Set, o.Map} {
			if s != nil {
				sets[s.Family+" "+s.Table+" @"+s.Name] = s.Elem
			}
		}
		if c := o.Chain; c != nil {
			table := c.Family + " " + c.Table
			chains[table] = append(chains[table], c.Table, c.Name)
		}
	}

	for _, o := range all.Nftables {
		if c := o.Chain; c != nil && (c.Hook == "input" || c.Hook == "output") &&
			(c.Family == "ip" || c.Family == "inet") && c.Family+" "+c.Table != except {
			policy := accept
			if c.Policy == "drop" {
				policy = drop
			}
			table := c.Family + " " + c.Table
			f.Bases = append(f.Bases, base{"nftables", table + " " + c.Name, c.Hook == "output", policy, manager(chains[table], nftables)})
		}

		if r := o.Rule; r != nil {
			n := nftRule{sets: sets, table: r.Family + " " + r.Table}
			chain := n.table + " " + r.Chain
			text, ok := texts[fmt.Sprintf("%s %d", n.table, r.Handle)]
			if !ok {
				text = fmt.Sprintf("rule %d", r.Handle)
			}
			f.Chains[chain] = append(f.Chains[chain], n.rules(text+" (chain "+chain+")", r.Expr)...)
		}
	}

	return nil
}

// nftHandle matches a line of a listing with handles.
var nftHandle = regexp.MustCompile(`^(.*\S) # handle (\d+)$`)

// nftTexts parses the output of `nft -a list ruleset`: the rules by "FAMILY TABLE HANDLE".
func nftTexts(listing string) map[string]string {
	texts := make(map[string]string)
	table := ""
	for line := range strings.Lines(listing) {
		m := nftHandle.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		if w := strings.Fields(m[1]); w[0] == "table" && len(w) > 2 {
			table = w[1] + " " + w[2]
			continue
		}
		texts[table+" "+m[2]] = m[1]
	}

	return texts
}

// nftRule interprets the expressions of a rule.
type nftRule struct {
	sets  nftSets
	table string // FAMILY TABLE
}

// rules converts a rule of nftables, which becomes several rules if it has a verdict map.
func (n nftRule) rules(text string, exprs []map[string]any) (out []rule) {
	var conds []func(packet) truth
	add := func(v any, also ...func(packet) truth) {
		if verdict, target, ok := n.verdict(v); ok {
			all := append(slices.Clone(conds), also...)
			out = append(out, rule{Text: text, Verdict: verdict, Target: target, Match: func(p packet) truth {
				t := yes
				for _, c := range all {
					t = min(t, c(p))
				}
				return t
			}})
		}
	}
	for _, expr := range exprs {
		for name, body := range expr {
			b, _ := body.(map[string]any)
			switch name {
			case "match":
				conds = append(conds, func(p packet) truth { return n.match(b, p) })
			case "vmap":
				for _, e := range n.elements(b["data"]) {
					if pair, ok := e.([]any); ok && len(pair) == 2 {
						add(pair[1], func(p packet) truth { return n.equal(b["key"], pair[0], p) })
					}
				}
			case "xt":
				// An extension of iptables, of which nft shows only the name.
				if b["type"] == "target" {
					add(map[string]any{"queue": nil})
				}
				conds = append(conds, func(packet) truth { return maybe })
			case "counter", "log", "mangle", "notrack", "ct helper", "ct timeout", "ct expectation", "set", "dup":
			default:
				if _, _, ok := n.verdict(expr); ok {
					add(expr)
				} else {
					conds = append(conds, func(packet) truth { return maybe })
				}
			}
		}
	}

	return out
}

// verdict interprets {"accept": null}, {"jump": {"target": "x"}} and so on; false if it is not a verdict.
func (n nftRule) verdict(v any) (ruleVerdict, string, bool) {
	m, _ := v.(map[string]any)
	for name, body := range m {
		switch name {
		case "accept":
			return accept, "", true
		case "drop", "reject":
			return drop, "", true
		case "return":
			return leave, "", true
		case "queue":
			return unknown, "", true
		case "jump", "goto":
			b, _ := body.(map[string]any)
			target, _ := b["target"].(string)
			v := jump
			if name == "goto" {
				v = goTo
			}
			return v, n.table + " " + target, true
		}
	}

	return 0, "", false
}

// elements returns the elements of an anonymous or named set.
func (n nftRule) elements(set any) []any {
	switch s := set.(type) {
	case string:
		return n.sets[n.table+" "+s]
	case []any:
		return s
	case map[string]any:
		if list, ok := s["set"].([]any); ok {
			return list
		}
	}
	return nil
}

// match reports whether a packet matches a match expression.
func (n nftRule) match(m map[string]any, p packet) truth {
	left, right := m["left"], m["right"]
	if _, known := field(left, p); known == no {
		return no // a field of another protocol; nft implies that condition
	}
	switch m["op"] {
	case "==", "in":
		return n.equal(left, right, p)
	case "!=":
		return n.equal(left, right, p).not()
	}

	v, known := field(left, p)
	number, ok := v.(int)
	limit, isNumber := right.(float64)
	if known != yes || !ok || !isNumber {
		return maybe
	}
	switch m["op"] {
	case "<":
		return truthOf(float64(number) < limit)
	case ">":
		return truthOf(float64(number) > limit)
	case "<=":
		return truthOf(float64(number) <= limit)
	case ">=":
		return truthOf(float64(number) >= limit)
	}

	return maybe
}

// equal reports whether the field on the left is equal to the value, or to one of the values, on the right.
func (n nftRule) equal(left, right any, p packet) truth {
	named, _ := right.(string)
	many, isList := right.([]any)
	m, _ := right.(map[string]any)
	if strings.HasPrefix(named, "@") || m["set"] != nil {
		many, isList = n.elements(right), true
	}
	if isList {
		t := no
		for _, e := range many {
			t = max(t, n.equal(left, e, p))
		}
		return t
	}

	if elem, ok := m["elem"].(map[string]any); ok { // an element with a comment or a timeout
		return n.equal(left, elem["val"], p)
	}
	if parts, ok := sub(left, "concat").([]any); ok {
		values, _ := m["concat"].([]any)
		if len(values) != len(parts) {
			return maybe
		}
		t := yes
		for i := range parts {
			t = min(t, n.equal(parts[i], values[i], p))
		}
		return t
	}

	v, known := field(left, p)
	if known != yes {
		return known
	}
	return sameValue(v, right)
}
