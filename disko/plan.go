package disko

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"
)

// target is where the mount stage puts the new system.
const target = "/mnt"

// Stage is the part of a plan that a step belongs to.
type Stage string

// The stages, in their order. Only [Plan.Unmount] has steps of the last.
const (
	StageDestroy Stage = "destroy"
	StageOpen    Stage = "open" // what is kept and closed
	StageCreate  Stage = "create"
	StageMount   Stage = "mount"
	StageUnmount Stage = "unmount"
)

// Step is one command.
type Step struct {
	Stage Stage    `json:"stage"`
	Name  string   `json:"name"` // for people: "format root with ext4"
	Argv  []string `json:"argv"` // never a shell string made of data
	// Destroys says what is lost, for people; empty if nothing is. What is on a disk is
	// counted once, in the destroy stage; the create stage works on disks that are empty.
	Destroys string `json:"destroys,omitempty"`
	Device   string `json:"device"`
	// Stdin is a path on the target. The runner feeds the file's content without its
	// trailing newlines to the command, as disko's $(cat file) does.
	Stdin string `json:"stdin,omitempty"`
	// Expected is how long the step usually takes; 0 if that is under a second, or not known.
	Expected time.Duration `json:"-"` // "usual_seconds", a number
	// Hook is the path of the layout's attribute that the command is from. It is the
	// layout's own shell, which may do anything.
	Hook string `json:"hook,omitempty"`
	// Disk is set if the step is only about this disk: it may run beside steps of other disks, if
	// all between them in the plan are of its stage and have a disk too.
	Disk string `json:"-"`
}

// Destructive tells whether the step loses data.
func (s Step) Destructive() bool { return s.Destroys != "" }

// Mode is how much of what is on the disks a plan replaces.
type Mode string

// The ways.
const (
	Fresh  Mode = "fresh"  // erase the disks, and make all
	Format Mode = "format" // make what is missing, keep what is as the layout says
	Mount  Mode = "mount"  // make nothing
)

// Options are what else a plan depends on.
type Options struct {
	Mode Mode // Fresh if empty
	// Disks overrides the layout's devices, by the attribute name of the disk: a path, or
	// which of the machine's disks.
	Disks map[string]string
	// Script, if not empty, is disko's own script on the machine. It runs in the place of the
	// fresh way's steps, and the store paths that hooks name came with it.
	Script string
}

// Plan is a layout for certain disks. Its methods work on the value that [NewPlan]
// returned, not on one that was read back from JSON.
type Plan struct {
	Mode  Mode   `json:"way"`
	Steps []Step `json:"steps"`
	Disks []Disk `json:"disks"` // the disks it takes, in byte order of their names in the layout
	// Made are RAIDs, volume groups, pools and file systems without a disk, in the order in
	// which they are made.
	Made []Segment `json:"made,omitempty"`

	// Paths is what the facts have to tell before the plan can be whole. Where it is not
	// empty, or there are steps of [StageOpen], only those steps are in the plan: run them,
	// probe again, looking there, and plan again.
	Paths ProbePaths `json:"look,omitempty"`

	// Objections are those of [Plan.Guard], where a plan is shown for a host.
	Objections []Objection `json:"objections,omitempty"`
	// Problems are warnings about the layout, and what the host's board makes of it where a plan is shown for one.
	Problems []Problem `json:"problems,omitempty"`

	facts  *Facts
	takes  []*topDevice             // the layout's, same order as Disks
	tables map[string]deviceContent // by disk, for Verify
	names  []uniqueName
	labels map[string]string // GPT labels, and their paths
	undo   []Step
	keys   []string
	typed  []string // those of the keys that are passphrases
	// containers are LUKS, in the order in which they are made.
	containers []Container
	// The new root has no block device: what is mounted there does not show in the facts.
	hiddenRoot bool
}

// uniqueName is something that one machine has once only: a device-mapper name, a volume
// group, a pool. The kind is lsblk's type or file system.
type uniqueName struct{ kind, name string }

// NewPlan resolves the layout's disks against the machine, checks them, and orders the
// steps. Every run of the steps starts from what the facts say, also half-way through an
// earlier run. Without facts, devices stay as the layout names them, nothing is checked,
// and the destroy stage expects that nothing is mounted or open.
//
// All that is wrong is reported at once, each with its attribute path: disks that the
// machine does not have, that are too small, read-only or in use by the running system.
func NewPlan(l *Layout, f *Facts, o Options) (*Plan, error) {
	p := &Plan{Mode: cmp.Or(o.Mode, Fresh), facts: f}
	b := &builder{
		reader: &reader{seen: map[string]string{}},
		mode:   p.Mode,
		facts:  f,
		found:  map[string]*placedDevice{},
		look:   ProbePaths{},
	}
	switch {
	case o.Script != "" && len(o.Disks) > 0:
		return nil, errors.New("disko's own script names its disks itself; choose them in the layout, or let provision make them (no --disko script)")
	case f == nil && p.Mode == Format:
		return nil, errors.New("what is to be kept shows on the machine only; the way format needs its facts")
	case f != nil:
		b.index(f)
	}

	places := map[*topDevice]blockTarget{}
	o.check(b.reader, l)
	for _, d := range l.disks() {
		places[d] = o.on(d)
		disk := Disk{Device: places[d].device}
		if f != nil {
			if disk = f.find(b.reader, places[d]); disk.Device == "" {
				continue
			}
			keep := p.Mode != Fresh || !d.body.(*wholeDisk).destroy
			if keep && f.Mounts == nil && disk.Content != "blank" {
				b.errorf(d.on.at, "what is on %s is kept, and lsblk alone does not tell what to compare; take the facts with `provision facts` on the machine", disk)
				continue
			}
			if keep {
				b.clear(d.on.at, disk.Device)
			}
			places[d] = blockTarget{
				device: disk.Device,
				name:   d.on.name,
				at:     d.on.at,
				size:   disk.Size,
				sector: disk.SectorSize,
				kernel: true,
				title:  disk.String(),
				keep:   keep,
				found:  b.found[disk.Device],
			}
		}

		disk.Named = o.on(d).device
		p.Disks, p.takes = append(p.Disks, disk), append(p.takes, d)
	}

	l.fill(b, places)
	p.tables = b.tables
	p.names = b.names
	p.labels = b.labels
	p.keys = b.keys
	p.containers = b.containers
	p.typed = b.typed
	p.hiddenRoot = slices.ContainsFunc(b.mounts,
		func(m *mount) bool { return m.point == "/" && !strings.HasPrefix(m.device, "/dev/") })
	p.checkNodes(b.reader, b.devices)
	mounts := b.mountSteps()
	p.undo = b.undoSteps()
	if o.Script == "" {
		b.checkHooks(slices.Concat(b.steps, b.opening, mounts, p.undo))
	}
	if err := b.err(); err != nil {
		return nil, err
	}

	p.Problems = l.Problems()
	p.picture(l, b)
	setExpected(b.opens, b.places)
	setExpected(b.steps, b.places)
	switch {
	case o.Script != "" && p.Mode == Fresh:
		p.Steps = p.script(o.Script)
		return p, nil
	case f != nil && (len(b.opens) > 0 || b.blind):
		p.Steps, p.Paths = b.opens, b.look
		return p, nil
	case p.Mode != Fresh && len(mounts)+len(b.swaps) == 0:
		b.opening = nil // nothing is mounted after it
	case p.Mode == Fresh:
		p.Steps = p.destroy(b.devices)
	}

	p.Steps = slices.Concat(p.Steps, b.opens, b.steps, b.opening, mounts, b.swaps)
	return p, nil
}

// Unfinished tells whether the plan is only the way to the next one, see Look.
func (p *Plan) Unfinished() bool {
	// A whole plan that opens something mounts it, too.
	return len(p.Paths) > 0 || len(p.Steps) > 0 && p.Steps[len(p.Steps)-1].Stage == StageOpen
}

// index makes the machine's devices known by all of their names.
func (b *builder) index(f *Facts) {
	b.devices = f.nodes()
	for _, n := range b.devices {
		b.found["/dev/"+cmp.Or(n.KName, n.kernelName())], b.found[n.device()] = n, n
	}
}

// find returns the machine's disk for one of the layout, the zero value if there is none.
func (f *Facts) find(r *reader, on blockTarget) Disk {
	want, ok := f.choose(r, on)
	if !ok {
		return Disk{}
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
		r.errorf(on.at, "%s is not a disk of this machine; it has %s", on.device, strings.Join(have, ", "))
		return Disk{}
	}

	disk := f.BlockDevices[i].disk()
	f.confuse(&disk)
	r.unique("disk", disk.Device, on.at)
	if disk.Size == 0 {
		r.errorf(on.at, "%s has no medium", disk)
	}
	if disk.ReadOnly {
		r.errorf(on.at, "%s is read-only", disk)
	}
	return disk
}

// KeyFiles returns the paths on the target that secrets are read from (passwordFile,
// keyFile, a dataset's keylocation, and so on; /run/provision/passphrase/NAME where disko
// would ask), sorted, each once. The operator has to supply them; devices such as a USB
// stick with a key are not among them.
func (p *Plan) KeyFiles() []string {
	files := slices.DeleteFunc(slices.Clone(p.keys), func(k string) bool { return k == "" || strings.HasPrefix(k, "/dev/") })
	slices.Sort(files)
	return slices.Compact(files)
}

// Tables returns the disks of the plan that get a partition table, which [Plan.Verify] can
// compare with what was read back.
func (p *Plan) Tables() []Disk {
	return slices.DeleteFunc(slices.Clone(p.Disks), func(d Disk) bool { _, ok := p.tables[d.Device]; return !ok })
}

// Unmount returns the steps that undo the mount stage and close containers. Where there
// is nothing to do, the commands fail and say so ("not mounted").
func (p *Plan) Unmount() []Step { return slices.Clone(p.undo) }
