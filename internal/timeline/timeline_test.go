package timeline

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"provision/hosts"
)

var update = flag.Bool("update", false, "write the golden files anew")

var start = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// ev is an event so many seconds after the start.
func ev(s float64, kind hosts.Kind, change ...func(*hosts.Event)) hosts.Event {
	e := hosts.Event{Host: "bravo", Kind: kind, Time: start.Add(time.Duration(s * float64(time.Second))), State: hosts.StateInstalling}
	for _, c := range change {
		c(&e)
	}
	return e
}

func in(p hosts.Phase) func(*hosts.Event) { return func(e *hosts.Event) { e.Phase = p } }

func state(s hosts.State) func(*hosts.Event) { return func(e *hosts.Event) { e.State = s } }

func work(bytes int64, over string, took time.Duration) func(*hosts.Event) {
	return func(e *hosts.Event) { e.Work = &hosts.Work{Bytes: bytes, Over: over, Took: took} }
}

type want struct {
	name        string
	from, until float64
}

func TestPhases(t *testing.T) {
	boot := []hosts.Event{ev(0, hosts.EventEnrolled), ev(0, hosts.EventBuilding), ev(3, hosts.EventBuilt), ev(10, hosts.EventNetboot), ev(12, hosts.EventFetched),
		ev(20, hosts.EventFetched, work(80e6, "http", 4*time.Second)), ev(30, hosts.EventContacted), ev(31, hosts.EventFinished, in(hosts.PhaseFacts)), ev(31, hosts.EventStarted, in(hosts.PhaseBuild))}
	booted := []want{{SwitchOn, 0, 10}, {Build, 0, 3}, {Firmware, 10, 12}, {Load, 12, 20}, {Boot, 20, 30}, {Facts, 30, 31}}
	for name, tt := range map[string]struct {
		events []hosts.Event
		want   []want
		state  hosts.State
		whole  float64
	}{
		"nothing": {},
		"smooth, then the host goes on living": {
			append(boot[:9:9], ev(31, hosts.EventStarted, in(hosts.PhaseDisks)), ev(40, hosts.EventFinished, in(hosts.PhaseDisks)),
				ev(40, hosts.EventStarted, in(hosts.PhaseFiles)), ev(40, hosts.EventStarted, in(hosts.PhaseCopy)), ev(42, hosts.EventFinished, in(hosts.PhaseFiles)),
				ev(50, hosts.EventFinished, in(hosts.PhaseCopy), work(500e6, "http", 0)), ev(50, hosts.EventStarted, in(hosts.PhaseBootloader)),
				ev(55, hosts.EventFinished, in(hosts.PhaseBootloader)), ev(56, hosts.EventRebooted), ev(90, hosts.EventProved, state(hosts.StateInstalled)), ev(9000, hosts.EventAddress), ev(9001, hosts.EventFetched)),
			append(booted[:6:6], want{Disks, 31, 40}, want{Files, 40, 42}, want{Copy, 40, 50}, want{Bootloader, 50, 55}, want{Unmount, 55, 56}, want{Restart, 56, 90}), hosts.StateInstalled, 90,
		},
		"the build is waited for, before and after the disks": {
			[]hosts.Event{ev(0, hosts.EventEnrolled), ev(0, hosts.EventQueued), ev(8, hosts.EventBuilding), ev(5, hosts.EventContacted), ev(6, hosts.EventStarted, in(hosts.PhaseBuild)), ev(10, hosts.EventStarted, in(hosts.PhaseDisks)),
				ev(12, hosts.EventFinished, in(hosts.PhaseDisks)), ev(20, hosts.EventBuilt), ev(20, hosts.EventStarted, in(hosts.PhaseCopy))},
			[]want{{SwitchOn, 0, 5}, {Build, 0, 20}, {Facts, 5, 6}, {Wait, 6, 10}, {Disks, 10, 12}, {Wait, 12, 20}, {Copy, 20, 100}}, hosts.StateInstalling, 100,
		},
		"lost, and failed, and tried again": {
			append(boot[:9:9], ev(31, hosts.EventStarted, in(hosts.PhaseDisks)), ev(35, hosts.EventLost), ev(50, hosts.EventContacted), ev(51, hosts.EventStarted, in(hosts.PhaseDisks)),
				ev(55, hosts.EventFailed, in(hosts.PhaseDisks), state(hosts.StateFailed)), ev(60, hosts.EventNote), ev(70, hosts.EventRetried), ev(80, hosts.EventContacted, state(hosts.StateLive))),
			append(booted[:6:6], want{Disks, 31, 35}, want{Lost, 35, 50}, want{Facts, 50, 51}, want{Disks, 51, 55}, want{Mend, 55, 70}, want{SwitchOn, 70, 80}, want{Facts, 80, 100}), hosts.StateLive, 100,
		},
		"failed": {append(boot[:4:4], ev(25, hosts.EventFailed, in(hosts.PhaseNetboot), state(hosts.StateFailed)), ev(60, hosts.EventNote, state(hosts.StateFailed))),
			[]want{{SwitchOn, 0, 10}, {Build, 0, 3}, {Firmware, 10, 25}}, hosts.StateFailed, 25},
		"cancelled": {append(boot[:4:4], ev(25, hosts.EventCancelled, state(hosts.StateFailed)), ev(60, hosts.EventNetboot)),
			[]want{{SwitchOn, 0, 10}, {Build, 0, 3}, {Firmware, 10, 25}}, hosts.StateFailed, 25},
		"enrolled anew": {append(boot[:9:9], ev(95, hosts.EventEnrolled, state(hosts.StateReady))), []want{{SwitchOn, 0, 5}}, hosts.StateReady, 5},
		"the oldest events are gone": {[]hosts.Event{ev(0, hosts.EventFinished, in(hosts.PhaseDisks)), ev(0, hosts.EventStarted, in(hosts.PhaseCopy)), ev(9, hosts.EventRebooted)},
			[]want{{Copy, 0, 9}, {Restart, 9, 100}}, hosts.StateInstalling, 100},
	} {
		got := Of(tt.events, start.Add(100*time.Second))
		var phases []want
		for _, p := range got.Phases {
			phases = append(phases, want{p.Name, p.Start, p.Start + p.Seconds})
		}
		if len(phases) != len(tt.want) || got.State != tt.state || math.Abs(got.Seconds-tt.whole) > 1e-6 {
			t.Errorf("%s: %s, %.1f s, %v\nwant %s, %.1f s, %v", name, got.State, got.Seconds, phases, tt.state, tt.whole, tt.want)
			continue
		}
		for i, w := range tt.want {
			if p := phases[i]; p.name != w.name || math.Abs(p.from-w.from) > 1e-6 || math.Abs(p.until-w.until) > 1e-6 {
				t.Errorf("%s: %v, want %v", name, p, w)
			}
		}
	}
}

func TestWork(t *testing.T) {
	got := Of([]hosts.Event{ev(0, hosts.EventEnrolled), ev(1, hosts.EventQueued), ev(3, hosts.EventBuilding), ev(3, hosts.EventQueued), ev(4, hosts.EventBuilding), ev(9, hosts.EventBuilt),
		ev(9, hosts.EventNetboot), ev(10, hosts.EventFetched), ev(20, hosts.EventFetched, work(80e6, "tftp", 4*time.Second)), ev(30, hosts.EventContacted),
		ev(30, hosts.EventStarted, in(hosts.PhaseCopy)), ev(40, hosts.EventFinished, in(hosts.PhaseCopy), work(500e6, "ssh", 0)),
		ev(40, hosts.EventStarted, in(hosts.PhaseBootloader)), ev(41, hosts.EventFailed, in(hosts.PhaseBootloader))}, start)
	for _, p := range got.Phases {
		switch p.Name {
		case Build:
			if p.Queued != 3 {
				t.Errorf("%g s for its turn", p.Queued)
			}
		case Load:
			if p.Bytes != 80e6 || p.Rate != 20e6 || p.Over != "tftp" {
				t.Errorf("%+v", p)
			}
		case Copy:
			if p.Bytes != 500e6 || p.Rate != 50e6 || p.Over != "ssh" {
				t.Errorf("%+v", p)
			}
		}
		if p.Failed != (p.Name == Bootloader) {
			t.Errorf("%s: failed %t", p.Name, p.Failed)
		}
	}
}

// TestReal is of the events of real installs, as `provision logs --json` told them in internal/lab/e2e.
func TestReal(t *testing.T) {
	files, err := filepath.Glob("testdata/*.events.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no installs", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		var events []hosts.Event
		if err := errors.Join(err, json.Unmarshal(data, &events)); err != nil {
			t.Fatal(err)
		}
		tl := Of(events, events[len(events)-1].Time)
		tl.Start = tl.Start.UTC()
		var text, svg bytes.Buffer
		if err := errors.Join(tl.Text(&text), tl.SVG(&svg)); err != nil {
			t.Fatal(err)
		}
		golden(t, strings.TrimSuffix(file, ".events.json")+".txt", text.Bytes())
		golden(t, strings.TrimSuffix(file, ".events.json")+".svg", svg.Bytes())
		for dec := xml.NewDecoder(&svg); ; {
			if _, err := dec.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
		}
	}
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %v; -update writes it anew\n%s", file, err, got)
	}
}
