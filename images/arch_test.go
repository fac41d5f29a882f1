package images

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"math/rand/v2"
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
