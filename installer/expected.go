package installer

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"provision/disko"
	"provision/hosts"
)

// expected is what expected.nix reads of a configuration. What is not known is nil, empty or 0.
type expected struct {
	HostName string `json:"hostName"`
	SSHD     struct {
		Enable       *bool `json:"enable"`
		Ports        []int `json:"ports"`
		OpenFirewall *bool `json:"openFirewall"`
		Listen       []struct {
			Address string `json:"address"`
			Port    int    `json:"port"`
		} `json:"listen"`
		Keys []hostKey `json:"keys"`
	} `json:"sshd"`
	Firewall struct {
		Enable *bool `json:"enable"`
		opened
		Trusted    []string `json:"trusted"`
		Interfaces []struct {
			Name string `json:"name"`
			opened
		} `json:"interfaces"`
	} `json:"firewall"`
	Stage1 struct {
		Network   bool     `json:"network"`
		NoNetwork bool     `json:"noNetwork"` // said, not only missing
		SSH       bool     `json:"ssh"`
		Port      int      `json:"port"`
		Keys      []string `json:"keys"`
		Scripts   []string `json:"scripts"`
		Secrets   []string `json:"secrets"` // files of boot.initrd.secrets that no option makes
	} `json:"stage1"`
	Kept        []keptAt           `json:"kept"`
	FileSystems []disko.FileSystem `json:"fileSystems"`
}

// hostKey is one of services.openssh.hostKeys.
type hostKey struct {
	Type string `json:"type"` // ed25519, rsa, ecdsa
	Path string `json:"path"`
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

// expect is what the machine is to show once it starts from its disk.
func (c Config) expect(layout *disko.Layout) hosts.Expected {
	return hosts.Expected{HostName: c.Expected.HostName, Ports: c.Expected.ports(), Stage1: c.stage1(layout)}
}

// maxPorts bounds at how many ports a host is looked for.
const maxPorts = 4

// ports are where sshd listens for others than its own machine; none where that is not known.
func (e expected) ports() []int {
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

// listen are the ports of services.openssh.listenAddresses, but those of loopback.
func (e expected) listen() (ports []int) {
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

// stage1 is what stage 1 does on the network.
func (c Config) stage1(layout *disko.Layout) (s hosts.Stage1) {
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
	own := c.hostKeyFiles(layout)
	s.OwnKey = len(e.Stage1.Keys) == 0 // not known
	rsa := s.OwnKey
	for _, key := range e.Stage1.Keys {
		s.OwnKey = s.OwnKey || slices.Contains(own, key) || slices.Contains(e.keysOf("ed25519"), key)
		rsa = rsa || !strings.Contains(key, "ed25519") && !strings.Contains(key, "ecdsa")
	}
	if !rsa && len(e.keysOf("rsa")) > 0 {
		s.SystemKey = "ssh-rsa"
	}
	return s
}

// keysOf are the paths of sshd's host keys of a type.
func (e expected) keysOf(kind string) (paths []string) {
	for _, key := range e.SSHD.Keys {
		if key.Type == kind {
			paths = append(paths, key.Path)
		}
	}
	return paths
}

// Warnings are what an operator should know before the host is installed with these options: how it may be unable to
// prove itself, and what would not outlast its first start.
func (c Config) Warnings(host string, o hosts.Choices, layout *disko.Layout) []string {
	var told []string
	if o.Proof.BySSH() {
		told = c.unproved(host, o, layout)
	} else if o.Proof == hosts.ProofSeen && c.Expected.HostName == "" {
		told = append(told, fmt.Sprintf("networking.hostName of %s is empty or not known, so no DHCP request can be told to be its: "+
			"--proof seen then waits for an SSH server on it", host))
	}
	told = append(told, c.missing(host, o, layout)...)
	return append(told, c.lost(host, o, layout)...)
}

// otherProof is how to be installed without an answer by SSH.
const otherProof = "choose --proof seen (it asks for an address by its name) or --proof none"

// unproved says why the host's sshd may not answer this server as it should.
func (c Config) unproved(host string, o hosts.Choices, layout *disko.Layout) (told []string) {
	e := c.Expected
	if e.SSHD.Enable != nil && !*e.SSHD.Enable {
		return []string{fmt.Sprintf("%s has no sshd (services.openssh.enable is false), and is to prove itself by its SSH key: %s", host, otherProof)}
	}
	h := hosts.Host{Choices: o, Expected: c.expect(layout)}
	ports := h.SSHPorts()
	if len(e.SSHD.Listen) > 0 && len(e.listen()) == 0 {
		told = append(told, fmt.Sprintf("sshd of %s listens for its own machine only (services.openssh.listenAddresses): %s", host, otherProof))
	}
	open := false
	var only []string
	for _, port := range ports {
		reached, on := e.lets(port)
		open = open || reached
		only = append(only, on...)
	}
	switch {
	case open:
	case len(only) > 0:
		told = append(told, fmt.Sprintf("the firewall of %s lets SSH (port %s) in from %s only, not from this network: %s, "+
			"or open the port with services.openssh.openFirewall", host, join(ports), strings.Join(only, ", "), otherProof))
	default:
		told = append(told, fmt.Sprintf("the firewall of %s does not let SSH (port %s) in: %s, "+
			"or open the port with services.openssh.openFirewall", host, join(ports), otherProof))
	}
	if len(e.SSHD.Keys) > 0 && len(e.keysOf("ed25519")) == 0 {
		told = append(told, fmt.Sprintf("sshd of %s has no ed25519 host key (services.openssh.hostKeys has %s), and this server knows the host by one: "+
			`add { type = "ed25519"; path = "/etc/ssh/ssh_host_ed25519_key"; } there, or %s`, host, e.keyTypes(), otherProof))
	}
	if s := h.Expected.Stage1; s.OwnKey && s.SystemKey == "" && slices.Contains(ports, s.Port) {
		told = append(told, fmt.Sprintf("sshd in stage 1 of %s has the port and the host key of the system's, so only a login tells them apart: "+
			"let this server log in as root (its key is ssh.pub in the state folder), or give boot.initrd.network.ssh a key or a port of its own", host))
	}
	return told
}

func (e expected) keyTypes() string {
	var types []string
	for _, key := range e.SSHD.Keys {
		types = append(types, key.Type)
	}
	return strings.Join(types, ", ")
}

func join(numbers []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(numbers), " ", ", "), "[]")
}

// notLAN matches interfaces that are not on the machine's network: tunnels, and those of containers.
var notLAN = regexp.MustCompile(`^(lo|tailscale|wg|wt|zt|tun|nebula|netbird|ppp|ipsec|docker|podman|cni|virbr|ve-|vb-|lxdbr|incusbr)`)

// lets reports whether the firewall lets a connection in from the machine's network, as far as the configuration
// tells; if not, from where it does.
func (e expected) lets(port int) (in bool, only []string) {
	fw, closed := e.Firewall, e.SSHD.OpenFirewall != nil && !*e.SSHD.OpenFirewall
	switch {
	case fw.Enable != nil && !*fw.Enable, fw.has(port):
		return true, nil
	case !closed && (fw.Enable == nil || fw.Ports == nil): // no NixOS, or a part of it
		return true, nil
	}
	names := slices.Clone(fw.Trusted)
	for _, i := range fw.Interfaces {
		if i.has(port) && !slices.Contains(names, i.Name) {
			names = append(names, i.Name)
		}
	}
	for _, name := range names {
		switch {
		case !notLAN.MatchString(name): // it may be the one that is meant
			return true, nil
		case name != "lo":
			only = append(only, name)
		}
	}
	return false, only
}
