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

// surroundings describe a machine, as Visit.LookAround found it.
type surroundings struct {
	kernel  string // name of the kernel, as uname prints it
	arch    string // as uname prints it
	uid     string // of the user who logged in
	sudo    bool   // this user can become root without a password
	id      string // ID, VARIANT_ID and name are from os-release(5)
	variant string
	name    string
	nics    []nic
	routes  []string              // interfaces with a default route
	addrs   map[netip.Addr]string // addresses and their interfaces
	sshd    map[string]string     // sshd's settings for root; empty: not known
	here    netip.AddrPort        // where its sshd was reached, as the machine sees it; may be invalid
}

// nic is an Ethernet interface. kind is "wired" for a network card with a cable; master is the bridge or bond it
// belongs to.
type nic struct{ name, mac, kind, master string }

// readSurroundings parses the output of Visit.LookAround: lines of a key and a value.
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

// readAddrPort parses an address and a port; the result is invalid if they are.
func readAddrPort(addr, port string) netip.AddrPort {
	a, err := netip.ParseAddr(addr)
	n, portErr := strconv.ParseUint(port, 10, 16)
	if err != nil || portErr != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n))
}

// system returns the machine's operating system, for people.
func (s *surroundings) system() string {
	if s.name != "" {
		return s.name
	}
	return s.kernel
}

// installer reports whether the machine runs a NixOS installer.
func (s *surroundings) installer() bool { return s.id == "nixos" && s.variant == "installer" }

// root returns the command prefix that makes a command run as root.
func (s *surroundings) root() []string {
	if s.uid == "0" {
		return nil
	}
	return []string{"sudo", "-n"}
}

// usable returns an error if the machine cannot be taken over by the user. If the server can log in already (admitted),
// the user need not be able to become root.
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

// forwarded returns an error if the installer would not be reached where the machine's sshd is reached: something
// between forwards that port, but the installer listens on port 22 of the machine. If the address is not the machine's
// own, all of its ports may be forwarded, which cannot be seen; for port 22 this is assumed.
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

// rootLogin returns an error if settings of sshd keep a key in root's authorized keys from working.
func (s *surroundings) rootLogin() error {
	switch p := s.sshd["permitrootlogin"]; {
	case p == "no", p == "forced-commands-only":
		return fmt.Errorf("its sshd lets root in by no key (PermitRootLogin %s): "+
			"set it to prohibit-password in /etc/ssh/sshd_config and reload sshd", p)
	case s.sshd["pubkeyauthentication"] == "no":
		return errors.New("its sshd takes no keys (PubkeyAuthentication no): set it to yes in /etc/ssh/sshd_config " +
			"and reload sshd")
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

// wired returns the network cards with a cable.
func (s *surroundings) wired() []nic {
	return slices.DeleteFunc(slices.Clone(s.nics), func(n nic) bool { return n.kind != "wired" })
}

// macs returns the MACs of the machine's own network cards: first those of the interface with the address reached, then
// those of the interfaces with a default route, then the others. These interfaces may be bridges, bonds or VLANs, which
// take their MAC from a card.
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

// mac returns the MAC of an interface; empty if it is not known.
func (s *surroundings) mac(dev string) string {
	for _, n := range s.nics {
		if n.name == dev {
			return n.mac
		}
	}
	return ""
}
