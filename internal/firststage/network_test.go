package main

import (
	"net"
	"net/netip"
	"testing"
)

// TestBootedCardFirst: the card that answered last is tried first, until the server answers nothing through it; then that
// which the firmware booted from.
func TestBootedCardFirst(t *testing.T) {
	n := newNetwork(order{bootIf: "52:54:00:00:00:02"}, nil)
	for name, last := range map[string]byte{"eth0": 1, "eth1": 2} {
		n.cards[name] = &netCard{name: name, mac: net.HardwareAddr{0x52, 0x54, 0, 0, 0, last}, addr: netip.MustParsePrefix("10.0.0.9/24")}
	}
	n.best = "eth0"
	if _, best, _ := n.ready(); best != "eth0" {
		t.Errorf("%q is tried first", best)
	}
	n.unanswered()
	if _, best, _ := n.ready(); best != "eth1" {
		t.Errorf("after no answer, %q is tried first", best)
	}
}
