package handover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// efivars is the folder where Linux shows UEFI variables as files: attributes (4 bytes), then the value.
const efivars = "sys/firmware/efi/efivars"

// globalGUID is EFI_GLOBAL_VARIABLE, the vendor GUID of the variables that the specification defines (UEFI 2.10,
// section 3.3).
const globalGUID = "8be4df61-93ca-11d2-aa0d-00e098032b8c"

// BootNext says how the firmware's variable BootNext was set, which makes it boot an entry once, before all others.
type BootNext struct {
	Entry string `json:"entry"` // such as "Boot0003"
	Label string `json:"label"`
	First bool   `json:"first"` // the firmware tries this entry first anyway
	Had   string `json:"had"`   // the value of BootNext before; "": it was not set
}

// SetBootNext makes the firmware netboot once, over IPv4 and from one of the MACs, preferably by HTTP if http is set,
// else by PXE.
func (m Machine) SetBootNext(macs []net.HardwareAddr, http bool) (BootNext, error) {
	menu, err := m.bootMenu()
	if err != nil {
		return BootNext{}, err
	}
	n, err := menu.choose(macs, http)
	if err != nil {
		return BootNext{}, err
	}
	return m.bootNext(menu, n)
}

// RestoreBootNext makes the firmware boot the entry with this name once, such as BootNext.Had of an earlier
// SetBootNext.
func (m Machine) RestoreBootNext(entry string) (BootNext, error) {
	n, err := parseBootName(entry)
	if err != nil {
		return BootNext{}, err
	}
	menu, err := m.bootMenu()
	if err != nil {
		return BootNext{}, err
	}
	if _, ok := menu.options[n]; !ok {
		return BootNext{}, fmt.Errorf("set what the firmware boots next: it has no entry %s; there are: %s", entry, menu)
	}
	return m.bootNext(menu, n)
}

// ClearBootNext removes BootNext, so that the firmware uses its normal order.
func (m Machine) ClearBootNext() error {
	if err := m.mountVariables(); err != nil {
		return err
	}
	file := m.variable("BootNext")
	if err := changeable(file); err != nil {
		return err
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove UEFI variable BootNext: %w", err)
	}
	return nil
}

// bootNext sets BootNext to an option of the menu.
func (m Machine) bootNext(menu bootMenu, n uint16) (BootNext, error) {
	done := BootNext{Entry: bootName(n), Label: menu.options[n].Label, First: len(menu.order) > 0 && menu.order[0] == n}
	had, err := m.readVariable("BootNext")
	switch {
	case err == nil && len(had) == 2:
		done.Had = bootName(binary.LittleEndian.Uint16(had))
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return BootNext{}, err
	}
	return done, m.writeVariable("BootNext", binary.LittleEndian.AppendUint16(nil, n))
}

// bootMenu reads what the firmware can boot.
func (m Machine) bootMenu() (bootMenu, error) {
	if err := m.mountVariables(); err != nil {
		return bootMenu{}, err
	}
	menu := bootMenu{options: map[uint16]LoadOption{}}
	order, err := m.readVariable("BootOrder")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return bootMenu{}, err
	}

	menu.order = parseOrder(order)
	files, err := filepath.Glob(m.path(efivars + "/Boot[0-9A-F][0-9A-F][0-9A-F][0-9A-F]-" + globalGUID))
	if err != nil {
		return bootMenu{}, err
	}

	for _, file := range files {
		name, _, _ := strings.Cut(filepath.Base(file), "-")
		n, err := parseBootName(name)
		if err != nil {
			return bootMenu{}, err
		}

		value, err := m.readVariable(name)
		if err != nil {
			return bootMenu{}, err
		}

		// An entry that cannot be parsed does not matter for the others.
		if option, err := ParseLoadOption(value); err == nil {
			menu.options[n] = option
		}
	}

	return menu, nil
}

// variable returns the file of a variable.
func (m Machine) variable(name string) string { return m.path(efivars + "/" + name + "-" + globalGUID) }

// readVariable returns the value of a variable, or fs.ErrNotExist.
func (m Machine) readVariable(name string) ([]byte, error) {
	data, err := os.ReadFile(m.variable(name))
	if err != nil {
		return nil, fmt.Errorf("read UEFI variable %s: %w", name, err)
	}
	if len(data) < 4 {
		return nil, fmt.Errorf("read UEFI variable %s: it has %d bytes, and its attributes alone are 4", name, len(data))
	}
	return data[4:], nil
}

// variableAttributes are those of a variable that survives a power failure and is visible to firmware and operating
// system: non-volatile, boot service access, runtime access.
const variableAttributes = 1 | 2 | 4

// writeVariable writes such a variable.
func (m Machine) writeVariable(name string, value []byte) error {
	file := m.variable(name)
	if err := changeable(file); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("write UEFI variable %s: %w", name, err)
	}

	// Each write calls SetVariable once, so attributes and value are written together.
	_, err = f.Write(append(binary.LittleEndian.AppendUint32(nil, variableAttributes), value...))
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write UEFI variable %s: %w; if the firmware's store is full or locked, use --via kexec", name, err)
	}
	return nil
}

// changeable removes the immutable flag with which Linux protects variables against rm -rf.
func changeable(file string) error {
	const immutable = 0x10 // FS_IMMUTABLE_FL in linux/fs.h
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()

	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if errors.Is(err, unix.ENOTTY) || err == nil && flags&immutable == 0 {
		return nil
	}
	if err == nil {
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags&^immutable))
	}
	if err != nil {
		return fmt.Errorf("make %s changeable: %w", file, err)
	}
	return nil
}

// mountVariables mounts efivarfs if it is not mounted. It is an error if the machine was not started by UEFI.
func (m Machine) mountVariables() error {
	if !m.exists("sys/firmware/efi") {
		return errors.New("set what the firmware boots next: this machine was started by BIOS, or its kernel " +
			"without UEFI, and has no BootNext; use --via kexec, or put network boot first in its setup and use " +
			"--via manual")
	}
	var stat unix.Statfs_t
	dir := m.path(efivars)
	if err := unix.Statfs(dir, &stat); err == nil && (stat.Type == unix.EFIVARFS_MAGIC || m.Root != "") {
		return nil
	}
	if err := unix.Mount("efivarfs", dir, "efivarfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount UEFI's variables at %s: %w; it needs root and a kernel with efivarfs; or use "+
			"--via kexec", dir, err)
	}
	return nil
}
