package media

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"net/url"
	"strings"

	"provision/images"
	"provision/internal/boards"
)

// bootScript is what U-Boot runs from a FAT partition, beside other ways.
const bootScript = "boot.scr"

// ForBoard returns a medium from which a board's own firmware starts U-Boot,
// which asks the servers for a configuration over TFTP, as when it netboots, and
// so gets the host's image from there. The board's firmware is in the catalog.
// The error says so if a board has no U-Boot that can do this, or what its
// firmware tree lacks.
func ForBoard(c *images.Catalog, board boards.Board, to Purpose) (BootMedium, error) {
	if board.NoUBootNetwork != "" {
		return BootMedium{}, fmt.Errorf("board %s: U-Boot has no driver for its network card; %s",
			board.Name, board.NoUBootNetwork)
	}
	firmware, err := c.Firmware(board.Firmware)
	if err != nil {
		return BootMedium{}, err
	}

	if lacks := board.Missing(firmware.Names(), boards.FAT); len(lacks) > 0 {
		return BootMedium{}, fmt.Errorf("board %s cannot start from the firmware %s: it lacks %s; "+
			"add it again with a source that has these too", board.Name, firmware.Name, strings.Join(lacks, ", "))
	}
	script, err := ubootScript(to)
	if err != nil {
		return BootMedium{}, err
	}

	files := map[string]Content{
		boards.ConfigTxt: Bytes([]byte(board.Config(firmware.Names()))),
		bootScript:       Bytes(ubootImage(script)),
	}
	for name, file := range firmware.For(board, boards.FAT) {
		files[name] = Content{
			Size: file.Size,
			Open: func() (io.ReadCloser, error) { return c.OpenFile(file) },
		}
	}

	return BootMedium{Label: "PROVISION", MBR: true, Files: files}, nil
}

// ubootScript is the script for U-Boot's shell. If nothing comes of it, U-Boot goes
// on to its next way to boot.
func ubootScript(to Purpose) (string, error) {
	var servers []string
	for _, s := range to.Servers {
		u, err := url.Parse(s)
		if err != nil {
			return "", err
		}
		if !isIPv4(u.Hostname()) {
			return "", fmt.Errorf("--server %s: U-Boot asks no DNS; write the server's IPv4 address", s)
		}
		servers = append(servers, u.Hostname())
	}

	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("echo provision: boot medium for %s", to.whose())
	say("usb start") // the network card of a Pi 3 hangs there
	say("setenv provision_mine %s", map[bool]string{true: "yes", false: "no"}[to.Host == ""])
	for _, mac := range to.MACs {
		say("for mac in ${ethaddr} ${usbethaddr} ${eth1addr}; do"+
			" if test ${mac} = %s; then setenv provision_mine yes; fi; done", mac)
	}

	say("if test ${provision_mine} = no; then" +
		" echo provision: this machine has ${ethaddr} ${usbethaddr} ${eth1addr}; fi")
	say("setenv autoload no")
	say("setenv bootfile") // pxe looks in the folder that it names
	say("for try in 1 2 3; do")
	say("if test ${provision_mine} = yes; then")
	say("echo provision: waiting for the link, and for an address by DHCP, try ${try} of 3")
	say("if dhcp; then")
	for _, s := range servers {
		say("setenv serverip %s", s)
		say("echo provision: ${ipaddr} asks %s", s)
		say("if pxe get; then pxe boot; fi")
	}

	say("else echo provision: no address. Is the cable in, and is there a DHCP server on this network?")
	say("fi; fi; done")
	say("if test ${provision_mine} = yes; then"+
		" echo provision: nothing to install from %s. Is the machine enrolled?; fi", strings.Join(servers, " or "))
	say("echo provision: going on to the next way to boot")
	return b.String(), nil
}

func isIPv4(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is4()
}

// ubootImage wraps a script as U-Boot's "source" wants it: a legacy image of type
// script (u-boot, include/image.h), without a date.
func ubootImage(script string) []byte {
	be := binary.BigEndian

	data := be.AppendUint32(nil, uint32(len(script)))
	data = be.AppendUint32(data, 0) // there is no other script
	data = append(data, script...)

	const (
		magic = 0x27051956

		linux        = 5
		arm64        = 22
		scriptType   = 6
		uncompressed = 0
	)
	head := make([]byte, 64)
	be.PutUint32(head, magic)
	be.PutUint32(head[12:], uint32(len(data)))
	be.PutUint32(head[24:], crc32.ChecksumIEEE(data))
	copy(head[28:], []byte{linux, arm64, scriptType, uncompressed})
	copy(head[32:], "provision")
	be.PutUint32(head[4:], crc32.ChecksumIEEE(head)) // while that field is zero
	return append(head, data...)
}
