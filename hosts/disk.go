package hosts

import (
	"regexp"
	"slices"
	"strings"
)

// A disk is known by its WWN, serial number, model and size together, for each of these lies somewhere: RAID
// controllers give all their logical disks one serial number, virtual machines give theirs none or the same everywhere,
// and cheap controllers say the same of every unit that was built.

// madeUp are serial numbers that tell no disk from another, in upper case and without punctuation.
var madeUp = regexp.MustCompile(`^(` + strings.Join([]string{
	`0*\d{1,3}`,                            // counted from one
	`.*0{8,}\d{0,2}`,                       // an empty field with a number at its end
	`0*123456789(ABCDEF|0)?\d*`,            // USB adapters
	`0*1234(5(6(78?)?)?)?`,                 //
	`ABCDEF\w*|DEADBEEF|FOO|TEST`,          // QEMU's manual
	`QM\d{5}|DRIVE[A-Z]+\d+`,               // QEMU, libvirt and Proxmox VE, where none was given
	`(SCSI|IDE|SATA|AHCI|USB|NVME)\d{1,4}`, // and where the name of the slot was
	`VIRTIO(DISK|BLK)?\d{0,3}`,
	`VMWARENVME\d+|VB123456789`,                     // VMware, VirtualBox
	`(PERSISTENTDISK|LOCALSSD|LOCALNVMESSD)\d*`,     // Google's cloud
	`N?NA|NONE|NULL|NIL|UNKNOWN|INVALID|DEFAULT\w*`, // fields that nobody filled in
	`TOBEFILLED\w*|NOTSPECIFIED|NOTAVAILABLE|(SYSTEM|DISK|DRIVE)?SERIAL(NUMBER|NO)?\d{0,3}`,
}, "|") + `)$`)

// usbPath is the serial number that QEMU gives a USB disk: its place on the bus.
var usbPath = regexp.MustCompile(`^\d+-[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-9a-fA-F]-[\d.]+$`)

// tells says whether a serial number tells a disk from others.
func tells(serial string) bool {
	plain := letters(serial)
	return plain != "" && strings.Trim(plain, plain[:1]) != "" && !madeUp.MatchString(plain) &&
		!usbPath.MatchString(strings.TrimSpace(serial))
}

// letters are the ASCII letters and digits of a word, in upper case.
func letters(word string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, strings.ToUpper(word))
}

// name is the disk's WWN without the name of its kind, as that differs between programs; empty if it tells nothing.
func (d Disk) name() string {
	kind, name, ok := strings.Cut(strings.ToLower(d.WWN), ".")
	switch {
	case !ok:
		name = strings.TrimPrefix(kind, "0x")
	case kind == "nvme" || kind == "t10": // the kernel made it of the serial number and the model
		if !tells(d.Serial) {
			return ""
		}
	}

	if !tells(name) {
		return ""
	}
	return letters(name)
}

// same tells whether both say the same of themselves. A WWN that was not asked for, as in records of older versions,
// differs from none, but where other disks of the machine have the serial number, too.
func (d Disk) same(o Disk) bool {
	known, other := d.name(), o.name()
	if known != other && (known != "" && other != "" || d.Vague || o.Vague) {
		return false
	}
	return d.Serial == o.Serial && d.Model == o.Model && d.Size == o.Size
}

// nameless tells whether the disk says nothing of itself but its model and size.
func (d Disk) nameless() bool { return d.Serial == "" && d.name() == "" }

// Same reports whether d and o are the same disk of one machine: by what they say of themselves, and by the name of the
// device where that does not tell them from others.
func (d Disk) Same(o Disk) bool {
	return d.same(o) && (d.Device == o.Device || !d.nameless() && d.Twins == 0 && o.Twins == 0)
}

// resembles tells whether something that is not made up says that both are the same disk, whatever else differs.
func (d Disk) resembles(o Disk) bool {
	return tells(d.Serial) && d.Serial == o.Serial && d.Model == o.Model || d.name() != "" && d.name() == o.name()
}

// claimable tells whether the disk can be told from all others, so that it can have an owner.
func (d Disk) claimable() bool {
	return d.Twins == 0 && (d.name() != "" || tells(d.Serial) && !d.Vague)
}

// word is what the operator calls the disk by.
func (d Disk) word() string {
	switch {
	case d.Serial != "" && !d.Vague && d.Twins == 0:
		return d.Serial
	case d.WWN != "" && d.Twins == 0:
		return d.WWN
	}
	return d.Device
}

// apart marks the disks of one machine that the others are taken for.
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

// owns tells whether a permit of the host was burned for the disk, and if not, whether one was for a disk that it could
// be taken for.
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

	// Of several disks that are all alike, it does not matter which is which if all are the host's.
	return count > d.Twins, doubtful || count > 0
}

// own adds the disks of a burned permit to the host's. Of those that are told apart by their device's name, which may
// be another after the next start, only the last stay.
func (h *Host) own(disks []Disk) {
	h.Owned = slices.DeleteFunc(slices.Clone(h.Owned), func(o Disk) bool {
		return slices.ContainsFunc(disks, func(d Disk) bool { return d.Same(o) || d.Twins > 0 && d.same(o) })
	})
	h.Owned = append(h.Owned, disks...)
}
