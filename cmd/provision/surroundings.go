package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// lookAround prints what can be known of a machine without changing it, in lines
// of a word and what it says. It takes a POSIX shell and cat, uname, id and
// readlink; what is missing is not printed.
const lookAround = `PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/run/current-system/sw/bin
echo kernel $(uname -s)
echo arch $(uname -m)
echo uid $(id -u)
sudo=
if [ "$(id -u)" != 0 ]; then
	if sudo -n true < /dev/null 2> /dev/null; then echo sudo yes; sudo="sudo -n"; fi
fi
if [ -r /etc/os-release ]; then (
	. /etc/os-release
	echo "id $ID"
	echo "variant $VARIANT_ID"
	echo "name $PRETTY_NAME"
) fi
for d in /sys/class/net/*; do
	n=${d##*/}
	[ "$(cat "$d/type" 2> /dev/null)" = 1 ] || continue
	mac=$(cat "$d/address")
	[ -r "$d/bonding_slave/perm_hwaddr" ] && mac=$(cat "$d/bonding_slave/perm_hwaddr")
	kind=virtual
	[ -e "$d/device" ] && kind=wired
	[ -e "$d/wireless" ] || [ -e "$d/phy80211" ] && kind=wireless
	master=$(readlink "$d/master")
	echo nic $n $mac $kind ${master##*/}
done
while read -r dev to rest; do
	[ "$to" = 00000000 ] && echo route $dev
done < /proc/net/route
if command -v ip > /dev/null; then
	ip -o addr show | while read -r n dev family addr rest; do echo addr $dev ${addr%/*}; done
fi
if command -v sshd > /dev/null; then
	$sudo sshd -T -C user=root,host=provision,addr=${SSH_CONNECTION%% *} 2> /dev/null < /dev/null | while read -r key value; do
		case $key in permitrootlogin|pubkeyauthentication|authorizedkeysfile) echo sshd $key $value;; esac
	done
fi
true`

// surroundings are what a machine is, as it was found.
type surroundings struct {
	kernel, arch, uid, id, variant, name string
	sudo                                 bool
	nics                                 []nic
	routes                               []string              // interfaces with a default route
	addrs                                map[netip.Addr]string // to their interface
	sshd                                 map[string]string     // its settings for root; empty: not known
}

// nic is an Ethernet interface.
type nic struct{ name, mac, kind, master string }

func (m *sshMachine) look(ctx context.Context) (*surroundings, error) {
	out, err := m.script(ctx, nil, lookAround, "")
	if err != nil {
		return nil, fmt.Errorf("look around on %s: %w", m.address, err)
	}
	return readSurroundings(out), nil
}

func readSurroundings(out string) *surroundings {
	s := &surroundings{addrs: make(map[netip.Addr]string), sshd: make(map[string]string)}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		value = plain(value)
		words := strings.Fields(value)
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
			words = append(words, "", "", "", "")
			s.nics = append(s.nics, nic{words[0], strings.ToLower(words[1]), words[2], words[3]})
		case "route":
			s.routes = append(s.routes, value)
		case "addr":
			if len(words) == 2 {
				if a, err := netip.ParseAddr(words[1]); err == nil {
					s.addrs[a] = words[0]
				}
			}
		case "sshd":
			setting, value, _ := strings.Cut(value, " ")
			s.sshd[setting] = value
		}
	}
	return s
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

// usable says why the machine cannot be taken over.
func (s *surroundings) usable(l *sshLogin) error {
	switch {
	case s.kernel != "Linux":
		return fmt.Errorf("it runs %q, not Linux", s.kernel)
	case s.uid != "0" && !s.sudo:
		return fmt.Errorf("%s is not root there, and sudo asks for a password or is missing (`sudo -n true` fails): log in as root, or let %s use sudo without a password", l.user, l.user)
	case len(s.wired()) == 0:
		return errors.New("it has no wired network card of its own: a container cannot be taken over, and the installer has no Wi-Fi")
	}
	return s.rootLogin()
}

// rootLogin refuses what keeps a key in root's authorized keys from working.
func (s *surroundings) rootLogin() error {
	switch p := s.sshd["permitrootlogin"]; {
	case p == "no", p == "forced-commands-only":
		return fmt.Errorf("its sshd lets root in by no key (PermitRootLogin %s): set it to prohibit-password in /etc/ssh/sshd_config and reload sshd", p)
	case s.sshd["pubkeyauthentication"] == "no":
		return errors.New("its sshd takes no keys (PubkeyAuthentication no): set it to yes in /etc/ssh/sshd_config and reload sshd")
	}
	files := strings.Fields(s.sshd["authorizedkeysfile"])
	if len(files) > 0 && !slices.ContainsFunc(files, func(f string) bool {
		return f == ".ssh/authorized_keys" || f == "%h/.ssh/authorized_keys" || f == "/root/.ssh/authorized_keys"
	}) {
		return fmt.Errorf("its sshd does not read root's .ssh/authorized_keys (AuthorizedKeysFile %s): add that file in /etc/ssh/sshd_config and reload sshd", strings.Join(files, " "))
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
