package netboot

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Kind is which firmware a machine has.
type Kind string

// The kinds. What each does on the wire stands at its boot function.
const (
	EDK2X64        Kind = "edk2-x64"        // UEFI PXE, architecture 7
	EDK2X64As9     Kind = "edk2-x64-as-9"   // the same, calling itself architecture 9
	EDK2IA32       Kind = "edk2-ia32"       // architecture 6
	EDK2ARM64      Kind = "edk2-arm64"      // architecture 11
	OldEDK2        Kind = "edk2-x64-old"    // before 2018: drops a proxy's PXE 1.0 offers
	HP             Kind = "hp"              // never asks port 4011
	HPSingle       Kind = "hp-single"       // takes one complete offer only
	BIOS           Kind = "bios"            // Intel's boot agent, architecture 0
	HTTPX64        Kind = "http-x64"        // UEFI HTTP boot, architecture 16
	HTTPARM64      Kind = "http-arm64"      // UEFI HTTP boot, architecture 19
	IPXE           Kind = "ipxe-rom"        // iPXE in a NIC's ROM, on a BIOS
	Tinkerbell     Kind = "ipxe-tinkerbell" // the binaries of tinkerbell/ipxedust, on UEFI x64
	UBoot2023      Kind = "u-boot-2023.01"  // arm64, `dhcp; pxe get`
	UBoot2025      Kind = "u-boot-2025.01"
	UBootEFI       Kind = "u-boot-efi" // U-Boot's own attempt at EFI's network boot: says it is PXEClient, 11
	Pi3B           Kind = "pi3b"       // boot ROM
	Pi3BPlus       Kind = "pi3b+"
	Pi4            Kind = "pi4"
	Pi5            Kind = "pi5"
	System         Kind = "system"               // an operating system's DHCP client: no PXE
	TinkerbellBIOS Kind = "ipxe-tinkerbell-bios" // undionly.kpxe of ipxedust
)

// family is who wrote the code that sends packets.
type family int

const (
	edk2 family = iota
	intel
	ipxeFamily
	ubootFamily
	pi
	systemFamily
)

type profile struct {
	family  family
	capture string // its DISCOVER
	arch    int    // in place of the captured one; -1: as captured
}

var profiles = map[Kind]profile{
	EDK2X64:        {edk2, "edk2-x64-discover", -1},
	EDK2X64As9:     {edk2, "edk2-x64-discover", 9},
	EDK2IA32:       {edk2, "edk2-x64-discover", 6},
	EDK2ARM64:      {edk2, "edk2-arm64-discover", -1},
	OldEDK2:        {edk2, "edk2-x64-discover", -1},
	HP:             {edk2, "edk2-x64-discover", -1},
	HPSingle:       {edk2, "edk2-x64-discover", -1},
	BIOS:           {intel, "bios-discover", -1},
	HTTPX64:        {edk2, "edk2-x64-http-discover", -1},
	HTTPARM64:      {edk2, "edk2-arm64-http-discover", -1},
	IPXE:           {ipxeFamily, "ipxe-rom-discover", -1},
	Tinkerbell:     {ipxeFamily, "tinkerbell-discover", -1},
	TinkerbellBIOS: {ipxeFamily, "tinkerbell-bios-discover", -1},
	UBoot2023:      {ubootFamily, "u-boot-2023.01-discover", -1},
	UBoot2025:      {ubootFamily, "u-boot-2025.01-discover", -1},
	UBootEFI:       {ubootFamily, "u-boot-2023.01-efi-discover", -1},
	Pi3B:           {pi, "pi3b-discover", -1},
	Pi3BPlus:       {pi, "pi3bplus-discover", -1},
	Pi4:            {pi, "pi4-discover", -1},
	Pi5:            {pi, "pi4-discover", -1},
	System:         {systemFamily, "system-discover", -1},
}

// boot runs the program that the machine runs now, again if a server refused what it had offered.
func (r *run) boot(ctx context.Context) (err error) {
	kind := r.Kind
	for range 4 {
		var s stop
		if err = r.once(ctx); !errors.As(err, &s) || !s.nak || r.Kind != kind {
			return err
		}
		r.remark("%s", s.why)
	}
	return err
}

func (r *run) once(ctx context.Context) error {
	switch r.Kind {
	case HTTPX64, HTTPARM64:
		return r.httpBoot(ctx)
	case UBootEFI:
		return r.ubootEFI(ctx)
	case Pi3B, Pi3BPlus:
		return r.pi3(ctx)
	case Pi4, Pi5:
		return r.pi45(ctx)
	}
	switch r.family() {
	case ipxeFamily:
		return r.ipxe(ctx)
	case ubootFamily:
		return r.uboot(ctx)
	case systemFamily:
		return r.system(ctx)
	}
	return r.edk2(ctx)
}

// Kinds lists all kinds, sorted.
func Kinds() []Kind {
	var all []Kind
	for k := range profiles {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

// discover is the first packet of a machine of this kind, but for its transaction ID.
func (c Client) discover() (packet, error) {
	prof, ok := profiles[c.Kind]
	if !ok {
		return packet{}, fmt.Errorf("there is no kind of firmware %q; there are: %v", c.Kind, Kinds())
	}
	raw, err := Captured(prof.capture)
	if err != nil {
		return packet{}, err
	}
	p, err := parsePacket(raw)
	if err != nil {
		return packet{}, fmt.Errorf("recorded packet %s: %w", prof.capture, err)
	}
	p = stamp(p, c.MAC, c.UUID)
	if id := p.get(optUUID); prof.family == pi && c.UUID == nil && len(id) == 17 {
		if c.Kind == Pi5 {
			copy(id[1:], "RPi5")
			binary.LittleEndian.PutUint32(id[5:], 0x00d04170) // a Pi 5 with 8 GB
		}
		c.piID(id, p.hardware())
	}
	switch {
	case c.Arch != nil:
		p = withArch(p, *c.Arch)
	case prof.arch >= 0:
		p = withArch(p, uint16(prof.arch))
	}
	p.remove(c.Without...)
	return p, nil
}
