package handover

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const mac = "52:54:00:12:34:56"

func cards(t *testing.T, list ...string) (all []net.HardwareAddr) {
	t.Helper()
	for _, s := range list {
		m, err := net.ParseMAC(s)
		check(t, err)
		all = append(all, m)
	}
	return all
}

// captured returns the variables of a file in testdata, by the names that efivarfs gives them.
func captured(t testing.TB, file string) map[string][]byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + file)
	check(t, err)
	all := map[string][]byte{}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		name, value, _ := strings.Cut(lines.Text(), " ")
		all[name], err = hex.DecodeString(value)
		check(t, err)
	}
	return all
}

func TestParseLoadOptionOfOVMF(t *testing.T) {
	hardware := cards(t, mac)[0]
	for name, want := range map[string]LoadOption{
		"Boot0000": {Label: "UiApp", Active: true},
		"Boot0001": {Label: "UEFI Misc Device", Active: true},
		"Boot0002": {Label: "UEFI PXEv4 (MAC:525400123456)", Active: true, MAC: hardware, IPv4: true},
		"Boot0003": {Label: "UEFI HTTPv4 (MAC:525400123456)", Active: true, MAC: hardware, IPv4: true, HTTP: true},
		"Boot0004": {Label: "UEFI HTTPv6 (MAC:525400123456)", Active: true, MAC: hardware, IPv6: true, HTTP: true},
		"Boot0005": {Label: "EFI Internal Shell", Active: true},
	} {
		got, err := ParseLoadOption(captured(t, "ovmf.txt")[name+"-"+globalGUID][4:])
		check(t, err)
		if fmt.Sprint(got) != fmt.Sprint(want) || got.URI != want.URI {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

// option builds a load option: nodes are type, subtype and content.
func option(label string, active bool, nodes ...[]byte) []byte {
	var path []byte
	for _, n := range append(nodes, []byte{0x7f, 0xff}) {
		path = append(path, n[0], n[1])
		path = binary.LittleEndian.AppendUint16(path, uint16(2+len(n)))
		path = append(path, n[2:]...)
	}
	out := []byte{0, 0, 0, 0}
	if active {
		out[0] = 1
	}
	out = binary.LittleEndian.AppendUint16(out, uint16(len(path)))
	for _, unit := range utf16.Encode([]rune(label + "\x00")) {
		out = binary.LittleEndian.AppendUint16(out, unit)
	}
	return append(append(out, path...), "optional data"...)
}

func node(kind, sub byte, body ...byte) []byte { return append([]byte{kind, sub}, body...) }

func macNode(address ...byte) []byte {
	return node(3, 11, append(address, make([]byte, 33-len(address))...)...)
}

var (
	card     = macNode(0x52, 0x54, 0, 0x12, 0x34, 0x56)
	pci      = node(1, 1, 0, 3)
	ipv4     = node(3, 12, make([]byte, 23)...)
	ipv6     = node(3, 13, make([]byte, 56)...)
	http     = node(3, 24)
	url      = node(3, 24, []byte("http://elsewhere/boot.efi")...)
	file     = node(4, 4, '\\', 0, 0, 0)
	iscsi    = node(3, 10, make([]byte, 20)...)
	wifi     = node(3, 28, make([]byte, 32)...)
	instance = node(0x7f, 1)
)

func TestParseLoadOption(t *testing.T) {
	for _, tt := range []struct {
		name string
		data []byte
		want string
	}{
		{"PXE", option("PXE", true, pci, card, ipv4), `"PXE" (PXE over IPv4 from 52:54:00:12:34:56)`},
		{"PXE of before IPv6", option("NIC", true, pci, card), `"NIC" (PXE over an unnamed protocol from 52:54:00:12:34:56)`},
		{"a URL", option("U", true, pci, card, ipv4, url), `"U" (HTTP over IPv4 from 52:54:00:12:34:56, the URL "http://elsewhere/boot.efi")`},
		{"switched off", option("off", false, pci, card, ipv6), `"off" (PXE over IPv6 from 52:54:00:12:34:56, switched off)`},
		{"a disk far away", option("iSCSI", true, pci, card, ipv4, iscsi), `"iSCSI"`},
		{"Wi-Fi", option("air", true, pci, card, wifi, ipv4), `"air"`},
		{"a file", option("disk", true, pci, file), `"disk"`},
		{"two instances", option("two", true, pci, file, instance, card, ipv4), `"two"`},
		{"unlike Ethernet", option("IB", true, node(3, 11, append(make([]byte, 32), 32)...), ipv4), `"IB"`},
		{"an emoji", option("🦆", true), `"🦆"`},
	} {
		got, err := ParseLoadOption(tt.data)
		if err != nil || got.String() != tt.want {
			t.Errorf("%s: got %s, %v; want %s", tt.name, got, err, tt.want)
		}
	}
	good := option("PXE", true, pci, card, ipv4)
	for _, tt := range []struct {
		name, want string
		data       []byte
	}{
		{"nothing", "too short", nil},
		{"five bytes", "too short", good[:5]},
		{"half a label", "no end", good[:9]},
		{"half a path", "are left", good[:40]},
		{"a short node", "node of 3 bytes", []byte{1, 0, 0, 0, 4, 0, 0, 0, 1, 1, 3, 0}},
		{"a long node", "node of 9 bytes", []byte{1, 0, 0, 0, 4, 0, 0, 0, 1, 1, 9, 0}},
		{"a piece of a node", "within a node", []byte{1, 0, 0, 0, 3, 0, 0, 0, 1, 1, 9}},
		{"a short MAC", "not 33", option("short", true, node(3, 11, 1, 2, 3))},
	} {
		if _, err := ParseLoadOption(tt.data); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

func TestChoose(t *testing.T) {
	other := macNode(0x52, 0x54, 0, 0, 0, 1)
	for _, tt := range []struct {
		name    string
		http    bool
		order   []uint16
		options [][]byte
		want    string // the entry, or words of the error
	}{
		{"PXE before HTTP", false, []uint16{1, 0}, [][]byte{option("", true, card, ipv4), option("", true, card, ipv4, http)}, "Boot0000"},
		{"HTTP if so wanted", true, []uint16{0, 1}, [][]byte{option("", true, card, ipv4), option("", true, card, ipv4, http)}, "Boot0001"},
		{"HTTP if there is no PXE", false, nil, [][]byte{option("", true, file), option("", true, card, ipv4, http)}, "Boot0001"},
		{"PXE if there is no HTTP", true, nil, [][]byte{option("", true, card, ipv4)}, "Boot0000"},
		{"the first of the order", false, []uint16{9, 2, 1, 0}, [][]byte{option("", true, card, ipv4), option("", true, card, ipv4), option("", true, card, ipv4)}, "Boot0002"},
		{"in the order before others", false, []uint16{1}, [][]byte{option("", true, card, ipv4), option("", true, card, ipv4)}, "Boot0001"},
		{"IPv4 by name", false, nil, [][]byte{option("", true, card), option("", true, card, ipv4)}, "Boot0001"},
		{"an unnamed protocol before HTTP", false, nil, [][]byte{option("", true, card, ipv4, http), option("", true, card)}, "Boot0001"},
		{"only IPv6", false, []uint16{0}, [][]byte{option("six", true, card, ipv6)}, `none of its entries netboots over IPv4 from 52:54:00:12:34:56; there are: Boot0000 "six" (PXE over IPv6`},
		{"another card", false, nil, [][]byte{option("o", true, other, ipv4)}, "from 52:54:00:00:00:01"},
		{"switched off", false, nil, [][]byte{option("o", false, card, ipv4)}, "switched off"},
		{"a URL of its own", false, nil, [][]byte{option("o", true, card, ipv4, url)}, "elsewhere"},
		{"nothing at all", false, []uint16{3}, nil, "there are: none; enable network boot"},
	} {
		menu := bootMenu{order: tt.order, options: map[uint16]LoadOption{}}
		for i, data := range tt.options {
			o, err := ParseLoadOption(data)
			check(t, err)
			menu.options[uint16(i)] = o
		}
		n, err := menu.choose(cards(t, mac), tt.http)
		if got := bootName(n); err == nil && got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
		if err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

// uefi is a machine with OVMF's variables.
func uefi(t *testing.T) Machine {
	t.Helper()
	m := Machine{Root: t.TempDir()}
	check(t, os.MkdirAll(m.path(efivars), 0o755))
	for name, value := range captured(t, "ovmf.txt") {
		check(t, os.WriteFile(filepath.Join(m.path(efivars), name), value, 0o644))
	}
	return m
}

func TestBootNext(t *testing.T) {
	m := uefi(t)
	// What the firmware may have, too: an entry that is broken, and variables that look like entries.
	check(t, os.WriteFile(m.variable("Boot0007"), []byte{7, 0, 0, 0, 1}, 0o644))
	check(t, os.WriteFile(m.variable("BootCurrent"), []byte{6, 0, 0, 0, 2, 0}, 0o644))
	for _, want := range []BootNext{
		{"Boot0002", "UEFI PXEv4 (MAC:525400123456)", true, ""},
		{"Boot0002", "UEFI PXEv4 (MAC:525400123456)", true, "Boot0002"},
	} {
		if got, err := m.SetBootNext(cards(t, "52:54:00:00:00:01", mac), false); err != nil || got != want {
			t.Errorf("got %+v, %v; want %+v", got, err, want)
		}
	}
	got, err := m.SetBootNext(cards(t, mac), true)
	if want := (BootNext{"Boot0003", "UEFI HTTPv4 (MAC:525400123456)", false, "Boot0002"}); err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	data, err := os.ReadFile(m.variable("BootNext"))
	if want := []byte{7, 0, 0, 0, 3, 0}; err != nil || !slices.Equal(data, want) {
		t.Errorf("the file holds % x, %v; want % x", data, err, want)
	}
	if got, err := m.RestoreBootNext("Boot0002"); err != nil || got.Had != "Boot0003" || got.Entry != "Boot0002" {
		t.Errorf("got %+v, %v", got, err)
	}
	for entry, want := range map[string]string{"Boot0009": "no entry Boot0009; there are: Boot0002", "Boot2": "such as Boot0001", "boot0002": "such as Boot0001", "": "such as Boot0001"} {
		if _, err := m.RestoreBootNext(entry); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("restore %q: %v", entry, err)
		}
	}
	for range 2 {
		check(t, m.ClearBootNext())
		if m.exists(efivars + "/BootNext-" + globalGUID) {
			t.Error("BootNext is still set")
		}
	}
}

func TestBootNextOfBIOS(t *testing.T) {
	m := Machine{Root: t.TempDir()}
	_, set := m.SetBootNext(cards(t, mac), false)
	_, restore := m.RestoreBootNext("Boot0001")
	for _, err := range []error{set, restore, m.ClearBootNext()} {
		if err == nil || !strings.Contains(err.Error(), "BIOS") || !strings.Contains(err.Error(), "--via kexec") {
			t.Errorf("got %v", err)
		}
	}
}

func FuzzParseLoadOption(f *testing.F) {
	for _, value := range captured(f, "ovmf.txt") {
		f.Add(value[4:])
	}
	f.Add(option("two", true, pci, card, ipv4, url, instance, card, ipv6))
	f.Add(option("Wi-Fi", false, pci, card, wifi, file))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := ParseLoadOption(data)
		if err != nil {
			return
		}
		if o.MAC != nil && len(o.MAC) != 6 {
			t.Errorf("a MAC of %d bytes", len(o.MAC))
		}
		if o.URI != "" && !o.HTTP {
			t.Error("a URI without HTTP")
		}
		if rank := o.netboots([]net.HardwareAddr{o.MAC}, false); rank > 0 && (o.MAC == nil || !o.Active || o.IPv6) {
			t.Errorf("%s is said to netboot", o)
		}
	})
}
