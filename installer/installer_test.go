package installer

import (
	"testing"
	"time"

	"provision/hosts"
)

func TestAddresses(t *testing.T) {
	h := hosts.Host{Address: "10.0.0.9", Boot: hosts.Boot{TakenBy: "10.0.0.9"}, MACs: []string{"52:54:00:00:00:01"}}
	if got := addresses(h); len(got) != 1 || got[0] != "10.0.0.9" {
		t.Error(got)
	}
	h.Boot.TakenBy = "10.0.0.8"
	if got := addresses(h); len(got) != 2 || got[0] != "10.0.0.9" {
		t.Error(got)
	}
	if got := addresses(hosts.Host{}); len(got) != 0 {
		t.Error(got)
	}
}

// TestFetched: no installer is sought before it can be there, and none is lost
// because the server was killed before it noted that the last byte was out.
func TestFetched(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name string
		boot hosts.Boot
		want bool
	}{
		{"offered", hosts.Boot{Token: "t"}, false},
		{"begun", hosts.Boot{TakenBy: "10.0.0.9", Taken: now.Add(-10 * time.Second)}, false},
		{"whole", hosts.Boot{TakenBy: "10.0.0.9", Taken: now.Add(-10 * time.Second), Used: now}, true},
		{"begun long ago", hosts.Boot{TakenBy: "10.0.0.9", Taken: now.Add(-2 * time.Minute)}, true},
	} {
		if got := fetched(hosts.Host{Boot: tt.boot}, now); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

// inHand is the install of a host over a session.
func inHand(f *reconciler, h hosts.Host, s *session) *install {
	return &install{reconciler: f, host: h, session: s}
}
