package disko

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// target is where the mount stage puts the new system.
const target = "/mnt"

// Stage is the part of a plan that a step belongs to.
type Stage string

// The stages, in their order. Only [Plan.Unmount] has steps of the last.
const (
	StageDestroy Stage = "destroy"
	StageCreate  Stage = "create"
	StageMount   Stage = "mount"
	StageUnmount Stage = "unmount"
)

// Step is one command.
type Step struct {
	Stage Stage    `json:"stage"`
	Name  string   `json:"name"` // for people: "format root with ext4"
	Argv  []string `json:"argv"` // never through a shell
	// Destroys says what is lost, for people; empty if nothing is. What is on a disk is
	// counted once, in the destroy stage; the create stage works on disks that are empty.
	Destroys string `json:"destroys,omitempty"`
	Device   string `json:"device"`
	// Stdin is a path on the target. The runner feeds the file's content without its
	// trailing newlines to the command, as disko's $(cat file) does.
	Stdin string `json:"stdin,omitempty"`
}

// Destructive tells whether the step loses data.
func (s Step) Destructive() bool { return s.Destroys != "" }

// Plan is a layout for certain disks. Its methods work on the value that [NewPlan]
// returned, not on one that was read back from JSON.
type Plan struct {
	Steps []Step `json:"steps"`
	Disks []Disk `json:"disks"` // the disks it takes, in the layout's order

	layout []disk // same order as Disks
	mounts mounts
}

// NewPlan resolves the layout's disks against the machine, checks them, and orders the
// steps. Every run of the steps starts from what the facts say, also half-way through an
// earlier run. Without facts, devices stay as the layout names them, nothing is checked,
// and the destroy stage expects that nothing is mounted or open.
//
// All that is wrong is reported at once, each with its attribute path: disks that the
// machine does not have, that are too small, read-only or in use by the running system.
func NewPlan(l *Layout, f *Facts) (*Plan, error) {
	p := &Plan{layout: l.disks}
	r := &reader{seen: map[string]string{}}
	for _, d := range l.disks {
		disk := Disk{Device: d.device}
		if f != nil {
			disk = f.check(r, d)
		}
		p.Disks = append(p.Disks, disk)
	}
	for i, d := range l.disks {
		for n, part := range d.parts {
			if part.content != nil {
				part.content.mount(&p.mounts, p.partition(i, n, f != nil))
			}
		}
	}
	var nodes []*node
	if f != nil {
		nodes = f.nodes()
	}
	for _, n := range nodes {
		p.checkNode(r, n)
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	b := &builder{stage: StageDestroy}
	p.release(b, nodes)
	for _, d := range p.Disks {
		wipe(b, d, nodes)
	}
	b.stage = StageCreate
	for i := range l.disks {
		p.create(b, i, f != nil)
	}
	p.Steps = append(b.steps, p.mounts.steps()...)
	return p, nil
}

// check finds the machine's disk for one of the layout.
func (f *Facts) check(r *reader, d disk) Disk {
	at := join(d.path, "device")
	want := d.device
	if to, ok := f.Links[want]; ok {
		want = to
	}
	i := slices.IndexFunc(f.BlockDevices, func(b BlockDevice) bool { return b.isDisk() && b.device() == want })
	if i < 0 {
		var have []string
		for _, disk := range f.Disks() {
			have = append(have, disk.String())
		}
		if have == nil {
			have = []string{"no disks"}
		}
		r.errorf(at, "%s is not a disk of this machine; it has %s", d.device, strings.Join(have, ", "))
		return Disk{}
	}
	disk := f.BlockDevices[i].disk()
	r.unique("disk", disk.Device, at)
	if disk.ReadOnly {
		r.errorf(at, "%s is read-only", disk)
	}
	if _, err := arrange(d.parts, disk.Size, disk.SectorSize); err != nil {
		if least, ok := smallest(d.parts, disk.SectorSize); ok && least > disk.Size {
			r.errorf(at, "%s is too small: it has %d bytes, the layout needs %s (%d bytes) at least: %v", disk, disk.Size, human(least), least, err)
		} else {
			r.errorf(at, "%s: %v", disk, err)
		}
	}
	return disk
}

// partition returns partition n (from 0) of disk i. With facts it is the kernel's name:
// links by label race with udev and clash with other disks' labels (disko#739, #551).
func (p *Plan) partition(i, n int, resolved bool) place {
	part := p.layout[i].parts[n]
	on := place{device: part.device, name: part.name}
	if dev := p.Disks[i].Device; resolved {
		if strings.TrimRight(dev, "0123456789") != dev {
			dev += "p"
		}
		on.device = dev + strconv.Itoa(n+1)
	}
	return on
}

// create makes the partition table of disk i and fills the partitions.
func (p *Plan) create(b *builder, i int, resolved bool) {
	dev, parts := p.Disks[i].Device, p.layout[i].parts
	b.step("make a partition table on "+dev, dev, "sgdisk", "--clear", dev)
	for n, part := range parts {
		b.step(fmt.Sprintf("make partition %d, %s", n+1, part.name), dev, part.sgdisk(n+1, dev)...)
	}
	// partprobe fails while udev still looks at the partitions of the calls before.
	b.settle(dev)
	b.step("show the partitions of "+dev+" to the kernel", dev, "partprobe", dev)
	b.step("show the partitions of "+dev+" to udev", dev, "udevadm", "trigger", "--subsystem-match=block")
	b.settle(dev)
	for n, part := range parts {
		on := p.partition(i, n, resolved)
		// An old file system may begin exactly where the partition does, and mkfs would refuse or ask.
		b.step("wipe old signatures from "+on.name, on.device, "wipefs", "--all", "--force", on.device)
		if part.content != nil {
			part.content.create(b, on)
		}
	}
}

func (p partition) sgdisk(number int, dev string) []string {
	n := strconv.Itoa(number)
	argv := []string{"sgdisk", "--align-end"}
	if p.alignment != 0 {
		argv = append(argv, "--set-alignment="+strconv.FormatUint(p.alignment, 10))
	}
	uuid := p.uuid
	if uuid == "" {
		uuid = "R"
	}
	argv = append(argv,
		"--new="+n+":"+p.start.text+":"+p.end.text,
		"--partition-guid="+n+":"+uuid,
		"--change-name="+n+":"+p.label,
		"--typecode="+n+":"+p.typeCode,
		"--attributes="+n+":=:0")
	for _, bit := range p.attributes {
		argv = append(argv, "--attributes="+n+":set:"+strconv.Itoa(bit))
	}
	return append(argv, dev)
}

// KeyFiles returns the paths on the target that secrets are read from (passwordFile,
// keyFile, settings.keyFile), sorted, each once. The operator has to supply them; devices
// such as a USB stick with a key are not among them.
func (p *Plan) KeyFiles() []string {
	files := slices.Clone(p.mounts.keys)
	slices.Sort(files)
	return slices.Compact(files)
}

// Unmount returns the steps that undo the mount stage and close containers. Where there
// is nothing to do, the commands fail and say so ("not mounted").
func (p *Plan) Unmount() []Step {
	b := &builder{stage: StageUnmount}
	for _, s := range slices.Backward(p.mounts.swaps) {
		b.step("turn off swap on "+s.Device, s.Device, "swapoff", s.Device)
	}
	if len(p.mounts.points) > 0 {
		// Recursive, as the installation may have mounted more below it.
		b.step("unmount "+target, p.mounts.points[0].Device, "umount", "--recursive", target)
	}
	for _, c := range slices.Backward(p.mounts.crypts) {
		b.step("close "+c.name, c.device, "cryptsetup", "close", c.name)
	}
	return b.steps
}

// builder collects the steps of a stage.
type builder struct {
	stage Stage
	steps []Step
}

func (b *builder) step(name, device string, argv ...string) {
	b.steps = append(b.steps, Step{Stage: b.stage, Name: name, Argv: argv, Device: device})
}

// secret is a step that reads a key from standard input, if stdin is a path.
func (b *builder) secret(name, device, stdin string, argv []string) {
	b.step(name, device, argv...)
	b.steps[len(b.steps)-1].Stdin = stdin
}

func (b *builder) destroy(name, device, loses string, argv ...string) {
	b.step(name, device, argv...)
	b.steps[len(b.steps)-1].Destroys = loses
}

func (b *builder) settle(dev string) {
	b.step("wait for udev", dev, "udevadm", "settle", "--timeout", "120")
}

// mounts is what the mount stage does, and what undoing it needs.
type mounts struct {
	points []mountStep
	swaps  []Step
	crypts []place // device below, name of the container
	keys   []string
}

type mountStep struct {
	point string
	Step
}

func (m *mounts) fs(point, format, device string, options []string) {
	if point == "" {
		return
	}
	argv := []string{"mount", device, path.Join(target, point), "-t", format}
	for _, o := range options {
		argv = append(argv, "-o", o)
	}
	m.points = append(m.points, mountStep{point, Step{
		Stage: StageMount, Name: "mount " + point, Argv: append(argv, "-o", "X-mount.mkdir"), Device: device,
	}})
}

func (m *mounts) swap(device string, priority *int, options []string, flags ...string) {
	m.swaps = append(m.swaps, Step{
		Stage: StageMount, Name: "turn on swap on " + device, Device: device,
		Argv: swapon(device, priority, options, flags...),
	})
}

func (m *mounts) crypt(name, device string, keys ...string) {
	m.crypts = append(m.crypts, place{device, name})
	for _, k := range keys {
		if k != "" && !strings.HasPrefix(k, "/dev/") {
			m.keys = append(m.keys, k)
		}
	}
}

// steps puts every mount point after those that it lies in, and swap last: swap files lie
// in mounted file systems. (disko 878ec37 never turns swap on.)
func (m *mounts) steps() []Step {
	slices.SortFunc(m.points, func(a, b mountStep) int { return cmp.Compare(a.point, b.point) })
	var steps []Step
	for _, p := range m.points {
		steps = append(steps, p.Step)
	}
	return append(steps, m.swaps...)
}
