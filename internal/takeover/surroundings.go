package takeover

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"provision/hosts"
)

// surroundings are what a machine is, as it was found.
type surroundings struct {
	kernel  string // as uname says
	arch    string
	uid     string // of the user who logged in
	sudo    bool   // that user becomes root without a password
	id      string // of os-release(5), as are the next two
	variant string
	name    string
	nics    []nic
	routes  []string              // interfaces with a default route
	addrs   map[netip.Addr]string // to their interface
	sshd    map[string]string     // its settings for root; empty: not known
	here    netip.AddrPort        // where its sshd was reached, as it sees it; may be not valid
}

// nic is an Ethernet interface.
type nic struct{ name, mac, kind, master string }

func readSurroundings(out string) *surroundings {
	s := &surroundings{addrs: make(map[netip.Addr]string), sshd: make(map[string]string)}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		fields := strings.Fields(value)
		switch key {
		case "kernel":
			s.kernel = value
		case "arch":
			s.arch = value
		case "uid":
			s.uid = value
		case "sudo":
			s.sudo = value == "yes"
		case "id":
			s.id = value
		case "variant":
			s.variant = value
		case "name":
			s.name = value
		case "nic":
			fields = append(fields, "", "", "", "")
			s.nics = append(s.nics, nic{fields[0], strings.ToLower(fields[1]), fields[2], fields[3]})
		case "route":
			s.routes = append(s.routes, value)
		case "addr":
			if len(fields) == 2 {
				if a, err := netip.ParseAddr(fields[1]); err == nil {
					s.addrs[a] = fields[0]
				}
			}
		case "conn":
			if len(fields) == 4 {
				s.here = readAddrPort(fields[2], fields[3])
			}
		case "sshd":
			setting, value, _ := strings.Cut(value, " ")
			s.sshd[setting] = value
		}
	}

	return s
}

// readAddrPort is not valid if the words are not an address and a port.
func readAddrPort(addr, port string) netip.AddrPort {
	a, err := netip.ParseAddr(addr)
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n))
}

// system is what the machine runs, for people.
func (s *surroundings) system() string {
	if s.name != "" {
		return s.name
	}
	return s.kernel
}

// installer reports whether the machine runs a NixOS installer.
func (s *surroundings) installer() bool { return s.id == "nixos" && s.variant == "installer" }

// root is what comes before a command that root is to run.
func (s *surroundings) root() []string {
	if s.uid == "0" {
		return nil
	}
	return []string{"sudo", "-n"}
}

// usable says why the machine cannot be taken over by the user. Where the server is let in already, nobody has to
// let it in.
func (s *surroundings) usable(user string, admitted bool) error {
	switch {
	case s.kernel != "Linux":
		return fmt.Errorf("it runs %q, not Linux", s.kernel)
	case len(s.wired()) == 0:
		return errors.New("it has no wired network card of its own: a container cannot be taken over, " +
			"and the installer has no Wi-Fi")
	case admitted:
		return nil
	case s.uid != "0" && !s.sudo:
		return fmt.Errorf("%s is not root there, and sudo asks for a password or is missing (`sudo -n true` fails): "+
			"log in as root, or let %s use sudo without a password", user, user)
	}

	return s.rootLogin()
}

// forwarded says that the installer would not be reached where the machine's sshd is: something in between passes on
// that port, and the installer listens on port 22 of the machine. An address that is not the machine's own may be
// passed on with all ports, which cannot be seen; port 22 is believed to be.
func (s *surroundings) forwarded(t hosts.Takeover) error {
	// Each side has its own name for the zone of a link-local address.
	reached := netip.AddrPortFrom(netip.MustParseAddr(t.Address).Unmap().WithZone(""), uint16(cmp.Or(t.Port, 22)))
	other := s.here.Port() != reached.Port() || s.here.Addr().WithZone("") != reached.Addr() && reached.Port() != 22
	if !s.here.IsValid() || !other || t.Installer || t.PostKexecPort != 0 {
		return nil
	}
	return fmt.Errorf("%s is a forwarded port, for the machine's own sshd has it for %s, "+
		"and the installer will listen on port 22 of the machine: "+
		"say by which port of %s the server reaches that, with --post-kexec-port PORT", reached, s.here, reached.Addr())
}

// rootLogin refuses what keeps a key in root's authorized keys from working.
func (s *surroundings) rootLogin() error {
	switch p := s.sshd["permitrootlogin"]; {
	case p == "no", p == "forced-commands-only":
		return fmt.Errorf("its sshd lets root in by no key (PermitRootLogin %s): "+
			"set it to prohibit-password in /etc/ssh/sshd_config and reload sshd", p)
	case s.sshd["pubkeyauthentication"] == "no":
		return errors.New("its sshd takes no keys (PubkeyAuthentication no): set it to yes in /etc/ssh/sshd_config and reload sshd")
	}

	files := strings.Fields(s.sshd["authorizedkeysfile"])
	if len(files) > 0 && !slices.ContainsFunc(files, func(f string) bool {
		return f == ".ssh/authorized_keys" || f == "%h/.ssh/authorized_keys" || f == "/root/.ssh/authorized_keys"
	}) {
		return fmt.Errorf("its sshd does not read root's .ssh/authorized_keys (AuthorizedKeysFile %s): "+
			"add that file in /etc/ssh/sshd_config and reload sshd", strings.Join(files, " "))
	}

	return nil
}

func (s *surroundings) wired() []nic {
	return slices.DeleteFunc(slices.Clone(s.nics), func(n nic) bool { return n.kind != "wired" })
}

// macs are those of the machine's own network cards: first those through which
// it was reached at the address, then those of the default route. Both may lead
// through a bridge, a bond or a VLAN, which take their MAC from a card.
func (s *surroundings) macs(reached netip.Addr) []string {
	rank := func(n nic) int {
		for i, dev := range append([]string{s.addrs[reached]}, s.routes...) {
			if dev != "" && (n.name == dev || n.master == dev || n.mac == s.mac(dev)) {
				return i
			}
		}
		return len(s.routes) + 1
	}
	cards := s.wired()
	slices.SortStableFunc(cards, func(a, b nic) int { return rank(a) - rank(b) })
	var macs []string
	for _, n := range cards {
		if !slices.Contains(macs, n.mac) {
			macs = append(macs, n.mac)
		}
	}

	return macs
}

func (s *surroundings) mac(dev string) string {
	for _, n := range s.nics {
		if n.name == dev {
			return n.mac
		}
	}
	return ""
}
