package pxe

import (
	"github.com/insomniacslk/dhcp/iana"

	"provision/images"
)

// board is what the client was recognised as, by images.Board's name; "" where
// what asks does not tell. U-Boot and operating systems run on many boards. iPXE
// for arm64 is there for UEFI only.
func (c client) board() string {
	switch {
	case c.Kind == piROM:
		return c.Pi.Board
	case c.Kind != firmware && c.Kind != httpBoot && c.Kind != ipxe, c.processor() == "":
		return ""
	case c.processor() == string(images.AArch64) && c.Arch != iana.UBOOT_ARM64 && c.Arch != iana.UBOOT_ARM64_HTTP:
		return "uefi-aarch64"
	case c.processor() == string(images.X86_64):
		return "pc"
	}
	return ""
}
