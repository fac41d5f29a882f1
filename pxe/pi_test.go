package pxe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"provision/hosts"
	"provision/images"
	"provision/internal/boards"
	"provision/internal/initrd"
	"provision/internal/tftp"
)

const (
	mac4    = "dc:a6:32:a7:ed:89"
	serial4 = "e5ef6e9d"
)

// piPacket is the DISCOVER of a model: pi3b, pi3bplus, pi4, or pi5.
func piPacket(t testing.TB, model string) *dhcpv4.DHCPv4 {
	t.Helper()
	if model != "pi5" {
		return packet(t, model+"-discover")
	}
	m := packet(t, "pi4-discover")
	id := bytes.Clone(m.Options.Get(dhcpv4.OptionClientMachineIdentifier))
	copy(id[1:], "RPi5")
	binary.LittleEndian.PutUint32(id[5:], 0x00d04170)
	m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, id))
	return m
}

// piRequest is what a Pi answers to an offer.
func piRequest(m, offer *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	r := *m
	r.Options = dhcpv4.Options{}
	for code, value := range m.Options {
		r.Options[code] = value
	}
	r.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeRequest))
	r.UpdateOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr))
	r.UpdateOption(dhcpv4.OptServerIdentifier(offer.ServerIPAddr))
	return &r
}

// piServer has an image for boards and the firmware of all.
func piServer(t testing.TB, mode Mode) *Server {
	t.Helper()
	s := server(t, mode)
	s.boardImage(t)
	s.addFirmware(t, firmwareDir(t))
	return s
}

// piCatalog is the files of a catalog with the image "arm" and its first stage, which takes
// seconds to make.
var piCatalog struct {
	sync.Once
	files map[string][]byte
	err   error // why there are none
}

// boardImage gives the server a copy of that, with its own image beside.
func (s *Server) boardImage(t testing.TB) {
	t.Helper()
	piCatalog.Do(func() {
		dir := t.TempDir()
		c, err := images.Open(dir)
		if err != nil {
			piCatalog.err = err
			return
		}
		img := (&Server{Images: c}).armImage(t, "arm", 9000)
		_, first := c.FirstStage(t.Context(), img)
		_, kernel := c.PackedKernel(t.Context(), img)
		files, err := os.ReadDir(dir)
		piCatalog.files = map[string][]byte{}
		for _, f := range files {
			data, e := os.ReadFile(filepath.Join(dir, f.Name()))
			piCatalog.files[f.Name()] = data
			err = errors.Join(err, e)
		}
		piCatalog.err = errors.Join(first, kernel, err)
	})
	if piCatalog.err != nil {
		t.Fatal(piCatalog.err)
	}
	dir := t.TempDir()
	for name, data := range piCatalog.files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if s.Images, err = images.Open(dir); err != nil {
		t.Fatal(err)
	}
	s.withImage(t, 9000)
}

// armImage puts an image into the catalog that a first stage can be made for: a
// kernel of so many random bytes, and an initrd that says that its kernel needs no driver.
func (s *Server) armImage(t testing.TB, name string, size int) images.Image {
	t.Helper()
	kernel := make([]byte, size)
	for i := range kernel {
		kernel[i] = byte(i * i >> 3)
	}
	copy(kernel[0x38:], "ARM\x64")
	copy(kernel[0x100:], "Linux version 6.1.0-lab (lab@lab) ")
	initrdData := initrd.Overlay([]initrd.File{{Path: "lib/modules/6.1.0-lab/modules.builtin", Mode: 0o644, Data: []byte("kernel/drivers/net/virtio_net.ko\n")}})
	dir := t.TempDir()
	src := images.Source{Kernel: filepath.Join(dir, "kernel"), Initrd: filepath.Join(dir, "initrd"), Cmdline: "init=/nix/store/x/init loglevel=4"}
	if err := errors.Join(os.WriteFile(src.Kernel, kernel, 0o600), os.WriteFile(src.Initrd, initrdData, 0o600)); err != nil {
		t.Fatal(err)
	}
	img, err := s.Images.Add(t.Context(), name, images.AArch64, src, nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func (s *Server) addFirmware(t testing.TB, dir string) {
	t.Helper()
	if _, _, err := s.Images.AddFirmware(t.Context(), boards.RaspberryPi, []string{dir}, nil); err != nil {
		t.Fatal(err)
	}
}

// firmwareDir is a folder with what looks like the firmware of all Pis, but for what is named.
func firmwareDir(t testing.TB, but ...string) string {
	t.Helper()
	dir := t.TempDir()
	tree := append([]byte{0xd0, 0x0d, 0xfe, 0xed, 0, 0, 0, 16}, make([]byte, 8)...)
	for _, name := range []string{"bootcode.bin", "start.elf", "fixup.dat", "start4.elf", "fixup4.dat", "pieeprom.upd", "pieeprom.sig", "recovery.bin", "vl805.sig",
		"bcm2837-rpi-3-b.dtb", "bcm2837-rpi-3-b-plus.dtb", "bcm2711-rpi-4-b.dtb", "bcm2712-rpi-5-b.dtb", "overlays/bcm2712d0.dtbo",
		"u-boot-rpi3.bin", "u-boot-rpi4.bin"} {
		data := []byte(name)
		switch ext := filepath.Ext(name); {
		case strings.Contains(strings.Join(but, " "), name):
			continue
		case ext == ".elf":
			data = append([]byte("\x7fELF"), data...)
		case ext == ".dtb", ext == ".dtbo":
			data = append(tree, data...)
		}
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (s *Server) enrollPi(t testing.TB, name, mac string, edit ...func(*hosts.Host)) hosts.Host {
	t.Helper()
	h := hosts.Host{Name: name, MACs: []string{mac}, Arch: "aarch64", Choices: hosts.Choices{Image: "arm"}}
	for _, e := range edit {
		e(&h)
	}
	h, err := s.Hosts.Enroll(h, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// fetch is what the Pi of a host gets for a name; "" if it is refused.
func (s *Server) fetch(t testing.TB, host, name string) string {
	t.Helper()
	h, err := s.Hosts.Get(host)
	if err != nil {
		t.Fatal(err)
	}
	f, is, err := s.openPi(s.links[0], h, h.MACs[0], requestedName(t, name))
	if !is {
		t.Fatalf("%s is not taken for what a Raspberry Pi asks", name)
	}
	if err != nil {
		if !errors.Is(err, tftp.ErrNotFound) {
			t.Fatal(err)
		}
		return ""
	}
	data, err := io.ReadAll(f.Content)
	if err != nil || int64(len(data)) != f.Size {
		t.Fatalf("%s: %d of %d bytes, %v", name, len(data), f.Size, err)
	}
	f.Close(true)
	return string(data)
}

func (s *Server) logOf(t testing.TB, host string) string {
	t.Helper()
	events, err := s.Hosts.Events(host, 0)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, ev := range events {
		fmt.Fprintf(&b, "%s: %s\n", ev.Kind, ev.Message)
	}
	return b.String()
}

// TestReadPi: what each model tells of itself.
func TestReadPi(t *testing.T) {
	for model, want := range map[string]piBoard{
		"pi3b":     {Board: "rpi3", Memory: 1 << 30, Deaf: true},
		"pi3bplus": {Board: "rpi3", Serial: "b22faaeb", Memory: 1 << 30},
		"pi4":      {Board: "rpi4", Model: "Raspberry Pi 4B", Serial: serial4, Memory: 4 << 30, Tree: "bcm2711-rpi-4-b.dtb"},
		"pi5":      {Board: "rpi5", Model: "Raspberry Pi 5", Serial: serial4, Memory: 8 << 30, Tree: "bcm2712-rpi-5-b.dtb"},
	} {
		c, err := identify(piPacket(t, model))
		if err != nil || c.Kind != piROM || c.Pi != want || c.processor() != "aarch64" || c.Machine != "" {
			t.Errorf("%s: %+v, %v", model, c, err)
		}
	}
	set := func(m *dhcpv4.DHCPv4, id []byte) *dhcpv4.DHCPv4 {
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, id))
		return m
	}
	serial := []byte{0, 0x9d, 0x6e, 0xef, 0xe5, 0x9d, 0x6e, 0xef, 0xe5, 0x9d, 0x6e, 0xef, 0xe5, 0x9d, 0x6e, 0xef, 0xe5}
	c, _ := identify(set(packet(t, "pi4-discover"), serial)) // DHCP_OPTION97=0
	if c.Kind != piROM || c.Pi != (piBoard{Serial: serial4}) {
		t.Errorf("%+v", c)
	}
	for _, id := range [][]byte{nil, {}, {0}, {0, 'R', 'P', 'i', '4'}, serial[:16]} {
		if c, err := identify(set(packet(t, "pi4-discover"), id)); err != nil || c.Kind != piROM || c.Pi.Serial != "" {
			t.Errorf("%x: %+v, %v", id, c, err)
		}
	}
	bios := packet(t, "ovmf-x64-discover")
	bios.UpdateOption(dhcpv4.OptClientArch(iana.INTEL_X86PC))
	if c, _ := identify(bios); c.Kind != pxeFirmware {
		t.Errorf("a PC is %+v", c)
	}
}

// TestPiRevisions: codes of real boards, from the documentation's list; an old one tells nothing.
func TestPiRevisions(t *testing.T) {
	for code, want := range map[uint32]piBoard{
		0xa02082: {Board: "rpi3", Model: "Raspberry Pi 3B", Memory: 1 << 30, Tree: "bcm2710-rpi-3-b.dtb"},
		0xa020d3: {Board: "rpi3", Model: "Raspberry Pi 3B+", Memory: 1 << 30, Tree: "bcm2710-rpi-3-b-plus.dtb"},
		0xb03115: {Board: "rpi4", Model: "Raspberry Pi 4B", Memory: 2 << 30, Tree: "bcm2711-rpi-4-b.dtb"},
		0xc03130: {Board: "rpi4", Model: "Raspberry Pi 400", Memory: 4 << 30, Tree: "bcm2711-rpi-400.dtb"},
		0xa03140: {Board: "rpi4", Model: "Raspberry Pi CM4", Memory: 1 << 30, Tree: "bcm2711-rpi-cm4.dtb"},
		0xe04171: {Board: "rpi5", Model: "Raspberry Pi 5", Memory: 16 << 30, Tree: "bcm2712-rpi-5-b.dtb"},
		0xd04180: {Board: "rpi5", Model: "Raspberry Pi CM5", Memory: 8 << 30},
		0x000010: {},
	} {
		var got piBoard
		if got.revision(code); got != want {
			t.Errorf("%06x: %+v, want %+v", code, got, want)
		}
	}
}

// TestGoldenPi compares whole replies to Raspberry Pis, byte by byte.
func TestGoldenPi(t *testing.T) {
	for _, mode := range []Mode{Proxy, Full} {
		var got strings.Builder
		for _, model := range []string{"pi3b", "pi3bplus", "pi4", "pi5"} {
			for _, state := range []hosts.State{"unknown", hosts.StateReady, hosts.StateInstalled} {
				s := piServer(t, mode)
				m := piPacket(t, model)
				if state != "unknown" {
					s.enrollPi(t, "bravo", m.ClientHWAddr.String())
					s.reach(t, "bravo", state)
				}
				fmt.Fprintf(&got, "%s, %s, DISCOVER\n%s", model, state, reply(t, s.dhcp, m))
				if mode == Full && state == hosts.StateReady && m.TransactionID != (dhcpv4.TransactionID{0x26, 0xf3, 0x03, 0x39}) {
					fmt.Fprintf(&got, "%s, %s, REQUEST\n%s", model, state, reply(t, s.dhcp, piRequest(m, s.mustOffer(t, m))))
				}
			}
		}
		compare(t, string(mode)+"-pi-reply.golden", got.String())
	}
}

// mustOffer has a question answered that was answered a moment ago.
func (s *Server) mustOffer(t testing.TB, m *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	t.Helper()
	s.pis = piAsks{}
	r := s.dhcp(m)
	if r == nil {
		t.Fatal("no offer")
	}
	return r
}

// TestPiOnce: a question that the network lets arrive twice is answered once, and a REQUEST
// without PXE's options is known by its transaction.
func TestPiOnce(t *testing.T) {
	s := piServer(t, Full)
	s.enrollPi(t, "bravo", mac4)
	m := packet(t, "pi4-discover")
	offer := s.dhcp(m)
	if offer == nil || s.dhcp(m) != nil {
		t.Fatal("not once")
	}
	old := piRequest(m, offer) // rpi-eeprom#82
	for _, code := range []dhcpv4.OptionCode{dhcpv4.OptionClassIdentifier, dhcpv4.OptionClientMachineIdentifier, dhcpv4.OptionClientSystemArchitectureType} {
		delete(old.Options, code.Code())
	}
	other := piRequest(m, offer)
	other.Options, other.TransactionID = old.Options, dhcpv4.TransactionID{1}
	if r := s.dhcp(old); r == nil || r.MessageType() != dhcpv4.MessageTypeAck || !bytes.Equal(r.Options.Get(dhcpv4.OptionVendorSpecificInformation), piVendor) {
		t.Errorf("%v", r)
	}
	if r := s.dhcp(other); r == nil || r.MessageType() != dhcpv4.MessageTypeAck || r.Options.Has(dhcpv4.OptionVendorSpecificInformation) {
		t.Errorf("an operating system is told of a boot: %v", r)
	}
	if h, _ := s.Hosts.Get("bravo"); len(h.Tokens) != 1 || h.Boot.Serial != serial4 || h.Boot.Board != "rpi4" {
		t.Errorf("%d boots, %+v", len(h.Tokens), h.Boot)
	}
}

// TestNotForPCs: no reply to anything but a Raspberry Pi has its option 43.
func TestNotForPCs(t *testing.T) {
	for _, mode := range []Mode{Proxy, Full} {
		s := piServer(t, mode)
		s.mustEnroll(t, "bravo", mac)
		for _, name := range []string{"ovmf-x64-discover", "ovmf-x64-request", "ipxe-discover", "ipxe-request"} {
			for _, bios := range []bool{false, true} {
				m := packet(t, name)
				if bios {
					m.UpdateOption(dhcpv4.OptClientArch(iana.INTEL_X86PC))
				}
				for _, answer := range []func(*dhcpv4.DHCPv4) *dhcpv4.DHCPv4{s.dhcp, s.binl} {
					if r := answer(m); r != nil && bytes.Contains(r.Options.Get(dhcpv4.OptionVendorSpecificInformation), []byte("Raspberry")) {
						t.Errorf("%s: %v", name, r)
					}
				}
			}
		}
	}
}

// TestPiTree: by serial number, by MAC, or by nothing, a Pi finds its firmware and its boot, and nothing else.
func TestPiTree(t *testing.T) {
	s := piServer(t, Full)
	s.enrollPi(t, "bravo", mac4, func(h *hosts.Host) { h.PiConfig = []string{"dtparam=pciex1"} })
	if s.fetch(t, "bravo", "kernel") != "" {
		t.Error("there is a kernel without a boot")
	}
	s.dhcp(packet(t, "pi4-discover"))
	h, _ := s.Hosts.Get("bravo")
	const config = "# provision: the installer of bravo\n[all]\narm_64bit=1\nenable_uart=1\nkernel=kernel\ninitramfs initrd followkernel\ndtparam=pciex1\n"
	for _, folder := range []string{"", serial4 + "/", serial4 + "//", "dc-a6-32-a7-ed-89/", "/", "netboot/", "pi-4/"} {
		for name, want := range map[string]string{
			"config.txt": config, "start4.elf": "\x7fELFstart4.elf", "fixup4.dat": "fixup4.dat",
			// other models', what flashes an EEPROM, and what is not there
			"start.elf": "", "bootcode.bin": "", "recovery.bin": "", "pieeprom.upd": "", "pieeprom.sig": "", "vl805.sig": "", "recover4.elf": "", "dt-blob.bin": "",
			"u-boot-rpi4.bin": "", "../config.txt": "", "overlays/../config.txt": "", "": "", ".": "", "overlays": "",
		} {
			if got := s.fetch(t, "bravo", folder+name); got != want {
				t.Errorf("%q is %q, want %q", folder+name, got, want)
			}
		}
	}
	if s.fetch(t, "bravo", "00000001/config.txt") != "" || s.fetch(t, "bravo", "dc-a6-32-00-00-01/config.txt") != "" {
		t.Error("another's folder is served")
	}
	if !strings.Contains(s.logOf(t, "bravo"), "asked for 00000001/config.txt, which is in the folder of another Raspberry Pi") {
		t.Error("the log does not tell of another's folder:", s.logOf(t, "bravo"))
	}
	line := s.fetch(t, "bravo", serial4+"//cmdline.txt")
	if !strings.HasPrefix(line, "init=/nix/store/x/init loglevel=4 provision.initrd=http://10.77.0.1/boot/"+h.Boot.Token+"/initrd provision.sha256=") ||
		!strings.HasSuffix(line, " BOOTIF=01-dc-a6-32-a7-ed-89\n") || strings.Count(line, "\n") != 1 {
		t.Errorf("%q", line)
	}
	if k := s.fetch(t, "bravo", "kernel"); !strings.HasPrefix(k, "\x1f\x8b") {
		t.Errorf("the kernel is %.20q", k)
	}
	if i := s.fetch(t, "bravo", "initrd"); !strings.HasPrefix(i, "\x1f\x8b") || len(i) < 1<<20 {
		t.Errorf("the first stage has %d bytes", len(i))
	}
	if h, _ = s.Hosts.Get("bravo"); h.Boot.TakenBy != "" || len(h.Tokens) != 1 {
		t.Errorf("the boot is %+v", h.Boot)
	}
}

// TestPi3Names: a mainline kernel's device trees go by the names that the firmware asks for;
// and the serial number, which only bootcode.bin tells, is kept with the same boot.
func TestPi3Names(t *testing.T) {
	s := piServer(t, Proxy)
	m := packet(t, "pi3b-discover")
	s.enrollPi(t, "bravo", m.ClientHWAddr.String())
	if r := s.dhcp(m); r == nil || r.TransactionID != m.TransactionID || !deaf(m, r) {
		t.Fatalf("%v", r)
	}
	if s.fetch(t, "bravo", "bcm2710-rpi-3-b.dtb") == "" || s.fetch(t, "bravo", "bootcode.bin") == "" || s.fetch(t, "bravo", "start4.elf") != "" {
		t.Error("not the files of a Pi 3")
	}
	next := packet(t, "pi3bplus-discover")
	next.ClientHWAddr = m.ClientHWAddr
	if r := s.dhcp(next); r == nil || deaf(next, r) {
		t.Fatalf("%v", r)
	}
	if h, _ := s.Hosts.Get("bravo"); h.Boot.Serial != "b22faaeb" || len(h.Tokens) != 1 {
		t.Errorf("serial %q, %d boots", h.Boot.Serial, len(h.Tokens))
	}
	if s.fetch(t, "bravo", "b22faaeb/start.elf") == "" {
		t.Error("not by its serial number")
	}
}

// TestPiEEPROM: what makes a board write its EEPROM anew is served where the operator says so.
func TestPiEEPROM(t *testing.T) {
	s := piServer(t, Full)
	s.enrollPi(t, "bravo", mac4, func(h *hosts.Host) { h.AllowEEPROM = true })
	s.dhcp(packet(t, "pi4-discover"))
	for _, name := range []string{"recovery.bin", "pieeprom.upd", "pieeprom.sig", "vl805.sig"} {
		if s.fetch(t, "bravo", serial4+"/"+name) == "" {
			t.Errorf("%s is not there", name)
		}
	}
}

// TestPiUBoot: a Pi that is to boot by U-Boot is given that in the kernel's place.
func TestPiUBoot(t *testing.T) {
	s := piServer(t, Full)
	s.enrollPi(t, "bravo", mac4, func(h *hosts.Host) { h.BootMethod.Offer = hosts.OfferUBoot })
	s.dhcp(packet(t, "pi4-discover"))
	if c := s.fetch(t, "bravo", "config.txt"); !strings.Contains(c, "\nkernel=u-boot-rpi4.bin\n") || strings.Contains(c, "initramfs") {
		t.Errorf("%q", c)
	}
	if s.fetch(t, "bravo", "u-boot-rpi4.bin") != "u-boot-rpi4.bin" {
		t.Error("there is no U-Boot")
	}
}

// TestPiLocal: without a live permit there is no file at all, and no silence.
func TestPiLocal(t *testing.T) {
	for _, mode := range []Mode{Proxy, Full} {
		s := piServer(t, mode)
		s.enrollPi(t, "bravo", mac4)
		s.reach(t, "bravo", hosts.StateInstalled)
		r := s.dhcp(packet(t, "pi4-discover"))
		if r == nil || !bytes.Equal(r.Options.Get(dhcpv4.OptionVendorSpecificInformation), piVendor) {
			t.Errorf("%s: %v", mode, r)
		}
		for _, name := range []string{"start4.elf", "config.txt", serial4 + "/config.txt", "bootcode.bin", "kernel", "cmdline.txt", "recovery.bin"} {
			if s.fetch(t, "bravo", name) != "" {
				t.Errorf("%s is served", name)
			}
		}
		if h, _ := s.Hosts.Get("bravo"); h.State != hosts.StateInstalled || len(h.Tokens) != 1 {
			t.Errorf("%s, %d boots", h.State, len(h.Tokens))
		}
	}
	s := piServer(t, Proxy)
	s.enrollPi(t, "bravo", mac4)
	s.reach(t, "bravo", hosts.StateLive) // it lost its power, which is not known yet: it shall ask again
	if r := s.dhcp(packet(t, "pi4-discover")); r != nil {
		t.Errorf("%v", r)
	}
}

// TestPiByTFTP: a Pi that has its address and our own from its EEPROM begins its boot by its first file.
func TestPiByTFTP(t *testing.T) {
	s := piServer(t, Off)
	s.enrollPi(t, "bravo", mac4)
	if s.fetch(t, "bravo", serial4+"/kernel") != "" || s.fetch(t, "bravo", serial4+"/start4.elf") == "" || s.fetch(t, "bravo", serial4+"/kernel") == "" {
		t.Error("no boot")
	}
	if h, _ := s.Hosts.Get("bravo"); h.State != hosts.StateBooting || h.Boot.Serial != serial4 {
		t.Errorf("%s, serial %q", h.State, h.Boot.Serial)
	}
}

// TestPiFolder: a Pi on the link that asks in a folder which its owner has named (TFTP_PREFIX=1) boots; one that is not
// known, whether it is a Pi or not, does not.
func TestPiFolder(t *testing.T) {
	s := piServer(t, Full)
	s.enrollPi(t, "bravo", mac4)
	asker := "dc:a6:32:00:00:99"
	s.links[0].neighbour = func(netip.Addr) string { return asker }
	for _, asker = range []string{"dc:a6:32:00:00:99", mac, ""} {
		if f, err := s.open(s.links[0], "netboot/start4.elf", addrPort("10.77.0.66:1024")); !errors.Is(err, tftp.ErrNotServed) {
			t.Errorf("%q gets %v, %v", asker, f, err)
		}
	}
	asker = mac4
	for _, name := range []string{"netboot/start4.elf", "netboot/config.txt", "netboot/kernel"} {
		f, err := s.open(s.links[0], name, addrPort("10.77.0.66:1024"))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		f.Close(false)
	}
	for _, name := range []string{"a/netboot/config.txt", "../config.txt", "netboot/../config.txt"} {
		if _, err := s.open(s.links[0], name, addrPort("10.77.0.66:1024")); !errors.Is(err, tftp.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPiFits: what would stop a board half-way is told the operator, and nothing the board.
func TestPiFits(t *testing.T) {
	many := func(h *hosts.Host) {
		for i := range 400 {
			h.PiConfig = append(h.PiConfig, fmt.Sprintf("dtparam=x%d", i))
		}
	}
	uboot := func(h *hosts.Host) { h.BootMethod.Offer = hosts.OfferUBoot }
	image := func(name string) func(*hosts.Host) { return func(h *hosts.Host) { h.Image = name } }
	for _, tt := range []struct {
		model string
		lacks string // of the firmware; "all": there is none
		edit  func(*hosts.Host)
		why   string
	}{
		{"pi4", "all", nil, "there is no firmware \"raspberrypi\" yet; add it with: provision images firmware add raspberrypi --from"},
		{"pi4", "start4.elf", nil, "the firmware raspberrypi lacks start4.elf, which it needs"},
		{"pi3b", "bootcode.bin", nil, "lacks bootcode.bin"},
		{"pi4", "bcm2711-rpi-4-b.dtb", nil, "lacks bcm2711-*.dtb"},
		{"pi5", "bcm2712-rpi-5-b.dtb", nil, "lacks bcm2712*-rpi-*.dtb"},
		{"pi4", "", many, "its config.txt would have 5202 bytes"},
		{"pi4", "", func(h *hosts.Host) { h.PiConfig = []string{"dtparam=" + strings.Repeat("x", 91)} }, "a line of 99 characters, of which the firmware reads 98: shorten"},
		{"pi4", "", image("wordy"), "the kernel's command line would have 19"},
		{"pi4", "", image("none"), "no such image"},
		{"pi4", "", image("lab"), "the kernel of image lab: it is no arm64 Image"},
		{"pi4", "", nil, "it has 256 MiB of memory, and image arm needs at least 320 MiB"},
		{"pi5", "", uboot, "U-Boot has no driver for its network"},
		{"pi4", "u-boot-rpi4.bin", uboot, "has no U-Boot for it: add one"},
	} {
		for _, mode := range []Mode{Proxy, Full} {
			s := server(t, mode)
			s.boardImage(t)
			if strings.Contains(tt.why, "command line") {
				img, _ := s.Images.Get("arm")
				src := images.Source{Kernel: s.content(t, img.Kernel), Initrd: s.content(t, img.Initrd), Cmdline: strings.Repeat("a ", 850) + "init=/x"}
				if _, err := s.Images.Add(t.Context(), "wordy", images.AArch64, src, nil); err != nil {
					t.Fatal(err)
				}
			}
			if tt.lacks != "all" {
				s.addFirmware(t, firmwareDir(t, tt.lacks))
			}
			m := piPacket(t, tt.model)
			if tt.edit == nil {
				tt.edit = func(*hosts.Host) {}
			}
			s.enrollPi(t, "bravo", m.ClientHWAddr.String(), tt.edit)
			if strings.Contains(tt.why, "256 MiB") { // there is no such Pi 4
				id := bytes.Clone(m.Options.Get(dhcpv4.OptionClientMachineIdentifier))
				binary.LittleEndian.PutUint32(id[5:], 0x00803111)
				m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, id))
			}
			r := s.dhcp(m)
			if said := s.logOf(t, "bravo"); !strings.Contains(said, tt.why) || strings.Contains(said, "a boot was offered") {
				t.Errorf("%s: the log says:\n%swant: %s", tt.model, said, tt.why)
			}
			if (r != nil) != (mode == Full) || r != nil && (r.Options.Has(dhcpv4.OptionVendorSpecificInformation) || addrOf(r.ServerIPAddr).IsValid()) {
				t.Errorf("%s, %s: the board is told %v", tt.model, tt.why, r)
			}
			if s.fetch(t, "bravo", "config.txt") != "" || s.fetch(t, "bravo", "start4.elf") != "" {
				t.Errorf("%s, %s: files are served", tt.model, tt.why)
			}
		}
	}
}

// TestPiFitsBlocks: what cannot be numbered in blocks is named.
func TestPiFitsBlocks(t *testing.T) {
	tree := piTree{files: map[string]images.File{"kernel": {Size: 65535 * 1024}, "initrd": {Size: 5}}}
	if err := tree.fits(piBlock("rpi4")); err != nil {
		t.Error(err)
	}
	err := tree.fits(piBlock("rpi3"))
	if err == nil || !strings.Contains(err.Error(), "its kernel has 67107840 bytes, and its firmware loads at most 33553920 over TFTP, 65535 blocks of 512") {
		t.Error(err)
	}
}

// content is a copy of a file of the catalog.
func (s *Server) content(t *testing.T, file images.File) string {
	t.Helper()
	in, err := s.Images.OpenFile(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err == nil {
		_, err = io.Copy(out, in)
	}
	if err = errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Name()
}

// claim has the first stage of the host's Raspberry Pi fetch what it boots.
func (s *Server) claim(t *testing.T, name string) {
	t.Helper()
	h, err := s.Hosts.Get(name)
	if err == nil {
		_, err = s.Hosts.UseBoot(h.Boot.Token, hosts.Fetch{Client: "10.77.0.104", File: "initrd"})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// withSerial is the DISCOVER of a Raspberry Pi 4 with serial number e5ef6e9d or, with another offset, the one as much
// higher.
func withSerial(t *testing.T, offset byte) *dhcpv4.DHCPv4 {
	t.Helper()
	m := packet(t, "pi4-discover")
	id := bytes.Clone(m.Options.Get(dhcpv4.OptionClientMachineIdentifier))
	id[16] += offset
	m.TransactionID[0] += offset
	m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, id))
	return m
}

// TestOnePacketLocksNoPiOut: forged DISCOVERs with other serial numbers, before and after the board's own, keep it
// neither from its boot nor from the next one.
func TestOnePacketLocksNoPiOut(t *testing.T) {
	for name, order := range map[string]string{"before": "frr", "after": "rfr", "both": "frfr"} {
		t.Run(name, func(t *testing.T) {
			s := piServer(t, Proxy)
			now := noon
			s.Now = func() time.Time { return now }
			s.enrollPi(t, "bravo", mac4)
			for _, who := range order {
				s.pis = piAsks{}
				if r := s.dhcp(withSerial(t, map[rune]byte{'r': 0, 'f': 1}[who])); r == nil {
					t.Fatalf("silence for %c\n%s", who, s.logOf(t, "bravo"))
				}
			}
			if s.fetch(t, "bravo", serial4+"/kernel") == "" {
				t.Error("it got no kernel")
			}
			s.claim(t, "bravo")
			now = now.Add(time.Minute)
			if s.dhcp(withSerial(t, 0)) == nil {
				t.Errorf("it restarted and was refused:\n%s", s.logOf(t, "bravo"))
			}
			if said := s.logOf(t, "bravo"); !strings.Contains(said, "asked for one boot with the same MAC") {
				t.Errorf("the log does not tell:\n%s", said)
			}
		})
	}
}

// TestSerialClash: a serial number that is one host's, and that another one's machine tells, is refused, and both logs
// name both.
func TestSerialClash(t *testing.T) {
	s := piServer(t, Full)
	s.enrollPi(t, "alpha", mac4)
	s.enrollPi(t, "bravo", "dc:a6:32:00:00:02")
	if r := s.dhcp(packet(t, "pi4-discover")); r == nil || !r.Options.Has(dhcpv4.OptionVendorSpecificInformation) {
		t.Fatalf("%v", r)
	}
	s.claim(t, "alpha")
	m := packet(t, "pi4-discover")
	m.ClientHWAddr = net.HardwareAddr{0xdc, 0xa6, 0x32, 0, 0, 2}
	if r := s.dhcp(m); r == nil || r.Options.Has(dhcpv4.OptionVendorSpecificInformation) {
		t.Errorf("%v", r)
	}
	for _, name := range []string{"alpha", "bravo"} {
		if said := s.logOf(t, name); !strings.Contains(said, "the Raspberry Pi of bravo tells the serial number e5ef6e9d, which that of alpha told") || !strings.Contains(said, "provision set alpha --serial=`") {
			t.Errorf("the log of %s:\n%s", name, said)
		}
	}
	if h, err := s.Hosts.BySerial(serial4); err != nil || h.Name != "alpha" {
		t.Errorf("%s, %v", h.Name, err)
	}
	if err := s.Hosts.Forget("alpha", "a test"); err != nil {
		t.Fatal(err)
	}
	s.pis = piAsks{}
	if r := s.dhcp(m); r == nil || !r.Options.Has(dhcpv4.OptionVendorSpecificInformation) {
		t.Errorf("after it was forgotten: %v", r)
	}
	s.claim(t, "bravo")
	other := withSerial(t, 1) // the same MAC on another board
	other.ClientHWAddr = m.ClientHWAddr
	const why = "another Raspberry Pi (serial number e6ef6e9d, not e5ef6e9d) uses this host's MAC; " +
		"if it is the one that is meant, run `provision retry bravo`"
	if r := s.dhcp(other); r != nil || !strings.Contains(s.logOf(t, "bravo"), why) {
		t.Errorf("%v\n%s", r, s.logOf(t, "bravo"))
	}
	if _, err := s.Hosts.Apply("bravo", hosts.Event{Kind: hosts.EventRetried}); err != nil {
		t.Fatal(err)
	}
	s.pis = piAsks{}
	if r := s.dhcp(other); r == nil || !r.Options.Has(dhcpv4.OptionVendorSpecificInformation) {
		t.Errorf("after a retry: %v\n%s", r, s.logOf(t, "bravo"))
	}
}
