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
}

// Check refuses what cannot be connected to.
func (t *Takeover) Check() error {
	if _, err := netip.ParseAddr(t.Address); err != nil {
		return fmt.Errorf("take over %q: write the machine's IP address: %w", t.Address, err)
	}
	if t.Port < 0 || t.Port > 65535 {
		return fmt.Errorf("take over %s: port %d: ports go from 1 to 65535", t.Address, t.Port)
	}
	if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(t.HostKey)); err != nil {
		return fmt.Errorf("take over %s: read its SSH host key: %w", t.Address, err)
	}
	return nil
}
