package installer

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"provision/disko"
	"provision/hosts"
	"provision/internal/nix"
)

// Warnings are what an operator should know before the host is installed with these choices: how it may be unable to
// prove itself, and what would not outlast its first start. The layout may be nil.
func Warnings(c nix.Config, host string, o hosts.Choices, layout *disko.Layout) []string {
	r := review{
		Config:  c,
		host:    host,
		choices: o,
		layout:  layout,
	}
	var told []string
	if o.Proof.BySSH() {
		told = r.unproved()
	} else if o.Proof == hosts.ProofSeen && c.Expected.HostName == "" {
		told = append(told, fmt.Sprintf("networking.hostName of %s is empty or not known, "+
			"so no DHCP request can be told to be its: --proof seen then waits for an SSH server on it", host))
	}

	told = append(told, r.missing()...)
	return append(told, r.lost()...)
}

// review is a look at what a flake says of a host beside what its operator chose.
type review struct {
	nix.Config
	host    string
	choices hosts.Choices
	layout  *disko.Layout // nil: not known
}

// expectedOf is what the machine is to show once it starts from its disk.
func expectedOf(c nix.Config, layout *disko.Layout) hosts.Expected {
	return hosts.Expected{
		HostName: c.Expected.HostName,
		Ports:    c.Expected.SSHPorts(),
		Stage1:   hosts.Stage1(c.Stage1(layout)),
	}
}

// otherProof is how to be installed without an answer by SSH.
const otherProof = "choose --proof seen (it asks for an address by its name) or --proof none"

// unproved says why the host's sshd may not answer this server as it should.
func (r review) unproved() (told []string) {
	e := r.Expected
	if e.SSHD.Enable != nil && !*e.SSHD.Enable {
		return []string{fmt.Sprintf("%s has no sshd (services.openssh.enable is false), "+
			"and is to prove itself by its SSH key: %s", r.host, otherProof)}
	}
	if e.OnlyLoopback() {
		told = append(told, fmt.Sprintf("sshd of %s listens for its own machine only "+
			"(services.openssh.listenAddresses): %s",
			r.host, otherProof))
	}

	h := hosts.Host{Choices: r.choices, Expected: expectedOf(r.Config, r.layout)}
	ports := h.SSHPorts()
	open := false
	var only []string
	for _, port := range ports {
		reached, on := e.LetsIn(port)
		open = open || reached
		only = append(only, on...)
	}

	switch {
	case open:
	case len(only) > 0:
		told = append(told, fmt.Sprintf("the firewall of %s lets SSH (port %s) in from %s only, not from this "+
			"network: %s, "+
			"or open the port with "+
			"services.openssh.openFirewall", r.host, join(ports), strings.Join(only, ", "), otherProof))
	default:
		told = append(told, fmt.Sprintf("the firewall of %s does not let SSH (port %s) in: %s, "+
			"or open the port with services.openssh.openFirewall", r.host, join(ports), otherProof))
	}

	if len(e.SSHD.Keys) > 0 && len(e.HostKeys("ed25519")) == 0 {
		var types []string
		for _, key := range e.SSHD.Keys {
			types = append(types, key.Type)
		}
		told = append(told, fmt.Sprintf("sshd of %s has no ed25519 host key (services.openssh.hostKeys has %s), "+
			"and this server knows the host by one: "+
			`add { type = "ed25519"; path = "/etc/ssh/ssh_host_ed25519_key"; } there, or %s`,
			r.host, strings.Join(types, ", "), otherProof))
	}

	if s := h.Expected.Stage1; s.OwnKey && s.SystemKey == "" && slices.Contains(ports, s.Port) {
		told = append(told, fmt.Sprintf("sshd in stage 1 of %s has the port and the host key of the system's, "+
			"so only a login tells them apart: let this server log in as root (its key is ssh.pub in the state "+
			"folder), "+
			"or give boot.initrd.network.ssh a key or a port of its own", r.host))
	}

	return told
}

// join lists numbers for people.
func join(numbers []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(numbers), " ", ", "), "[]")
}

// missing says which files of boot.initrd.secrets nothing brings. NixOS copies them into the initrd when the bootloader
// is installed, and fails there without them, when the disks are erased.
func (r review) missing() (told []string) {
	if r.choices.Disko != "" && !r.choices.Disko.Erases() { // the disks may hold it
		return nil
	}
	for _, file := range r.Expected.Stage1.Secrets {
		file = filepath.Clean(file)
		if !filepath.IsAbs(file) || r.brings(file) {
			continue
		}
		told = append(told, fmt.Sprintf("boot.initrd.secrets of %s takes %s when the bootloader is installed, "+
			"and nothing brings it, so that the install will fail there: "+
			"give it with --secret %s=FILE, or in the folder of --extra-files", r.host, file, file))
	}

	return told
}

// brings reports whether a file will be on the new system, or whether that cannot be told.
func (r review) brings(file string) bool {
	for _, made := range []string{"/nix/store/", "/run/", "/dev/", "/proc/", "/sys/"} {
		if strings.HasPrefix(file, made) {
			return true
		}
	}

	byHook := bytes.Contains(r.Devices, []byte(file))
	if byHook || slices.Contains(r.HostKeyFiles(r.layout), file) {
		return true
	}
	for _, secret := range r.choices.Secrets {
		at, _ := r.Locate(secret.Path, r.layout)
		if at == file || strings.HasPrefix(at, file+"/") {
			return true
		}
	}

	if r.choices.ExtraFiles == "" {
		return false
	}
	_, err := os.Lstat(filepath.Join(r.choices.ExtraFiles, file))
	return err == nil
}

// lost says what would not outlast the first start.
func (r review) lost() (told []string) {
	keys := r.Expected.HostKeys("ed25519")
	if len(keys) == 0 {
		keys = []string{nix.DefaultHostKey}
	}
	stays := func(name string) bool {
		_, on := r.Locate(name, r.layout)
		return on == ""
	}
	sshd := r.Expected.SSHD.Enable == nil || *r.Expected.SSHD.Enable
	if sshd && !slices.ContainsFunc(keys, stays) {
		_, on := r.Locate(keys[0], r.layout)
		told = append(told, fmt.Sprintf("the SSH host key of %s would be lost when it starts: %s lies on %s, "+
			"which is new at each boot, and nothing keeps it; let environment.persistence or fileSystems keep it, "+
			"or have services.openssh.hostKeys name a path that stays", r.host, keys[0], on))
	}

	for _, s := range r.choices.Secrets {
		if _, on := r.Locate(s.Path, r.layout); on != "" {
			told = append(told, fmt.Sprintf("--secret %s would be lost when %s starts: it lies on %s, "+
				"which is new at each boot, and nothing keeps it; "+
				"choose a path that stays, or let environment.persistence or fileSystems keep it", s.Path, r.host, on))
		}
	}

	return told
}
