package disko

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"
)

// target is where the mount stage mounts the new system.
const target = "/mnt"

// Stage is the part of a plan that a step belongs to.
type Stage string

// The stages, in their order. Only [Plan.Unmount] returns steps of the last one.
const (
	StageDestroy Stage = "destroy"
	StageOpen    Stage = "open" // opens what exists and is closed
	StageCreate  Stage = "create"
	StageMount   Stage = "mount"
	StageUnmount Stage = "unmount"
)

// Step is one command.
type Step struct {
	Stage Stage    `json:"stage"`
	Name  string   `json:"name"` // for people: "format root with ext4"
	Argv  []string `json:"argv"` // never a shell command that is built from data
	// Destroys says, for people, what is lost; empty if nothing is. The content of a disk is mentioned only once, in the
	// destroy stage; the create stage works on empty disks.
	Destroys string `json:"destroys,omitempty"`
	Device   string `json:"device"`
	// Stdin is a path on the target. The runner passes the content of that file to the command, without trailing newlines,
	// as $(cat file) in disko does.
	Stdin string `json:"stdin,omitempty"`
	// Expected is how long the step usually takes; 0 if that is less than a second or not known.
	Expected time.Duration `json:"-"` // in JSON "usual_seconds", a number
	// Hook is the path of the layout's attribute that the command comes from. It is the layout's own shell code, which may
	// do anything.
	Hook string `json:"hook,omitempty"`
	// Disk is set if the step affects only this disk. It may then run concurrently with steps of other disks, provided
	// that all steps between them in the plan are of the same stage and have a Disk too.
	Disk string `json:"-"`
}

// Destructive reports whether the step loses data.
func (s Step) Destructive() bool { return s.Destroys != "" }

// Mode says how much of the disks' content a plan replaces.
type Mode string

// The modes.
const (
	Fresh  Mode = "fresh"  // erase the disks, and make everything
	Format Mode = "format" // make what is missing, keep what is as the layout says
	Mount  Mode = "mount"  // make nothing, only mount
)

// Options are the other inputs of a plan.
type Options struct {
	Mode Mode // Fresh if empty
	// Disks overrides devices of the layout, by the attribute names of the disks. The values are selectors, see
	// [CheckSelector].
	Disks map[string]string
	// Script, if not empty, is the path of disko's own script on the machine. It replaces the steps of mode Fresh. The
	// store paths that hooks mention are copied along with it.
	Script string
}

// Plan is a layout for certain disks. Its methods need the value that [NewPlan] returned; they do not work on one that
// was read back from JSON.
type Plan struct {
	Mode  Mode   `json:"way"`
	Steps []Step `json:"steps"`
	Disks []Disk `json:"disks"` // the disks that it takes, in byte order of their names in the layout
	// Made are RAIDs, volume groups, pools and file systems without a disk, in the order in which they are made.
	Made []Segment `json:"made,omitempty"`

	// Paths is what the facts must tell before the plan can be complete. If it is not empty, or if there are steps of
	// [StageOpen], the plan has no other steps: run them, probe again with these paths, and make another plan.
	Paths ProbePaths `json:"look,omitempty"`

	// Objections are the results of [Plan.Guard], if the plan is shown for a host.
	Objections []Objection `json:"objections,omitempty"`
	// Problems are warnings about the layout and, if the plan is shown for a host, what the host's board cannot do with
	// it.
	Problems []Problem `json:"problems,omitempty"`

	facts  *Facts
	takes  []*topDevice             // the layout's disks, in the order of Disks
	tables map[string]deviceContent // by device, for Verify
	names  []uniqueName
	labels map[string]string // GPT labels, with their attribute paths
	undo   []Step            // steps of StageUnmount
	keys   []string          // paths of key files
	typed  []string          // those of keys that are passphrases
	// containers are the LUKS containers, in the order in which they are made.
	containers []Container
	// hiddenRoot means that the new root has no block device, so the facts do not show whether it is mounted.
	hiddenRoot bool
}

// uniqueName is a name that may exist only once on a machine, such as a device-mapper name, a volume group or a pool.
// kind is the type or file system that lsblk shows.
type uniqueName struct{ kind, name string }

// NewPlan finds the layout's disks on the machine, checks them, and orders the steps. The plan starts from the state
// that the facts show, which may be that of an earlier plan that was interrupted. Without facts, devices have the names
// of the layout, nothing is checked, and the destroy stage assumes that nothing is mounted or open.
//
// All problems are reported at once, each with its attribute path: disks that the machine does not have, that are too
// small, read-only, or in use by the running system.
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
		return nil, errors.New("disko's own script names its disks itself; choose them in the layout, or let " +
			"provision make them (no --disko script)")
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
				b.errorf(d.on.at, "what is on %s is kept, and lsblk alone does not tell what to compare; take the "+
					"facts with `provision facts` on the machine", disk)
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
		b.opening = nil // nothing is mounted after these steps
	case p.Mode == Fresh:
		p.Steps = p.destroy(b.devices)
	}

	p.Steps = slices.Concat(p.Steps, b.opens, b.steps, b.opening, mounts, b.swaps)
	return p, nil
}

// Unfinished reports whether another plan has to follow once this one has run, see Paths.
func (p *Plan) Unfinished() bool {
	// A complete plan that opens something also mounts it, so its last step is not of StageOpen.
	return len(p.Paths) > 0 || len(p.Steps) > 0 && p.Steps[len(p.Steps)-1].Stage == StageOpen
}

// index makes the machine's devices known by all of their names.
func (b *builder) index(f *Facts) {
	b.devices = f.nodes()
	for _, n := range b.devices {
		b.found["/dev/"+cmp.Or(n.KName, n.kernelName())], b.found[n.device()] = n, n
	}
}

// find returns the machine's disk for a disk of the layout, or the zero value and an error in r if there is none.
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

// KeyFiles returns the paths on the target from which keys are read, sorted and without duplicates: passwordFile,
// keyFile, a dataset's keylocation and so on, and /run/provision/passphrase/NAME where disko would ask for a
// passphrase. The operator has to supply these files. Devices, such as a USB stick with a key, are not among them.
func (p *Plan) KeyFiles() []string {
	files := slices.DeleteFunc(slices.Clone(p.keys), func(k string) bool { return k == "" || strings.HasPrefix(k, "/dev/") })
	slices.Sort(files)
	return slices.Compact(files)
}

// Tables returns the plan's disks that get a partition table, which [Plan.Verify] can compare with the table on the
// disk.
func (p *Plan) Tables() []Disk {
	return slices.DeleteFunc(slices.Clone(p.Disks), func(d Disk) bool { _, ok := p.tables[d.Device]; return !ok })
}

// Unmount returns the steps that undo the mount stage and close containers. Commands that have nothing to do fail and
// say so ("not mounted").
func (p *Plan) Unmount() []Step { return slices.Clone(p.undo) }
