package nix

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"provision/disko"
)

// Expected is what a configuration says about how its machine appears on the network, and which files persist across
// boots. expected.nix reads it. Values that are not known are nil, empty or 0.
type Expected struct {
	HostName    string             `json:"hostName"` // networking.hostName
	SSHD        sshd               `json:"sshd"`
	Firewall    firewall           `json:"firewall"`
	Stage1      stage1             `json:"stage1"`
	Kept        []keptAt           `json:"kept"`
	FileSystems []disko.FileSystem `json:"fileSystems"`
}

// sshd is the part of services.openssh that matters here.
type sshd struct {
	Enable       *bool `json:"enable"`
	Ports        []int `json:"ports"`
	OpenFirewall *bool `json:"openFirewall"`
	Listen       []struct {
		Address string `json:"address"`
		Port    int    `json:"port"`
	} `json:"listen"`
	Keys []hostKey `json:"keys"`
}

// hostKey is an element of services.openssh.hostKeys.
type hostKey struct {
	Type string `json:"type"` // ed25519, rsa, ecdsa
	Path string `json:"path"`
}

// firewall is the part of networking.firewall that matters here.
type firewall struct {
	Enable *bool `json:"enable"`
	opened
	Trusted    []string `json:"trusted"`
	Interfaces []struct {
		Name string `json:"name"`
		opened
	} `json:"interfaces"`
}

// opened are TCP ports that a firewall opens.
type opened struct {
	Ports  []int `json:"ports"` // nil: not known
	Ranges []struct {
		From int `json:"from"`
		To   int `json:"to"`
	} `json:"ranges"`
}

// has reports whether a port is open.
func (o opened) has(port int) bool {
	for _, r := range o.Ranges {
		if r.From <= port && port <= r.To {
			return true
		}
	}
	return slices.Contains(o.Ports, port)
}

// stage1 is the part of boot.initrd that matters here.
type stage1 struct {
	Network   bool     `json:"network"`
	NoNetwork bool     `json:"noNetwork"` // it is known to have none
	SSH       bool     `json:"ssh"`
	Port      int      `json:"port"`
	Keys      []string `json:"keys"`
	Scripts   []string `json:"scripts"`
	Secrets   []string `json:"secrets"` // files of boot.initrd.secrets that no option makes
}

// maxPorts bounds how many ports are tried to find a host.
const maxPorts = 4

// SSHPorts returns the ports where sshd can be reached from other machines, at most maxPorts; none if they are not
// known.
func (e Expected) SSHPorts() []int {
	ports := e.SSHD.Ports
	if bound := e.listen(); len(bound) > 0 {
		ports = bound
	}

	var valid []int
	for _, port := range ports {
		if 0 < port && port < 1<<16 && !slices.Contains(valid, port) && len(valid) < maxPorts {
			valid = append(valid, port)
		}
	}
	return valid
}

// OnlyLoopback reports whether sshd listens on loopback addresses only (services.openssh.listenAddresses).
func (e Expected) OnlyLoopback() bool { return len(e.SSHD.Listen) > 0 && len(e.listen()) == 0 }

// listen returns the ports of services.openssh.listenAddresses, without those on loopback addresses.
func (e Expected) listen() (ports []int) {
	for _, l := range e.SSHD.Listen {
		if addr, err := netip.ParseAddr(l.Address); err == nil && addr.IsLoopback() || l.Address == "localhost" {
			continue
		}
		if l.Port != 0 {
			ports = append(ports, l.Port)
		} else {
			ports = append(ports, e.SSHD.Ports...)
		}
	}
	return ports
}

// HostKeys returns the paths of sshd's host keys of a type, such as ed25519.
func (e Expected) HostKeys(kind string) (paths []string) {
	for _, key := range e.SSHD.Keys {
		if key.Type == kind {
			paths = append(paths, key.Path)
		}
	}
	return paths
}

// notLAN matches names of interfaces that do not lead to the machine's network, such as those of tunnels and
// containers.
var notLAN = regexp.MustCompile(
	`^(lo|tailscale|wg|wt|zt|tun|nebula|netbird|ppp|ipsec|docker|podman|cni|virbr|ve-|vb-|lxdbr|incusbr)`)

// LetsIn reports whether the firewall accepts connections to a TCP port from the machine's network, as far as the
// configuration tells. If it does not, only lists the interfaces from which it accepts them.
func (e Expected) LetsIn(port int) (in bool, only []string) {
	fw := e.Firewall
	closed := e.SSHD.OpenFirewall != nil && !*e.SSHD.OpenFirewall
	switch {
	case fw.Enable != nil && !*fw.Enable, fw.has(port):
		return true, nil
	case !closed && (fw.Enable == nil || fw.Ports == nil): // not NixOS's own firewall, or not completely known
		return true, nil
	}

	from := slices.Clone(fw.Trusted)
	for _, i := range fw.Interfaces {
		if i.has(port) && !slices.Contains(from, i.Name) {
			from = append(from, i.Name)
		}
	}

	for _, name := range from {
		switch {
		case !notLAN.MatchString(name): // it may be the machine's LAN interface
			return true, nil
		case name != "lo":
			only = append(only, name)
		}
	}

	return false, only
}

// Stage1 is what the initrd does on the network (boot.initrd.network) before the disks are unlocked.
type Stage1 struct {
	Network bool // it requests an address
	Port    int  // of its sshd; 0: it has none
	OwnKey  bool // its sshd has the host's own key, or may have it

	// SystemKey is a type of SSH host key that the system's sshd has and stage 1's has not, such as ssh-rsa; empty: none
	// is known.
	SystemKey string
}

// Stage1 returns what stage 1 does on the network. layout, which may be nil, decides where the host's key is stored.
func (c Config) Stage1(layout *disko.Layout) (s Stage1) {
	e := c.Expected
	if e.Stage1.NoNetwork {
		return s
	}
	s.Network = e.Stage1.Network || e.Stage1.SSH
	if !e.Stage1.SSH {
		return s
	}

	s.Port = 22
	if e.Stage1.Port != 0 {
		s.Port = e.Stage1.Port
	}

	own := c.HostKeyFiles(layout)
	s.OwnKey = len(e.Stage1.Keys) == 0 // not known
	rsa := s.OwnKey
	for _, key := range e.Stage1.Keys {
		s.OwnKey = s.OwnKey || slices.Contains(own, key) || slices.Contains(e.HostKeys("ed25519"), key)
		rsa = rsa || !strings.Contains(key, "ed25519") && !strings.Contains(key, "ecdsa")
	}

	if !rsa && len(e.HostKeys("rsa")) > 0 {
		s.SystemKey = "ssh-rsa"
	}
	return s
}
