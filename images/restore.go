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

// needsRestore says whether the image's stage 1 is systemd and does not take
// the keys out of the initrd: nixpkgs' plain netboot images are so.
func (img Image) needsRestore() bool {
	return img.Look != nil && img.Look.Stage1 == "systemd" && img.Look.Contract == No
}

// restoreArchive is a cpio archive with a unit that takes the keys out of the
// initrd's root.
//
// /etc/systemd/system is a symlink into the store on NixOS. So there are no
// entries for it and for what is above it, which would replace the symlink;
// entries whose path crosses it land where it leads. The folder of initrd.target
// is none, and stays as it is where there is one. A unit is wanted by a symlink
// only (systemd ignores a file there).
func restoreArchive() []byte {
	const units = "etc/systemd/system/"
	return initrd.Archive([]initrd.File{
		{Path: "provision-restore", Mode: 0o755, Data: restoreScript},
		{Path: units + "provision-restore.service", Mode: 0o644, Data: restoreUnit},
		{Path: units + "initrd.target.wants", Mode: fs.ModeDir | 0o755},
		{Path: units + "initrd.target.wants/provision-restore.service", Mode: fs.ModeSymlink | 0o777, Data: []byte("../provision-restore.service")},
	})
}
