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
	EventEnrolled  Kind = "enrolled"  // by the operator, with a permit
	EventRetried   Kind = "retried"   // by the operator: a failed install goes on under its permit
	EventSummoned  Kind = "summoned"  // the machine was made to come to its installer
	EventNetboot   Kind = "netboot"   // a boot was handed to the machine
	EventFetched   Kind = "fetched"   // the machine fetched a file of its boot
	EventContacted Kind = "contacted" // the installer answered with the boot's key
	EventLost      Kind = "lost"      // the SSH session to the installer broke
	EventQueued    Kind = "queued"    // the build waits for its turn
	EventBuilding  Kind = "building"  // the build begins, or goes on after it waited
	EventBuilt     Kind = "built"     // the host's system is in our store
	EventBurned    Kind = "burned"    // the permit is burned, or taken up again, for these disks
	EventStarted   Kind = "started"   // a phase began; others may be under way
	EventAdvanced  Kind = "advanced"  // progress within the phase that is waited for; only the newest is kept
	EventFinished  Kind = "finished"  // a phase ended well; others may be under way
	EventRebooted  Kind = "rebooted"  // told to start from its disk; the permit is spent
	EventWaits     Kind = "waits"     // stage 1 of the restarted machine waits for a passphrase at Address; empty: no more
	EventSeen      Kind = "seen"      // the restarted machine showed itself on the network, as Message says; that proves nothing
	EventReturned  Kind = "returned"  // the restarted machine asked the network for a boot again; Event.Count says how often
	EventProved    Kind = "proved"    // the host answered with its own key, or did what Options.Proof asks for
	EventFailed    Kind = "failed"    // Event.Phase and Event.Message say where and why
	EventCancelled Kind = "cancelled" // by the operator
	EventRehearsed Kind = "rehearsed" // a dry run came to its end; the permit is spent
	EventAddress   Kind = "address"   // the machine was seen at another address
	EventNote      Kind = "note"      // worth telling, changes nothing
	EventChanged   Kind = "changed"   // by the operator, without a decision to erase
	EventRestored  Kind = "restored"  // the host was forgotten, and the operator took it back
	EventRevealed  Kind = "revealed"  // escrowed passphrases were handed out, encrypted; Message says to whom
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
	Enroll   *Host     `json:"-"`
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
var strangersCan = []Kind{EventNetboot, EventAddress, EventReturned, EventSeen}

var working = []State{StateReady, StateBooting, StateLive, StateInstalling}

// The table: which event may follow which state, and where it leads. An empty
// State is a host that does not exist yet.
var table = map[Kind]rule{
	EventEnrolled:  {[]State{"", StateReady, StateRehearsed, StateFailed, StateRebooting, StateInstalled}, StateReady},
	EventRetried:   {[]State{StateReady, StateBooting, StateFailed}, StateReady},
	EventSummoned:  {[]State{StateReady, StateBooting}, ""},
	EventNetboot:   {[]State{StateReady, StateBooting, StateLive, StateInstalling, StateFailed}, StateBooting},
	EventFetched:   {[]State{StateBooting}, ""},
	EventContacted: {[]State{StateReady, StateBooting, StateLive, StateInstalling, StateFailed}, StateLive},
	EventLost:      {[]State{StateLive, StateInstalling}, ""},
	EventQueued:    {nil, ""},
	EventBuilding:  {nil, ""},
	EventBuilt:     {nil, ""},
	EventBurned:    {[]State{StateLive, StateInstalling}, StateInstalling},
	EventStarted:   {working, ""},
	EventAdvanced:  {working, ""},
	EventFinished:  {working, ""},
	EventRebooted:  {[]State{StateInstalling}, StateRebooting},
	EventWaits:     {[]State{StateRebooting, StateFailed}, ""},
	EventSeen:      {[]State{StateRebooting, StateFailed}, ""},
	EventReturned:  {[]State{StateRebooting, StateFailed}, ""},
	EventProved:    {[]State{StateRebooting, StateFailed}, StateInstalled},
	EventFailed:    {[]State{StateReady, StateBooting, StateLive, StateInstalling, StateRebooting}, StateFailed},
	EventCancelled: {[]State{StateReady, StateBooting, StateLive, StateInstalling, StateFailed}, StateFailed},
	EventRehearsed: {[]State{StateLive}, StateRehearsed},
	EventAddress:   {nil, ""},
	EventNote:      {nil, ""},
	EventRestored:  {nil, ""},
	EventChanged:   {nil, ""},
	EventRevealed:  {nil, ""},
}

// next is the host after the event, or why the event cannot follow. It is
// pure; ev.Time must be set.
func next(h Host, ev Event) (Host, error) {
	r, known := table[ev.Kind]
	if !known {
		return h, fmt.Errorf("unknown event %q", ev.Kind)
	}
	if h.State == "" && ev.Kind != EventEnrolled {
		return h, fmt.Errorf("host %s: %w", ev.Host, ErrNotFound)
	}
	if r.from != nil && !slices.Contains(r.from, h.State) {
		return h, refused(h, ev)
	}
	if err := change(&h, ev); err != nil {
		return h, err
	}
	to := r.to
	if ev.Kind == EventCancelled && h.HasInstalled() {
		to = StateInstalled // as it was
	}
	if to != "" && to != h.State {
		h.State, h.Since = to, ev.Time
	}
	return h, nil
}

func refused(h Host, ev Event) error {
	switch ev.Kind {
	case EventEnrolled:
		return fmt.Errorf("%s is %s: %w; run `provision cancel %s` first", h.Name, h.State, ErrRefused, h.Name)
	case EventRetried:
		return fmt.Errorf("%s is %s: %w; only a failed install is tried again, or one whose machine has not come to its installer", h.Name, h.State, ErrRefused)
	case EventCancelled:
		return fmt.Errorf("%s is %s: %w; there is nothing to cancel", h.Name, h.State, ErrRefused)
	}
	return fmt.Errorf("%s is %s: %w (event %q)", h.Name, h.State, ErrRefused, ev.Kind)
}

// change applies what the event carries.
func change(h *Host, ev Event) error {
	switch ev.Kind {
	case EventEnrolled:
		return enrollHost(h, ev)
	case EventRetried:
		return retry(h, ev)
	case EventSummoned:
		h.Permit.Come = ev.Time
	case EventNetboot:
		return netboot(h, ev)
	case EventFetched:
		b := h.Boot
		if b.Token != ev.Boot.Token || !b.Serves(ev.Time) || (b.TakenBy != "" && b.TakenBy != ev.Boot.TakenBy) {
			return refused(*h, ev)
		}
		if b.TakenBy == "" && ev.Boot.TakenBy != "" { // a boot that nobody fetched uses nothing up
			h.Permit.Boots++
			h.bind(*ev.Boot)
		}
		h.Boot, h.Address = *ev.Boot, ev.Address
		h.Board = cmp.Or(h.Board, h.Boot.Board)
		if ev.Method != (Method{}) {
			h.Method = ev.Method
		}
	case EventContacted:
		if !h.Permit.Live(ev.Time) || ev.Boot == nil || ev.Boot.Token != h.Boot.Token {
			return refused(*h, ev)
		}
		h.Connected = true
		h.Lost = time.Time{}
		h.Error = ""
		h.Address = ev.Address
		h.bind(h.Boot)
		h.enter(PhaseFacts)
	case EventLost:
		h.Connected, h.Lost = false, ev.Time
		if ev.Time.Sub(h.LastDisconnect) >= lossPause {
			h.LastDisconnect = ev.Time
			h.Disconnects++
		}
	case EventBuilt:
		h.System = ev.System
		if ev.Expected != nil {
			h.Expected = *ev.Expected
		}
	case EventBurned:
		return burn(h, ev)
	case EventStarted:
		h.enter(ev.Phase)
	case EventAdvanced:
		h.Phase, h.Progress = ev.Phase, *ev.Progress
	case EventFinished:
		if ev.Layout != "" {
			h.Layout = ev.Layout
		}
	case EventRebooted:
		h.Connected, h.Permit.Spent = false, ev.Time
		h.Restart = Restart{}
		h.enter(PhaseReboot)
	case EventWaits, EventSeen, EventReturned, EventProved:
		if !h.Restarting() { // nothing was installed
			return refused(*h, ev)
		}
		h.restart(ev)
	case EventFailed:
		h.Phase = ev.Phase
		h.Error = ev.Message
		h.Connected = false
	case EventCancelled:
		if !h.Permit.Spent.IsZero() {
			return fmt.Errorf("%s has no permit to cancel: it is %s", h.Name, h.State)
		}
		h.Permit.Spent = ev.Time
		h.Error = cmp.Or(ev.Error, "cancelled by the operator")
		h.restore()
		h.enter("")
		h.Boot.Expires, h.Connected = ev.Time, false
	case EventRehearsed:
		if !h.Permit.DryRun {
			return refused(*h, ev)
		}
		h.Connected, h.Permit.Spent = false, ev.Time
		h.restore()
		h.enter("")
	case EventAddress:
		h.Address = ev.Address
	case EventChanged:
		return set(h, ev)
	case EventRestored: // its boots are gone; where it was restarting, that is followed from now on
		h.Boot = Boot{}
		h.Tokens = nil
		h.Connected = false
		if h.State == StateRebooting {
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
	if h.HasInstalled() {
		h.System = h.Installed.System
		h.HostKey = h.Installed.HostKey
		h.Error = ""
	}
}

func (h *Host) enter(p Phase) { h.Phase, h.Progress = p, Progress{} }

func enrollHost(h *Host, ev Event) error {
	old, e := *h, ev.Enroll
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
	if old.State == StateRebooting || old.State == StateInstalled || old.State == StateRehearsed && old.HasInstalled() ||
		take != nil && take.Installer {
		h.Boot = Boot{} // its installer is gone, or is another
	}
	h.Installed = old.Installed
	h.State, h.Since = StateReady, ev.Time
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
	h.Disconnects = 0
	// What the operator said stays; auto is decided by what asked first.
	h.Board = cmp.Or(h.Board, ev.Boot.Board)
	h.Boot = *ev.Boot
	h.Error = ""
	h.Connected = false
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
	h.Connected = false
	h.Lost = time.Time{}
	h.Disconnects = 0
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
		h.Installed = InstalledSystem{}
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
