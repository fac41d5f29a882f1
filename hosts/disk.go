package hosts

import (
	"regexp"
	"slices"
	"strings"
)

// A disk is identified by its WWN, serial number, model and size together, as no single one of them can be trusted:
// RAID controllers give all their logical disks one serial number, virtual machines give theirs none or the same
// everywhere, and cheap controllers report the same values for every unit.

// madeUp matches serial numbers that do not identify a disk, in upper case and without punctuation.
var madeUp = regexp.MustCompile(`^(` + strings.Join([]string{
	`0*\d{1,3}`,                            // counted from one
	`.*0{8,}\d{0,2}`,                       // an empty field with a number at its end
	`0*123456789(ABCDEF|0)?\d*`,            // USB adapters
	`0*1234(5(6(78?)?)?)?`,                 //
	`ABCDEF\w*|DEADBEEF|FOO|TEST`,          // QEMU's manual
	`QM\d{5}|DRIVE[A-Z]+\d+`,               // QEMU, libvirt and Proxmox VE, where none was given
	`(SCSI|IDE|SATA|AHCI|USB|NVME)\d{1,4}`, // QEMU and libvirt, where the slot's name was used
	`VIRTIO(DISK|BLK)?\d{0,3}`,
	`VMWARENVME\d+|VB123456789`,                     // VMware, VirtualBox
	`(PERSISTENTDISK|LOCALSSD|LOCALNVMESSD)\d*`,     // Google's cloud
	`N?NA|NONE|NULL|NIL|UNKNOWN|INVALID|DEFAULT\w*`, // fields that nobody filled in
	`TOBEFILLED\w*|NOTSPECIFIED|NOTAVAILABLE|(SYSTEM|DISK|DRIVE)?SERIAL(NUMBER|NO)?\d{0,3}`,
}, "|") + `)$`)

// usbPath matches the serial number that QEMU gives a USB disk: its place on the bus.
var usbPath = regexp.MustCompile(`^\d+-[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-9a-fA-F]-[\d.]+$`)

// tells reports whether a serial number (or the number in a WWN) identifies one disk.
func tells(serial string) bool {
	plain := letters(serial)
	return plain != "" && strings.Trim(plain, plain[:1]) != "" && !madeUp.MatchString(plain) &&
		!usbPath.MatchString(strings.TrimSpace(serial))
}

// letters returns the ASCII letters and digits of a word, in upper case.
func letters(word string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, strings.ToUpper(word))
}

// name returns the number in the disk's WWN, without the prefix that names its kind, since programs differ in that. It
// is empty if it does not identify the disk.
func (d Disk) name() string {
	kind, name, ok := strings.Cut(strings.ToLower(d.WWN), ".")
	switch {
	case !ok:
		name = strings.TrimPrefix(kind, "0x")
	case kind == "nvme" || kind == "t10": // the kernel made it from the serial number and the model
		if !tells(d.Serial) {
			return ""
		}
	}

	if !tells(name) {
		return ""
	}
	return letters(name)
}

// same reports whether both disks have the same properties. A missing WWN, as in records of older versions, equals
// every other, unless another disk of the machine has the same serial number.
func (d Disk) same(o Disk) bool {
	known, other := d.name(), o.name()
	if known != other && (known != "" && other != "" || d.Vague || o.Vague) {
		return false
	}
	return d.Serial == o.Serial && d.Model == o.Model && d.Size == o.Size
}

// nameless reports whether the disk has no identifying property beyond its model and size.
func (d Disk) nameless() bool { return d.Serial == "" && d.name() == "" }

// Same reports whether d and o are the same disk of one machine: by their properties and, where these do not tell them
// from other disks, by their device names too.
func (d Disk) Same(o Disk) bool {
	return d.same(o) && (d.Device == o.Device || !d.nameless() && d.Twins == 0 && o.Twins == 0)
}

// resembles reports whether both disks share an identifying serial number (with the model) or WWN, whatever else
// differs.
func (d Disk) resembles(o Disk) bool {
	return tells(d.Serial) && d.Serial == o.Serial && d.Model == o.Model || d.name() != "" && d.name() == o.name()
}

// claimable reports whether the disk can be told from all others, so that it can have an owner.
func (d Disk) claimable() bool {
	return d.Twins == 0 && (d.name() != "" || tells(d.Serial) && !d.Vague)
}

// word returns the name by which the operator can refer to the disk: serial number, WWN, or device.
func (d Disk) word() string {
	switch {
	case d.Serial != "" && !d.Vague && d.Twins == 0:
		return d.Serial
	case d.WWN != "" && d.Twins == 0:
		return d.WWN
	}
	return d.Device
}

// apart returns the disks of one machine with Vague and Twins set where they can be confused with each other.
func apart(disks []Disk) []Disk {
	disks = slices.Clone(disks)
	for i := range disks {
		d, twins := &disks[i], 0
		for j, o := range disks {
			if i == j {
				continue
			}
			d.Vague = d.Vague || d.Serial != "" && d.Serial == o.Serial
			if d.name() == o.name() && d.same(o) {
				twins++
			}
		}

		d.Twins = max(d.Twins, twins)
	}

	return disks
}

// owns reports whether a permit of the host was certainly burned for the disk, and else whether one was burned for a
// disk that may be this one.
func (h *Host) owns(d Disk) (certain, doubtful bool) {
	count := 0
	for _, o := range h.Owned {
		switch {
		case d.same(o) && (d.Device == o.Device || !d.nameless() || d.Twins > 0):
			count++
		case d.resembles(o):
			doubtful = true
		}
	}

	// If all of several identical disks are the host's, it does not matter which is which.
	return count > d.Twins, doubtful || count > 0
}

// own adds the disks of a burned permit to the host's. Of disks that only their device names tell apart, the earlier
// records are dropped, since the names may change with the next boot.
func (h *Host) own(disks []Disk) {
	h.Owned = slices.DeleteFunc(slices.Clone(h.Owned), func(o Disk) bool {
		return slices.ContainsFunc(disks, func(d Disk) bool { return d.Same(o) || d.Twins > 0 && d.same(o) })
	})
	h.Owned = append(h.Owned, disks...)
}
