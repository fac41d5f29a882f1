// Package timeline shows how the time of an install was spent: it computes the phases from a host's events.
package timeline

import (
	"slices"
	"time"

	"provision/hosts"
)

// Side is whom a phase waits for.
type Side string

// The sides.
const (
	Person  Side = "person"
	Machine Side = "machine"
	Network Side = "network" // including both ends of it
	Server  Side = "server"
)

// The phases of an install, in the order of one without problems. Some run at the same time, a machine whose session
// was lost goes through some again, and phases that are not needed are left out.
const (
	SwitchOn   = "switch-on"
	Firmware   = "firmware"
	Load       = "load"
	Boot       = "boot"
	Facts      = "facts"
	Build      = "build"
	Wait       = "wait"
	Plan       = "plan"
	Disks      = "disks"
	Files      = "files"
	Copy       = "copy"
	Bootloader = "bootloader"
	Unmount    = "unmount"
	Lost       = "lost"
	Restart    = "restart"
	Mend       = "mend"
)

// about says for each phase which side it waits for, and for what, for people.
var about = map[string]struct {
	side  Side
	words string
}{
	SwitchOn:   {Person, "the machine to be switched on and to ask the network"},
	Firmware:   {Machine, "its firmware to ask for the first file"},
	Load:       {Network, "its firmware to load program, kernel and initrd"},
	Boot:       {Machine, "the installer's kernel and stage 1, until SSH answers"},
	Facts:      {Machine, "the machine to say what hardware it has"},
	Build:      {Server, "nix to evaluate and build the host"},
	Wait:       {Server, "the evaluation or build to end"},
	Plan:       {Machine, "the disks to be looked at and the plan to be made"},
	Disks:      {Machine, "partitions, encryption and file systems"},
	Files:      {Network, "secrets, the host's key and extra files"},
	Copy:       {Network, "the closure to arrive in the new file system"},
	Bootloader: {Machine, "nixos-install to make the system start"},
	Unmount:    {Machine, "the last bytes to reach the disks"},
	Lost:       {Machine, "the machine to come back"},
	Restart:    {Machine, "firmware, boot loader and the host, until it proves its key"},
	Mend:       {Person, "what failed to be mended, and to be tried again"},
}

// Timeline is one install. Times are in seconds.
type Timeline struct {
	Host    string      `json:"host"`
	Start   time.Time   `json:"start"`
	Seconds float64     `json:"seconds"` // until its end, or until now
	State   hosts.State `json:"state"`
	Phases  []Phase     `json:"phases"` // in the order of their starts
}

// Phase is a part of the install.
type Phase struct {
	Name    string  `json:"phase"`
	Side    Side    `json:"side"`
	Start   float64 `json:"start"` // seconds after the start of the timeline
	Seconds float64 `json:"seconds"`
	Open    bool    `json:"open,omitempty"`   // it is still running
	Failed  bool    `json:"failed,omitempty"` // its failure ended the install
	Queued  float64 `json:"queued,omitempty"` // the part of Seconds that it waited behind other hosts
	Bytes   int64   `json:"bytes,omitempty"`  // that were sent
	Rate    float64 `json:"rate,omitempty"`   // in bytes per second
	Over    string  `json:"over,omitempty"`   // http, tftp, ssh
	For     string  `json:"waits_for"`        // for people
}

// Of returns the newest install in the events, which are sorted with the oldest first.
func Of(events []hosts.Event, now time.Time) Timeline {
	var r reader
	for _, ev := range events {
		r.read(ev)
	}
	for name := range r.open {
		r.end(name, now).Open = true
	}

	// A phase that took no time is left out, as nobody waited for it. A later build that finds the flake unchanged takes
	// less than a second.
	first := slices.IndexFunc(r.t.Phases, func(p Phase) bool { return p.Name == Build })
	n := -1
	r.t.Phases = slices.DeleteFunc(r.t.Phases, func(p Phase) bool {
		n++
		return !p.Open && ((p.Name == Wait || p.Name == Plan) && p.Seconds < 0.05 ||
			p.Name == Build && p.Seconds < 1 && n > first)
	})
	return r.t
}

// reader builds a timeline from events.
type reader struct {
	t      Timeline
	open   map[string]int // the running phases, as indexes of t.Phases
	over   bool           // the install has ended; later events are not part of it
	failed time.Time      // when it failed, if it was not retried since
	queued time.Time      // since when the build has waited for its turn
}

// at returns a time in seconds from the start.
func (r *reader) at(t time.Time) float64 { return t.Sub(r.t.Start).Seconds() }

// begin starts a phase, unless it is running.
func (r *reader) begin(name string, t time.Time) {
	if _, ok := r.open[name]; ok {
		return
	}
	r.open[name] = len(r.t.Phases)
	r.t.Phases = append(r.t.Phases, Phase{Name: name, Side: about[name].side, For: about[name].words, Start: r.at(t)})
}

// end ends a phase and returns it. If it is not running, the result is a new phase that is not part of the timeline.
func (r *reader) end(name string, t time.Time) *Phase {
	i, ok := r.open[name]
	if !ok {
		return new(Phase)
	}
	delete(r.open, name)
	p := &r.t.Phases[i]
	r.t.Seconds = r.at(t)
	p.Seconds = r.t.Seconds - p.Start
	return p
}

// machine ends all running phases except the build, which does not involve the machine.
func (r *reader) machine(t time.Time) {
	for name := range r.open {
		if name != Build {
			r.end(name, t)
		}
	}
}

// idle reports whether nothing but the build is running.
func (r *reader) idle() bool {
	_, builds := r.open[Build]
	return len(r.open) == 0 || len(r.open) == 1 && builds
}

// read adds an event.
func (r *reader) read(ev hosts.Event) {
	t := ev.Time
	if ev.Kind == hosts.EventEnrolled || r.open == nil {
		*r = reader{t: Timeline{Host: ev.Host, Start: t}, open: make(map[string]int)}
	}
	if r.over {
		return
	}
	r.t.State = ev.State
	switch ev.Kind {
	case hosts.EventRetried, hosts.EventNetboot, hosts.EventContacted, hosts.EventProved:
		if !r.failed.IsZero() {
			r.begin(Mend, r.failed)
			r.end(Mend, t)
			r.failed = time.Time{}
		}
	}

	switch ev.Kind {
	case hosts.EventEnrolled, hosts.EventRetried:
		r.begin(SwitchOn, t)
	case hosts.EventNetboot:
		r.machine(t)
		r.begin(Firmware, t)
	case hosts.EventQueued, hosts.EventBuilding, hosts.EventBuilt:
		r.build(ev)
	case hosts.EventFetched:
		r.fetched(ev)
	case hosts.EventContacted:
		r.machine(t)
		r.begin(Facts, t)
	case hosts.EventStarted, hosts.EventFinished:
		r.phase(ev)
	case hosts.EventLost:
		r.machine(t)
		r.begin(Lost, t)
	case hosts.EventRebooted:
		r.machine(t)
		r.begin(Restart, t)
	case hosts.EventProved, hosts.EventRehearsed, hosts.EventCancelled, hosts.EventFailed:
		r.ended(ev)
	}
}

// build reads an event about the build.
func (r *reader) build(ev hosts.Event) {
	switch ev.Kind {
	case hosts.EventQueued:
		r.begin(Build, ev.Time)
		r.queued = ev.Time
		return
	case hosts.EventBuilding:
		r.begin(Build, ev.Time)
	}

	if i, ok := r.open[Build]; ok && !r.queued.IsZero() {
		r.t.Phases[i].Queued += ev.Time.Sub(r.queued).Seconds()
	}
	r.queued = time.Time{}
	if ev.Kind == hosts.EventBuilt {
		r.end(Build, ev.Time)
		if _, ok := r.open[Wait]; ok {
			r.end(Wait, ev.Time)
			r.begin(Plan, ev.Time)
		}
	}
}

// fetched reads the event that a file was fetched.
func (r *reader) fetched(ev hosts.Event) {
	r.end(SwitchOn, ev.Time)
	r.end(Firmware, ev.Time)
	if ev.Work == nil {
		r.begin(Load, ev.Time)
		return
	}
	p := r.end(Load, ev.Time)
	p.moved(ev.Work, ev.Work.Took.Seconds())
	r.begin(Boot, ev.Time)
}

// phase reads an event about one of the installer's phases.
func (r *reader) phase(ev hosts.Event) {
	name := string(ev.Phase)
	if _, known := about[name]; !known {
		return
	}
	if ev.Kind == hosts.EventStarted {
		r.end(Facts, ev.Time)
		r.end(Wait, ev.Time)
		r.end(Plan, ev.Time)
		if ev.Phase == hosts.PhaseBuild { // the machine is ready for the system
			name = Plan
			if _, builds := r.open[Build]; builds {
				name = Wait
			}
		}

		r.begin(name, ev.Time)
		return
	}

	p := r.end(name, ev.Time)
	if ev.Work != nil {
		p.moved(ev.Work, p.Seconds)
	}
	switch {
	case name == Bootloader:
		r.begin(Unmount, ev.Time)
	case r.idle():
		r.begin(Wait, ev.Time)
	}
}

// ended reads an event that ends the install. A failed one may be retried.
func (r *reader) ended(ev hosts.Event) {
	if r.over = ev.Kind != hosts.EventFailed; !r.over {
		r.failed = ev.Time
	}
	_, known := r.open[string(ev.Phase)]
	for name := range r.open {
		p := r.end(name, ev.Time)
		p.Failed = !r.over && (!known || name == string(ev.Phase))
	}
}

// moved records what was sent in a phase.
func (p *Phase) moved(w *hosts.Work, seconds float64) {
	p.Bytes, p.Over = w.Bytes, w.Over
	if seconds > 0 {
		p.Rate = float64(w.Bytes) / seconds
	}
}
