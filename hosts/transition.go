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
	from     []State   // which it may follow; nil: any, but a host that does not exist
	to       State     // where it leads; "": the host stays where it is
	change   applyFunc // what else of the host it changes; nil: nothing
	beside   writeFunc // what is written beside the host; nil: nothing
	stranger bool      // a forged packet is enough to cause it
	refused  string    // what an operator is told of who it may not follow; "": which event it is
}

// applyFunc applies what the event carries to the host. A bare ErrRefused is told in the words of the row.
type applyFunc func(h *Host, ev Event) error

// writeFunc returns the writes that belong to the event, in the transaction that writes the host.
type writeFunc func(inv *Inventory, before, after *Host, ev Event) ([]store.Version, []store.Write, error)

var (
	working    = []State{StateReady, StateBooting, StateLive, StateInstalling}
	restarting = []State{StateRebooting, StateFailed}
	unfinished = append(slices.Clone(working), StateFailed)
)

// transitions is the table.
var transitions = map[Kind]transition{
	EventEnrolled: {
		from:    []State{"", StateReady, StateRehearsed, StateFailed, StateRebooting, StateInstalled},
		to:      StateReady,
		change:  enrollHost,
		refused: "run `provision cancel %s` first",
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

// next is the host after the event, or why the event cannot follow. It is
// pure; ev.Time must be set.
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
		to = StateInstalled // as it was
	}
	if to != "" && to != h.State {
		h.State, h.Since = to, ev.Time
	}
	return h, nil
}

// refuse says that the event may not follow the host's state.
func (row transition) refuse(h Host, ev Event) error {
	refusal := fmt.Errorf("%s is %s: %w", h.Name, h.State, ErrRefused)
	switch {
	case row.refused == "":
		return fmt.Errorf("%w (event %q)", refusal, ev.Kind)
	case strings.Contains(row.refused, "%s"):
		return fmt.Errorf("%w; "+row.refused, refusal, h.Name)
	}
	return fmt.Errorf("%w; %s", refusal, row.refused)
}

func fetchFile(h *Host, ev Event) error {
	b := h.Boot
	if b.Token != ev.Boot.Token || !b.Serves(ev.Time) || (b.TakenBy != "" && b.TakenBy != ev.Boot.TakenBy) {
		return ErrRefused
	}
	if b.TakenBy == "" && ev.Boot.TakenBy != "" { // a boot that nobody fetched uses nothing up
		h.Permit.Boots++
		h.bind(*ev.Boot)
	}
	h.Boot, h.Address = *ev.Boot, ev.Address
	h.Board = cmp.Or(h.Board, h.Boot.Board)
	h.Method = cmp.Or(ev.Method, h.Method)
	return nil
}

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

func loseInstaller(h *Host, ev Event) error {
	h.Connected, h.Lost = false, ev.Time
	if ev.Time.Sub(h.LastDisconnect) >= lossPause {
		h.LastDisconnect = ev.Time
		h.Disconnects++
	}
	return nil
}

func noteBuild(h *Host, ev Event) error {
	h.System = ev.System
	if ev.Expected != nil {
		h.Expected = *ev.Expected
	}
	return nil
}

func rebootHost(h *Host, ev Event) error {
	h.Connected, h.Permit.Spent = false, ev.Time
	h.Restart = Restart{}
	h.enter(PhaseReboot)
	return nil
}

func failInstall(h *Host, ev Event) error {
	h.Phase = ev.Phase
	h.Error = ev.Message
	h.Connected = false
	return nil
}

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

func endRehearsal(h *Host, ev Event) error {
	if !h.Permit.DryRun {
		return ErrRefused
	}
	h.Connected, h.Permit.Spent = false, ev.Time
	h.restore()
	h.enter("")
	return nil
}

// restoreForgotten makes a forgotten host one again: its boots are gone, and where it was restarting, that is followed
// from now on.
func restoreForgotten(h *Host, ev Event) error {
	h.Boot = Boot{}
	h.Tokens = nil
	h.Connected = false
	if h.State == StateRebooting {
		h.Since = ev.Time
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
