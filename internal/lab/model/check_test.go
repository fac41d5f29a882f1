package model

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"provision/hosts"
)

// check looks into the store that a server left, and compares it with what everybody else saw.
func (w *world) check() error {
	s, err := w.readStore()
	if err != nil {
		return fmt.Errorf("read the store: %w", err)
	}
	w.journal.mu.Lock()
	calls, erasures := slices.Clone(w.journal.calls), slices.Clone(w.journal.erasures)
	w.journal.mu.Unlock()
	for _, c := range calls {
		if !c.lost && !s.kept(c, calls) {
			w.Errorf("%s of %s was acknowledged at %s as event %d, and is not in its log",
				c.kind, c.host, c.end.Format(clock), c.event)
		}
	}
	for _, m := range w.machines {
		for _, log := range s.logs[m.name] {
			if gap := gap(log); gap != "" {
				w.Errorf("the log of %s has a gap: %s", m.name, gap)
			}
		}
		mine := slices.DeleteFunc(slices.Clone(erasures), func(e erasure) bool { return e.host != m.name })
		slices.SortFunc(mine, func(a, b erasure) int { return a.at.Compare(b.at) })
		said := slices.DeleteFunc(slices.Clone(calls), func(c call) bool { return c.host != m.name })
		events := s.events(m.name)
		wrong := slices.Concat(unburned(events, mine), unpermitted(events, mine, said))
		for _, why := range wrong {
			w.Errorf("%s was erased %s", m.name, why)
		}
		if len(wrong) > 0 {
			w.Log(story(events, mine, said))
		}
	}
	return nil
}

const clock = "15:04:05.000000"

// kept tells whether a call is in the log as what was acknowledged.
func (s *records) kept(c call, calls []call) bool {
	within := func(t time.Time) bool { return !t.Before(c.start) && !t.After(c.end) }
	if c.kind == forgotten {
		return slices.ContainsFunc(s.gone[c.host], within) || slices.ContainsFunc(calls, func(o call) bool {
			return o.host == c.host && o.kind == hosts.EventRestored && o.end.After(c.start)
		})
	}
	became := func(ev hosts.Event) bool { return ev.Number == c.event && ev.Kind == c.kind && within(ev.Time) }
	for _, log := range s.logs[c.host] {
		if slices.ContainsFunc(log, became) {
			return true
		}
		if last := log[len(log)-1]; last.Number > hosts.MaxEvents && last.Time.After(c.end) && log[0].Number > c.event {
			return true // it made room
		}
	}
	return false
}

// gap is where a log lacks events, which are numbered from 1; empty: nowhere. One that was full makes room.
func gap(log []hosts.Event) string {
	for i, ev := range log {
		if ev.Number != uint64(i+1) && log[len(log)-1].Number <= hosts.MaxEvents {
			return fmt.Sprintf("event %d of %d is missing", i+1, log[len(log)-1].Number)
		}
	}
	return ""
}

// unburned are the erasures that no burning of a live permit went before. Each burning is for one.
func unburned(events []hosts.Event, erasures []erasure) (wrong []string) {
	live, burned, dry := false, 0, false
	apply := func(ev hosts.Event) {
		switch ev.Kind {
		case hosts.EventEnrolled:
			live, dry = true, strings.HasSuffix(ev.Message, ", for a dry run")
		case hosts.EventCancelled, hosts.EventRebooted, hosts.EventRehearsed:
			live = false
		case hosts.EventBurned:
			if !live || dry {
				wrong = append(wrong, fmt.Sprintf("or was to be, at %s: event %d burned a permit that was not there",
					ev.Time.Format(clock), ev.Number))
			}
			burned++
		}
	}
	for _, e := range erasures {
		for len(events) > 0 && events[0].Time.Before(e.at) {
			apply(events[0])
			events = events[1:]
		}
		if burned--; burned < 0 {
			burned = 0
			wrong = append(wrong, fmt.Sprintf("at %s, and no permit was burned for that", e.at.Format(clock)))
		}
	}
	for _, ev := range events {
		apply(ev)
	}
	return wrong
}

// underWay is how long a command may be on its way that was sent before its permit ended.
const underWay = 10 * time.Second

// unpermitted are the erasures for which there was no permit, by what the operators know.
func unpermitted(events []hosts.Event, erasures []erasure, calls []call) (wrong []string) {
	for _, e := range erasures {
		if !slices.ContainsFunc(calls, func(p call) bool { return p.permits && e.under(p, events, calls) }) {
			wrong = append(wrong, fmt.Sprintf("at %s without a permit that an operator had given and not withdrawn",
				e.at.Format(clock)))
		}
	}
	return wrong
}

// under tells whether an erasure may have been under the permit that a call p gave. The calls are one host's.
func (e erasure) under(p call, events []hosts.Event, calls []call) bool {
	if p.start.After(e.at) {
		return false
	}
	inTime := !p.brief || slices.ContainsFunc(events, func(ev hosts.Event) bool {
		return ev.Kind == hosts.EventBurned && ev.Time.After(p.start) && ev.Time.Before(p.end.Add(brief))
	})
	for _, c := range calls {
		switch {
		case c.extends && c.start.Before(e.at) && c.end.After(p.start):
			inTime = true
		case !c.withdraws || c.lost || c.start.Before(p.end):
		case c.end.Before(e.since) || c.end.Before(e.at.Add(-underWay)):
			return false
		}
	}
	return inTime
}

// story is all that happened to a host, for people.
func story(events []hosts.Event, erasures []erasure, calls []call) string {
	lines := make(map[string]bool)
	add := func(at time.Time, format string, args ...any) {
		lines[at.Local().Format(clock)+" "+fmt.Sprintf(format, args...)] = true
	}
	for _, ev := range events {
		add(ev.Time, "%3d %s, %s: %.100s", ev.Number, ev.Kind, ev.State, ev.Message)
	}
	for _, e := range erasures {
		add(e.at, "ERASED by %.80q", e.argv)
	}
	for _, c := range calls {
		add(c.end, "a call, from %s: %s, event %d, answer lost: %v", c.start.Format(clock), c.kind, c.event, c.lost)
	}
	return strings.Join(slices.Sorted(maps.Keys(lines)), "\n")
}

// secrets looks for them in all that the server wrote and said.
func (w *world) secrets() error {
	w.journal.mu.Lock()
	secrets, leaks := w.journal.secrets, w.journal.leaks
	w.journal.mu.Unlock()
	for _, where := range leaks {
		w.Errorf("a passphrase is in what the server answered: %s", where)
	}
	for _, name := range []string{w.server.log.Name(), filepath.Join(w.server.state(), "state.db")} {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for _, secret := range secrets {
			if bytes.Contains(text, []byte(secret)) {
				w.Errorf("a passphrase is in %s", name)
			}
		}
	}
	return nil
}

// mishaps are lines of the server's log that there must not be.
func mishaps(log string) (found []string) {
	for line := range strings.Lines(log) {
		for _, word := range []string{"panic", "fatal error", "DATA RACE", "level=ERROR", "goroutine "} {
			if strings.Contains(line, word) {
				found = append(found, line)
				break
			}
		}
	}
	return found
}
