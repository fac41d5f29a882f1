package sshlogin

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// matches reports whether s matches a pattern, in which * stands for any characters and ? for one.
func matches(s, pattern string) bool {
	for pattern != "" {
		switch {
		case pattern[0] == '*':
			pattern = strings.TrimLeft(pattern, "*")
			for i := range len(s) + 1 {
				if matches(s[i:], pattern) {
					return true
				}
			}
			return false
		case s == "" || pattern[0] != '?' && pattern[0] != s[0]:
			return false
		}

		s, pattern = s[1:], pattern[1:]
	}

	return s == ""
}

// matchesHost reports whether a machine matches the patterns of a Host line. A pattern with ! excludes it.
func matchesHost(host string, patterns []string) bool {
	found := false
	for _, p := range patterns {
		if bare, not := strings.CutPrefix(p, "!"); not {
			if matches(host, bare) {
				return false
			}
			continue
		}
		found = found || matches(host, p)
	}
	return found
}

// matchesList is matchesHost for a list with commas, and ignores case.
func matchesList(s, list string) bool {
	return matchesHost(strings.ToLower(s), strings.Split(strings.ToLower(list), ","))
}

// match reports whether all criteria of a Match line hold. The commands of exec are not run, and count as not matching.
func (r *reader) match(args []string, o Operator, at string) (bool, error) {
	all := true
	for i := 0; i < len(args); i++ {
		criterion, arg, given := strings.Cut(args[i], "=")
		criterion, not := strings.CutPrefix(criterion, "!")
		criterion = strings.ToLower(criterion)
		holds := true
		switch criterion {
		case "all":
		case "final", "canonical":
			r.wantFinal = r.wantFinal || criterion == "final"
			holds = r.final
		default:
			if !given {
				i++
				if i == len(args) {
					return false, fmt.Errorf("the criterion %s of Match needs a pattern", criterion)
				}
				arg = args[i]
			}

			var known bool
			if holds, known = r.holds(criterion, arg, o, at); !known {
				all = false // neither an unknown criterion nor its negation holds
				continue
			}
		}

		all = all && holds != not
	}

	return all, nil
}

// holds reports whether a criterion with an argument holds; known is false if that cannot be told.
func (r *reader) holds(criterion, arg string, o Operator, at string) (holds, known bool) {
	switch criterion {
	case "host":
		return matchesList(r.hostName(), arg), true
	case "originalhost":
		return matchesList(r.to.Host, arg), true
	case "user":
		return matchesUser(r.userName(), arg), true
	case "localuser":
		return matchesUser(o.Name, arg), true
	case "tagged":
		return matchesUser(r.one["tag"].text, arg), true
	case "localnetwork":
		return onNetwork(strings.Split(arg, ",")), true
	case "exec":
		if !slices.Contains(r.exec, at) {
			r.exec = append(r.exec, at)
		}
	}

	return false, false
}

// matchesUser is matchesList with case.
func matchesUser(s, list string) bool { return matchesHost(s, strings.Split(list, ",")) }

// hostName returns the machine's name, as far as the files have been read.
func (r *reader) hostName() string {
	v, said := r.one["hostname"]
	if !said {
		return r.to.Host
	}
	return strings.NewReplacer("%%", "%", "%h", r.to.Host).Replace(v.text)
}

// userName returns the user to log in as, as far as the files have been read. The default is root, since others usually
// cannot take a machine over.
func (r *reader) userName() string {
	if v, said := r.one["user"]; said {
		return v.text
	}
	return "root"
}

// onNetwork reports whether the operator's machine has an address in one of the networks.
func onNetwork(networks []string) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, text := range networks {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if own, err := netip.ParsePrefix(a.String()); err == nil && network.Contains(own.Addr()) {
				return true
			}
		}
	}

	return false
}
