package initrd

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// A File is a regular file, a folder or a symlink to be written to an archive,
// owned by root.
type File struct {
	Path string      // in the initrd's root, "ssh/authorized_keys"
	Mode fs.FileMode // permission bits, and fs.ModeDir or fs.ModeSymlink
	Data []byte      // content, or where a symlink leads
}

// Overlay returns a small archive that is appended to an image's initrd for one
// boot, after [Padding]. It is not compressed. The same files give the same
// bytes: times are zero.
//
// Folders on the way to a file are entries of their own, before it, with mode
// 0755, for the kernel makes no missing parents. Where the initrd has the folder,
// its mode becomes 0755 and its content stays. Where it has a symlink of that
// name, as NixOS has in /etc and others, the folder takes the symlink's place. So
// keep to names of our own (ssh/…) and files in the root, or use [Archive].
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

// Archive returns an archive of exactly these files, which is not compressed.
// Where the folder of a file neither precedes it nor is in the initrd before, the
// kernel leaves the file out.
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

// writeEntry appends one entry; mode is as in stat(2). See [ParseHeader] for the
// fields.
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

func writePadding(b *bytes.Buffer) {
	n := int64(b.Len())
	b.Write(make([]byte, Align(n)-n))
}

// clean is a path as archives have it, without a slash at its start.
func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// Padding returns the number of NUL bytes, 4 to 7, to put between an initrd of
// that many bytes and an [Overlay]. The kernel looks for a plain archive only
// where the offset is a multiple of four. There are at least four, because lz4 as
// the kernel knows it has no end mark: it stops at a block of size zero (Linux,
// lib/decompress_unlz4.c, since 2021) and takes anything else for more of itself.
func Padding(initrdSize int64) int64 {
	return 4 + Align(initrdSize) - initrdSize
}
