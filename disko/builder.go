package disko

import (
	"cmp"
	"path"
	"slices"
	"strconv"
	"strings"
)

// builder collects what a plan does while the layout is walked once: devices in the order in which they are made,
// parents before their content.
type builder struct {
	*reader
	stage Stage
	steps []Step

	opening  []Step // steps before anything is mounted: scans, and hooks of containers
	mounts   []*mount
	swaps    []Step
	frames   []frame // hooks of the nodes that are being walked, outermost first
	swapOffs []Step
	// unmounting and unmounted are the hooks before and after unmounting. closing is in the order of opening: it is run
	// backwards.
	unmounting, unmounted, closing []Step

	mode    Mode
	facts   *Facts
	devices []*placedDevice          // all devices of the machine
	found   map[string]*placedDevice // the same, by each of their names
	opens   []Step                   // steps of StageOpen
	look    ProbePaths               // everything that a probe has to look for
	blind   bool                     // the facts do not tell all of that

	places     map[string]blockTarget   // by the layout's name of the device
	members    map[string][]blockTarget // by "GROUP NAME", in the order in which they are made
	formatArgs map[string][]string
	tables     map[string]deviceContent
	names      []uniqueName
	labels     map[string]string
	keys       []string
	typed      []string // the keys that are passphrases
	containers []Container
	system     System
	borrowed   int // how many arguments named devices elsewhere in the layout
}

// mount is a mount point with its steps. They come after the mounts in which it, or the folder that it shows, lies.
type mount struct {
	point, source string
	device        string
	steps         []Step
	state         int
}

// fill walks the layout. Devices that are not in places keep the names that the layout gives them.
func (l *Layout) fill(b *builder, places map[*topDevice]blockTarget) {
	b.stage = StageCreate
	b.places = map[string]blockTarget{}
	b.members = map[string][]blockTarget{}
	b.formatArgs = map[string][]string{}
	b.tables, b.labels = map[string]deviceContent{}, map[string]string{}
	for _, d := range l.devices {
		on, ok := places[d]
		if !ok {
			on = d.on
		}
		if b.facts == nil && b.mode == Mount {
			_, isDisk := d.body.(*wholeDisk)
			on.keep = isDisk
		}
		b.places[d.on.device] = on
		from, borrowed := len(b.steps), b.borrowed
		b.around(d.hooks, on, d.body)
		if _, isDisk := d.body.(*wholeDisk); isDisk && b.borrowed == borrowed {
			nameDisk(b.steps[from:], on.device)
		}
	}
}

// fill adds the steps for content, which may be nil.
func (b *builder) fill(c deviceContent, on blockTarget) {
	if c != nil {
		c.fill(b, on)
	}
}

// fits records an error if a device is too small for its content.
func (b *builder) fits(c deviceContent, on blockTarget) {
	title := on.title
	if title == "" {
		title = on.device + " (" + human(on.size) + ")"
	}
	if g, ok := bare(c).(*gptTable); ok {
		_, err := arrange(g.parts, on.size, on.sector)
		if err == nil {
			return
		}
		if minimum, ok := smallest(g.parts, on.sector); ok && minimum > on.size {
			b.errorf(on.at, "%s is too small: it has %d bytes, the layout needs %s (%d bytes) at least: %v", title, on.size, human(minimum), minimum, err)
		} else {
			b.errorf(on.at, "%s: %v", title, err)
		}
	} else if minimum := c.minimum(); minimum > on.size {
		b.errorf(on.at, "%s is too small: its content needs %s at least", title, human(minimum))
	}
}

// isContainer reports whether something is opened and closed itself, so that only what is inside is mounted.
func isContainer(f filler) bool {
	switch f := f.(type) {
	case *gptTable, *partedTable, *luks, *volumeGroup, *zpool:
		return true
	case *wholeDisk:
		return f.content != nil && isContainer(bare(f.content))
	case *raid:
		return f.content != nil && isContainer(bare(f.content))
	}
	return false
}

// step adds a step.
func (b *builder) step(name, device string, argv ...string) {
	b.steps = append(b.steps, Step{Stage: b.stage, Name: name, Argv: argv, Device: device})
}

// secret adds a step that reads a key from standard input, if stdin is a path.
func (b *builder) secret(name, device, stdin string, argv []string) {
	b.step(name, device, argv...)
	b.steps[len(b.steps)-1].Stdin = stdin
}

// destroy adds a step that loses data.
func (b *builder) destroy(name, device, loses string, argv ...string) {
	b.step(name, device, argv...)
	b.steps[len(b.steps)-1].Destroys = loses
}

// settle adds a step that waits until udev has handled all events.
func (b *builder) settle(dev string) {
	b.step("wait for udev", dev, "udevadm", "settle", "--timeout", "120")
}

// reread adds steps after which the kernel and udev know the partitions that are on a device now.
func (b *builder) reread(dev string) {
	// partprobe fails as long as udev examines the partitions that earlier calls made.
	b.settle(dev)
	b.step("show the partitions of "+dev+" to the kernel", dev, "partprobe", dev)
	argv := []string{"udevadm", "trigger", "--subsystem-match=block"}

	// Only these devices are triggered, as examining each one takes time.
	if name, ok := strings.CutPrefix(dev, "/dev/"); ok && !strings.Contains(name, "/") {
		argv = append(argv, "--sysname-match="+name+"*")
	} else if strings.HasPrefix(name, "md/") {
		argv = append(argv, "--sysname-match=md*")
	}
	b.step("show the partitions of "+dev+" to udev", dev, argv...)
	b.settle(dev)
}

// wipe adds a step that removes all signatures from a device.
func (b *builder) wipe(on blockTarget) {
	b.step("wipe old signatures from "+on.name, on.device, "wipefs", "--all", "--force", on.device)
}

// resolve replaces the layout's names of devices in arguments by the names that commands use.
func (b *builder) resolve(args []string) []string {
	resolved := make([]string, len(args))
	for i, arg := range args {
		resolved[i] = devicePattern.ReplaceAllStringFunc(arg, func(device string) string {
			p := b.places[device]
			b.borrowed++
			if p.device == "" {
				b.errorf("disk", "%s is needed before it is made; change the priorities or names", device)
			}
			return p.device
		})
	}
	return resolved
}

// overwrite is resolve for commands that write to the devices. New devices have been wiped before; existing ones must
// be empty.
func (b *builder) overwrite(args []string) []string {
	for _, device := range devicePattern.FindAllString(strings.Join(args, " "), -1) {
		if p := b.places[device]; p.keep && p.found != nil && p.found.holds() != "" {
			b.errorf(p.at, "%s holds %s, which would be overwritten", p.device, printable(p.found.content()))
		}
	}
	return b.resolve(args)
}

// mount adds the steps that mount a file system. It does nothing if point is empty.
func (b *builder) mount(point, format, device string, options []string) {
	b.mountAfter("", point, format, device, options)
}

// mountAfter is mount with further steps before it. If source, a folder of the new system, is not empty, the mount
// comes after those in which source lies.
func (b *builder) mountAfter(source, point, format, device string, options []string, before ...Step) {
	if point == "" {
		return
	}
	argv := []string{"mount", device, path.Join(target, point), "-t", format}
	argv = append(append(argv, flagArgs("-o", options)...), "-o", "X-mount.mkdir")
	m := &mount{point: point, source: source, device: device}
	b.system.FileSystems = append(b.system.FileSystems, FileSystem{
		MountPoint: path.Clean(point),
		Device:     strings.TrimPrefix(device, target),
		Type:       format,
		Options:    options,
	})
	if !b.mounted(point, device, options) {
		m.steps = b.framed(append(before, Step{Stage: StageMount, Name: "mount " + point, Argv: argv, Device: device})...)
	}
	b.mounts = append(b.mounts, m)
}

// close adds a step for unmounting. The steps run in reverse order, so the last opened is closed first.
func (b *builder) close(name, device string, argv ...string) {
	b.closing = append(b.closing, Step{Stage: StageUnmount, Name: name, Argv: argv, Device: device})
}

// mountSteps returns the steps of all mounts. Each mount comes after those in which its mount point or its source
// folder lies.
func (b *builder) mountSteps() []Step {
	slices.SortFunc(b.mounts, func(a, b *mount) int { return cmp.Compare(a.point, b.point) })
	byPoint := map[string]*mount{}
	for _, m := range b.mounts {
		byPoint[m.point] = m
	}
	var steps []Step
	const waiting, done = 1, 2
	var visit func(m *mount)
	above := func(dir string, not *mount) {
		for ; dir != ""; dir = strings.TrimSuffix(path.Dir(dir), ".") {
			if m := byPoint[dir]; m != nil && m != not {
				visit(m)
			}
			if dir == "/" {
				return
			}
		}
	}
	visit = func(m *mount) {
		if m.state == waiting {
			b.errorf(b.seen["mountpoint "+strconv.Quote(m.point)], "what is mounted here lies below itself")
		}
		if m.state != 0 {
			return
		}
		m.state = waiting
		above(m.point, m)
		above(m.source, nil)
		m.state = done
		steps = append(steps, m.steps...)
	}
	for _, m := range b.mounts {
		visit(m)
	}
	return steps
}

// undoSteps returns the steps that turn off swap, unmount, and close containers.
func (b *builder) undoSteps() []Step {
	var steps []Step
	for _, s := range slices.Backward(b.swapOffs) {
		steps = append(steps, s)
	}
	steps = append(steps, b.unmounting...)
	if len(b.mounts) > 0 {
		// It is recursive, as the installation may have mounted more below the target.
		steps = append(steps, Step{
			Stage:  StageUnmount,
			Name:   "unmount " + target,
			Device: b.mounts[0].device,
			Argv:   []string{"umount", "--recursive", target},
		})
	}

	steps = append(steps, b.unmounted...)
	for _, s := range slices.Backward(b.closing) {
		steps = append(steps, s)
	}
	return steps
}
