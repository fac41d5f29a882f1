package disko

import (
	"fmt"
	"strings"
	"testing"
)

// TestFactsAreBounded: a machine that says more of itself than any has is refused.
func TestFactsAreBounded(t *testing.T) {
	device := func(name, more string) string { return fmt.Sprintf(`{"name":%q,"type":"disk","size":1%s}`, name, more) }
	deep := device("last", "")
	for range maxDepth {
		deep = device("x", `,"children":[`+deep+`]`)
	}
	wide := strings.Repeat(device("x", "")+",", maxDevices) + device("x", "")
	for _, tt := range []struct{ devices, want string }{
		{deep, "lie on each other at last"},
		{wide, "more than 10000 devices"},
		{device("sda", `,"serial":"`+strings.Repeat("S", maxName+1)+`"`), "sda has a name, number or label of 1001 bytes"},
	} {
		_, err := ParseFacts([]byte(`{"blockdevices":[` + tt.devices + `]}`))
		if err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 500 {
			t.Errorf("%.200v does not say %q", err, tt.want)
		}
	}
}
