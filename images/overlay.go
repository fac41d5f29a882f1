package images

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
)

// OverlayFile is one regular file, or a symlink, of an [Overlay], owned by root.
type OverlayFile struct {
	Path string      // in the initrd's root, "ssh/authorized_keys"
	Mode fs.FileMode // permission bits; fs.ModeSymlink: Data is where it leads
	Data []byte
}

// Overlay makes the small cpio archive (newc, uncompressed) that is appended to
// an image's initrd for one boot, after [Padding]. The same files give the same
// bytes: times are zero.
//
// Folders on the way to a file are entries of their own, before it, mode 0755:
// the kernel makes no missing parents. Where the initrd has the folder, its mode
// becomes 0755 and its content stays; where it has a symlink of that name, as
// NixOS has in /etc and others, the folder takes the symlink's place. So keep to
// names of our own (ssh/…) and files in the root.
// See Linux, init/initramfs.c and Documentation/driver-api/early-userspace/buffer-format.rst.
func Overlay(files []OverlayFile) []byte { return overlay(true, files) }

// overlay makes the folders on the way to a file only where it is told to. Files
// may be folders and symlinks, too, whose Data is where they lead.
func overlay(folders bool, files []OverlayFile) []byte {
	var b bytes.Buffer
	inode := 0
	entry := func(name string, mode, links int, data []byte) {
		inode++
		// inode mode uid gid nlink mtime size dev(2) rdev(2) namesize check
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
			inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
		align(&b)
		b.Write(data)
		align(&b)
	}
	made := map[string]bool{}
	for _, f := range files {
		name := path.Clean("/" + f.Path)[1:]
		for i, r := range name {
			if folders && r == '/' && !made[name[:i]] {
				made[name[:i]] = true
				entry(name[:i], typeFolder|0o755, 2, nil)
			}
		}
		switch {
		case f.Mode.IsDir():
			entry(name, typeFolder|int(f.Mode.Perm()), 2, nil)
		case f.Mode&fs.ModeSymlink != 0:
			entry(name, typeSymlink|0o777, 1, f.Data)
		default:
			entry(name, typeRegular|int(f.Mode.Perm()), 1, f.Data)
		}
	}
	entry("TRAILER!!!", 0, 1, nil)
	return b.Bytes()
}

func align(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}

// Padding is the number of NUL bytes, 4 to 7, to put between an initrd of that
// many bytes and an [Overlay]. The kernel looks for a plain cpio only where the
// offset is a multiple of four. At least four NULs, because lz4 as the kernel
// knows it has no end mark: it stops at a block of size zero (Linux,
// lib/decompress_unlz4.c, since 2021) and takes anything else for more of itself.
func Padding(initrdSize int64) int64 {
	return 4 + (4-initrdSize%4)%4
}

// Contract is what an installer image takes out of its initrd's root, as those
// of nix-community/nixos-images do. Nothing in it outlives the boot.
type Contract struct {
	Login         string            // authorized_keys of root
	HostKey       []byte            // OpenSSH private key of this boot's installer
	HostKeyPublic string            // its public half
	MachineID     string            // machine-id(5)
	Network       map[string][]byte // files that stage 1 copies to /root/network, NAME.json
}

// Tail is what follows the image's initrd for one boot: padding and overlay. For
// an image whose stage 1 would not take it, a unit that does is in it, too.
func (c Contract) Tail(img Image) []byte {
	files := []OverlayFile{
		{Path: "ssh/authorized_keys", Mode: 0o600, Data: []byte(c.Login + "\n")},
		{Path: "ssh/ssh_host_ed25519_key", Mode: 0o600, Data: c.HostKey},
		{Path: "ssh/ssh_host_ed25519_key.pub", Mode: 0o644, Data: []byte(c.HostKeyPublic + "\n")},
		{Path: "machine-id", Mode: 0o644, Data: []byte(c.MachineID + "\n")},
	}
	for _, name := range slices.Sorted(maps.Keys(c.Network)) {
		files = append(files, OverlayFile{Path: name, Mode: 0o644, Data: c.Network[name]})
	}
	tail := append(make([]byte, Padding(img.Initrd.Size)), Overlay(files)...)
	if img.needsRestore() {
		tail = append(tail, restoreArchive()...)
	}
	return tail
}
