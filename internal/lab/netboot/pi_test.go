package netboot

import (
	"strings"
	"testing"
)

// TestPiConfig: what the firmware does not read does not count.
func TestPiConfig(t *testing.T) {
	var c piConfig
	text := "# a comment\nkernel=first\n[pi5]\nkernel=other\n[all]\r\nkernel=mine\ncmdline=words.txt\ninitramfs disk followkernel\n"
	if faults := c.read(text); c != (piConfig{"mine", "disk", "words.txt"}) || faults != nil {
		t.Errorf("%+v, %q", c, faults)
	}
	if faults := c.read("kernel=" + strings.Repeat("x", 99)); len(faults) != 1 || c.kernel != "mine" {
		t.Errorf("%+v, %q", c, faults)
	}
	if faults := c.read(strings.Repeat("#\n", 2048) + "kernel=late"); len(faults) != 1 || c.kernel != "mine" {
		t.Errorf("%+v, %q", c, faults)
	}
}
