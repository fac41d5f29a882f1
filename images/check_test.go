package images

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	binaries "github.com/tinkerbell/ipxedust/binary"
)

// x86Kernel is what a bzImage looks like from outside: boot protocol 2.15, 64-bit.
func x86Kernel() []byte {
	k := bytes.Repeat([]byte{0x90}, 3<<20)
	copy(k, "MZ")
	binary.LittleEndian.PutUint32(k[0x3c:], 0x82)
	copy(k[0x82:], "PE\x00\x00\x64\x86")
	copy(k[0x202:], "HdrS\x0f\x02")
	copy(k[0x236:], "\x7f\x00")
	copy(k[0x20e:], "\x00\x30")
	copy(k[0x3200:], "6.12.30 (nixbld@localhost) #1-NixOS SMP\x00")
	return k
}

func arm64Kernel() []byte {
	k := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(k) // compresses as badly as code
	copy(k, "MZ")
	copy(k[0x38:], "ARM\x64")
	copy(k[1<<19:], "Linux version %s (%s)\x00Linux version 6.12.30 (nixbld@localhost) (gcc) #1-NixOS\n\x00")
	return k
}

func gzipped(data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(data)
	w.Close()
	return b.Bytes()
}

func TestKernelArch(t *testing.T) {
	edit := func(offset int, s string) []byte {
		k := x86Kernel()
		copy(k[offset:], s)
		return k
	}
	for _, test := range []struct {
		name   string
		kernel []byte
		want   Arch
		err    string
	}{
		{"bzImage", x86Kernel(), X86_64, ""},
		{"bzImage without an EFI stub", edit(0, "\xea\x05"), X86_64, ""},
		{"bzImage before protocol 2.12", edit(0x206, "\x0a\x02\x00\x00"), X86_64, ""},
		{"32-bit bzImage", edit(0x236, "\x00\x00"), "", "32-bit x86"},
		{"Image", arm64Kernel(), AArch64, ""},
		{"Image.gz", gzipped(arm64Kernel()), AArch64, ""},
		{"EFI for x86_64", binaries.IpxeEFI, X86_64, ""},
		{"EFI for aarch64", binaries.SNP, AArch64, ""},
		{"EFI for riscv", append(edit(0x202, "none")[:0x86:0x86], "\x64\x50"...), "", "another machine (PE type 0x5064)"},
		{"PE header out of reach", edit(0x202, "none")[:0x60], "", "not a Linux kernel"},
		{"ELF", []byte("\x7fELF\x02"), "", "vmlinux"},
		{"text", []byte("hello"), "", "not a Linux kernel"},
		{"broken gzip", []byte("\x1f\x8b\x00"), "", "EOF"},
		{"empty", nil, "", "not a Linux kernel"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := checkArch("", bytes.NewReader(test.kernel))
			checkErr(t, err, test.err)
			if err == nil && got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func TestCheckInitrd(t *testing.T) {
	cpio := Overlay([]OverlayFile{{"init", 0o755, bytes.Repeat([]byte("some file "), 1000)}})
	pack := func(argv ...string) []byte {
		t.Helper()
		if _, err := exec.LookPath(argv[0]); err != nil {
			t.Fatalf("%v: install it with apt", err)
		}
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdin = bytes.NewReader(cpio)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v", argv, err)
		}
		return out
	}
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
			checkErr(t, checkInitrd(bytes.NewReader(test.initrd)), test.err)
		})
	}
}

// checkErr wants an error that contains want, or none when want is empty.
func checkErr(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case err == nil && want != "":
		t.Errorf("no error, want %q", want)
	case err != nil && want == "":
		t.Errorf("unexpected error: %v", err)
	case err != nil && !strings.Contains(err.Error(), want):
		t.Errorf("error %q does not contain %q", err, want)
	}
}
