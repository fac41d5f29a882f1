package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"unicode/utf16"

	"golang.org/x/sys/unix"
)

// A Firmware is what a machine starts with. Unless it says otherwise, it tries the network over IPv4, then the disks,
// then the rest.
type Firmware string

const (
	OVMFPXE  Firmware = "ovmf-pxe"  // x86-64 UEFI with its own PXE client; the default
	OVMFHTTP Firmware = "ovmf-http" // x86-64 UEFI: HTTP boot, no PXE before the disks
	OVMFiPXE Firmware = "ovmf-ipxe" // x86-64 UEFI with iPXE in the network card's ROM
	SeaBIOS  Firmware = "seabios"   // x86-64 BIOS with iPXE in the network card's ROM; it prints on the serial console

	AAVMFPXE  Firmware = "aavmf-pxe"  // arm64 UEFI with its own PXE client
	AAVMFHTTP Firmware = "aavmf-http" // arm64 UEFI: HTTP boot, no PXE before the disks

	// UBoot is an arm64 board's firmware. It tries the disks and then the network; a key typed when it prints "Hit any
	// key to stop autoboot" brings its prompt, "=> ". It keeps no variables: saveenv fails on QEMU's flash.
	UBoot Firmware = "u-boot"

	// BareARM64 is an arm64 machine without any: QEMU starts Machine.Kernel on it, with a device tree of its own.
	BareARM64 Firmware = "bare-arm64"
)

// A board is a kind of machine, as QEMU knows it.
type board struct {
	qemu       []string // the command line's beginning
	cpu        string   // the model that is quickest to emulate
	nic        string   // the usual model of network card
	nicOptions string   // what follows the model
	vars       string   // UEFI's empty store for its variables; "": it is no UEFI
	first      string   // what the text of the boot options begins with that come first
}

// board returns the kind of machine that has the firmware. Files are where Debian and Ubuntu have them.
func (f Firmware) board() (board, error) {
	const (
		ovmf, aavmf = "/usr/share/OVMF/OVMF_%s_4M.fd", "/usr/share/AAVMF/AAVMF_%s.fd"
		noROM       = ",romfile=" // leaves out QEMU's iPXE, so that the firmware's own network drivers are used
	)
	pc := board{qemu: []string{"qemu-system-x86_64", "-machine", "q35", "-vga", "none"}, cpu: "qemu64",
		nic: "virtio-net-pci", nicOptions: noROM}
	// pauth-impdef is pointer authentication by a hash that costs little; by the architecture's own, all takes twice as long.
	arm := board{qemu: []string{"qemu-system-aarch64", "-machine", "virt", "-device", "ich9-ahci"},
		cpu: "max,pauth-impdef=on", nic: "virtio-net-pci", nicOptions: noROM}
	uefi := func(b board, files, first string) (board, error) {
		b.qemu = append(b.qemu, "-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+fmt.Sprintf(files, "CODE"))
		b.vars, b.first = fmt.Sprintf(files, "VARS"), "UEFI "+first
		return b, nil
	}
	switch f {
	case "", OVMFPXE:
		return uefi(pc, ovmf, "PXEv4")
	case OVMFHTTP:
		return uefi(pc, ovmf, "HTTPv4")
	case OVMFiPXE:
		// iPXE's boot option is called PXEv4 too; the setting takes away the one of OVMF's own client.
		pc.qemu = append(pc.qemu, "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n")
		pc.nicOptions = ""
		return uefi(pc, ovmf, "PXEv4")
	case SeaBIOS:
		// Without graphics, SeaBIOS shows its text screen, which iPXE prints on as well, on the serial port.
		pc.qemu = append(pc.qemu, "-machine", "graphics=off", "-boot", "order=nc")
		pc.nicOptions = ""
		return pc, nil
	case AAVMFPXE:
		return uefi(arm, aavmf, "PXEv4")
	case AAVMFHTTP:
		return uefi(arm, aavmf, "HTTPv4")
	case BareARM64:
		return arm, nil
	case UBoot:
		arm.qemu = append(arm.qemu, "-bios", "/usr/lib/u-boot/qemu_arm64/u-boot.bin")
		arm.nic = "e1000" // U-Boot 2023.01 takes a virtio card's MAC for dc:dc:dc:dc:dc:dc
		return arm, nil
	}
	return board{}, fmt.Errorf("no firmware is called %q", f)
}

// firstBoot writes the firmware's variables for a machine of the given hardware to the file vars. It lets the firmware
// find that hardware once, and then sets the order in which it boots.
//
// QEMU's own bootindex is of no use for this: it would put HTTP boot, which OVMF tries for two minutes, in front of the
// disks as well, and would undo at each boot what the machine itself did to the order.
func (b board) firstBoot(ctx context.Context, hardware []string, disks int, vars string) error {
	blank, err := os.ReadFile(b.vars)
	if err != nil {
		return fmt.Errorf("find the firmware (Debian packages ovmf, qemu-efi-aarch64): %w", err)
	}
	name, err := key(append([]string{"firmware 1", b.first, string(blank)}, hardware...))
	if err != nil {
		return err
	}
	dir, err := keep(ctx, CacheDir(), "firmware-"+name, func(dir string) error {
		store := filepath.Join(dir, "vars.fd")
		if err := writeFlash(store, blank); err != nil {
			return err
		}
		if err := enumerate(ctx, hardware, disks, store); err != nil {
			return err
		}
		data, err := os.ReadFile(store)
		if err != nil {
			return err
		}
		if err := networkFirst(data, b.first); err != nil {
			return err
		}
		return writeFlash(store, data)
	})
	if err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(dir, "vars.fd"))
	if err != nil {
		return err
	}
	return writeFlash(vars, data)
}

// writeFlash writes what a flash chip holds to file. AAVMF's 64 MiB are mostly zeros at the end, which take no room.
func writeFlash(file string, data []byte) error {
	if err := os.WriteFile(file, bytes.TrimRight(data, "\x00"), 0o644); err != nil {
		return err
	}
	return os.Truncate(file, int64(len(data)))
}

// enumerate runs the firmware, with no cable in the network card and with empty disks, until it starts to boot. By
// then it has stored a variable for each thing that it can boot from.
func enumerate(ctx context.Context, hardware []string, disks int, store string) error {
	args := append(slices.Clone(hardware), "-drive", "if=pflash,unit=1,format=raw,file="+store, "-netdev", "hubport,id=lan,hubid=0")
	for i := range disks {
		args = append(args, "-drive", fmt.Sprintf("if=none,id=disk%d,file=null-co://,format=raw,file.size=1G", i))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	runtime.LockOSThread() // Pdeathsig watches the thread that started QEMU
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var text []byte
	buf := make([]byte, 4096)
	for {
		n, err := stdout.Read(buf)
		text = append(text, buf[:n]...)
		if found, _ := first(text, []string{"BdsDxe:", ">>Start", "iPXE"}); found != "" {
			cancel()
			_ = cmd.Wait() // killed
			return nil
		}
		if err != nil {
			return errors.Join(fmt.Errorf("the firmware ended before it tried to boot: %s", tail(stderr.String(), 1000)),
				cmd.Wait())
		}
	}
}

// networkFirst reorders the BootOrder variable in the contents of a variable store: the options whose text begins with
// wanted (or with one of several texts, separated by "|"), then what is no network at all, then the other ways over the
// network.
func networkFirst(store []byte, wanted string) error {
	order, err := variable(store, "BootOrder")
	if err != nil {
		return err
	}
	rank := map[uint16]int{}
	numbers := make([]uint16, len(order)/2)
	for i := range numbers {
		numbers[i] = binary.LittleEndian.Uint16(order[2*i:])
		option, err := variable(store, fmt.Sprintf("Boot%04X", numbers[i]))
		if err != nil {
			return err
		}
		rank[numbers[i]] = 1
		name := description(option)
		begins := func(text string) bool { return strings.HasPrefix(name, text) }
		switch {
		case slices.ContainsFunc(strings.Split(wanted, "|"), begins):
			rank[numbers[i]] = 0
		case strings.Contains(name, "PXE"), strings.Contains(name, "HTTP"):
			rank[numbers[i]] = 3
		case strings.Contains(name, "Shell"), strings.Contains(name, "UiApp"):
			rank[numbers[i]] = 2
		}
	}
	slices.SortStableFunc(numbers, func(a, b uint16) int { return rank[a] - rank[b] })
	for i, n := range numbers {
		binary.LittleEndian.PutUint16(order[2*i:], n)
	}
	return nil
}

// description is the text of an EFI_LOAD_OPTION (UEFI 2.10, section 3.1.3): attributes (4 bytes), length of the device
// path (2 bytes), then the text.
func description(option []byte) string {
	var units []uint16
	for at := 6; at+1 < len(option); at += 2 {
		unit := binary.LittleEndian.Uint16(option[at:])
		if unit == 0 {
			break
		}
		units = append(units, unit)
	}
	return string(utf16.Decode(units))
}

// variable returns the part of an EDK2 variable store that holds the value of the variable (MdeModulePkg's
// AUTHENTICATED_VARIABLE_HEADER: 60 bytes, then name and value).
func variable(store []byte, name string) ([]byte, error) {
	const headerSize, startID, added = 60, 0x55aa, 0x3f
	var encoded []byte
	for _, unit := range utf16.Encode([]rune(name + "\x00")) {
		encoded = binary.LittleEndian.AppendUint16(encoded, unit)
	}
	for at := headerSize; at+len(encoded) <= len(store); at++ {
		if string(store[at:at+len(encoded)]) != string(encoded) {
			continue
		}
		header := store[at-headerSize : at]
		nameSize, size := binary.LittleEndian.Uint32(header[36:]), binary.LittleEndian.Uint32(header[40:])
		if binary.LittleEndian.Uint16(header) != startID || header[2] != added || int(nameSize) != len(encoded) {
			continue // an old value, or something else
		}
		from := at + len(encoded)
		if from+int(size) > len(store) {
			break
		}
		return store[from : from+int(size)], nil
	}
	return nil, fmt.Errorf("the firmware's variable store has no variable %s", name)
}
