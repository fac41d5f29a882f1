package disko

import (
	"cmp"
	"path"
	"slices"
	"strconv"
	"strings"
)

// builder collects what a plan does, while the layout is walked once: devices in the order
// in which they are made, parents before their content.
type builder struct {
	*reader
	stage Stage
	steps []Step

	opening  []Step // before anything is mounted: hooks of what is opened, and scans
	mounts   []*mount
	swaps    []Step
	frames   []frame // hooks of what is being walked, outermost first
	swapOffs []Step
	// Hooks around unmounting; what closes, with its hooks, is read backwards.
	unmounting, unmounted, closing []Step

	mode    Mode
	facts   *Facts
	devices []*placedDevice          // the machine's
	found   map[string]*placedDevice // by name
	opens   []Step
	look    ProbePaths // all that a probe has to look into
	blind   bool       // the facts do not tell all of that

	places     map[string]blockTarget   // by the layout's name of the device
	members    map[string][]blockTarget // by "GROUP NAME", in the order in which they are made
	formatArgs map[string][]string
	tables     map[string]deviceContent
	names      []uniqueName
	labels     map[string]string
	keys       []string
	typed      []string // those of the keys that are passphrases
	containers []Container
	system     System
	borrowed   int // how many arguments named devices elsewhere in the layout
}

// mount is a mount point with its steps. It comes after those that it, or what it shows,
// lies in.
type mount struct {
	point, source string
	device        string
	steps         []Step
	state         int
}

// fill walks the layout. Devices without a place stay as the layout names them.
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

// fill walks content, which may be nil.
func (b *builder) fill(c deviceContent, on blockTarget) {
	if c != nil {
		c.fill(b, on)
	}
}

// fits reports a device that is too small for its content.
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

// isContainer tells whether something is opened and closed, and what is inside mounted.
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

// reread lets the kernel and udev see what is on a device now.
func (b *builder) reread(dev string) {
	// partprobe fails while udev still looks at the partitions of the calls before.
	b.settle(dev)
	b.step("show the partitions of "+dev+" to the kernel", dev, "partprobe", dev)
	argv := []string{"udevadm", "trigger", "--subsystem-match=block"}

	// Each device that it looks at takes its time.
	if name, ok := strings.CutPrefix(dev, "/dev/"); ok && !strings.Contains(name, "/") {
		argv = append(argv, "--sysname-match="+name+"*")
	} else if strings.HasPrefix(name, "md/") {
		argv = append(argv, "--sysname-match=md*")
	}
	b.step("show the partitions of "+dev+" to udev", dev, argv...)
	b.settle(dev)
}

func (b *builder) wipe(on blockTarget) {
	b.step("wipe old signatures from "+on.name, on.device, "wipefs", "--all", "--force", on.device)
}

// resolve puts the names that commands use in the place of the layout's, in arguments
// that name devices.
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

// overwrite is resolve for commands that write to the devices. The wiping of new ones is done;
// what is kept must be empty.
func (b *builder) overwrite(args []string) []string {
	for _, device := range devicePattern.FindAllString(strings.Join(args, " "), -1) {
		if p := b.places[device]; p.keep && p.found != nil && p.found.holds() != "" {
			b.errorf(p.at, "%s holds %s, which would be overwritten", p.device, printable(p.found.content()))
		}
	}
	return b.resolve(args)
}

// mount mounts a file system, nothing if there is no mount point.
func (b *builder) mount(point, format, device string, options []string) {
	b.mountAfter("", point, format, device, options)
}

// mountAfter mounts after what the source, a folder, lies in, if it is not empty.
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

// close is a step of unmounting, the last opened first.
func (b *builder) close(name, device string, argv ...string) {
	b.closing = append(b.closing, Step{Stage: StageUnmount, Name: name, Argv: argv, Device: device})
}

// mountSteps puts every mount point after those that it lies in or shows a folder of.
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

// undoSteps turns swap off, unmounts and closes.
func (b *builder) undoSteps() []Step {
	var steps []Step
	for _, s := range slices.Backward(b.swapOffs) {
		steps = append(steps, s)
	}
	steps = append(steps, b.unmounting...)
	if len(b.mounts) > 0 {
		// Recursive, as the installation may have mounted more below it.
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
