package images

import (
	_ "embed"
	"io/fs"

	"provision/internal/initrd"
)

var (
	//go:embed restore/provision-restore.service
	restoreUnit []byte
	//go:embed restore/provision-restore
	restoreScript []byte
)

// needsRestore reports whether the image's stage 1 is systemd and does not take the keys from the initrd, as in the
// plain netboot images of nixpkgs.
func (img Image) needsRestore() bool {
	return img.Look != nil && img.Look.Stage1 == "systemd" && img.Look.Contract == No
}

// restoreArchive returns a cpio archive with a unit that takes the keys from the initrd's root.
//
// In NixOS, /etc/systemd/system is a symlink into the store. The archive has no entries for it or for the folders above
// it, since these would replace the symlink; entries whose path crosses it are put where it leads. The folder
// initrd.target.wants is not a symlink there, so an entry for it leaves an existing folder as it is. In this folder
// there must be a symlink to the unit, since systemd ignores regular files there.
func restoreArchive() []byte {
	const units = "etc/systemd/system/"
	return initrd.Archive([]initrd.File{
		{Path: "provision-restore", Mode: 0o755, Data: restoreScript},
		{Path: units + "provision-restore.service", Mode: 0o644, Data: restoreUnit},
		{Path: units + "initrd.target.wants", Mode: fs.ModeDir | 0o755},
		{Path: units + "initrd.target.wants/provision-restore.service", Mode: fs.ModeSymlink | 0o777, Data: []byte("../provision-restore.service")},
	})
}
