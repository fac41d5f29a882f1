package pxe

import (
	"github.com/insomniacslk/dhcp/iana"

	"provision/internal/boards"
)

// board is the name of the board that the client was recognised as; "" where
// what asks does not tell. U-Boot and operating systems run on many boards. iPXE
// for arm64 is there for UEFI only.
func (c bootClient) board() string {
	switch {
	case !c.profile().board:
		return c.Pi.Board
	case c.Arch == iana.UBOOT_ARM64, c.Arch == iana.UBOOT_ARM64_HTTP:
		return ""
	}
	b, _ := boards.Find(func(b boards.Board) bool { return b.Generic && b.Arch == c.processor() })
	return b.Name
}
