package takeover

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"provision/hosts"
)

const surroundingsOf = `kernel Linux
arch x86_64
uid 1000
sudo yes
id debian
name Debian GNU/Linux 12 (bookworm)
nic lo 00:00:00:00:00:00 virtual
nic br0 52:54:00:00:00:02 virtual
nic eth1 52:54:00:00:00:01 wired bond0
nic eth0 52:54:00:00:00:03 wired
nic eth2 52:54:00:00:00:02 wired br0
nic eth3 52:54:00:00:00:01 wired
nic wlan0 52:54:00:00:00:04 wireless
nic
route eth0
addr br0 10.0.0.5
addr eth0 10.1.0.5
addr bond0 fd00::5
addr x nonsense
sshd permitrootlogin without-password
sshd authorizedkeysfile .ssh/authorized_keys .ssh/authorized_keys2
unknown word
`

func TestSurroundings(t *testing.T) {
	s := readSurroundings(surroundingsOf)
	if got := s.system(); got != "Debian GNU/Linux 12 (bookworm)" {
		t.Errorf("it runs %q", got)
	}
	if err := s.usable("ada", false); err != nil {
		t.Error(err)
	}
	if s.installer() || !slices.Equal(s.root(), []string{"sudo", "-n"}) {
		t.Errorf("installer %t, root by %v", s.installer(), s.root())
	}
	const m1, m2, m3 = "52:54:00:00:00:01", "52:54:00:00:00:02", "52:54:00:00:00:03"
	for reached, want := range map[string][]string{
		"10.0.0.5": {m2, m3, m1}, // through the bridge, then the default route
		"10.1.0.5": {m3, m1, m2},
		"fd00::5":  {m1, m3, m2},
		"192.0.2.": {m3, m1, m2}, // behind a router that rewrites addresses
	} {
		addr, _ := netip.ParseAddr(reached)
		if got := s.macs(addr); !slices.Equal(got, want) {
			t.Errorf("reached at %s: %v, want %v", reached, got, want)
		}
	}
	installer := readSurroundings("kernel Linux\nuid 0\nid nixos\nvariant installer\nnic e 52:54:00:00:00:01 wired\n")
	if err := installer.usable("root", false); err != nil || !installer.installer() || installer.root() != nil {
		t.Errorf("an installer: %v, %t, root by %v", err, installer.installer(), installer.root())
	}
}

func TestUnusable(t *testing.T) {
	for name, c := range map[string]struct{ change, want string }{
		"another kernel": {"kernel FreeBSD", `"FreeBSD", not Linux`},
		"no sudo":        {"sudo no", "ada is not root there"},
		"no root":        {"sshd permitrootlogin no", "PermitRootLogin no"},
		"commands only":  {"sshd permitrootlogin forced-commands-only", "forced-commands-only"},
		"no keys":        {"sshd pubkeyauthentication no", "PubkeyAuthentication no"},
		"other file":     {"sshd authorizedkeysfile /etc/keys/%u", "AuthorizedKeysFile /etc/keys/%u"},
	} {
		err := readSurroundings(surroundingsOf+c.change+"\n").usable("ada", false)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	err := readSurroundings("kernel Linux\nuid 0\nnic eth0 52:54:00:00:00:01 virtual\nnic wlan0 52:54:00:00:00:02 wireless\n").usable("root", false)
	if err == nil || !strings.Contains(err.Error(), "no wired network card") {
		t.Errorf("a container: %v", err)
	}
}

// TestForwarded: the installer listens on port 22 of the machine, which must be reached.
func TestForwarded(t *testing.T) {
	for name, c := range map[string]struct {
		conn string // SSH_CONNECTION
		take hosts.Takeover
		want bool
	}{
		"its own":               {"10.0.0.9 50000 10.0.0.5 22", hosts.Takeover{Address: "10.0.0.5"}, false},
		"its own, on a port":    {"10.0.0.9 50000 10.0.0.5 2222", hosts.Takeover{Address: "10.0.0.5", Port: 2222}, false},
		"another port":          {"10.0.0.9 50000 10.0.0.5 22", hosts.Takeover{Address: "10.0.0.5", Port: 2222}, true},
		"a router's":            {"198.51.100.7 50000 192.168.1.5 22", hosts.Takeover{Address: "203.0.113.9", Port: 2222}, true},
		"a router's, the same":  {"198.51.100.7 50000 192.168.1.5 2222", hosts.Takeover{Address: "203.0.113.9", Port: 2222}, true},
		"a router's, 22 to it":  {"198.51.100.7 50000 192.168.1.5 2222", hosts.Takeover{Address: "203.0.113.9", Port: 22}, true},
		"an address of a cloud": {"198.51.100.7 50000 172.31.0.5 22", hosts.Takeover{Address: "203.0.113.9", Port: 22}, false},
		"by name":               {"198.51.100.7 50000 192.168.1.5 22", hosts.Takeover{Address: "203.0.113.9", Port: 2222, PostKexecPort: 2222}, false},
		"an installer":          {"198.51.100.7 50000 192.168.1.5 22", hosts.Takeover{Address: "203.0.113.9", Port: 2222, Installer: true}, false},
		"link-local":            {"fe80::9%ens3 50000 fe80::5%ens3 2222", hosts.Takeover{Address: "fe80::5%br0", Port: 2222}, false},
		"IPv4 in IPv6":          {"::ffff:10.0.0.9 50000 ::ffff:10.0.0.5 2222", hosts.Takeover{Address: "10.0.0.5", Port: 2222}, false},
		"not said":              {"", hosts.Takeover{Address: "203.0.113.9", Port: 2222}, false},
		"nonsense":              {"a b c d", hosts.Takeover{Address: "203.0.113.9", Port: 2222}, false},
	} {
		err := readSurroundings("kernel Linux\nconn " + c.conn + "\n").forwarded(c.take)
		if (err != nil) != c.want || err != nil && !strings.Contains(err.Error(), "--post-kexec-port PORT") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAdmitted: where the server gets in already, nobody has to let it in.
func TestAdmitted(t *testing.T) {
	for _, change := range []string{"sudo no", "sshd permitrootlogin no", "sshd authorizedkeysfile /etc/ssh/authorized_keys.d/%u"} {
		s := readSurroundings(surroundingsOf + change + "\n")
		if s.usable("ada", false) == nil || s.usable("ada", true) != nil {
			t.Errorf("%s: %v, and with the server's key in: %v", change, s.usable("ada", false), s.usable("ada", true))
		}
	}
}
