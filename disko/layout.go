// Package disko turns a disk layout (disko's data model) into the steps that make it.
//
// It is pure: what the machine has comes in as [Facts], and what is to be done goes out
// as a [Plan] of [Step]s, using the tools that disko itself uses, so that the result is
// the same. See https://github.com/nix-community/disko.
package disko

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf16"
)

// Layout is a checked disk layout: what Parse understood.
type Layout struct {
	disks []disk
}

type disk struct {
	path, device string
	parts        []partition // in the order of their numbers, which start at 1
}

type partition struct {
	path, name, label  string
	device             string // the name that outlives the installation, by-partlabel or by-partuuid
	typeCode, typeGUID string
	uuid               string // empty: random
	start, end         bound
	alignment          uint64 // sectors; 0: sgdisk's default
	attributes         []int
	priority           int
	content            content // nil: left unformatted
}

// content is what fills a partition or a container.
type content interface {
	// create adds the steps that make it on the device.
	create(b *builder, on place)
	// mount adds what the mount stage and the operator have to know.
	mount(m *mounts, on place)
	// minimum is the smallest device, in bytes, that the tools accept.
	minimum() int64
}

// place is a block device and its name in the layout.
type place struct{ device, name string }

// Parse reads an evaluated config.disko.devices as JSON, without disko's internal and
// function-valued options (`nix eval --json … --apply` with strip-apply.nix).
//
// Supported are disks with a gpt table whose partitions hold filesystem, btrfs, luks,
// swap or nothing. Whatever is not known, not supported or not possible is an error that
// names the attribute; all of them are reported at once, sorted and joined.
func Parse(data []byte) (*Layout, error) {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("disk layout is not JSON of disko.devices: %w", err)
	}
	if raw == nil {
		return nil, errors.New("disk layout is null; does the host use disko?")
	}
	r := &reader{seen: map[string]string{}}
	top := &attrs{reader: r, raw: raw, unread: map[string]bool{}}
	l := &Layout{}
	for _, group := range []string{"bcachefs_filesystems", "lvm_vg", "mdadm", "nodev", "zpool"} {
		names, _ := top.sets(group)
		for _, name := range names {
			r.errorf(join(group, name), "%s is not supported yet; supported is disk", group)
		}
	}
	names, disks := top.sets("disk")
	for _, name := range names {
		l.disks = append(l.disks, parseDisk(disks[name]))
	}
	top.done()
	if len(names) == 0 {
		r.errorf("disk", "the layout has no disks")
	} else if _, ok := r.seen[`mountpoint "/"`]; !ok && len(r.problems) == 0 {
		r.errorf("disk", `nothing is mounted at "/"; give one file system the mountpoint "/"`)
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	return l, nil
}

func parseDisk(a *attrs) disk {
	d := disk{path: a.path, device: a.str("device")}
	a.absolute("device", d.device)
	a.unique("device", d.device, a.at("device"))
	if !need[bool](a, "destroy") {
		a.bad("destroy", "false is not supported yet; the disk would be erased all the same")
	}
	a.want("type", "disk")
	a.ignore("name", "imageName", "imageSize")
	a.hooks()
	raw := need[json.RawMessage](a, "content")
	a.done()
	if raw == nil {
		return d
	}
	c := a.set(a.at("content"), raw)
	if c == nil {
		return d
	}
	if kind := c.str("type"); kind != "gpt" {
		c.bad("type", "%q is not supported yet; supported is gpt", kind)
		return d
	}
	if dev := c.str("device"); dev != d.device {
		c.bad("device", "%q differs from the disk's, which is not supported yet", dev)
	}
	// Only a hybrid MBR asks for it, and that is refused.
	c.ignore("efiGptPartitionFirst")
	c.hooks()
	names, parts := c.sets("partitions")
	for _, name := range names {
		d.parts = append(d.parts, parsePartition(parts[name], name))
	}
	c.done()
	// disko numbers partitions by position: stable by priority, ties in byte order of the name.
	slices.SortStableFunc(d.parts, func(a, b partition) int {
		return cmp.Compare(a.priority, b.priority)
	})
	if len(c.problems) == 0 {
		// Bounds that no disk can satisfy are the layout's fault, whatever the machine.
		if _, err := arrange(d.parts, math.MaxInt64, 512); err != nil {
			c.problems = append(c.problems, err.Error())
		}
	}
	return d
}

func (a *attrs) absolute(name, value string) {
	if !strings.HasPrefix(value, "/") {
		a.bad(name, "%q is not an absolute path", value)
	}
}

func (a *attrs) want(name, value string) {
	if v := a.str(name); v != value {
		a.bad(name, "is %q, must be %q", v, value)
	}
}

var (
	guidPattern = regexp.MustCompile(`^[0-9A-Fa-f]{8}-([0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}$`)
	sizePattern = regexp.MustCompile(`^(100%|0|[1-9][0-9]*[KMGTP]?)$`)
)

func parsePartition(a *attrs, name string) partition {
	p := partition{path: a.path, name: name, device: a.str("device")}
	a.ignore("name")
	a.absolute("device", p.device)
	p.label = a.str("label")
	// sgdisk cuts a label at its first colon.
	if n := len(utf16.Encode([]rune(p.label))); n == 0 || n > 36 || strings.Contains(p.label, ":") {
		a.bad("label", "%q must have 1 to 36 UTF-16 units and no colon", p.label)
	}
	if p.label != "" {
		a.unique("label", p.label, a.at("label"))
	}
	if p.uuid = a.optional("uuid"); p.uuid != "" {
		if !guidPattern.MatchString(p.uuid) {
			a.bad("uuid", "%q is not a UUID", p.uuid)
		}
		a.unique("uuid", strings.ToUpper(p.uuid), a.at("uuid"))
	}
	p.typeCode = a.str("type")
	p.typeGUID = typeGUID(p.typeCode)
	if p.typeGUID == "" {
		a.bad("type", "%q is not a known sgdisk code; write the partition type's GUID", p.typeCode)
	}
	if size := a.str("size"); !sizePattern.MatchString(size) {
		a.bad("size", "%q is not a size; allowed are 100%%, 0 (the largest free block), or a number with K, M, G, T or P", size)
	}
	p.start, p.end = a.bound("start"), a.bound("end")
	p.priority = need[int](a, "priority")
	alignment, _ := take[int](a, "alignment")
	if p.alignment = uint64(alignment); alignment < 0 || alignment > 65536 {
		a.bad("alignment", "%d is not between 0 and 65536 sectors", alignment)
		p.alignment = 0
	}
	bits, _ := take[[]int](a, "attributes")
	for _, bit := range bits {
		if bit < 0 || bit > 63 {
			a.bad("attributes", "%d is not between 0 and 63", bit)
		} else if !slices.Contains(p.attributes, bit) {
			p.attributes = append(p.attributes, bit)
		}
	}
	a.off("remove it, or wait for hybrid MBRs", "hybrid")
	p.content = a.content(p.device, "luks")
	a.done()
	return p
}

// content reads the attribute "content" of what is found at device, nil if null.
func (a *attrs) content(device string, also ...string) content {
	raw, _ := take[json.RawMessage](a, "content")
	if raw == nil {
		return nil
	}
	c := a.set(a.at("content"), raw)
	if c == nil {
		return nil
	}
	supported := append([]string{"btrfs", "filesystem", "swap"}, also...)
	slices.Sort(supported)
	kind := c.str("type")
	if !slices.Contains(supported, kind) {
		c.bad("type", "%q is not supported yet; supported are %s", kind, strings.Join(supported, ", "))
		return nil
	}
	if dev := c.str("device"); dev != device {
		c.bad("device", "%q differs from %q, where the content is; that is not supported yet", dev, device)
	}
	c.hooks()
	defer c.done()
	switch kind {
	case "btrfs":
		return parseBtrfs(c)
	case "luks":
		return parseLUKS(c)
	case "swap":
		return parseSwap(c)
	default:
		return parseFilesystem(c)
	}
}

// mountpoint reads an absolute, clean mount point; empty if null.
func (a *attrs) mountpoint() string {
	v := a.file("mountpoint")
	if v == "" {
		return ""
	}
	clean := path.Clean(v)
	if slices.Contains(strings.Split(v, "/"), "..") {
		a.bad("mountpoint", "%q must not have .. in it", v)
	}
	a.unique("mountpoint", clean, a.at("mountpoint"))
	return clean
}
