package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"provision/hosts"
	"provision/internal/api"
)

// TestScreen: what watch draws is never higher or wider than the terminal, and shows those at which something happens.
func TestScreen(t *testing.T) {
	s := &screen{hosts: make(map[string]api.Status), rates: make(map[string]*transferRate)}
	for i := range 40 {
		name := fmt.Sprintf("host%02d", i)
		s.hosts[name] = api.Status{Name: name, State: hosts.StateInstalled, System: "/nix/store/" + strings.Repeat("x", 90)}
	}
	s.hosts["host07"] = api.Status{Name: "host07", State: hosts.StateFailed, Phase: hosts.PhaseCopy, Error: strings.Repeat("no space ", 20)}
	s.hosts["host33"] = api.Status{Name: "host33", State: hosts.StateInstalling, Phase: hosts.PhaseCopy, Percent: 50,
		Progress: hosts.Progress{Done: 500e6, Total: 1000e6, Unit: "bytes"}}
	s.hosts["host20"] = api.Status{Name: "host20", State: hosts.StateReady, Permit: hosts.Permit{Expires: time.Now().Add(time.Hour)}}
	s.rates["host33"] = &transferRate{phase: hosts.PhaseCopy, at: time.Now().Add(-10 * time.Second)}

	for _, size := range []struct{ width, height int }{{80, 24}, {120, 40}, {40, 10}, {80, 3}, {80, 1}} {
		lines := s.lines(size.width, size.height)
		all := strings.Join(lines, "\n")
		if len(lines) > max(1, size.height-2) {
			t.Errorf("%v: %d lines", size, len(lines))
		}
		for _, line := range lines {
			if utf8.RuneCountInString(line) > size.width {
				t.Errorf("%v: %q is too long", size, line)
			}
		}
		if size.height >= 10 && (!strings.Contains(all, "host07") || !strings.Contains(all, "host33") || !strings.Contains(all, "host20")) {
			t.Errorf("%v: those of interest are not shown:\n%s", size, all)
		}
		if size.width >= 80 && size.height >= 24 && !strings.Contains(all, "50.0 MB/s, 10s left") {
			t.Errorf("%v: the speed is cut off:\n%s", size, all)
		}
	}
	if got, want := s.lines(80, 3), "… and 40 more: 1 failed, 37 installed, 1 installing, 1 ready"; len(got) != 1 || got[0] != want {
		t.Errorf("%q, want %q", got, want)
	}
}
