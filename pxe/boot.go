package pxe

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"provision/hosts"
	"provision/images"
)

// overlay is the cpio of one boot, appended to the image's initrd: the
// installer image contract of nix-community/nixos-images. It holds nothing
// that outlives the boot.
func (s *Server) overlay(h hosts.Host) ([]byte, error) {
	key, err := s.Hosts.Secret(h.Name, hosts.SecretBootKey)
	if err != nil {
		return nil, err
	}
	about, err := json.Marshal(map[string]string{"host": h.Name, "server": h.Boot.Server})
	if err != nil {
		return nil, err
	}
	return images.Overlay([]images.OverlayFile{
		{Path: "ssh/authorized_keys", Mode: 0o600, Data: []byte(s.Login + "\n")},
		{Path: "ssh/ssh_host_ed25519_key", Mode: 0o600, Data: key},
		{Path: "ssh/ssh_host_ed25519_key.pub", Mode: 0o644, Data: []byte(h.Boot.HostKey + "\n")},
		// Stage 1 copies every *.json and fails if there is none.
		{Path: "provision.json", Mode: 0o644, Data: about},
		{Path: "machine-id", Mode: 0o644, Data: []byte(machineIDFor(h) + "\n")},
	}), nil
}

// machineIDFor is the installer's machine-id(5). It stays the same for a
// host, because DHCP client identifiers are made from it: each boot gets the
// same address.
func machineIDFor(h hosts.Host) string {
	sum := sha256.Sum256([]byte("provision installer " + h.MACs[0]))
	return fmt.Sprintf("%x", sum[:16])
}
