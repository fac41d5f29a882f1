package hosts

import (
	"fmt"
	"net/netip"

	"golang.org/x/crypto/ssh"
)

// Takeover is a running machine and the SSH host key by which it is recognised. If a permit has one, this machine and
// no other is made to boot its installer.
type Takeover struct {
	Address   string `json:"address"`
	Port      int    `json:"port,omitempty"`      // 0: 22
	HostKey   string `json:"host_key"`            // of the running system, authorized_keys form
	Installer bool   `json:"installer,omitempty"` // the running system is an installer already
	// PostKexecPort is the port at Address where port 22 of the installer is reached once it runs; 0: 22.
	PostKexecPort int `json:"post_kexec_port,omitempty"`
}

// Check returns an error if the address, a port or the key is not valid.
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

// Reached is what the server finds when it connects to a machine that is to be taken over.
type Reached struct {
	Proved   bool `json:"proved"`   // it has the expected host key
	Admitted bool `json:"admitted"` // the server can log in as root
	// Surroundings is the output of installer.LookAround on the machine, if the server can log in.
	Surroundings string `json:"surroundings,omitempty"`
	Why          string `json:"why,omitempty"` // why it is not proved or the server cannot log in, for people
}
