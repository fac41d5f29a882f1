package hosts

import (
	"fmt"
	"strings"
)

// Method is how a machine is led to its installer: how its firmware is
// answered, and what it loads. No single reply fits all firmware
// (pxe/ladder.go). Either half may be empty: any.
type Method struct {
	Offer   string
	Program string
}

// The offers.
const (
	OfferBINL   = "binl"   // PXE: the machine asks port 4011 for its file
	OfferFirst  = "first"  // PXE: the file is in the first offer, and 43.6=8 says so
	OfferHeader = "header" // PXE: as first, without option 67: the file is in the BOOTP header alone
	OfferPlain  = "plain"  // the file in a plain lease, as DHCP servers without PXE do; full DHCP mode only
	OfferHTTP   = "http"   // UEFI HTTP boot
	OfferROM    = "rom"    // an iPXE in ROM takes its script at once
	OfferMedium = "medium" // the iPXE of a boot medium asks by HTTP
	OfferUBoot  = "u-boot" // a PXELINUX configuration over TFTP; a Raspberry Pi is given the U-Boot that asks for it
	OfferPi     = "pi"     // a Raspberry Pi's own firmware: kernel and first stage over TFTP
)

// The programs: iPXE, with the network driver of the firmware or with its own.
const (
	DriverFirmware = "snponly"
	DriverNative   = "native"
)

// String is OFFER+PROGRAM, or the one that is there.
func (m Method) String() string {
	if m.Offer == "" || m.Program == "" {
		return m.Offer + m.Program
	}
	return m.Offer + "+" + m.Program
}

// Words are the offers and programs that can be chosen.
func (m *Method) Words() []string {
	return []string{OfferBINL, OfferFirst, OfferHeader, OfferPlain, DriverFirmware, DriverNative, OfferPi, OfferUBoot}
}

// ParseMethod reads what String writes and can be chosen: binl, first, header
// or plain; snponly or native; or both, joined by "+"; for a Raspberry Pi, pi or
// u-boot.
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
			return m, fmt.Errorf("boot method %q names two of a kind: write one offer and one program, such as first+snponly", s)
		}
		*into = part
	}

	return m, nil
}

// MarshalText implements [encoding.TextMarshaler].
func (m Method) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]. It takes what was
// remembered, which may be more than what can be chosen.
func (m *Method) UnmarshalText(text []byte) error {
	if chosen, err := ParseMethod(string(text)); err == nil { // in either order
		*m = chosen
		return nil
	}
	offer, program, both := strings.Cut(string(text), "+")
	if both && (offer == "" || program == "") { // nobody wrote it so; Choices.Check refuses it
		*m = Method{Offer: string(text)}
		return nil
	}
	*m = Method{Offer: offer, Program: program}
	return nil
}
