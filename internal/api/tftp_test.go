package api

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"provision/hosts"
	"provision/images"
	"provision/internal/initrd"
)

// TestSlow: who loads what over TFTP, by what is known of the machine.
func TestSlow(t *testing.T) {
	catalog, err := images.Open(filepath.Join(t.TempDir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	kernel := make([]byte, 24e6)
	copy(kernel[0x38:], "ARM\x64")
	src := images.Source{Kernel: filepath.Join(dir, "kernel"), Initrd: filepath.Join(dir, "initrd"), Cmdline: "init=/x"}
	if err := os.WriteFile(src.Kernel, kernel, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(src.Initrd, initrd.Overlay([]initrd.File{{Path: "init", Mode: 0o755}}), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := catalog.Add(t.Context(), "arm", images.AArch64, src, nil); err != nil {
		t.Fatal(err)
	}
	s := &Server{Images: catalog}
	programs, err := images.Programs("")
	if err != nil {
		t.Fatal(err)
	}
	const mac = "dc:a6:32:00:00:04"
	const assumed, measured = "the kernel (24 MB) takes about 5 to 17 s over TFTP", "the kernel (24 MB) takes about 33 s over TFTP at 2.0 ms a block, as measured"
	for _, tt := range []struct {
		board, client, via string
		block              time.Duration
		want               string
	}{
		{"", "", "", 0, ""}, // nothing is known
		{"rpi4", "", "", 0, assumed},
		{"", "Raspberry Pi 4", "", 0, assumed},
		{"", "", "Raspberry Pi 4", 0, assumed}, // it netbooted before the server started
		{"", "arm64 U-Boot", "", 0, assumed},
		{"", "arm64 U-Boot", "", 2 * time.Millisecond, measured},
		{"rpi4", "", "", 100 * time.Microsecond, ""},
		{"", "arm64 UEFI PXE", "", 0, ""},                         // iPXE is small
		{"", "arm64 UEFI PXE", "", 50 * time.Millisecond, "iPXE"}, // and far away
		{"", "arm64 UEFI HTTP", "", 50 * time.Millisecond, ""},
		{"", "iPXE arm64 UEFI", "", 50 * time.Millisecond, ""},
	} {
		h := hosts.Host{Name: "bravo", MACs: []string{mac}, Choices: hosts.Choices{Image: "arm", Board: tt.board}, Boot: hosts.Boot{Client: tt.via}}
		got := strings.Join(s.slow(h, []hosts.Trace{{MAC: "52:54:00:00:00:01", Client: "arm64 U-Boot"}, {MAC: mac, Client: tt.client, Block: tt.block, Blksize: 1468}}, programs), "; ")
		if (got == "") != (tt.want == "") || !strings.HasPrefix(got, tt.want) {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}
