package pxe

import (
	"provision/hosts"
	"provision/images"
)

// initrd is the image's initrd, and what is appended to it for one boot.
func (s *Server) initrd(h hosts.Host, img images.Image) (images.File, []byte, error) {
	key, err := s.Hosts.Secret(h.Name, hosts.SecretBootKey)
	if err != nil {
		return images.File{}, nil, err
	}
	contract := images.Contract{Login: s.Login, HostKey: key, HostKeyPublic: h.Boot.HostKey, MachineID: h.MachineID(),
		// Stage 1 copies every *.json and fails if there is none.
		Network: map[string][]byte{"provision.json": h.About()}}
	return img.Initrd, contract.Tail(img), nil
}
