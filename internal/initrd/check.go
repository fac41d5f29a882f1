package initrd

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Check returns an error unless the kernel would unpack the first archive of the initrd r: a newc archive, uncompressed
// or compressed in a way that the kernel knows (Linux, lib/decompress.c). It reads only a few bytes.
func Check(r io.Reader) error {
	in := bufio.NewReaderSize(r, headSize)
	head, err := in.Peek(32)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}

	kind := Compression(head)
	if err := checkStart(kind, head); err != nil || kind == "" || kernelOnly(kind, head) {
		return err
	}

	magic := make([]byte, 6)
	out, err := Decompress(in)
	if err == nil {
		defer out.Close()
		_, err = io.ReadFull(out, magic)
		if errors.Is(err, io.EOF) {
			err = nil // checkMagic reports that it is too short
		}
	}
	if err != nil {
		return fmt.Errorf("unpack its %s: %w (was it downloaded in full?)", kind, err)
	}
	return checkMagic(magic)
}

// checkStart returns an error unless the kernel would recognise the archive or frame that starts with head. kind is its
// [Compression].
func checkStart(kind string, head []byte) error {
	switch {
	case kind == "":
		return checkMagic(head)
	case kind == "lz4 frame":
		return errors.New("it is compressed with lz4's new format, which the kernel cannot unpack: use lz4 -l")
	case kind == "xz" && len(head) > 7 && head[7] > 1:
		return errors.New("it is compressed with a check that the kernel cannot unpack: use xz --check=crc32")
	}
	return nil
}

// kernelOnly reports whether the kernel can unpack it but this package cannot: lzo, and xz with several filters.
func kernelOnly(kind string, head []byte) bool {
	return kind == "lzo" || kind == "xz" && len(head) > 13 && head[13]&3 != 0
}

// checkMagic returns an error unless head starts a newc archive.
func checkMagic(head []byte) error {
	s := string(head)
	switch {
	case strings.HasPrefix(s, "070701"), strings.HasPrefix(s, "070702"):
		return nil
	case strings.HasPrefix(s, "070707"), strings.HasPrefix(s, "\xc7\x71"), strings.HasPrefix(s, "\x71\xc7"):
		return errors.New("it is a cpio archive of an old format: make it with cpio -H newc")
	}
	return errors.New("it is not a cpio archive, nor a compressed one: give an initrd as NixOS builds it")
}
