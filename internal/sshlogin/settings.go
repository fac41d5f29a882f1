package sshlogin

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// settings are the complete settings for one machine.
type settings struct {
	user, host string
	port       int
	alias      string // its name in the known hosts; "": the name that is used
	identities []identity
	only       bool   // only the named keys of the agent are used
	agent      string // socket; "": none
	jumps      []Target
	jumpsAt    string   // FILE:LINE
	knownHosts []string // files
	strict     bool     // unknown host keys are refused without asking
	notes      []string // settings that are not honoured and that make a difference, for people
	unchecked  []string // settings of the host key check that are not honoured, for people
}

// identity is a key file.
type identity struct {
	file  string
	named bool // the operator named it explicitly
}

// address returns HOST:PORT.
func (s *settings) address() string { return net.JoinHostPort(s.host, strconv.Itoa(s.port)) }

// name returns the machine's name for people.
func (s *settings) name() string { return s.address() }

// resolve returns the settings for a machine. What was typed takes precedence over the files.
func (l *Login) resolve(to Target, primary bool) (*settings, error) {
	r, err := l.readOptions(to)
	if err != nil {
		return nil, err
	}

	s := &settings{user: r.userName(), host: r.hostName(), port: cmp.Or(to.Port, 22)}
	if v, said := r.one["port"]; said && to.Port == 0 {
		if s.port, err = strconv.Atoi(v.text); err != nil || s.port < 1 || s.port > 65535 {
			return nil, fmt.Errorf("%s: Port %s: ports go from 1 to 65535", v.at, v.text)
		}
	}

	_, notIP := netip.ParseAddr(s.host)
	if s.host == "" || notIP != nil && strings.ContainsAny(s.host, " /[]:%") || strings.HasPrefix(s.host, "-") {
		return nil, fmt.Errorf("%s: HostName %s: write a host name or an address; of the tokens only %%h and %%%% "+
			"are known there",
			r.one["hostname"].at, r.one["hostname"].text)
	}
	s.alias = strings.ToLower(r.one["hostkeyalias"].text)
	if err := l.keySettings(s, r, primary); err != nil {
		return nil, err
	}
	if err := s.jumpSettings(r); err != nil {
		return nil, err
	}

	for _, at := range r.exec {
		s.notes = append(s.notes, at+": Match exec is not run, and what is below it is left out")
	}
	return s, l.knownSettings(s, r)
}

// keySettings sets what to log in with.
func (l *Login) keySettings(s *settings, r *reader, primary bool) error {
	if primary {
		for _, file := range l.Identities {
			s.identities = append(s.identities, identity{file, true})
		}
	}

	for _, v := range r.keys {
		if v.text == "none" {
			continue
		}
		file, err := s.expand(v, r)
		if err != nil {
			return err
		}
		s.identities = append(s.identities, identity{file: file})
	}

	s.only = r.yes("identitiesonly")
	if len(s.identities) == 0 && len(r.keys) == 0 {
		s.identities = defaultKeys(l.Operators)
	}
	if sockets := agents(l.Operators); len(sockets) > 0 {
		s.agent = sockets[0]
	}
	v, said := r.one["identityagent"]
	variable, isVariable := strings.CutPrefix(v.text, "$")
	switch {
	case !said || v.text == "SSH_AUTH_SOCK":
	case v.text == "none":
		s.agent = ""
	case isVariable && !strings.HasPrefix(variable, "{"):
		s.agent = os.Getenv(variable)
	default:
		var err error
		s.agent, err = s.expand(v, r)
		return err
	}

	return nil
}

// jumpSettings sets the jump hosts.
func (s *settings) jumpSettings(r *reader) error {
	if v, said := r.one["proxycommand"]; said && v.text != "none" {
		s.notes = append(s.notes, v.at+": ProxyCommand is not run, and "+s.name()+
			" is connected to directly; where the command is `ssh -W`, write ProxyJump instead")
	}
	v, said := r.one["proxyjump"]
	if !said || v.text == "none" {
		return nil
	}
	s.jumpsAt = v.at
	for hop := range strings.SplitSeq(v.text, ",") {
		t, err := ParseTarget(strings.TrimSuffix(strings.TrimPrefix(hop, "ssh://"), "/"))
		if err != nil {
			return fmt.Errorf("%s: ProxyJump: %w", v.at, err)
		}
		s.jumps = append(s.jumps, t)
	}

	return nil
}

// knownSettings sets how the host key is checked. Settings that would weaken the check are not honoured.
func (l *Login) knownSettings(s *settings, r *reader) error {
	for _, o := range l.Operators {
		s.knownHosts = append(s.knownHosts, o.file("known_hosts"), o.file("known_hosts2"))
	}
	for _, keyword := range []string{"userknownhostsfile", "globalknownhostsfile"} {
		v, said := r.one[keyword]
		if !said {
			continue
		}
		names, err := split("Files " + v.text)
		if err != nil {
			return fmt.Errorf("%s: %w", v.at, err)
		}

		for _, file := range names[1:] {
			if file == "none" || file == "/dev/null" {
				s.unchecked = append(s.unchecked, fmt.Sprintf("%s: the known hosts go on to count", v.at))
				continue
			}
			if file, err = s.expand(value{file, v.operator, v.at}, r); err != nil {
				return err
			}
			s.knownHosts = append(s.knownHosts, file)
		}
	}

	if l.System != "" {
		s.knownHosts = append(s.knownHosts, filepath.Join(l.System, "ssh_known_hosts"), filepath.Join(l.System, "ssh_known_hosts2"))
	}
	switch v := r.one["stricthostkeychecking"]; strings.ToLower(v.text) {
	case "yes", "true":
		s.strict = true
	case "no", "false", "off", "accept-new":
		s.unchecked = append(s.unchecked, fmt.Sprintf("%s: StrictHostKeyChecking %s does not hold here, for the "+
			"disks would be another machine's", v.at, v.text))
	}

	if r.yes("nohostauthenticationforlocalhost") {
		s.unchecked = append(s.unchecked, r.one["nohostauthenticationforlocalhost"].at+": NoHostAuthenticationForLocalhost does not hold here")
	}
	if v, said := r.one["knownhostscommand"]; said && v.text != "none" {
		s.unchecked = append(s.unchecked, v.at+": KnownHostsCommand is not run")
	}
	if v, said := r.one["pkcs11provider"]; said && v.text != "none" {
		s.notes = append(s.notes, v.at+": PKCS11Provider is not loaded; add its keys to the SSH agent with "+
			"`ssh-add -s`")
	}
	if v, said := r.one["revokedhostkeys"]; said && v.text != "none" && l.HostKey == "" {
		return fmt.Errorf("%s: RevokedHostKeys is not read here, so that a revoked host key would pass: give the "+
			"machine's with --ssh-host-key", v.at)
	}
	return nil
}

// yes reports whether a keyword is switched on.
func (r *reader) yes(keyword string) bool {
	v := strings.ToLower(r.one[keyword].text)
	return v == "yes" || v == "true"
}

// expand replaces ~, ${VARIABLE} and the tokens of ssh_config(5).
func (s *settings) expand(v value, r *reader) (string, error) {
	text, err := expandHome(v.text, v.operator)
	if err != nil {
		return "", fmt.Errorf("%s: %w", v.at, err)
	}

	local, err := os.Hostname()
	if err != nil {
		return "", err
	}

	short, _, _ := strings.Cut(local, ".")
	tokens := map[byte]string{
		'%': "%",
		'h': s.host,
		'n': r.to.Host,
		'p': strconv.Itoa(s.port),
		'r': s.user,
		'd': v.operator.Home,
		'u': v.operator.Name,
		'i': v.operator.UID,
		'k': cmp.Or(s.alias, r.to.Host),
		'l': local,
		'L': short,
		'j': r.one["proxyjump"].text,
	}
	tokens['C'] = hashOf(local + s.host + tokens['p'] + s.user + tokens['j'])
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '%':
			i++
			if i == len(text) || tokens[text[i]] == "" && text[i] != 'j' {
				return "", fmt.Errorf("%s: %s: %%%s is not known here", v.at, v.text, text[i:min(i+1, len(text))])
			}
			b.WriteString(tokens[text[i]])
		case strings.HasPrefix(text[i:], "${"):
			name, _, closed := strings.Cut(text[i+2:], "}")
			set, is := os.LookupEnv(name)
			if !closed || !is {
				return "", fmt.Errorf("%s: %s: the variable %s is not set", v.at, v.text, name)
			}
			b.WriteString(set)
			i += len("${}") + len(name) - 1
		default:
			b.WriteByte(text[i])
		}
	}

	return b.String(), nil
}

// expandHome replaces ~ or ~USER at the beginning of a path.
func expandHome(path string, o Operator) (string, error) {
	rest, is := strings.CutPrefix(path, "~")
	if !is {
		return path, nil
	}
	name, rest, _ := strings.Cut(rest, "/")
	if name == "" {
		return filepath.Join(o.Home, rest), nil
	}
	account, err := user.Lookup(name)
	if err != nil {
		return "", errors.Join(fmt.Errorf("find the home in %s", path), err)
	}
	return filepath.Join(account.HomeDir, rest), nil
}
