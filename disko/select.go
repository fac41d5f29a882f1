package disko

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// classes are the kinds of disks of which a selector can name the largest or smallest. They depend on what lsblk shows:
// an SSD is any disk that does not rotate, whatever its interface.
var classes = map[string]func(*BlockDevice) bool{
	"":      func(*BlockDevice) bool { return true },
	"-hdd":  func(b *BlockDevice) bool { return bool(b.Rotational) },
	"-nvme": func(b *BlockDevice) bool { return b.Transport == "nvme" },
	"-sata": func(b *BlockDevice) bool { return b.Transport == "sata" },
	"-ssd":  func(b *BlockDevice) bool { return !bool(b.Rotational) },
}

// CheckSelector returns an error if s is not a valid value for [Options.Disks]. Valid are "serial:SERIAL" and "wwn:WWN"
// as lsblk prints them, "largest" and "smallest", also of a class ("largest-nvme"), and a path below /dev.
func CheckSelector(s string) error {
	switch kind, value, _ := strings.Cut(s, ":"); {
	case strings.HasPrefix(s, "/dev/"), (kind == "serial" || kind == "wwn") && value != "":
		if printable(s) == s {
			return nil
		}
	case superlative(s) != nil:
		return nil
	}

	var each []string
	for _, class := range slices.Sorted(maps.Keys(classes)) {
		each = append(each, "largest"+class, "smallest"+class)
	}
	return fmt.Errorf("%q selects no disk; possible are serial:SERIAL, wwn:WWN, %s, and a path such as "+
		"/dev/disk/by-id/NAME", s, strings.Join(each, ", "))
}

// superlative returns the class of a selector for the largest or smallest disk; nil for other selectors.
func superlative(s string) func(*BlockDevice) bool {
	for _, size := range []string{"largest", "smallest"} {
		if class, ok := strings.CutPrefix(s, size); ok {
			return classes[class]
		}
	}
	return nil
}

// check records errors in the overrides that do not depend on the machine.
func (o Options) check(r *reader, l *Layout) {
	var have []string
	for _, d := range l.disks() {
		have = append(have, d.on.name)
	}
	for name, selector := range o.Disks {
		if !slices.Contains(have, name) {
			r.errorf(join("disk", name), "is not in the layout, so %q cannot be its device; the layout has %s", selector, strings.Join(have, ", "))
		}
		if err := CheckSelector(selector); err != nil {
			r.errorf(join(join("disk", name), "device"), "%v", err)
		}
	}
}

// Devices returns the disks that the plan takes in the form of [Options.Disks], so that another plan takes the same
// ones.
func (p *Plan) Devices() map[string]string {
	devices := map[string]string{}
	for _, d := range p.Disks {
		devices[d.Name] = d.Device
	}
	return devices
}

// on returns where a disk of the layout is to be found, with the override for it applied.
func (o Options) on(d *topDevice) blockTarget {
	on := d.on
	if selector, ok := o.Disks[on.name]; ok {
		on.device = selector
		on.kernel = strings.Count(selector, "/") == 2
	}
	return on
}

// choose returns the kernel's name of the disk that a layout or an operator names; false and an error in r if there is
// none or more than one.
func (f *Facts) choose(r *reader, on blockTarget) (device string, ok bool) {
	if to, ok := f.Links[on.device]; ok {
		return to, true
	}
	if strings.HasPrefix(on.device, "/") && printable(on.device) == on.device {
		return on.device, true
	}
	found, err := f.match(on.device)
	if err != nil {
		r.errorf(on.at, "%v", err)
		return "", false
	}
	return found.device(), true
}

// match finds the one disk that a selector names.
func (f *Facts) match(selector string) (*BlockDevice, error) {
	if err := CheckSelector(selector); err != nil {
		return nil, err
	}
	var all, found []*BlockDevice
	for i := range f.BlockDevices {
		if b := &f.BlockDevices[i]; b.isDisk() && b.Size > 0 {
			all = append(all, b)
		}
	}

	kind, value, _ := strings.Cut(selector, ":")
	class := superlative(selector)
	for _, b := range all {
		switch {
		case class == nil && kind == "serial":
			if printable(b.Serial) != value {
				continue
			}
		case class == nil:
			if !strings.EqualFold(printable(b.WWN), value) {
				continue
			}

		// Nobody means a removable stick that was left in the machine, whatever its size.
		case bool(b.Removable), bool(b.ReadOnly), b.Transport == "usb", !b.builtIn(), !class(b):
			continue
		case len(found) > 0 && b.Size != found[0].Size:
			if (b.Size > found[0].Size) != strings.HasPrefix(selector, "largest") {
				continue
			}
			found = nil
		}

		found = append(found, b)
	}

	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, fmt.Errorf("no disk of this machine is %s; it has %s", selector, describeAll(all))
	}

	return nil, fmt.Errorf("%d disks of this machine are %s: %s; choose one with %s", len(found), selector, describeAll(found), tellsApart(found))
}

// builtIn reports whether a disk may be selected by size. Flash chips of the board, memory, and disks of other machines
// have kernel names of other forms: mtdblock0, pmem0, nbd0, rbd0, drbd0 and so on.
func (b *BlockDevice) builtIn() bool {
	return diskName.MatchString(b.kernelName()) && !slices.Contains([]string{"iscsi", "fc", "fcoe", "tcp", "rdma"}, b.Transport)
}

// diskName matches complete names that disk drivers give to whole disks (devices.txt of Linux).
var diskName = regexp.MustCompile(`^((s|v|xv|h|das|rss)d[a-z]+|nvme\d+n\d+|mmcblk\d+|(cciss|ida)[!/]c\d+d\d+)$`)

// tellsApart returns the form of selector that tells the disks of a list apart.
func tellsApart(list []*BlockDevice) string {
	unlike := func(of func(*BlockDevice) string) bool {
		seen := map[string]bool{"": true}
		for _, b := range list {
			if seen[of(b)] {
				return false
			}
			seen[of(b)] = true
		}
		return true
	}
	switch {
	case unlike(func(b *BlockDevice) string { return printable(b.Serial) }):
		return "serial:SERIAL"
	case unlike(func(b *BlockDevice) string { return strings.ToLower(printable(b.WWN)) }):
		return "wwn:WWN"
	}

	return "a path below /dev/disk/by-path"
}

// describeAll lists disks for people, with everything that tells them apart.
func describeAll(list []*BlockDevice) string {
	if len(list) == 0 {
		return "no disks"
	}
	var names []string
	for _, b := range list {
		s := b.disk().String()
		if b.WWN != "" {
			s += " wwn:" + printable(b.WWN)
		}
		if b.Transport != "" {
			s += " " + printable(b.Transport)
		}
		if b.Removable {
			s += " removable"
		}
		names = append(names, s)
	}

	return strings.Join(names, ", ")
}

// ParseDisks reads overrides in the form NAME=SELECTOR. It returns all errors joined.
func ParseDisks(args []string) (map[string]string, error) {
	disks := map[string]string{}
	var errs []error
	for _, w := range args {
		name, selector, ok := strings.Cut(w, "=")
		_, twice := disks[name]
		switch err := CheckSelector(selector); {
		case !ok || name == "":
			errs = append(errs, fmt.Errorf("%q is not NAME=DISK, such as main=largest; NAME is the disk's below "+
				"disko.devices.disk", w))
		case twice:
			errs = append(errs, fmt.Errorf("%q: %s is chosen already", w, name))
		case err != nil:
			errs = append(errs, err)
		}

		disks[name] = selector
	}

	return disks, errors.Join(errs...)
}
