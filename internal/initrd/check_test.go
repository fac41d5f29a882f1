package initrd

import (
	"bytes"
	"testing"
)

func TestCheck(t *testing.T) {
	cpio := Overlay([]File{{"init", 0o755, bytes.Repeat([]byte("some file "), 1000)}})
	pack := func(argv ...string) []byte { return packed(t, cpio, argv...) }
	hugeXZ := pack("xz", "--check=crc32")
	hugeXZ[16] = 40 // a dictionary of 4 GiB
	xz := pack("xz", "--check=crc32", "--block-size=4096", "-T2")
	for _, test := range []struct {
		name   string
		initrd []byte
		err    string
	}{
		{"plain", cpio, ""},
		{"plain with checksums", append([]byte("070702"), cpio[6:]...), ""},
		{"gzip", pack("gzip", "-9"), ""},
		{"zstd", pack("zstd", "-19"), ""},
		{"zstd, most memory", pack("zstd", "--ultra", "-22", "--long=27"), ""},
		{"xz as NixOS makes it", pack("xz", "--check=crc32", "--lzma2=dict=512KiB"), ""},
		{"xz in blocks with sizes", xz, ""},
		{"xz with a filter that is not known here", pack("xz", "--check=crc32", "--x86", "--lzma2"), ""},
		{"lzma", pack("lzma"), ""},
		{"lz4 -l", pack("lz4", "-l"), ""},
		{"bzip2", pack("bzip2"), ""},
		{"lzo is known by its magic only", []byte("\x89LZO\x00\r\n\x1a\n"), ""},

		{"xz with crc64", pack("xz"), "use xz --check=crc32"},
		{"lz4", pack("lz4"), "use lz4 -l"},
		{"zstd, too much memory", pack("zstd", "--long=31"), "zstd"},
		{"xz, too much memory", hugeXZ, "128 MiB"},
		{"xz, endless size", append([]byte("\xfd7zXZ\x00\x00\x01____\x03\xc0"), bytes.Repeat([]byte{0xff}, 50)...), "xz"},
		{"gzip of something else", gzipped([]byte("hello world")), "not a cpio"},
		{"gzip of nothing", gzipped(nil), "not a cpio"},
		{"gzip cut short", gzipped(cpio)[:12], "downloaded in full"},
		{"xz cut short", xz[:20], "downloaded in full"},
		{"zstd cut short", pack("zstd")[:8], "downloaded in full"},
		{"lz4 cut short", pack("lz4", "-l")[:6], "downloaded in full"},
		{"old cpio", []byte("070707000001"), "cpio -H newc"},
		{"web page", []byte("<!DOCTYPE html>"), "not a cpio"},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkErr(t, Check(bytes.NewReader(test.initrd)), test.err)
		})
	}
}
