package nix

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"provision/disko"
)

// Expected is what a configuration says of how its machine is seen on the network, and of what it keeps when it starts
// anew; expected.nix reads it. What is not known is nil, empty or 0.
type Expected struct {
	HostName    string             `json:"hostName"` // networking.hostName
	SSHD        sshd               `json:"sshd"`
	Firewall    firewall           `json:"firewall"`
	Stage1      stage1             `json:"stage1"`
	Kept        []keptAt           `json:"kept"`
	FileSystems []disko.FileSystem `json:"fileSystems"`
}

// sshd is services.openssh.
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

// hostKey is one of services.openssh.hostKeys.
type hostKey struct {
	Type string `json:"type"` // ed25519, rsa, ecdsa
	Path string `json:"path"`
}

// firewall is networking.firewall.
type firewall struct {
	Enable *bool `json:"enable"`
	opened
	Trusted    []string `json:"trusted"`
	Interfaces []struct {
		Name string `json:"name"`
		opened
	} `json:"interfaces"`
}

// opened are TCP ports that a firewall lets through.
type opened struct {
	Ports  []int `json:"ports"` // nil: not known
	Ranges []struct {
		From int `json:"from"`
		To   int `json:"to"`
	} `json:"ranges"`
}

func (o opened) has(port int) bool {
	for _, r := range o.Ranges {
		if r.From <= port && port <= r.To {
			return true
		}
	}
	return slices.Contains(o.Ports, port)
}

// stage1 is boot.initrd.
type stage1 struct {
	Network   bool     `json:"network"`
	NoNetwork bool     `json:"noNetwork"` // said, not only missing
	SSH       bool     `json:"ssh"`
	Port      int      `json:"port"`
	Keys      []string `json:"keys"`
	Scripts   []string `json:"scripts"`
	Secrets   []string `json:"secrets"` // files of boot.initrd.secrets that no option makes
}

// maxPorts bounds at how many ports a host is looked for.
const maxPorts = 4

// SSHPorts are where sshd listens for others than its own machine, four at most; none where that is not known.
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

// OnlyLoopback reports whether sshd listens for its own machine only (services.openssh.listenAddresses).
func (e Expected) OnlyLoopback() bool { return len(e.SSHD.Listen) > 0 && len(e.listen()) == 0 }

// listen are the ports of services.openssh.listenAddresses, but those of loopback.
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

// HostKeys are the paths of sshd's host keys of a type, such as ed25519.
func (e Expected) HostKeys(kind string) (paths []string) {
	for _, key := range e.SSHD.Keys {
		if key.Type == kind {
			paths = append(paths, key.Path)
		}
	}
	return paths
}

// notLAN matches interfaces that are not on the machine's network: tunnels, and those of containers.
var notLAN = regexp.MustCompile(
	`^(lo|tailscale|wg|wt|zt|tun|nebula|netbird|ppp|ipsec|docker|podman|cni|virbr|ve-|vb-|lxdbr|incusbr)`)

// LetsIn reports whether the firewall lets a connection to a TCP port in from the machine's network, as far as the
// configuration tells. If not, only are the interfaces from which it does.
func (e Expected) LetsIn(port int) (in bool, only []string) {
	fw := e.Firewall
	closed := e.SSHD.OpenFirewall != nil && !*e.SSHD.OpenFirewall
	switch {
	case fw.Enable != nil && !*fw.Enable, fw.has(port):
		return true, nil
	case !closed && (fw.Enable == nil || fw.Ports == nil): // not NixOS, or a part of it
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
		case !notLAN.MatchString(name): // it may be the one that is meant
			return true, nil
		case name != "lo":
			only = append(only, name)
		}
	}
	return false, only
}

// Stage1 is what the initrd does on the network (boot.initrd.network) before the disks are open.
type Stage1 struct {
	Network bool // it asks for an address
	Port    int  // of its sshd; 0: it has none
	OwnKey  bool // its sshd has the host's own key, or that is not known

	// SystemKey is a type of SSH host key that the system's sshd has and that of stage 1 has not, such as ssh-rsa;
	// empty: none is known.
	SystemKey string
}

// Stage1 is what stage 1 does on the network, where the host's key goes to where the layout has room for it. The layout
// may be nil.
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
