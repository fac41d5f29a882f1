package handover

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// ListBoot is a shell script that prints the boot variables of a machine's UEFI firmware, and where a system that is
// mounted below /mnt has its ESP. Each line has two words: the name of a variable and its content in efivarfs as
// hexadecimal, or "esp" and the GUID of a partition. A machine that was started by BIOS has no variables.
const ListBoot = `cd /sys/firmware/efi/efivars 2>/dev/null || exit 0
for variable in BootOrder-` + globalGUID + ` Boot[0-9A-F][0-9A-F][0-9A-F][0-9A-F]-` + globalGUID + `; do
	test ! -e "$variable" || echo "$variable $(od -An -v -tx1 <"$variable" | tr -d ' \n')"
done
while read -r device point type _; do
	case $type$point in
	vfat/mnt/*) lsblk -snro PARTUUID "$device" | sed -n 's/./esp &/p' ;;
	esac
done </proc/mounts`

// SetBootOrder is a shell script that writes BootOrder. Its argument is a format for printf that produces the content
// of the variable.
const SetBootOrder = `printf "$1" >/sys/firmware/efi/efivars/BootOrder-` + globalGUID

// Boots is what ListBoot prints.
type Boots struct {
	variables map[string][]byte // contents without attributes, by names such as "BootOrder"
	esps      []string          // partition GUIDs in lower case
}

// ParseBoots parses the output of ListBoot. Variables that the firmware does not let be read are left out.
func ParseBoots(printed string) (Boots, error) {
	b := Boots{variables: map[string][]byte{}}
	for line := range strings.Lines(printed) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name == "esp" {
			b.esps = append(b.esps, strings.ToLower(value))
			continue
		}
		data, err := hex.DecodeString(value)
		if err != nil {
			return Boots{}, fmt.Errorf("read UEFI variable %s: it is %q: %w", name, value, err)
		}

		if len(data) < 4 {
			continue
		}
		name, _, _ = strings.Cut(name, "-")
		b.variables[name] = data[4:]
	}

	return b, nil
}

// UEFI reports whether the machine's firmware has a boot order.
func (b Boots) UEFI() bool { return b.variables["BootOrder"] != nil }

// NewSystem returns the boot entry of the system below /mnt, such as Boot0007, and its label: the first entry that
// boots from its ESP and that the boot loader made or changed since before, or that is the first in the order. entry is
// empty if there is none.
func (b Boots) NewSystem(before Boots) (entry, label string) {
	menu := b.menu()
	for i, n := range menu.numbers() {
		name, option := bootName(n), menu.options[n]
		made := !bytes.Equal(b.variables[name], before.variables[name])
		isFirst := i == 0 && len(menu.order) > 0 && menu.order[0] == n
		if slices.Contains(b.esps, option.Partition) && (made || isFirst) {
			return name, option.Label
		}
	}
	return "", ""
}

// First returns the order in which the entry comes before all others, as argument for SetBootOrder; empty if it is the
// first already.
func (b Boots) First(entry string) (string, error) {
	n, err := parseBootName(entry)
	if err != nil {
		return "", err
	}

	order := b.menu().order
	if len(order) > 0 && order[0] == n {
		return "", nil
	}
	order = slices.DeleteFunc(order, func(other uint16) bool { return other == n })
	value := binary.LittleEndian.AppendUint32(nil, variableAttributes)
	for _, n := range slices.Insert(order, 0, n) {
		value = binary.LittleEndian.AppendUint16(value, n)
	}
	var octal strings.Builder
	for _, b := range value {
		fmt.Fprintf(&octal, `\%03o`, b)
	}
	return octal.String(), nil
}

// menu returns what the firmware can boot. Entries that cannot be parsed are left out.
func (b Boots) menu() bootMenu {
	menu := bootMenu{order: parseOrder(b.variables["BootOrder"]), options: map[uint16]LoadOption{}}
	for name, value := range b.variables {
		n, err := parseBootName(name)
		if err != nil {
			continue // it is BootOrder
		}
		if option, err := ParseLoadOption(value); err == nil {
			menu.options[n] = option
		}
	}
	return menu
}
