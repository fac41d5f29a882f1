package initrd

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// File is a regular file, a folder or a symlink to be written to an archive. It is owned by root.
type File struct {
	Path string      // relative to the initrd's root: "ssh/authorized_keys"
	Mode fs.FileMode // permission bits, and fs.ModeDir or fs.ModeSymlink
	Data []byte      // content, or target of a symlink
}

// Overlay returns a small uncompressed archive, to be appended to an image's initrd for one boot after [Padding]. The
// same files give the same bytes, as all times are zero.
//
// The folders in which a file is are separate entries before it, with mode 0755, since the kernel does not make missing
// folders. If the initrd has such a folder, its mode becomes 0755 and its content stays. If it has a symlink of that
// name, as NixOS has for /etc and others, the folder replaces the symlink. So only use names of our own (ssh/…) and
// files in the root, or use [Archive].
func Overlay(files []File) []byte {
	var all []File
	made := map[string]bool{}
	for _, f := range files {
		name := clean(f.Path)
		for i, r := range name {
			if r == '/' && !made[name[:i]] {
				made[name[:i]] = true
				all = append(all, File{Path: name[:i], Mode: fs.ModeDir | 0o755})
			}
		}
		all = append(all, f)
	}

	return Archive(all)
}

// Archive returns an uncompressed archive of exactly these files. If the folder of a file is neither in the archive
// before it nor in an earlier one, the kernel leaves the file out.
func Archive(files []File) []byte {
	var b bytes.Buffer
	for i, f := range files {
		inode := i + 1
		switch {
		case f.Mode.IsDir():
			writeEntry(&b, inode, typeFolder|int(f.Mode.Perm()), 2, clean(f.Path), nil)
		case f.Mode&fs.ModeSymlink != 0:
			writeEntry(&b, inode, typeSymlink|0o777, 1, clean(f.Path), f.Data)
		default:
			writeEntry(&b, inode, typeRegular|int(f.Mode.Perm()), 1, clean(f.Path), f.Data)
		}
	}

	writeEntry(&b, len(files)+1, 0, 1, trailer, nil)
	return b.Bytes()
}

// writeEntry appends an entry; mode is as in stat(2). See [ParseHeader] for the fields.
func writeEntry(b *bytes.Buffer, inode, mode, links int, name string, data []byte) {
	fields := []int{inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0}
	b.WriteString("070701")
	for _, field := range fields {
		fmt.Fprintf(b, "%08x", field)
	}
	b.WriteString(name + "\x00")
	writePadding(b)
	b.Write(data)
	writePadding(b)
}

// writePadding appends NUL bytes up to a multiple of four.
func writePadding(b *bytes.Buffer) {
	n := int64(b.Len())
	b.Write(make([]byte, Align(n)-n))
}

// clean returns a path in the form that archives use, without a slash at the beginning.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// Padding returns the number of NUL bytes, 4 to 7, to put between an initrd of that size in bytes and an [Overlay]. The
// kernel looks for an uncompressed archive only at offsets that are multiples of four. There are at least four because
// the lz4 format of the kernel has no end mark: the kernel stops at a block of size zero (Linux,
// lib/decompress_unlz4.c, since 2021), and takes anything else for another block.
func Padding(initrdSize int64) int64 {
	return 4 + Align(initrdSize) - initrdSize
}
