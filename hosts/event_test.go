package hosts

import (
	"errors"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

var states = []State{StateReady, StateBooting, StateLive, StateInstalling, StateRebooting, StateInstalled, StateFailed, StateRehearsed}

// hostIn is a host in a state, with all that usually goes with it.
func hostIn(s State) Host {
	h := Host{Name: "bravo", MACs: []string{"52:54:00:12:34:56"}, State: s, Since: noon,
		Permit: Permit{Issued: noon, Expires: noon.Add(time.Hour)}}
	boot := Boot{Token: "t1", Expires: noon.Add(time.Hour)}
	switch s {
	case StateReady, StateBooting, StateLive: // ready: enrolled again while its installer runs
		h.Boot = boot
	case StateInstalling:
		h.Boot, h.Permit.Burned, h.Permit.Disks = boot, noon, []Disk{{Device: "/dev/vda", Serial: "A", Size: 1}}
	case StateRebooting, StateInstalled:
		h.Boot, h.Permit.Burned, h.Permit.Spent, h.Phase = boot, noon, noon, PhaseReboot
	case StateFailed:
		h.Boot, h.Phase, h.Error = boot, PhaseCopy, "it broke"
	case StateRehearsed:
		h.Boot, h.Permit.Spent = boot, noon
	}
	return h
}

func eventOf(k Kind) Event {
	ev := Event{Kind: k, Time: noon.Add(time.Minute), Message: "m", Phase: PhaseCopy}
	switch k {
	case EventEnrolled:
		h := hostIn("")
		ev.Enroll = &h
	case EventNetboot:
		ev.Boot = &Boot{Token: "t2", Expires: noon.Add(time.Hour)}
	case EventFetched:
		ev.Boot = &Boot{Token: "t1", TakenBy: "10.0.0.9", Expires: noon.Add(time.Hour)}
	case EventContacted:
		ev.Boot = &Boot{Token: "t1"}
	case EventBurned:
		ev.Disks = []Disk{{Device: "/dev/vda", Serial: "A", Size: 1}}
	case EventChanged:
		ev.Change = &Change{}
	case EventAdvanced:
		ev.Progress = &Progress{Done: 1, Total: 2, Unit: "bytes"}
	}
	return ev
}

// TestTable spells out where every event leads from every state; "-" is a
// refusal. It is the table of transition.go written the other way round.
func TestTable(t *testing.T) {
	want := map[Kind]string{ // ready booting live installing rebooting installed failed rehearsed
		EventEnrolled:  "ready - - - ready ready ready ready",
		EventRetried:   "ready ready - - - - ready -",
		EventSummoned:  "ready booting - - - - - -",
		EventNetboot:   "booting booting booting booting - - booting -",
		EventFetched:   "- booting - - - - - -",
		EventContacted: "live live live live - - live -",
		EventLost:      "- - live installing - - - -",
		EventQueued:    "ready booting live installing rebooting installed failed rehearsed",
		EventBuilding:  "ready booting live installing rebooting installed failed rehearsed",
		EventBuilt:     "ready booting live installing rebooting installed failed rehearsed",
		EventBurned:    "- - installing installing - - - -",
		EventStarted:   "ready booting live installing - - - -",
		EventAdvanced:  "ready booting live installing - - - -",
		EventFinished:  "ready booting live installing - - - -",
		EventRebooted:  "- - - rebooting - - - -",
		EventWaits:     "- - - - rebooting - - -",
		EventSeen:      "- - - - rebooting - - -",
		EventReturned:  "- - - - rebooting - - -",
		EventProved:    "- - - - installed - - -",
		EventFailed:    "failed failed failed failed failed - - -",
		EventCancelled: "failed failed failed failed - - failed -",
		EventRehearsed: "- - rehearsed - - - - -",
		EventAddress:   "ready booting live installing rebooting installed failed rehearsed",
		EventNote:      "ready booting live installing rebooting installed failed rehearsed",
		EventChanged:   "ready booting live installing rebooting installed failed rehearsed",
		EventRestored:  "ready booting live installing rebooting installed failed rehearsed",
		EventRevealed:  "ready booting live installing rebooting installed failed rehearsed",
	}
	if len(want) != len(transitions) {
		t.Fatalf("the test knows %d kinds of events, the table %d", len(want), len(transitions))
	}
	for kind, row := range want {
		for i, to := range strings.Fields(row) {
			before := hostIn(states[i])
			before.Permit.DryRun = kind == EventRehearsed
			h, err := next(before, eventOf(kind))
			switch {
			case to == "-" && err == nil:
				t.Errorf("%s in state %s: allowed, leads to %s", kind, states[i], h.State)
			case to != "-" && err != nil:
				t.Errorf("%s in state %s: %v", kind, states[i], err)
			case to != "-" && h.State != State(to):
				t.Errorf("%s in state %s: leads to %s, want %s", kind, states[i], h.State, to)
			}
		}
		if _, err := next(Host{}, eventOf(kind)); (err == nil) != (kind == EventEnrolled) {
			t.Errorf("%s for a host that does not exist: %v", kind, err)
		}
	}
}

func TestNetbootNeedsPermit(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*Host)
		want string // part of the refusal; "" if allowed
	}{
		{"fresh", func(*Host) {}, ""},
		{"expired", func(h *Host) { h.Permit.Expires = noon }, "permit expired"},
		{"burned and past its expiry", func(h *Host) { h.Permit.Expires, h.Permit.Burned = noon, noon }, ""},
		{"spent", func(h *Host) { h.Permit.Spent = noon }, "spent"},
		{"never issued", func(h *Host) { h.Permit = Permit{} }, "expired"},
		{"too many boots", func(h *Host) { h.Permit.Boots = MaxBoots }, "booted 20 times"},
		{"installer still answers", func(h *Host) { h.State, h.Connected, h.Address = StateInstalling, true, "10.0.0.9" }, "answers at 10.0.0.9"},
		{"another machine", func(h *Host) { h.Machine = "uuid-1" }, "another machine"},
		{"same machine", func(h *Host) { h.Machine = "uuid-2" }, ""},
		{"a machine that does not tell", func(h *Host) { h.Machine = "uuid-2"; h.Since = time.Time{} }, "another machine"},
	} {
		h := hostIn(StateReady)
		tt.edit(&h)
		ev := eventOf(EventNetboot)
		ev.Machine = "uuid-2"
		if h.Since.IsZero() {
			ev.Machine = ""
		}
		after, err := next(h, ev)
		if tt.want == "" {
			if err != nil || after.State != StateBooting || after.Permit.Boots != h.Permit.Boots || after.Boot.Token != "t2" {
				t.Errorf("%s: %+v, %v", tt.name, after, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || !errors.Is(err, ErrRefused) {
			t.Errorf("%s: error %v, want one about %q", tt.name, err, tt.want)
		}
	}
}

func TestBurnedPermitNamesItsDisks(t *testing.T) {
	h, err := next(hostIn(StateLive), eventOf(EventBurned))
	if err != nil || h.Permit.Burned.IsZero() || len(h.Permit.Disks) != 1 {
		t.Fatalf("%+v, %v", h.Permit, err)
	}
	h.State = StateLive // contacted again after an interruption
	if _, err := next(h, eventOf(EventBurned)); err != nil {
		t.Errorf("the same disks again: %v", err)
	}
	moved := eventOf(EventBurned)
	moved.Disks = []Disk{{Device: "/dev/vdb", Serial: "A", Size: 1}}
	if _, err := next(h, moved); err != nil {
		t.Errorf("the same disk under another name: %v", err)
	}
	other := eventOf(EventBurned)
	other.Disks = []Disk{{Device: "/dev/vda", Serial: "B", Size: 1}}
	if _, err := next(h, other); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "serial A") {
		t.Errorf("another disk: %v", err)
	}
	if _, err := next(h, Event{Kind: EventBurned, Time: noon}); !errors.Is(err, ErrRefused) {
		t.Errorf("no disk: %v", err)
	}
}

func TestLateProof(t *testing.T) {
	h := hostIn(StateRebooting)
	h, err := next(h, Event{Kind: EventFailed, Time: noon, Phase: PhaseReboot, Message: "did not come up"})
	if err != nil || h.State != StateFailed {
		t.Fatal(h.State, err)
	}
	h, err = next(h, eventOf(EventProved))
	if err != nil || h.State != StateInstalled || h.Error != "" {
		t.Errorf("it came up late: %s, %q, %v", h.State, h.Error, err)
	}
	if _, err := next(hostIn(StateFailed), eventOf(EventProved)); err == nil {
		t.Error("an install that failed during the copy was proved")
	}
}

// TestContactIsOfThisBoot: a contact that was under way when the machine got
// another boot does not count for that.
func TestContactIsOfThisBoot(t *testing.T) {
	for _, boot := range []*Boot{nil, {}, {Token: "t0"}} {
		ev := eventOf(EventContacted)
		ev.Boot = boot
		if _, err := next(hostIn(StateBooting), ev); !errors.Is(err, ErrRefused) {
			t.Errorf("%+v: %v", boot, err)
		}
	}
}

func TestParseMAC(t *testing.T) {
	for in, want := range map[string]string{
		"52:54:00:AB:cd:ef": "52:54:00:ab:cd:ef",
		"52-54-00-ab-cd-ef": "52:54:00:ab:cd:ef",
		"5254.00ab.cdef":    "52:54:00:ab:cd:ef",
		"":                  "", "x": "", "52:54:00:ab:cd": "", "52:54:00:ab:cd:ef:01:02": "",
		"01:00:5e:00:00:01": "", "ff:ff:ff:ff:ff:ff": "", "00:00:00:00:00:00": "",
	} {
		got, err := ParseMAC(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("ParseMAC(%q) = %q, %v", in, got, err)
		}
	}
}

// TestLosses: a connection that breaks ten times in a quarter of a second is one loss; one that breaks again and again
// counts all the same.
func TestLosses(t *testing.T) {
	h := Host{Name: "bravo", State: StateLive}
	at := noon
	lose := func(after time.Duration) {
		t.Helper()
		at = at.Add(after)
		var err error
		if h, err = next(h, Event{Kind: EventLost, Time: at}); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		lose(25 * time.Millisecond)
	}
	if h.Disconnects != 1 || !h.Lost.Equal(at) {
		t.Errorf("%d losses, the last at %s", h.Disconnects, h.Lost)
	}
	for range 100 {
		lose(3 * time.Second)
	}
	if h.Disconnects != 11 {
		t.Errorf("%d losses in five minutes", h.Disconnects)
	}
}

// TestRetryAnotherWay: a machine that told its UUID when it netbooted may be taken to its installer out of a running
// system, where none is told.
func TestRetryAnotherWay(t *testing.T) {
	inv, _, clk := open(t, t.TempDir())
	enroll(t, inv, "bravo", mac1)
	boot := func(via, uuid string) {
		t.Helper()
		h, err := inv.BeginBoot("bravo", Boot{Client: via, MAC: mac1, Expires: clk.Now().Add(time.Minute)}, uuid)
		if err == nil {
			_, err = inv.UseBoot(h.Boot.Token, Fetch{Client: "10.0.0.9", File: "initrd", Whole: true})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	boot("x86-64 UEFI PXE", "uuid-1")
	for _, ev := range []Event{{Kind: EventFailed, Phase: PhaseNetboot, Message: "no installer"}, {Kind: EventRetried, Via: ViaKexec}} {
		if _, err := inv.Apply("bravo", ev); err != nil {
			t.Fatal(err)
		}
	}
	boot("kexec over SSH", "")
}
