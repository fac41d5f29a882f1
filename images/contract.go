package images

import (
	"maps"
	"slices"

	"provision/internal/initrd"
)

// Contract has the files that an installer image takes from the root of its initrd, as the images of
// nix-community/nixos-images do. They are valid for one boot.
type Contract struct {
	Login         string            // authorized_keys of root: one line
	HostKey       []byte            // OpenSSH private key of this boot's installer
	HostKeyPublic string            // its public half
	MachineID     string            // machine-id(5)
	Network       map[string][]byte // files that stage 1 copies to /root/network, by name: NAME.json
}

// Tail returns what is appended to the image's initrd for one boot: padding, and a cpio archive with the contract's
// files. For an image whose stage 1 would not take them, another archive has a unit that does.
func (c Contract) Tail(img Image) []byte {
	files := []initrd.File{
		{Path: "ssh/authorized_keys", Mode: 0o600, Data: []byte(c.Login + "\n")},
		{Path: "ssh/ssh_host_ed25519_key", Mode: 0o600, Data: c.HostKey},
		{Path: "ssh/ssh_host_ed25519_key.pub", Mode: 0o644, Data: []byte(c.HostKeyPublic + "\n")},
		{Path: "machine-id", Mode: 0o644, Data: []byte(c.MachineID + "\n")},
	}
	for _, name := range slices.Sorted(maps.Keys(c.Network)) {
		files = append(files, initrd.File{Path: name, Mode: 0o644, Data: c.Network[name]})
	}

	tail := make([]byte, initrd.Padding(img.Initrd.Size))
	tail = append(tail, initrd.Overlay(files)...)
	if img.needsRestore() {
		tail = append(tail, restoreArchive()...)
	}
	return tail
}
