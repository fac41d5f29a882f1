package pxe

import (
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"provision/hosts"
)

// TestBoard: what tells its board is recognised, and nothing else.
func TestBoard(t *testing.T) {
	for _, tt := range []struct {
		c    bootClient
		want string
	}{
		{bootClient{Kind: pxeFirmware, Arch: iana.EFI_X86_64}, "pc"},
		{bootClient{Kind: pxeFirmware, Arch: iana.INTEL_X86PC}, "pc"},
		{bootClient{Kind: httpBoot, Arch: iana.EFI_X86_64_HTTP}, "pc"},
		{bootClient{Kind: ipxe, Arch: iana.EFI_X86_64}, "pc"},
		{bootClient{Kind: pxeFirmware, Arch: iana.EFI_ARM64}, "uefi-aarch64"},
		{bootClient{Kind: httpBoot, Arch: iana.EFI_ARM64_HTTP}, "uefi-aarch64"},
		{bootClient{Kind: ipxe, Arch: iana.EFI_ARM64}, "uefi-aarch64"},
		{bootClient{Kind: uboot, Arch: iana.UBOOT_ARM64}, ""},
		{bootClient{Kind: pxeFirmware, Arch: iana.UBOOT_ARM64}, ""},
		{bootClient{Kind: pxeFirmware, Arch: iana.EFI_IA32}, ""},
		{bootClient{Kind: system, Arch: iana.INTEL_X86PC}, ""},
		{bootClient{Kind: piROM, Arch: iana.INTEL_X86PC, Pi: piBoard{Board: "rpi4"}}, "rpi4"},
		{bootClient{Kind: piROM, Arch: iana.INTEL_X86PC}, ""},
	} {
		if got := tt.c.board(); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.c, got, tt.want)
		}
	}
}

// TestBoardOfHost: an unknown machine's board is shown; a host gets that of the first that asks,
// unless the operator said it.
func TestBoardOfHost(t *testing.T) {
	s := server(t, Proxy)
	asks := packet(t, "ovmf-x64-discover")
	s.dhcp(asks)
	if d := s.Hosts.Discovered(); len(d) != 1 || d[0].Board != "pc" {
		t.Errorf("%+v", d)
	}
	s.mustEnroll(t, "bravo", mac)
	s.dhcp(asks)
	if h, err := s.Hosts.Get("bravo"); err != nil || h.Board != "pc" || h.Boot.Board != "pc" {
		t.Errorf("%+v, %v", h, err)
	}
	other := "52:54:00:12:34:57"
	if _, err := s.Hosts.Enroll(hosts.Host{Name: "said", MACs: []string{other}, Arch: "x86_64", Choices: hosts.Choices{Image: "lab", Board: "uefi-aarch64"}}, time.Hour, nil); err != nil {
		t.Fatal(err)
	}
	asks = packet(t, "ovmf-x64-discover")
	asks.ClientHWAddr[5] = 0x57
	asks.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, append([]byte{0}, "another machine."...)))
	s.dhcp(asks)
	if h, err := s.Hosts.Get("said"); err != nil || h.Board != "uefi-aarch64" || h.Boot.Board != "pc" {
		t.Errorf("%+v, %v", h, err)
	}
}

// TestNoPi: a host whose machine was recognised is not taken for a Raspberry Pi.
func TestNoPi(t *testing.T) {
	for board, want := range map[string]string{"pc": "", "uefi-aarch64": "", "": "", "rpi5": "rpi5"} {
		if p := piBoardOf(hosts.Host{Choices: hosts.Choices{Board: board}, Boot: hosts.Boot{Board: board}}); p.Board != want {
			t.Errorf("%s: %+v", board, p)
		}
	}
}
