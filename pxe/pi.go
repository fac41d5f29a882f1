package pxe

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"provision/hosts"
	"provision/internal/boards"
)

// The boot ROMs and EEPROMs of Raspberry Pis. They call themselves PXEClient on
// a PC with a BIOS, and are none: from the offer they take the TFTP server
// alone, and then ask there for files by names of their own (pitree.go). The
// sources are raspberrypi.com/documentation (network boot), the source of
// rpi-eeprom's tools and logs of real boards; no board was tested.

// piBoard is what a Raspberry Pi tells of itself. Models before the 4 tell
// less, and the ROM of a 3B nothing at all.
type piBoard struct {
	Board  string // the name of the board; "": not told
	Model  string // in words; "": not told
	Serial string // its low half, 8 hex digits, as its TFTP folder is called; "": not told
	Memory int64  // bytes; 0: not told
	Tree   string // the device tree that its firmware asks for; "": not known
	// Deaf is the ROM of a 3B. It sleeps through the offer until another frame
	// comes for it.
	Deaf bool
}

// Prefixes of MAC addresses that Raspberry Pi boards have.
var piOUIs = []string{"b8:27:eb", "dc:a6:32", "e4:5f:01", "28:cd:c1", "d8:3a:dd", "2c:cf:67", "88:a2:9e", "3a:35:41"}

// readPi recognises the boot ROM and EEPROM of a Raspberry Pi. Option 97 of the
// Pi 4 and later is a word, "RPi4" or "RPi5" unless it was set otherwise, the
// board's revision, the end of its MAC and its serial number, little-endian;
// that of others is the serial number four times, or, of a 3B's ROM, 0x44.
//
// What looks so is a Pi, and so is what says that it is a PC with a BIOS and has
// the MAC of a Pi. What is booted from there on (U-Boot, EDK2, Linux) says what
// it is.
func readPi(m *dhcpv4.DHCPv4, c bootClient) (p piBoard, yes bool) {
	id := m.Options.Get(dhcpv4.OptionClientMachineIdentifier)
	bios := c.Arch == iana.INTEL_X86PC && kindOfVendor(c.Vendor) == pxeFirmware
	byMAC := bios && slices.Contains(piOUIs, c.MAC[:8])
	named := len(id) == 17 && string(id[1:4]) == "RPi"
	if !named && !byMAC {
		return p, false
	}

	xid := binary.BigEndian.Uint32(m.TransactionID[:])
	p.recognise(func(b boards.Board) bool { return b.ROM != nil && b.ROM.XID == xid })
	if len(id) == 17 {
		p.readID(id, m.ClientHWAddr)
	}

	b, err := boards.Parse(p.Board)
	if err == nil && b.Memory > 0 {
		p.Memory = b.Memory
	}
	return p, true
}

// recognise takes the board for the first that is as told, if there is one.
func (p *piBoard) recognise(told func(boards.Board) bool) (ok bool) {
	b, ok := boards.Find(told)
	if ok {
		p.Board = b.Name
	}
	return ok
}

// readID reads option 97.
func (p *piBoard) readID(id []byte, mac net.HardwareAddr) {
	told := [4]uint32{}
	for i := range told {
		told[i] = binary.LittleEndian.Uint32(id[1+4*i:])
	}
	silent := func(b boards.Board) bool { return b.ROM != nil && b.ROM.ID == told[0] }
	switch {
	case string(id[1:4]) == "RPi" || bytes.Equal(id[9:13], mac[2:]):
		p.revision(told[1])
		p.Serial = fmt.Sprintf("%08x", told[3])
		if p.Board == "" {
			digit := id[4]
			p.recognise(func(b boards.Board) bool { return b.Digit != 0 && b.Digit == digit })
		}
	case told[0] == told[1] && p.recognise(silent):
		p.Deaf = true
	case told[0] == told[1] && told[1] == told[2] && told[2] == told[3]:
		p.Serial = fmt.Sprintf("%08x", told[0])
	}
}

// revision reads a revision code of the new style (raspberrypi.com/documentation,
// Raspberry Pi revision codes): bit 23 is set, bits 20 to 22 are the memory, 256
// MiB doubled so often, bits 4 to 11 the model.
func (p *piBoard) revision(code uint32) {
	if code&(1<<23) == 0 {
		return
	}
	p.Memory = 256 << 20 << (code >> 20 & 7)
	p.Board = ""
	p.Model = ""
	p.Tree = ""
	for _, b := range boards.All() {
		for _, m := range b.Models {
			if m.Code == byte(code>>4) {
				p.Board = b.Name
				p.Model = m.Name
				p.Tree = m.Tree
			}
		}
	}
}

// String is the board in words.
func (p piBoard) String() string {
	name := p.Model
	b, err := boards.Parse(p.Board)
	if name == "" && err == nil {
		name = b.Description
	}
	if name == "" {
		name = "Raspberry Pi"
	}
	if p.Serial != "" {
		name += " " + p.Serial
	}
	return name
}

// piVendor is option 43 of an offer to a Raspberry Pi: discovery control, a boot
// menu whose prompt is "PXE", and the words by which it knows its server. Those
// before the Pi 4 compare the three spaces, too. No other machine is to have it:
// PXE takes it for a menu to ask port 4011 by.
var piVendor = []byte("\x06\x01\x03" + "\x0a\x04\x00PXE" + "\x09\x17\x00\x00\x14Raspberry Pi Boot   " + "\xff")

// addPi tells a Raspberry Pi that we are its TFTP server: in option 66, which
// all read and which comes last, by option 43 to those that know no other, and
// by siaddr. It is not told its option 97, nor a file: it reads neither.
func addPi(r *dhcpv4.DHCPv4, b bootInfo) {
	r.ServerIPAddr = b.Server.AsSlice()
	delete(r.Options, dhcpv4.OptionClientMachineIdentifier.Code())
	r.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient"))
	r.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, piVendor))
	r.UpdateOption(dhcpv4.OptTFTPServerName(b.Server.String()))
}

// piAsks remembers what the Raspberry Pi of each host asked last.
type piAsks struct {
	mu    sync.Mutex
	byMAC map[string]piAsk
}

type piAsk struct {
	bootClient
	xid  dhcpv4.TransactionID
	kind dhcpv4.MessageType
	at   time.Time
}

// resume returns the client that a known host's packet is from. The REQUEST of a
// Pi 4 with an EEPROM of 2020 looks like an operating system's (rpi-eeprom#82):
// only its transaction tells.
func (p *piAsks) resume(m *dhcpv4.DHCPv4, c bootClient) bootClient {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last, ok := p.byMAC[c.MAC]; ok && c.profile().loads == nothing && last.xid == m.TransactionID {
		return last.bootClient
	}
	return c
}

// again reports whether this very question was answered just now: a network may
// let it arrive twice, and a Pi is to be told once.
func (p *piAsks) askedBefore(m *dhcpv4.DHCPv4, c bootClient, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, ok := p.byMAC[c.MAC]
	if ok && last.xid == m.TransactionID && last.kind == m.MessageType() && last.Pi == c.Pi && now.Sub(last.at) < again {
		return true
	}
	if p.byMAC == nil {
		p.byMAC = make(map[string]piAsk)
	}
	p.byMAC[c.MAC] = piAsk{c, m.TransactionID, m.MessageType(), now}
	return false
}

// fetched notes that the machine fetched a file: what it asks next is another
// question, though a Pi 3 asks it in the same words. What it told of itself is returned.
func (p *piAsks) fetched(mac string) (told piBoard) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if last, ok := p.byMAC[mac]; ok {
		told, last.at = last.Pi, time.Time{}
		p.byMAC[mac] = last
	}
	return told
}

// wakeAfter is when the ROM of a 3B is sent a frame after an offer, which it
// handles only then. The second is in case the first was too early.
var wakeAfter = [2]time.Duration{600 * time.Millisecond, 1200 * time.Millisecond}

// wake sends those frames to the one machine alone: magic packets, which nothing
// on it takes for anything, as netboot-rpi3b does.
func (s *Server) wake(ctx context.Context, l *servedLink, mac net.HardwareAddr) {
	begun := time.Now()
	for _, after := range wakeAfter {
		select {
		case <-time.After(after - time.Since(begun)):
		case <-ctx.Done():
			return
		}
		if err := sendFrame(l.name, mac, append(bytes.Repeat([]byte{0xff}, 6), bytes.Repeat(mac, 16)...)); err != nil {
			s.Log.Warn("wake a Raspberry Pi 3B, which may not hear our offer without", "mac", mac.String(), "err", err)
			return
		}
	}
}

// deaf reports whether this is an offer to the ROM of a 3B.
func deaf(m, r *dhcpv4.DHCPv4) bool {
	c, err := identify(m)
	return err == nil && c.Pi.Deaf && r.MessageType() == dhcpv4.MessageTypeOffer
}

// sendFrame sends an Ethernet frame of the magic packets' type.
func sendFrame(ifname string, to net.HardwareAddr, data []byte) error {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a packet socket (run as root or with CAP_NET_RAW): %w", err)
	}
	defer unix.Close(fd)
	const magic = 0x0842
	addr := &unix.SockaddrLinklayer{Protocol: magic>>8 | magic&0xff<<8, Ifindex: ifi.Index, Halen: 6}
	copy(addr.Addr[:], to)
	return unix.Sendto(fd, data, 0, addr)
}

// candidates are the boards that it can be: the one that it told, or all
// Raspberry Pis.
func (p piBoard) candidates() ([]boards.Board, error) {
	if p.Board != "" {
		b, err := boards.Parse(p.Board)
		return []boards.Board{b}, err
	}
	all := boards.All()
	return slices.DeleteFunc(all, func(b boards.Board) bool { return b.Firmware != boards.RaspberryPi }), nil
}

// piBoardOf is what is known of the Raspberry Pi of a host: what it told when
// its boot began, else what the operator said.
func piBoardOf(h hosts.Host) piBoard {
	p := piBoard{Serial: h.Serial}
	if p.Serial == "" && !h.Boot.Several {
		p.Serial = h.Boot.Serial
	}
	for _, name := range []string{h.Board, h.Boot.Board} {
		if isPi(name) {
			p.Board = name
		}
	}
	return p
}

// isPi reports whether a board of that name is a Raspberry Pi.
func isPi(name string) bool {
	b, err := boards.Parse(name)
	return err == nil && b.Firmware == boards.RaspberryPi
}
