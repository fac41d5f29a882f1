package pxe

import (
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// clientKind is which program on the machine asks.
type clientKind int

const (
	system      clientKind = iota // an operating system
	pxeFirmware                   // PXE in firmware
	ipxe                          // iPXE
	httpBoot                      // UEFI HTTP boot
	uboot                         // U-Boot
	piROM                         // the boot ROM of a Raspberry Pi: says that it is a BIOS, and is none
)

// profile is what one kind of client is like. What depends on the kind is asked of its profile.
type profile struct {
	vendor string                    // what its option 60 begins with, in any case; "": it is known by something else
	words  func(c bootClient) string // what asks, for people
	loads  loader                    // what leads it on; nothing: it wants an address and no more

	screen   bool // people see what it loads, so that a machine that is not enrolled can wait there
	firmware bool // it has an order of things to boot, and can be told to go on in it
	url      bool // its program is named by a URL
	uuid     bool // it tells the machine's UUID; else a machine is known by its serial number
	board    bool // what it runs on is known by its architecture

	// reply adds what its reply needs beside the file; nil: nothing.
	reply func(r *dhcpv4.DHCPv4, b bootInfo)
	// proxied and leased are in replies with something to load: in those beside another DHCP server, and in ours.
	proxied, leased []dhcpv4.Option
}

// profiles has a row for each kind.
var profiles = [...]profile{
	system: {
		words: func(bootClient) string { return "an operating system" },
		uuid:  true,
	},
	pxeFirmware: {
		vendor:   "PXEClient",
		words:    func(c bootClient) string { return c.words() + " PXE" },
		loads:    loadProgram,
		screen:   true,
		firmware: true,
		uuid:     true,
		board:    true,
		reply:    addPXE,
	},
	ipxe: {
		words:  func(c bootClient) string { return "iPXE " + c.words() },
		loads:  script,
		screen: true,
		uuid:   true,
		board:  true,
		// Without the class iPXE takes the offer for a DHCP server's and leaves it, as it holds no address.
		proxied: []dhcpv4.Option{dhcpv4.OptClassIdentifier("PXEClient")},
		// no-pxedhcp: do not wait two seconds for a proxy's offer.
		leased: []dhcpv4.Option{dhcpv4.OptGeneric(etherboot, []byte{176, 1, 1})},
	},
	httpBoot: {
		vendor:   "HTTPClient",
		words:    bootClient.words,
		loads:    loadProgram,
		screen:   true,
		firmware: true,
		url:      true,
		uuid:     true,
		board:    true,
		reply: func(r *dhcpv4.DHCPv4, _ bootInfo) { // without it EDK2 asks for no file (measured)
			r.UpdateOption(dhcpv4.OptClassIdentifier("HTTPClient"))
		},
	},
	uboot: {
		vendor: "U-Boot",
		words:  bootClient.words,
		loads:  config,
		uuid:   true,
	},
	piROM: {
		words: func(c bootClient) string { return c.Pi.String() },
		loads: tree,
		reply: addPi,
	},
}

func (c bootClient) profile() *profile { return &profiles[c.Kind] }

// kindOfVendor is the kind of client that says so in its vendor class; system if none does.
func kindOfVendor(vendor string) clientKind {
	return clientKind(max(0, slices.IndexFunc(profiles[:], func(p profile) bool {
		return p.vendor != "" && hasPrefixFold(vendor, p.vendor)
	})))
}

// hasPrefixFold is strings.HasPrefix without regard to case.
func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}
