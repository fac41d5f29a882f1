package netboot

import (
	"net"
	"net/netip"
	"strings"
	"testing"
)

// TestRequests: the packets that follow a DISCOVER are, byte for byte, those that were captured.
func TestRequests(t *testing.T) {
	for _, tt := range []struct {
		family   family
		discover string
		follow   string
		port     int
	}{
		{edk2, "edk2-arm64-discover", "edk2-arm64-request", 67},
		{edk2, "edk2-arm64-discover", "edk2-arm64-4011", 4011},
		{edk2, "edk2-arm64-http-discover", "edk2-arm64-http-request", 67},
		{ipxeFamily, "ipxe-rom-discover", "ipxe-rom-request", 67},
		{ipxeFamily, "tinkerbell-discover", "tinkerbell-request", 67},
		{ubootFamily, "u-boot-2025.01-discover", "u-boot-2025.01-request", 67},
		{ubootFamily, "u-boot-2023.01-discover", "u-boot-2023.01-request", 67},
	} {
		d, want := recorded(t, tt.discover), recorded(t, tt.follow)
		var got packet
		if tt.port == 4011 {
			got = tt.family.asked4011(d, want.xid(), netip.Addr{}, netip.AddrFrom4([4]byte(want.head[12:16])), nil)
		} else {
			got = tt.family.asked(d, want.serverID(), address4(want.get(optRequested)))
		}
		copy(got.head[8:10], want.head[8:10]) // seconds
		if string(got.bytes()) != string(want.bytes()) {
			t.Errorf("%s:\n got %x\nwant %x", tt.follow, got.bytes(), want.bytes())
		}
	}
}

func recorded(t *testing.T, name string) packet {
	t.Helper()
	raw, err := Captured(name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := parsePacket(raw)
	if err != nil {
		t.Fatal(err)
	}
	if string(p.bytes()) != string(raw) {
		t.Errorf("%s is not the same after parsing:\n%x\n%x", name, p.bytes(), raw)
	}
	return p
}

// TestKinds: every kind has a recorded packet, with its own MAC put in.
func TestKinds(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 1, 2, 3}
	for _, kind := range Kinds() {
		p, err := Client{Kind: kind, MAC: mac}.discover()
		if err != nil || string(p.hardware()) != string(mac) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	p, _ := Client{Kind: Pi5, MAC: mac}.discover()
	if want := "\x00RPi5\x70\x41\xd0\x00\x00\x01\x02\x03\x03\x02\x01\xe5"; string(p.get(optUUID)) != want {
		t.Errorf("option 97 of a Pi 5 is %x", p.get(optUUID))
	}
	if p, _ := (Client{Kind: EDK2X64As9}).discover(); p.text(optClass) != "PXEClient:Arch:00009:UNDI:003000" || be16(p.get(optArch)) != 9 {
		t.Errorf("%s", p.text(optClass))
	}
}

// TestExtlinuxNames is the order in boards.md of the facts; without a board, that of the recorded U-Boots.
func TestExtlinuxNames(t *testing.T) {
	r := &run{Client: Client{Board: "bcm283x-rpi"}, mac: net.HardwareAddr{0xdc, 0xa6, 0x32, 1, 2, 3}, own: netip.MustParseAddr("10.0.2.15")}
	want := "01-dc-a6-32-01-02-03 0A00020F 0A00020 0A0002 0A000 0A00 0A0 0A 0 default-arm-bcm283x-rpi default-arm-bcm283x default-arm default"
	if got := strings.Join(r.extlinuxNames(), " "); got != want {
		t.Errorf("%s", got)
	}
}
