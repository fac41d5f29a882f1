package api

import (
	"net/netip"
	"slices"
	"testing"
)

// TestServing: an interface is served or waited for, as it is at that moment.
func TestServing(t *testing.T) {
	served := map[string]netip.Addr{}
	s := &Server{Serving: Serving{WaitsFor: []string{"br0", "br1"}}, Interfaces: func() map[string]netip.Addr { return served }}
	if got := s.serving(); len(got.Interfaces) != 0 || !slices.Equal(got.WaitsFor, []string{"br0", "br1"}) {
		t.Errorf("before any is there: %+v", got)
	}
	served["br0"] = netip.MustParseAddr("10.77.0.1")
	if got := s.serving(); !slices.Equal(got.Interfaces, []Interface{{"br0", served["br0"]}}) || !slices.Equal(got.WaitsFor, []string{"br1"}) {
		t.Errorf("with br0: %+v", got)
	}
	delete(served, "br0")
	if got := s.serving(); !slices.Equal(got.WaitsFor, []string{"br0", "br1"}) {
		t.Errorf("when br0 is gone: %+v", got)
	}
}
