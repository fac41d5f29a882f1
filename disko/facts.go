package disko

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Facts describes the present state of a machine's disks: the output of `lsblk --json --bytes --output-all`, and what
// else [Probe] found. The mode [Fresh] needs no more than the output of lsblk. util-linux 2.37 or newer shows all mount
// points of a device; older versions show only one.
type Facts struct {
	BlockDevices []BlockDevice     `json:"blockdevices"`
	Links        map[string]string `json:"links"` // from names below /dev/disk, /dev/md and /dev/mapper to devices

	Mounts          []MountedAt      `json:"mounts"` // nil: not known
	Swaps           []string         `json:"swaps"`
	PhysicalVolumes []PhysicalVolume `json:"pvs"`
	LogicalVolumes  []LogicalVolume  `json:"lvs"`
	Pools           []string         `json:"pools"` // names of imported pools
	Datasets        []Dataset        `json:"datasets"`
	// Inside holds what was found at paths on btrfs devices, by device and path: "subvolume", "file", "other", or "" for
	// nothing.
	Inside map[string]map[string]string `json:"inside"`
	// Signatures are what blkid found, by the kernel names of the devices. [ParseFacts] copies them to devices that lsblk
	// shows as empty.
	Signatures map[string]Signature `json:"signatures"`
	// Holders are all devices that are made from others, including those that lsblk leaves out. [ParseFacts] adds these to
	// the tree.
	Holders []Holder `json:"holders,omitempty"`
}

// Holder is a device that is made from another device. Both are kernel names.
type Holder struct {
	Device  string `json:"device"`
	Holder  string `json:"holder"`
	Mapping string `json:"mapping,omitempty"` // its device-mapper name, if it has one
}

// Signature is the content that blkid recognised on a device.
type Signature struct {
	Type  string `json:"type"` // "unclear": signatures of several kinds
	UUID  string `json:"uuid,omitempty"`
	Label string `json:"label,omitempty"`
}

// MountedAt is one mount, as findmnt shows it.
type MountedAt struct {
	Target string `json:"target"`
	Source string `json:"source"`
	FSType string `json:"fstype"`
	FSRoot string `json:"fsroot"` // the part of the file system that is mounted, such as a subvolume
}

// PhysicalVolume is one physical volume, in a volume group or in none, as pvs shows it.
type PhysicalVolume struct {
	Device string `json:"pv_name"`
	Group  string `json:"vg_name"`
}

// LogicalVolume is a volume, active or not, as lvs shows it.
type LogicalVolume struct {
	Group string        `json:"vg_name"`
	Name  string        `json:"lv_name"`
	Size  lenientNumber `json:"lv_size"` // bytes
	Type  string        `json:"segtype"`
	Pool  string        `json:"pool_lv"`
}

// Dataset is a dataset of an imported ZFS pool.
type Dataset struct {
	Name   string `json:"name"`
	Type   string `json:"type"` // filesystem or volume
	Size   string `json:"size"` // of a volume, in bytes
	Locked bool   `json:"locked"`
}

// BlockDevice is a device in lsblk's tree. A device with several parents (RAID, LVM) appears below each of them.
type BlockDevice struct {
	Name        string        `json:"name"`
	KName       string        `json:"kname,omitempty"`
	Path        string        `json:"path,omitempty"`
	Type        string        `json:"type"`
	Model       string        `json:"model,omitempty"`
	Serial      string        `json:"serial,omitempty"`
	WWN         string        `json:"wwn,omitempty"`
	Size        lenientNumber `json:"size"`              // bytes
	SectorSize  lenientNumber `json:"log-sec,omitempty"` // logical, bytes
	Removable   lenientBool   `json:"rm"`
	ReadOnly    lenientBool   `json:"ro"`
	FSType      string        `json:"fstype,omitempty"`
	FSVersion   string        `json:"fsver,omitempty"` // of a RAID member: the version of its metadata
	Label       string        `json:"label,omitempty"`
	UUID        string        `json:"uuid,omitempty"`
	PartLabel   string        `json:"partlabel,omitempty"`
	PartType    string        `json:"parttype,omitempty"`
	PartUUID    string        `json:"partuuid,omitempty"`
	PartFlags   string        `json:"partflags,omitempty"` // GPT attributes, such as 0x4
	Start       lenientNumber `json:"start,omitempty"`     // of a partition, in units of 512 bytes
	Transport   string        `json:"tran,omitempty"`      // nvme, sata, usb, …
	Rotational  lenientBool   `json:"rota,omitempty"`
	TableType   string        `json:"pttype,omitempty"`
	Mountpoint  string        `json:"mountpoint,omitempty"`
	Mountpoints []string      `json:"mountpoints,omitempty"` // "[SWAP]" for active swap
	Children    []BlockDevice `json:"children,omitempty"`
}

// lenientNumber and lenientBool read what lsblk of any version prints: 512 or "512", true or "1".
type (
	lenientNumber int64
	lenientBool   bool
)

// UnmarshalJSON reads a number that is not negative, or a string with one.
func (n *lenientNumber) UnmarshalJSON(data []byte) error {
	text := strings.Trim(string(data), `"`)
	if text == "" || text == "null" {
		return nil
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil || v < 0 {
		return fmt.Errorf("%s is not a number of bytes; run lsblk with --bytes", data)
	}
	*n = lenientNumber(v)
	return nil
}

// UnmarshalJSON reads a boolean, or a string with one.
func (f *lenientBool) UnmarshalJSON(data []byte) error {
	switch strings.Trim(string(data), `"`) {
	case "true", "1":
		*f = true
	case "false", "0", "null", "":
		*f = false
	default:
		return fmt.Errorf("%s is neither true nor false", data)
	}
	return nil
}

// Disk is a whole disk of a machine.
type Disk struct {
	Device     string `json:"device"`
	Model      string `json:"model,omitempty"`
	Serial     string `json:"serial,omitempty"`
	WWN        string `json:"wwn,omitempty"`
	Size       int64  `json:"size"`        // bytes
	SectorSize int64  `json:"sector_size"` // logical, bytes
	Removable  bool   `json:"removable,omitempty"`
	ReadOnly   bool   `json:"read_only,omitempty"`
	// Content describes in one line, for people, what is on the disk now; "blank" if nothing is known to be.
	Content string `json:"content"`

	// For disks of a plan: Vague means that another disk of the machine has the same serial number. Twins counts the other
	// disks with the same WWN, serial number, model and size.
	Vague bool `json:"-"`
	Twins int  `json:"-"`

	// For disks of a plan: Name is the name in the layout. Named is how the layout or the operator refers to the disk (a
	// path, serial:SERIAL, largest). Erased means that everything on it is lost. Before and After are its contents before
	// and after the plan, in the order of their positions.
	Name   string    `json:"name,omitempty"`
	Named  string    `json:"named,omitempty"`
	Erased bool      `json:"erased,omitempty"`
	Before []Segment `json:"before,omitempty"`
	After  []Segment `json:"after,omitempty"`
}

// String returns device, model, serial number and size, for people.
func (d Disk) String() string {
	var about []string
	for _, s := range []string{d.Model, d.Serial} {
		if s != "" {
			about = append(about, s)
		}
	}
	size := "size not known"
	if d.Size > 0 {
		size = human(d.Size)
	}
	return fmt.Sprintf("%s (%s)", d.Device, strings.Join(append(about, size), ", "))
}

// ParseFacts reads the facts as JSON. It limits how many devices there are, how deep they are nested and how long their
// names are, as the machine's answer is not trusted.
func ParseFacts(data []byte) (*Facts, error) {
	var f *Facts
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, fmt.Errorf("read lsblk's JSON: %w", err)
	}
	if f == nil || f.BlockDevices == nil {
		return nil, fmt.Errorf(`read lsblk's JSON: it has no "blockdevices"`)
	}
	left := maxDevices
	if err := within(f.BlockDevices, maxDepth, &left); err != nil {
		return nil, fmt.Errorf("read lsblk's JSON: %w", err)
	}
	f.sign(f.BlockDevices)
	return f, f.hang()
}

// Limits of what a machine may report; no real machine comes near them.
const (
	maxDevices = 10_000 // a device with several parents counts once below each
	maxDepth   = 30     // nesting of devices
	maxName    = 1000   // length of a name, number or label, in bytes
)

// within returns an error if the devices exceed the limits: left devices, depth levels, or maxName.
func within(devices []BlockDevice, depth int, left *int) error {
	if len(devices) > 0 && depth == 0 {
		return fmt.Errorf("more than %d devices lie on each other at %.100s", maxDepth, devices[0].Name)
	}
	if *left -= len(devices); *left < 0 {
		return fmt.Errorf("the machine lists more than %d devices", maxDevices)
	}
	for i := range devices {
		d := &devices[i]
		for _, name := range []string{d.Name, d.KName, d.Path, d.Type, d.Model, d.Serial, d.WWN, d.FSType, d.FSVersion,
			d.Label, d.UUID, d.PartLabel, d.PartType, d.PartUUID, d.PartFlags, d.Transport, d.TableType} {
			if len(name) > maxName {
				return fmt.Errorf("%.100s has a name, number or label of %d bytes, %.40q…: at most %d are read",
					d.Name, len(name), name, maxName)
			}
		}

		if err := within(d.Children, depth-1, left); err != nil {
			return err
		}
	}

	return nil
}

// Restarted returns the facts as they will be once the machine runs another system: nothing is mounted or used as swap.
func (f *Facts) Restarted() *Facts {
	after := *f
	after.BlockDevices = unmounted(f.BlockDevices)
	after.Mounts, after.Swaps = []MountedAt{}, []string{}
	return &after
}

// unmounted returns a copy of the devices without their mount points.
func unmounted(devices []BlockDevice) []BlockDevice {
	devices = slices.Clone(devices)
	for i := range devices {
		d := &devices[i]
		d.Mountpoint = ""
		d.Mountpoints = nil
		d.Children = unmounted(d.Children)
	}
	return devices
}

// sign copies the signatures that blkid found to devices that lsblk shows as empty.
func (f *Facts) sign(devices []BlockDevice) {
	for i := range devices {
		d := &devices[i]
		if s, ok := f.Signatures["/dev/"+d.KName]; ok && d.FSType == "" {
			d.FSType = s.Type
			d.UUID = s.UUID
			d.Label = s.Label
		}
		f.sign(d.Children)
	}
}

// Disks returns the machine's whole disks, in lsblk's order: no partitions, loop, RAM or optical devices, no floppies,
// and no drives without a medium.
func (f *Facts) Disks() []Disk {
	var disks []Disk
	for i := range f.BlockDevices {
		if b := &f.BlockDevices[i]; b.isDisk() && b.Size > 0 {
			disks = append(disks, b.disk())
		}
	}
	return disks
}

// isDisk reports whether the device is a whole disk that could be installed on.
func (b *BlockDevice) isDisk() bool {
	return b.Type == "disk" && !noDisk.MatchString(b.kernelName())
}

// noDisk matches other devices that lsblk calls disks: memory, ZFS volumes, bcache devices, floppies, and the areas of
// an eMMC that are for firmware and keys.
var noDisk = regexp.MustCompile(`^(z?ram\d+|zd\d+|bcache\d+|fd\d+|mmcblk\d+(boot\d+|rpmb))$`)

// isZvol reports whether the device is a volume of a ZFS pool.
func (b *BlockDevice) isZvol() bool { return zvolName.MatchString(b.kernelName()) }

// zvolName matches the kernel names of ZFS volumes.
var zvolName = regexp.MustCompile(`^zd[0-9]+$`)

// kernelName returns the name below /dev or /dev/mapper.
func (b *BlockDevice) kernelName() string {
	return strings.TrimPrefix(strings.TrimPrefix(b.device(), "/dev/"), "mapper/")
}

// device returns the path of the device. lsblk before 2.33 does not print it.
func (b *BlockDevice) device() string {
	for _, s := range []string{b.Path, b.KName, b.Name} {
		if s != "" {
			return "/dev/" + strings.TrimPrefix(s, "/dev/")
		}
	}
	return ""
}

// disk returns the device as a whole disk.
func (b *BlockDevice) disk() Disk {
	d := Disk{
		Device: b.device(), Model: printable(b.Model), Serial: printable(b.Serial), WWN: printable(b.WWN),
		Size: int64(b.Size), SectorSize: int64(b.SectorSize),
		Removable: bool(b.Removable), ReadOnly: bool(b.ReadOnly), Content: printable(b.content()),
	}
	if d.SectorSize == 0 {
		d.SectorSize = 512
	}
	return d
}

// printable removes characters that could do harm on a terminal, as disks can report any name.
func printable(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s))
}

// content describes what is on a disk, for people: `gpt: vfat "ESP" 512 MiB, crypto_LUKS 7.5 GiB`.
func (b *BlockDevice) content() string {
	var parts []string
	table := b.TableType
	for i := range b.Children {
		if c := &b.Children[i]; c.Type == "part" {
			parts = append(parts, c.describe())
			if table == "" {
				table = c.TableType
			}
		}
	}

	switch {
	case len(parts) > 0:
		if table == "" {
			table = "partitions"
		}
		return table + ": " + strings.Join(parts, ", ")
	case b.FSType != "" || len(b.mountpoints()) > 0:
		return b.describe()
	case table != "":
		return table + ": no partitions"
	}

	return "blank"
}

// describe describes the content of one device, for people: `vfat "ESP" 512 MiB`.
func (b *BlockDevice) describe() string {
	s := printable(b.FSType) // it must not break the line or the terminal
	if s == "" {
		s = "unformatted"
	}
	for _, label := range []string{b.Label, b.PartLabel} {
		if label != "" {
			s += " " + strconv.Quote(label)
			break
		}
	}
	return s + " " + human(int64(b.Size))
}

// mountpoints returns where the device is mounted, and "[SWAP]" if it is used as swap.
func (b *BlockDevice) mountpoints() []string {
	all := slices.DeleteFunc(slices.Clone(b.Mountpoints), func(s string) bool { return s == "" })
	if len(all) == 0 && b.Mountpoint != "" {
		all = []string{b.Mountpoint}
	}
	return all
}

// placedDevice is a device with its place in the machine: roots are all disks that it is on, and depth is its greatest
// distance from one.
type placedDevice struct {
	*BlockDevice
	roots []string
	depth int
}

// nodes returns every device once. Parents come before their children where lsblk first shows them.
func (f *Facts) nodes() []*placedDevice {
	var all []*placedDevice
	byDevice := map[string]*placedDevice{}
	var walk func(list []BlockDevice, root string, depth int)
	walk = func(list []BlockDevice, root string, depth int) {
		for i := range list {
			dev := list[i].device()
			from := root
			if depth == 0 {
				from = dev
			}
			n := byDevice[dev]
			if n == nil {
				n = &placedDevice{BlockDevice: &list[i]}
				byDevice[dev] = n
				all = append(all, n)
			}

			n.depth = max(n.depth, depth)
			if !slices.Contains(n.roots, from) {
				n.roots = append(n.roots, from)
			}
			walk(list[i].Children, from, depth+1)
		}
	}
	walk(f.BlockDevices, "", 0)
	return all
}
