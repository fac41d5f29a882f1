package hosts

import (
	"fmt"
	"net/netip"

	"golang.org/x/crypto/ssh"
)

// Takeover is a machine that runs something, and how it is known: its SSH host
// key. A permit may hold one: that machine, and no other, is then made to come.
type Takeover struct {
	Address   string `json:"address"`
	Port      int    `json:"port,omitempty"` // 0: 22
	HostKey   string `json:"host_key"`       // of what runs now, authorized_keys form
	Installer bool   `json:"installer,omitempty"`
	// PostKexecPort is where port 22 of the installer is reached at Address, once it runs; 0: 22.
	PostKexecPort int `json:"post_kexec_port,omitempty"`
}

// Check refuses what cannot be connected to.
func (t *Takeover) Check() error {
	if _, err := netip.ParseAddr(t.Address); err != nil {
		return fmt.Errorf("take over %q: write the machine's IP address: %w", t.Address, err)
	}
	for _, port := range []int{t.Port, t.PostKexecPort} {
		if port < 0 || port > 65535 {
			return fmt.Errorf("take over %s: port %d: ports go from 1 to 65535", t.Address, port)
		}
	}
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(t.HostKey)); err != nil {
		return fmt.Errorf("take over %s: read its SSH host key: %w", t.Address, err)
	}
	return nil
}

// Reached is what the server finds where a machine is that shall be taken over.
type Reached struct {
	Proved   bool `json:"proved"`   // it has the host key
	Admitted bool `json:"admitted"` // it lets the server in as root
	// Surroundings are what it says of itself to installer.LookAround, if it lets the server in.
	Surroundings string `json:"surroundings,omitempty"`
	Why          string `json:"why,omitempty"` // it is not proved or does not let the server in, for people
}
