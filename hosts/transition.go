package hosts

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"provision/internal/store"
)

// transition is a row of the table: what an event does to a host.
type transition struct {
	from     []State   // states that it may follow; nil: any, except that the host must exist
	to       State     // the next state; "": it stays the same
	change   applyFunc // what else changes in the host; nil: nothing
	beside   writeFunc // further records that are written; nil: none
	stranger bool      // a forged packet is enough to cause it
	refused  string    // what the operator reads if it may not follow; "": the name of the event
}

// applyFunc applies the event's contents to the host. If it returns ErrRefused itself, the message of the row is used.
type applyFunc func(h *Host, ev Event) error

// writeFunc returns the further writes of an event, which are in the same transaction as the host.
type writeFunc func(inv *Inventory, before, after *Host, ev Event) ([]store.Version, []store.Write, error)

var (
	working    = []State{StateReady, StateBooting, StateLive, StateInstalling}
	restarting = []State{StateRebooting, StateFailed}
	unfinished = append(slices.Clone(working), StateFailed)
)

// transitions is the table: which event may follow which state, and what it changes.
var transitions = map[Kind]transition{
	EventEnrolled: {
		from:    []State{"", StateReady, StateRehearsed, StateFailed, StateRebooting, StateInstalled},
		to:      StateReady,
		change:  enrollHost,
		refused: "run `provision cancel HOST` first",
	},
	EventRetried: {
		from:    []State{StateReady, StateBooting, StateFailed},
		to:      StateReady,
		change:  retry,
		refused: "only a failed install is tried again, or one whose machine has not come to its installer",
	},
	EventSummoned: {
		from:   []State{StateReady, StateBooting},
		change: func(h *Host, ev Event) error { h.Permit.Come = ev.Time; return nil },
	},
	EventNetboot:   {from: unfinished, to: StateBooting, change: netboot, stranger: true},
	EventFetched:   {from: []State{StateBooting}, change: fetchFile},
	EventContacted: {from: unfinished, to: StateLive, change: contactInstaller},
	EventLost:      {from: []State{StateLive, StateInstalling}, change: loseInstaller},
	EventQueued:    {},
	EventBuilding:  {},
	EventBuilt:     {change: noteBuild},
	EventBurned: {
		from:   []State{StateLive, StateInstalling},
		to:     StateInstalling,
		change: burn,
		beside: (*Inventory).takeDisks,
	},
	EventStarted: {
		from:   working,
		change: func(h *Host, ev Event) error { h.enter(ev.Phase); return nil },
	},
	EventAdvanced: {
		from:   working,
		change: func(h *Host, ev Event) error { h.Phase, h.Progress = ev.Phase, *ev.Progress; return nil },
	},
	EventFinished: {
		from:   working,
		change: func(h *Host, ev Event) error { h.Layout = cmp.Or(ev.Layout, h.Layout); return nil },
	},
	EventRebooted: {from: []State{StateInstalling}, to: StateRebooting, change: rebootHost},
	EventWaits:    {from: restarting, change: noteWaiting},
	EventSeen:     {from: restarting, change: noteSeen, stranger: true},
	EventReturned: {from: restarting, change: noteReturn, stranger: true},
	EventProved:   {from: restarting, to: StateInstalled, change: proveHost, beside: (*Inventory).settleProved},
	EventFailed:   {from: append(slices.Clone(working), StateRebooting), to: StateFailed, change: failInstall},
	EventCancelled: {
		from:    unfinished,
		to:      StateFailed,
		change:  cancelInstall,
		beside:  (*Inventory).settleUndone,
		refused: "there is nothing to cancel",
	},
	EventRehearsed: {
		from:   []State{StateLive},
		to:     StateRehearsed,
		change: endRehearsal,
		beside: (*Inventory).settleUndone,
	},
	EventAddress: {
		change:   func(h *Host, ev Event) error { h.Address = ev.Address; return nil },
		stranger: true,
	},
	EventNote:     {},
	EventRestored: {change: restoreForgotten},
	EventChanged:  {change: set},
	EventRevealed: {},
}

// next returns the host after the event, or an error if the event cannot follow. It is pure; ev.Time must be set.
func next(h Host, ev Event) (Host, error) {
	row, known := transitions[ev.Kind]
	if !known {
		return h, fmt.Errorf("unknown event %q", ev.Kind)
	}
	if h.State == "" && ev.Kind != EventEnrolled {
		return h, fmt.Errorf("host %s: %w", ev.Host, ErrNotFound)
	}
	if row.from != nil && !slices.Contains(row.from, h.State) {
		return h, row.refuse(h, ev)
	}

	to := row.to
	if row.change != nil {
		switch err := row.change(&h, ev); {
		case err == ErrRefused:
			return h, row.refuse(h, ev)
		case err != nil:
			return h, err
		}
	}

	if ev.Kind == EventCancelled && h.HasInstalled() {
		to = StateInstalled // as before the permit
	}
	if to != "" && to != h.State {
		h.State, h.Since = to, ev.Time
	}
	return h, nil
}

// refuse returns the error for an event that may not follow the host's state.
func (row transition) refuse(h Host, ev Event) error {
	refusal := fmt.Errorf("%s is %s: %w", h.Name, h.State, ErrRefused)
	if row.refused == "" {
		return fmt.Errorf("%w (event %q)", refusal, ev.Kind)
	}
	return fmt.Errorf("%w; %s", refusal, strings.ReplaceAll(row.refused, "HOST", h.Name))
}

// fetchFile records that the machine fetched a file of its boot. The first one counts as a boot of the permit.
func fetchFile(h *Host, ev Event) error {
	b := h.Boot
	if b.Token != ev.Boot.Token || !b.Serves(ev.Time) || (b.TakenBy != "" && b.TakenBy != ev.Boot.TakenBy) {
		return ErrRefused
	}
	if b.TakenBy == "" && ev.Boot.TakenBy != "" { // only a boot that was fetched counts
		h.Permit.Boots++
		h.bind(*ev.Boot)
	}
	h.Boot, h.Address = *ev.Boot, ev.Address
	h.Board = cmp.Or(h.Board, h.Boot.Board)
	h.Method = cmp.Or(ev.Method, h.Method)
	return nil
}

// contactInstaller records that the installer of the host's boot answered.
func contactInstaller(h *Host, ev Event) error {
	if !h.Permit.Live(ev.Time) || ev.Boot == nil || ev.Boot.Token != h.Boot.Token {
		return ErrRefused
	}
	h.Connected = true
	h.Lost = time.Time{}
	h.Error = ""
	h.Address = ev.Address
	h.bind(h.Boot)
	h.enter(PhaseFacts)
	return nil
}

// loseInstaller records that the session to the installer broke.
func loseInstaller(h *Host, ev Event) error {
	h.Connected, h.Lost = false, ev.Time
	if ev.Time.Sub(h.LastDisconnect) >= lossPause {
		h.LastDisconnect = ev.Time
		h.Disconnects++
	}
	return nil
}

// noteBuild records the system that was built, and how it is to be recognised.
func noteBuild(h *Host, ev Event) error {
	h.System = ev.System
	if ev.Expected != nil {
		h.Expected = *ev.Expected
	}
	return nil
}

// rebootHost ends the install: the permit is spent, and the machine restarts from its disk.
func rebootHost(h *Host, ev Event) error {
	h.Connected, h.Permit.Spent = false, ev.Time
	h.Restart = Restart{}
	h.enter(PhaseReboot)
	return nil
}

// failInstall records where and why the install failed.
func failInstall(h *Host, ev Event) error {
	h.Phase = ev.Phase
	h.Error = ev.Message
	h.Connected = false
	return nil
}

// cancelInstall withdraws the permit, and ends the boot.
func cancelInstall(h *Host, ev Event) error {
	if !h.Permit.Spent.IsZero() {
		return fmt.Errorf("%s has no permit to cancel: it is %s", h.Name, h.State)
	}
	h.Permit.Spent = ev.Time
	h.Error = cmp.Or(ev.Error, "cancelled by the operator")
	h.restore()
	h.enter("")
	h.Boot.Expires, h.Connected = ev.Time, false
	return nil
}

// endRehearsal ends a dry run.
func endRehearsal(h *Host, ev Event) error {
	if !h.Permit.DryRun {
		return ErrRefused
	}
	h.Connected, h.Permit.Spent = false, ev.Time
	h.restore()
	h.enter("")
	return nil
}

// restoreForgotten makes a forgotten host a present one. Its boots are gone; if it was restarting, the wait for its
// proof begins anew.
func restoreForgotten(h *Host, ev Event) error {
	h.Boot = Boot{}
	h.Tokens = nil
	h.Connected = false
	if h.State == StateRebooting {
		h.Since = ev.Time
	}
	return nil
}

// lossPause is how long after a counted loss of the session further losses are not counted: a restarting switch or a
// loose cable breaks it repeatedly.
const lossPause = 30 * time.Second

// restore makes the system on the machine's disks, if there is an installed one, the host's again.
func (h *Host) restore() {
	if h.HasInstalled() {
		h.System = h.Installed.System
		h.HostKey = h.Installed.HostKey
		h.Error = ""
	}
}

// enter begins a phase, with no progress yet.
func (h *Host) enter(p Phase) { h.Phase, h.Progress = p, Progress{} }

// enrollHost makes the host what the enrolment says, and keeps what is still true of its machine.
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

	// A machine that still runs the installer of its last boot needs no other, if it is still the same machine.
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
		h.Boot = Boot{} // the installer of that boot is gone, or another one runs
	}
	h.Installed = old.Installed
	h.State, h.Since = StateReady, ev.Time
	h.enter(PhaseNetboot)
	return nil
}

// netboot gives the host a boot, if its permit allows one and no other machine asks.
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

	// The operator's choice stays. If there is none, the first machine that asks decides.
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

// OtherMachine says, for people, that a machine with another UUID than the one bound to the host uses its MAC, and what
// to do if that is the host's machine nevertheless.
func (h *Host) OtherMachine(uuid string) string {
	return fmt.Sprintf("another machine (UUID %s, not %s) uses this host's MAC; if it is the one that is meant, "+
		"because its mainboard was "+
		"changed or its firmware tells another UUID each time, run `provision retry %s`", cmp.Or(uuid, "not told"), h.Machine, h.Name)
}

// OtherBoard says, for people, that a Raspberry Pi with another serial number than the one bound to the host uses its
// MAC, and what to do if that is the host's board nevertheless.
func (h *Host) OtherBoard(serial string) string {
	return fmt.Sprintf("another Raspberry Pi (serial number %s, not %s) uses this host's MAC; "+
		"if it is the one that is meant, run `provision retry %s`", serial, h.Serial, h.Name)
}

// bind makes the machine that asked for boot b the host's machine. It is called only when the boot was fetched or its
// installer answered, since one packet that asks for a boot proves nothing.
func (h *Host) bind(b Boot) {
	h.Machine = cmp.Or(b.Machine, h.Machine)
	if !b.Several {
		h.Serial = cmp.Or(b.Serial, h.Serial)
	}
}

// retry lets a failed install continue: a burned permit stays as it is, and one that is not burned gets its full time
// again.
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
	h.Machine, h.Serial = "", "" // the next boot tells which machine it is
	h.Error = ""
	h.Connected = false
	h.Lost = time.Time{}
	h.Disconnects = 0
	h.enter(PhaseNetboot)
	return nil
}

// burn marks the permit as burned and records its disks. A permit that is burned already is used again, but only for
// the very same disks.
func burn(h *Host, ev Event) error {
	p := &h.Permit
	disks := apart(ev.Disks)
	if !p.Live(ev.Time) || p.DryRun {
		return ErrRefused
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

// diskNames lists disks for people.
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
