package model

import (
	"slices"
	"testing"
	"time"

	"provision/hosts"
)

// TestChecks: each check tells what is wrong from what is right, by histories of one host that are made for it. Times
// are seconds.
func TestChecks(t *testing.T) {
	at := func(s float64) time.Time {
		return time.Unix(1_800_000_000, 0).Add(time.Duration(s * float64(time.Second)))
	}
	event := func(number uint64, s float64, kind hosts.Kind) hosts.Event {
		return hosts.Event{Number: number, Time: at(s), Kind: kind}
	}
	erased := func(since, s float64) erasure { return erasure{since: at(since), at: at(s)} }
	enroll := call{kind: hosts.EventEnrolled, start: at(0.5), end: at(1.5), event: 1, permits: true}
	short := enroll
	short.brief = true
	cancel := func(start, end float64) call {
		return call{kind: hosts.EventCancelled, start: at(start), end: at(end), event: 3, withdraws: true}
	}
	lost := cancel(4, 5)
	lost.lost = true
	burned := []hosts.Event{event(1, 1, hosts.EventEnrolled), event(2, 3, hosts.EventBurned)}
	cancelled := append(slices.Clone(burned), event(3, 4.5, hosts.EventCancelled))
	dry := slices.Clone(burned)
	dry[0].Message = "alpha; permit until then, for a dry run"

	for _, tt := range []struct {
		name     string
		events   []hosts.Event
		erasures []erasure
		calls    []call
		wrong    int
	}{
		{"as it should be", burned, []erasure{erased(2, 3.1)}, []call{enroll}, 0},
		{"nothing was burned", burned[:1], []erasure{erased(2, 3.1)}, []call{enroll}, 1},
		{"burned after it", burned, []erasure{erased(2, 2.9)}, []call{enroll}, 1},
		{"twice for one burning", burned, []erasure{erased(2, 3.1), erased(2, 3.2)}, []call{enroll}, 1},
		{"nobody permitted it", burned, []erasure{erased(2, 3.1)}, nil, 1},
		{"nobody permitted it, and nothing was burned", nil, []erasure{erased(2, 3.1)}, nil, 2},
		{"burned without a permit", burned[1:], []erasure{erased(2, 3.1)}, []call{enroll}, 1},
		{"burned in a dry run", dry, []erasure{erased(2, 3.1)}, []call{enroll}, 1},
		{"a burning after the cancel", append(slices.Clone(cancelled), event(4, 6, hosts.EventBurned)), nil, []call{enroll}, 1},
		{"on its way while it was cancelled", cancelled, []erasure{erased(2, 5.1)}, []call{enroll, cancel(4, 5)}, 0},
		{"long after the cancel", cancelled, []erasure{erased(2, 16)}, []call{enroll, cancel(4, 5)}, 1},
		{"in a connection of after the cancel", cancelled, []erasure{erased(5.5, 5.6)}, []call{enroll, cancel(4, 5)}, 1},
		{"a cancel that may not have been", burned, []erasure{erased(5.5, 5.6)}, []call{enroll, lost}, 0},
		{"a cancel at the same time as the permit", burned, []erasure{erased(5.5, 5.6)}, []call{enroll, cancel(1, 2)}, 0},
		{"within a brief permit", burned, []erasure{erased(2, 9)}, []call{short}, 0},
		{"burned after a brief permit", []hosts.Event{burned[0], event(2, 3.6, hosts.EventBurned)}, []erasure{erased(2, 9)}, []call{short}, 1},
	} {
		wrong := slices.Concat(unburned(tt.events, tt.erasures), unpermitted(tt.events, tt.erasures, tt.calls))
		if len(wrong) != tt.wrong {
			t.Errorf("%s: %q", tt.name, wrong)
		}
	}

	s := records{logs: map[string][][]hosts.Event{"": {burned}}, gone: map[string][]time.Time{"": {at(7)}}}
	forget := func(start, end float64) call { return call{kind: forgotten, start: at(start), end: at(end)} }
	for _, tt := range []struct {
		name string
		call call
		kept bool
	}{
		{"an enrolment", enroll, true},
		{"of another number", call{kind: hosts.EventEnrolled, start: at(0.5), end: at(1.5), event: 2}, false},
		{"of another time", call{kind: hosts.EventEnrolled, start: at(1.1), end: at(1.5), event: 1}, false},
		{"of another kind", call{kind: hosts.EventRetried, start: at(0.5), end: at(1.5), event: 1}, false},
		{"forgotten", forget(6, 8), true},
		{"forgotten at another time", forget(8, 9), false},
	} {
		if s.kept(tt.call, nil) != tt.kept {
			t.Errorf("%s: %v", tt.name, !tt.kept)
		}
	}
	if gap(burned) != "" || gap(burned[1:]) == "" {
		t.Errorf("gaps: %q, %q", gap(burned), gap(burned[1:]))
	}
	const log = "level=INFO msg=fine\nhttp: panic serving 10.77.0.2\nlevel=ERROR msg=\"no\"\n"
	if found := mishaps(log); len(found) != 2 {
		t.Errorf("mishaps: %q", found)
	}
}
