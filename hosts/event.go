package hosts

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Kind is what happened.
type Kind string

// The kinds of events.
const (
	Enrolled  Kind = "enrolled"  // by the operator, with a permit
	Retried   Kind = "retried"   // by the operator: a failed install goes on under its permit
	Summoned  Kind = "summoned"  // the machine was made to come to its installer
	Netboot   Kind = "netboot"   // a boot was handed to the machine
	Fetched   Kind = "fetched"   // the machine fetched a file of its boot
	Contacted Kind = "contacted" // the installer answered with the boot's key
	Lost      Kind = "lost"      // the SSH session to the installer broke
	Queued    Kind = "queued"    // the build waits for its turn
	Building  Kind = "building"  // the build begins, or goes on after it waited
	Built     Kind = "built"     // the host's system is in our store
	Burned    Kind = "burned"    // the permit is burned, or taken up again, for these disks
	Started   Kind = "started"   // a phase began; others may be under way
	Advanced  Kind = "advanced"  // progress within the phase that is waited for; only the newest is kept
	Finished  Kind = "finished"  // a phase ended well; others may be under way
	Rebooted  Kind = "rebooted"  // told to start from its disk; the permit is spent
	Waiting   Kind = "waits"     // stage 1 of the restarted machine waits for a passphrase at Address; empty: no more
	Sighted   Kind = "seen"      // the restarted machine showed itself on the network, as Message says; that proves nothing
	Returned  Kind = "returned"  // the restarted machine asked the network for a boot again; Event.Count says how often
	Proved    Kind = "proved"    // the host answered with its own key, or did what Options.Proof asks for
	Broke     Kind = "failed"    // Event.Phase and Event.Message say where and why
	Cancelled Kind = "cancelled" // by the operator
	Rehearsal Kind = "rehearsed" // a dry run came to its end; the permit is spent
	Moved     Kind = "address"   // the machine was seen at another address
	Noted     Kind = "note"      // worth telling, changes nothing
	Changed   Kind = "changed"   // by the operator, without a decision to erase
	Restored  Kind = "restored"  // the host was forgotten, and the operator took it back
	Revealed  Kind = "revealed"  // escrowed passphrases were handed out, encrypted; Message says to whom
)

// Event is everything that can happen to a host. Which of the fields after
// Message count depends on the Kind.
type Event struct {
	Host    string    `json:"host"`
	Number  uint64    `json:"number"` // per host, from 1
	Time    time.Time `json:"time"`
	Kind    Kind      `json:"kind"`
	State   State     `json:"state"` // after the event
	Phase   Phase     `json:"phase,omitempty"`
	Message string    `json:"message,omitempty"`

	Work     *Work     `json:"work,omitempty"`
	Progress *Progress `json:"progress,omitempty"`
	Address  string    `json:"address,omitempty"`
	System   string    `json:"system,omitempty"`
	Machine  string    `json:"machine,omitempty"`
	Layout   string    `json:"layout,omitempty"`
	Method   Method    `json:"method,omitzero"`
	Disks    []Disk    `json:"disks,omitempty"`
	Via      Via       `json:"via,omitempty"`
	Wipe     []string  `json:"wipe,omitempty"`
	Port     int       `json:"port,omitempty"`  // where it proved itself; 0: 22
	Count    int       `json:"count,omitempty"` // of returns since the restart
	// Stranger means that anybody on the network can have caused it.
	Stranger bool      `json:"stranger,omitempty"`
	Boot     *Boot     `json:"-"`
	Expected *Expected `json:"-"`
	Enrol    *Host     `json:"-"`
	Change   *Change   `json:"-"`
	// Takes are Disks as they are compared with what was confirmed; of Burned.
	Takes []Taken `json:"-"`
	// Error is the host's from now on; of Cancelled.
	Error string `json:"-"`
	// Confirmed is what the operator agreed to now; of Retried.
	Confirmed *Confirmed `json:"-"`

	unrecorded bool // it changes the host, and is not in its log
}

// Work is what a machine was sent.
type Work struct {
	Bytes int64         `json:"bytes"`
	Over  string        `json:"over"`           // http, tftp, ssh
	Took  time.Duration `json:"took,omitempty"` // ns; left out where it is a phase that took it
}

type rule struct {
	from []State // nil: any
	to   State   // "": stays
}

// strangersCan are the kinds that a forged packet is enough for.
var strangersCan = []Kind{Netboot, Moved, Returned, Sighted}

var working = []State{Ready, Booting, Live, Installing}

// The table: which event may follow which state, and where it leads. An empty
// State is a host that does not exist yet.
var table = map[Kind]rule{
	Enrolled:  {[]State{"", Ready, Rehearsed, Failed, Rebooting, Installed}, Ready},
	Retried:   {[]State{Ready, Booting, Failed}, Ready},
	Summoned:  {[]State{Ready, Booting}, ""},
	Netboot:   {[]State{Ready, Booting, Live, Installing, Failed}, Booting},
	Fetched:   {[]State{Booting}, ""},
	Contacted: {[]State{Ready, Booting, Live, Installing, Failed}, Live},
	Lost:      {[]State{Live, Installing}, ""},
	Queued:    {nil, ""},
	Building:  {nil, ""},
	Built:     {nil, ""},
	Burned:    {[]State{Live, Installing}, Installing},
	Started:   {working, ""},
	Advanced:  {working, ""},
	Finished:  {working, ""},
	Rebooted:  {[]State{Installing}, Rebooting},
	Waiting:   {[]State{Rebooting, Failed}, ""},
	Sighted:   {[]State{Rebooting, Failed}, ""},
	Returned:  {[]State{Rebooting, Failed}, ""},
	Proved:    {[]State{Rebooting, Failed}, Installed},
	Broke:     {[]State{Ready, Booting, Live, Installing, Rebooting}, Failed},
	Cancelled: {[]State{Ready, Booting, Live, Installing, Failed}, Failed},
	Rehearsal: {[]State{Live}, Rehearsed},
	Moved:     {nil, ""},
	Noted:     {nil, ""},
	Restored:  {nil, ""},
	Changed:   {nil, ""},
	Revealed:  {nil, ""},
}

// next is the host after the event, or why the event cannot follow. It is
// pure; ev.Time must be set.
func next(h Host, ev Event) (Host, error) {
	r, known := table[ev.Kind]
	if !known {
		return h, fmt.Errorf("unknown event %q", ev.Kind)
	}
	if h.State == "" && ev.Kind != Enrolled {
		return h, fmt.Errorf("host %s: %w", ev.Host, ErrNotFound)
	}
	if r.from != nil && !slices.Contains(r.from, h.State) {
		return h, refused(h, ev)
	}
	if err := change(&h, ev); err != nil {
		return h, err
	}
	to := r.to
	if ev.Kind == Cancelled && h.Intact() {
		to = Installed // as it was
	}
	if to != "" && to != h.State {
		h.State, h.Since = to, ev.Time
	}
	return h, nil
}

func refused(h Host, ev Event) error {
	switch ev.Kind {
	case Enrolled:
		return fmt.Errorf("%s is %s: %w; run `provision cancel %s` first", h.Name, h.State, ErrRefused, h.Name)
	case Retried:
		return fmt.Errorf("%s is %s: %w; only a failed install is tried again, or one whose machine has not come to its installer", h.Name, h.State, ErrRefused)
	case Cancelled:
		return fmt.Errorf("%s is %s: %w; there is nothing to cancel", h.Name, h.State, ErrRefused)
	}
	return fmt.Errorf("%s is %s: %w (event %q)", h.Name, h.State, ErrRefused, ev.Kind)
}

// change applies what the event carries.
func change(h *Host, ev Event) error {
	switch ev.Kind {
	case Enrolled:
		return enrol(h, ev)
	case Retried:
		return retry(h, ev)
	case Summoned:
		h.Permit.Come = ev.Time
	case Netboot:
		return netboot(h, ev)
	case Fetched:
		b := h.Boot
		if b.Token != ev.Boot.Token || !b.Serves(ev.Time) || (b.Client != "" && b.Client != ev.Boot.Client) {
			return refused(*h, ev)
		}
		if b.Client == "" && ev.Boot.Client != "" { // a boot that nobody fetched uses nothing up
			h.Permit.Boots++
			h.bind(*ev.Boot)
		}
		h.Boot, h.Address = *ev.Boot, ev.Address
		h.Board = cmp.Or(h.Board, h.Boot.Board)
		if ev.Method != (Method{}) {
			h.Method = ev.Method
		}
	case Contacted:
		if !h.Permit.Live(ev.Time) || ev.Boot == nil || ev.Boot.Token != h.Boot.Token {
			return refused(*h, ev)
		}
		h.Contact = true
		h.Lost = time.Time{}
		h.Error = ""
		h.Address = ev.Address
		h.bind(h.Boot)
		h.enter(PhaseFacts)
	case Lost:
		h.Contact, h.Lost = false, ev.Time
		if ev.Time.Sub(h.Counted) >= lossPause {
			h.Counted = ev.Time
			h.Losses++
		}
	case Built:
		h.System = ev.System
		if ev.Expected != nil {
			h.Expected = *ev.Expected
		}
	case Burned:
		return burn(h, ev)
	case Started:
		h.enter(ev.Phase)
	case Advanced:
		h.Phase, h.Progress = ev.Phase, *ev.Progress
	case Finished:
		if ev.Layout != "" {
			h.Layout = ev.Layout
		}
	case Rebooted:
		h.Contact, h.Permit.Spent = false, ev.Time
		h.Restart = Restart{}
		h.enter(PhaseReboot)
	case Waiting, Sighted, Returned, Proved:
		if !h.Restarting() { // nothing was installed
			return refused(*h, ev)
		}
		h.restart(ev)
	case Broke:
		h.Phase = ev.Phase
		h.Error = ev.Message
		h.Contact = false
	case Cancelled:
		if !h.Permit.Spent.IsZero() {
			return fmt.Errorf("%s has no permit to cancel: it is %s", h.Name, h.State)
		}
		h.Permit.Spent = ev.Time
		h.Error = cmp.Or(ev.Error, "cancelled by the operator")
		h.restore()
		h.enter("")
		h.Boot.Expires, h.Contact = ev.Time, false
	case Rehearsal:
		if !h.Permit.DryRun {
			return refused(*h, ev)
		}
		h.Contact, h.Permit.Spent = false, ev.Time
		h.restore()
		h.enter("")
	case Moved:
		h.Address = ev.Address
	case Changed:
		return set(h, ev)
	case Restored: // its boots are gone; where it was restarting, that is followed from now on
		h.Boot = Boot{}
		h.Tokens = nil
		h.Contact = false
		if h.State == Rebooting {
			h.Since = ev.Time
		}
	}
	return nil
}

// lossPause is how long sessions that break after one that was counted are the same loss: a switch that starts, or a
// loose cable.
const lossPause = 30 * time.Second

// restore makes what stands on the machine's disks, if anything does, the host again.
func (h *Host) restore() {
	if h.Intact() {
		h.System = h.Standing.System
		h.HostKey = h.Standing.HostKey
		h.Error = ""
	}
}

func (h *Host) enter(p Phase) { h.Phase, h.Progress = p, Progress{} }

func enrol(h *Host, ev Event) error {
	old, e := *h, ev.Enrol
	*h = Host{
		Name:      e.Name,
		MACs:      e.MACs,
		Flake:     e.Flake,
		Arch:      e.Arch,
		HostKey:   e.HostKey,
		Choices:   e.Choices,
		DiskKeys:  e.DiskKeys,
		Generated: e.Generated,
		Permit:    e.Permit,
		Owned:     old.Owned,
		LastEvent: old.LastEvent,
		Events:    old.Events,
		Tokens:    old.Tokens,
	}
	// A machine that still runs the installer of its last boot needs no other,
	// if it is still the machine that is meant.
	if slices.Equal(old.MACs, h.MACs) {
		h.Boot = old.Boot
		h.Address = old.Address
		h.Method = old.Method
		h.Serial = old.Serial
	} else { // on another machine, a name such as /dev/vda is another disk
		h.Owned = namedDisks(old.Owned)
	}
	take := h.Permit.Take
	if old.State == Rebooting || old.State == Installed || old.State == Rehearsed && old.Intact() ||
		take != nil && take.Installer {
		h.Boot = Boot{} // its installer is gone, or is another
	}
	h.Standing = old.Standing
	h.State, h.Since = Ready, ev.Time
	h.enter(PhaseNetboot)
	return nil
}

func netboot(h *Host, ev Event) error {
	if ok, why := h.MayBoot(ev.Time); !ok {
		return fmt.Errorf("%s: %w: %s", h.Name, ErrRefused, why)
	}
	if h.Machine != "" && h.Machine != ev.Machine {
		return fmt.Errorf("%s: %w: %s", h.Name, ErrRefused, h.OtherMachine(ev.Machine))
	}
	if h.Serial != "" && ev.Boot.Serial != "" && h.Serial != ev.Boot.Serial {
		return fmt.Errorf("%s: %w: %s", h.Name, ErrRefused, h.OtherBoard(ev.Boot.Serial))
	}
	h.Losses = 0
	// What the operator said stays; auto is decided by what asked first.
	h.Board = cmp.Or(h.Board, ev.Boot.Board)
	h.Boot = *ev.Boot
	h.Error = ""
	h.Contact = false
	h.Lost = time.Time{}
	h.Boot.Machine = ev.Machine
	h.Permit.Come = ev.Time
	h.Tokens = append(h.Tokens, ev.Boot.Token)
	h.enter(PhaseNetboot)
	return nil
}

// OtherMachine says that a machine with another UUID than that of the host's boots uses its MAC, and what to do if it
// is the host's nevertheless.
func (h *Host) OtherMachine(uuid string) string {
	return fmt.Sprintf("another machine (UUID %s, not %s) uses this host's MAC; if it is the one that is meant, because its mainboard was "+
		"changed or its firmware tells another UUID each time, run `provision retry %s`", cmp.Or(uuid, "not told"), h.Machine, h.Name)
}

// OtherBoard says that a Raspberry Pi with another serial number than the host's uses its MAC, and what to do if it is
// the host's nevertheless.
func (h *Host) OtherBoard(serial string) string {
	return fmt.Sprintf("another Raspberry Pi (serial number %s, not %s) uses this host's MAC; "+
		"if it is the one that is meant, run `provision retry %s`", serial, h.Serial, h.Name)
}

// bind makes the machine that asked for a boot the host's: the boot was claimed, or its installer contacted. One packet
// that asks for a boot proves nothing.
func (h *Host) bind(b Boot) {
	h.Machine = cmp.Or(b.Machine, h.Machine)
	if !b.Several {
		h.Serial = cmp.Or(b.Serial, h.Serial)
	}
}

// retry lets a failed install go on: what the permit was burned for stays as it
// is, and a permit that is not burned is as good as new.
func retry(h *Host, ev Event) error {
	p := &h.Permit
	switch {
	case !p.Spent.IsZero() && h.Phase == PhaseReboot:
		return fmt.Errorf("%s is installed and did not come up: %w; see its screen, or run `provision reinstall %s`", h.Name, ErrRefused, h.Name)
	case !p.Spent.IsZero():
		return fmt.Errorf("the permit of %s was withdrawn: %w; enroll it again, or run `provision reinstall %s`", h.Name, ErrRefused, h.Name)
	}
	if p.Burned.IsZero() {
		p.Expires = ev.Time.Add(max(p.Expires.Sub(p.Issued), time.Hour))
	}
	p.Boots = 0
	p.Retries++
	if ev.Via != "" {
		p.Via = ev.Via
	}
	if ev.Confirmed != nil {
		p.Confirmed = ev.Confirmed
	}
	h.Wipe = append(h.Wipe, ev.Wipe...)
	p.Come = time.Time{}
	h.Machine, h.Serial = "", "" // what machine it is, the next boot tells
	h.Error = ""
	h.Contact = false
	h.Lost = time.Time{}
	h.Losses = 0
	h.enter(PhaseNetboot)
	return nil
}

// burn names the disks. A permit that is burned already is taken up again,
// but only for the very same disks.
func burn(h *Host, ev Event) error {
	p := &h.Permit
	disks := apart(ev.Disks)
	if !p.Live(ev.Time) || p.DryRun {
		return refused(*h, ev)
	}
	if p.Confirmed != nil && len(ev.Takes) != len(ev.Disks) {
		return fmt.Errorf("%s: which of the disks are erased is not said: %w", h.Name, ErrRefused)
	}
	if err := h.CheckConfirmed(ev.Takes); err != nil {
		return err
	}
	switch {
	case p.Burned.IsZero():
		p.Burned, p.Disks = ev.Time, disks
		h.Standing = Standing{}
	case !slices.EqualFunc(p.Disks, disks, Disk.Same):
		return fmt.Errorf("%s: the permit was burned for %s, and the layout now takes %s: %w; "+
			"if that is meant, run `provision cancel %s` and enroll it again",
			h.Name, diskNames(p.Disks), diskNames(disks), ErrRefused, h.Name)
	}
	h.own(disks)
	return nil
}

func diskNames(disks []Disk) string {
	var names []string
	for _, d := range disks {
		name := d.Device
		if d.Serial != "" {
			name += " (serial " + d.Serial + ")"
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}
