package lab

import (
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

// firmware is OVMF as Debian and Ubuntu package it: CODE is the program, VARS an empty store for its variables.
const firmware = "/usr/share/OVMF/OVMF_%s_4M.fd"

// firstBoot writes the firmware's variables for a machine of the given hardware to the file vars. It lets the firmware
// find that hardware once, and then sets the order in which it boots: network, disks, the rest.
//
// QEMU's own bootindex is of no use for this: it would put HTTP boot, which OVMF tries for two minutes, in front of the
// disks as well, and would undo at each boot what the machine itself did to the order.
func firstBoot(ctx context.Context, hardware []string, disks int, vars string) error {
	blank, err := os.ReadFile(fmt.Sprintf(firmware, "VARS"))
	if err != nil {
		return fmt.Errorf("find the firmware (Debian package ovmf): %w", err)
	}
	name, err := key(append([]string{"firmware 1", string(blank)}, hardware...))
	if err != nil {
		return err
	}
	dir, err := keep(ctx, CacheDir(), "firmware-"+name, func(dir string) error {
		store := filepath.Join(dir, "vars.fd")
		if err := os.WriteFile(store, blank, 0o644); err != nil {
			return err
		}
		if err := enumerate(ctx, hardware, disks, store); err != nil {
			return err
		}
		data, err := os.ReadFile(store)
		if err != nil {
			return err
		}
		if err := networkFirst(data); err != nil {
			return err
		}
		return os.WriteFile(store, data, 0o644)
	})
	if err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(dir, "vars.fd"))
	if err != nil {
		return err
	}
	return os.WriteFile(vars, data, 0o644)
}

// enumerate runs the firmware, with no cable in the network card and with empty disks, until it starts to boot. By
// then it has stored a variable for each thing that it can boot from.
func enumerate(ctx context.Context, hardware []string, disks int, store string) error {
	args := append(slices.Clone(hardware), "-drive", "if=pflash,format=raw,file="+store, "-netdev", "hubport,id=lan,hubid=0")
	for i := range disks {
		args = append(args, "-drive", fmt.Sprintf("if=none,id=disk%d,file=null-co://,format=raw,file.size=1G", i))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
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
		if found, _ := first(text, []string{"BdsDxe:", ">>Start"}); found != "" {
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

// networkFirst reorders the BootOrder variable in the contents of a variable store: PXE over IPv4, then what is no
// network at all, then the other ways over the network.
func networkFirst(store []byte) error {
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
		switch name := description(option); {
		case strings.Contains(name, "PXEv4"):
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
