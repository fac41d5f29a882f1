package hosts

import (
	"fmt"
	"strings"
)

// Method is how a machine is led to its installer: how its firmware is answered, and which program it loads. No single
// reply suits all firmware (pxe/ladder.go). Either field may be empty, which means any.
type Method struct {
	Offer   string
	Program string
}

// The offers, which are ways to answer firmware.
const (
	OfferBINL   = "binl"   // PXE: the machine asks port 4011 for its file
	OfferFirst  = "first"  // PXE: the file is in the first offer, and option 43.6=8 says so
	OfferHeader = "header" // PXE: as first, without option 67: the file is in the BOOTP header alone
	OfferPlain  = "plain"  // the file in a plain lease, as from DHCP servers without PXE; full DHCP mode only
	OfferHTTP   = "http"   // UEFI HTTP boot
	OfferROM    = "rom"    // an iPXE in ROM gets its script directly
	OfferMedium = "medium" // the iPXE of a boot medium asks by HTTP
	OfferUBoot  = "u-boot" // a PXELINUX configuration over TFTP; a Raspberry Pi first gets a U-Boot that asks for it
	OfferPi     = "pi"     // a Raspberry Pi's own firmware: kernel and first stage over TFTP
)

// The programs: iPXE with the network driver of the firmware, or with its own.
const (
	DriverFirmware = "snponly"
	DriverNative   = "native"
)

// String returns OFFER+PROGRAM, or only the one that is set.
func (m Method) String() string {
	if m.Offer == "" || m.Program == "" {
		return m.Offer + m.Program
	}
	return m.Offer + "+" + m.Program
}

// Words returns the offers and programs that can be chosen, for completion.
func (m *Method) Words() []string {
	return []string{OfferBINL, OfferFirst, OfferHeader, OfferPlain, DriverFirmware, DriverNative, OfferPi, OfferUBoot}
}

// ParseMethod reads the methods that an operator can choose: binl, first, header or plain; snponly or native; one of
// each, joined by "+"; for a Raspberry Pi, pi or u-boot.
func ParseMethod(s string) (m Method, err error) {
	if s == OfferPi || s == OfferUBoot {
		return Method{Offer: s}, nil
	}
	for part := range strings.SplitSeq(s, "+") {
		into := &m.Program
		switch part {
		case OfferBINL, OfferFirst, OfferHeader, OfferPlain:
			into = &m.Offer
		case DriverFirmware, DriverNative:
		default:
			return m, fmt.Errorf("boot method %q: choose binl, first, header or plain; snponly or native; "+
				"or both, such as first+snponly; for a Raspberry Pi, pi or u-boot", s)
		}

		if *into != "" {
			return m, fmt.Errorf("boot method %q names two of a kind: write one offer and one program, such as "+
				"first+snponly", s)
		}
		*into = part
	}

	return m, nil
}

// MarshalText implements [encoding.TextMarshaler].
func (m Method) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]. It also accepts methods that can only be remembered, not chosen.
func (m *Method) UnmarshalText(text []byte) error {
	if chosen, err := ParseMethod(string(text)); err == nil { // in either order
		*m = chosen
		return nil
	}
	offer, program, both := strings.Cut(string(text), "+")
	if both && (offer == "" || program == "") { // String does not write this; Choices.Check refuses it
		*m = Method{Offer: string(text)}
		return nil
	}
	*m = Method{Offer: offer, Program: program}
	return nil
}
