package disko

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Objection says why a disk should not be taken unless the operator names it explicitly.
type Objection struct {
	Disk string   `json:"disk"` // device, model, serial number and size, for people
	Why  []string `json:"why"`  // the reasons, for people
	Flag string   `json:"flag"` // the flag that overrides them: --wipe SERIAL
}

// String returns the whole explanation, for people.
func (o Objection) String() string {
	return fmt.Sprintf("%s: %s. If it shall be taken anyway, say %s", o.Disk, strings.Join(o.Why, "; "), o.Flag)
}

// Known is what is known about a plan's disks besides their contents.
type Known struct {
	Host   string   // the host that the plan is for
	Owners []string // for each of the plan's disks, the host that owns it; empty: none
	Doubts []string // for each disk, why it may belong to a host, if that is not certain; empty: nothing suggests it
	Wipe   []string // disks that may be taken in spite of objections, see [Plan.Wiped]
}

// Guard returns objections to taking the plan's disks, as of the facts from which the plan was made. There is none to a
// disk that the operator named. A disk that is kept is only objected to if it belongs to another host.
func (p *Plan) Guard(k Known) (all []Objection) {
	if p.facts == nil { // without facts, nothing is known about the disks
		return nil
	}
	wiped, _ := p.Wiped(k.Wipe)
	for i, d := range p.Disks {
		if slices.Contains(wiped, d.Device) {
			continue
		}
		owner, doubt := element(k.Owners, i), element(k.Doubts, i)
		var why []string
		if owner != "" && owner != k.Host {
			why = append(why, "it belongs to the host "+owner)
		}
		if p.erased(d.Device) {
			if owner == "" && doubt != "" && d.Content != "blank" {
				why = append(why, fmt.Sprintf("%s, and it holds %s", doubt, d.Content))
			}
			why = append(why, p.losses(d, owner != "" && owner == k.Host)...)
		}

		if len(why) > 0 {
			all = append(all, Objection{Disk: d.String(), Why: why, Flag: "--wipe " + quoted(p.facts.called(d))})
		}
	}

	return all
}

// element returns an element of a list, or "" if the list is too short.
func element(list []string, i int) string {
	if i < len(list) {
		return list[i]
	}
	return ""
}

// losses returns the reasons against erasing a disk. If the host owns it, its contents are not a reason.
func (p *Plan) losses(d Disk, own bool) (why []string) {
	nodes := p.facts.nodes()
	i := slices.IndexFunc(nodes, func(n *placedDevice) bool { return n.device() == d.Device })
	switch {
	case i < 0:
		return nil
	case nodes[i].Transport == "usb":
		why = append(why, "it is a USB disk")
	case bool(nodes[i].Removable):
		why = append(why, "it is removable")
	}

	if own {
		return why
	}
	for _, n := range nodes {
		if !slices.Contains(n.roots, d.Device) {
			continue
		}
		if what := n.foreign(); what != "" {
			why = append(why, n.device()+" "+what)
		}
		for _, point := range n.mountpoints() {
			if point == "[SWAP]" {
				why = append(why, n.device()+" is in use as swap")
			} else {
				why = append(why, fmt.Sprintf("%s is mounted at %s", n.device(), printable(point)))
			}
		}
	}

	return why
}

// foreignTypes are file systems that somebody may still need, by the names that lsblk shows.
var foreignTypes = map[string]string{
	"ntfs": "NTFS", "ReFS": "ReFS", "exfat": "exFAT", "BitLocker": "BitLocker", "crypto_LUKS": "LUKS", "zfs_member": "ZFS",
	"apfs": "APFS of macOS", "hfs": "HFS of macOS", "hfsplus": "HFS+ of macOS", "ufs": "UFS of BSD",
	"VMFS": "VMFS of VMware", "VMFS_volume_member": "VMFS of VMware",
	// Members of a cluster, which may depend on this disk.
	"ceph_bluestore": "a part of Ceph", "drbd": "a part of DRBD", "stratis": "a part of Stratis",
	"oracleasm": "a part of Oracle ASM", "ocfs2": "OCFS2", "gfs2": "GFS2",
}

// systemTypes are partition types that only other operating systems make, by GUID, or by the type byte of an MBR
// (PARTITION_INFORMATION_GPT at learn.microsoft.com; the UEFI partition types of util-linux's fdisk).
var systemTypes = map[string]string{
	"E3C9E316-0B5C-4DB8-817D-F92DF00215AE": "Windows's reserved partition",
	"DE94BBA4-06D1-4D40-A16A-BFD50179D6AC": "a recovery partition of Windows",
	"5808C8AA-7E8F-42E0-85D2-E1E90434CFB3": "the database of Windows's dynamic disks",
	"AF9B60A0-1431-4F62-BC68-3311714A69AD": "a dynamic disk of Windows",
	"E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D": "Windows's Storage Spaces",
	"7C3457EF-0000-11AA-AA11-00306543ECAC": "an APFS container of macOS",
	"48465300-0000-11AA-AA11-00306543ECAC": "a partition of macOS",
	"69646961-6700-11AA-AA11-00306543ECAC": "the system area of an Apple computer",
	"52637672-7900-11AA-AA11-00306543ECAC": "a recovery partition of an Apple computer",
	"AA31E02A-400F-11DB-9590-000C2911D1B8": "a VMFS of VMware",
	"516E7CB6-6ECF-11D6-8FF8-00022D09712B": "a partition of FreeBSD",
	"0x27":                                 "a recovery partition of Windows",
	"0x42":                                 "a dynamic disk of Windows",
}

// foreign says what a device holds, for people; empty if that is no reason against erasing it.
func (d *BlockDevice) foreign() string {
	var what []string
	if s := foreignTypes[d.FSType]; s != "" {
		if label := printable(cmp.Or(d.Label, d.PartLabel)); label != "" {
			s += " " + strconv.Quote(label)
		}
		what = append(what, "holds "+s)
	}

	for guid, s := range systemTypes {
		if d.Type == "part" && strings.EqualFold(guid, d.PartType) {
			what = append(what, "is "+s)
		}
	}

	if what == nil {
		return ""
	}
	return strings.Join(what, " and ") + ", " + human(int64(d.Size))
}

// Wiped finds the plan's disks that the operator named by serial number, by WWN or by a path below /dev/disk. The
// device path is accepted only if nothing else tells the disk from others, since it may be that of another disk after
// the next boot. Wiped returns the devices of those disks, and the words that name none of the plan's disks, or several
// disks of the machine.
func (p *Plan) Wiped(named []string) (devices, unknown []string) {
	for _, w := range named {
		if found := p.facts.named(w); len(found) == 1 && p.taken(found[0]) {
			devices = append(devices, found[0])
		} else {
			unknown = append(unknown, w)
		}
	}
	return devices, unknown
}

// Unnamed says why a word does not name exactly one of the plan's disks, see [Plan.Wiped]; empty if it does.
func (p *Plan) Unnamed(word string) string {
	found := p.facts.named(word)
	switch {
	case len(found) > 1:
		var each []string
		for _, d := range p.facts.Disks() {
			if slices.Contains(found, d.Device) {
				each = append(each, quoted(p.facts.called(d))+" for "+d.Device)
			}
		}
		return fmt.Sprintf("%d disks of this machine have that name; say %s", len(found), strings.Join(each, ", "))
	case len(found) == 0 || !p.taken(found[0]):
		return "it names no disk that the layout takes"
	}

	return ""
}

// named returns the devices of the disks whose serial number, WWN or path is the given word.
func (f *Facts) named(word string) (found []string) {
	if f == nil || word == "" {
		return nil
	}
	for _, d := range f.Disks() {
		if word == d.Serial || strings.EqualFold(word, d.WWN) || f.Links[word] == d.Device ||
			word == d.Device && f.lasting(d) == "" {
			found = append(found, d.Device)
		}
	}
	return found
}

// called returns the best name that the operator can use for a disk.
func (f *Facts) called(d Disk) string {
	if word := f.lasting(d); word != "" {
		return word
	}
	for _, link := range slices.Sorted(maps.Keys(f.Links)) {
		if strings.HasPrefix(link, "/dev/disk/by-path/") && f.Links[link] == d.Device {
			return link
		}
	}
	return d.Device
}

// lasting returns a name that tells a disk from the machine's others at every boot: its serial number, or its WWN. It
// is empty if neither is unique.
func (f *Facts) lasting(d Disk) string {
	for _, word := range []string{d.Serial, d.WWN} {
		same := func(o Disk) bool { return o.Device != d.Device && (word == o.Serial || strings.EqualFold(word, o.WWN)) }
		if word != "" && !slices.ContainsFunc(f.Disks(), same) {
			return word
		}
	}
	return ""
}

// confuse sets Vague and Twins of a disk, which say with which other disks it can be confused.
func (f *Facts) confuse(d *Disk) {
	for _, o := range f.Disks() {
		if o.Device == d.Device || o.Serial != d.Serial {
			continue
		}
		d.Vague = d.Vague || d.Serial != ""
		if o.WWN == d.WWN && o.Model == d.Model && o.Size == d.Size {
			d.Twins++
		}
	}
}

// quoted quotes a word for a shell, if that is necessary.
func quoted(word string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/+@%"
	if strings.Trim(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
