package disko

import (
	"strings"
	"testing"
	"unicode"
)

// TestForgedLines: what a machine says of its disks puts no line of its own into what is shown of a plan.
func TestForgedLines(t *testing.T) {
	const evil = `x\nFAKE LINE /dev/sdz is kept\u001b[31m`
	facts := mustFacts(t, `{"blockdevices":[{"name":"vda","path":"/dev/vda","type":"disk","size":1073741824,"log-sec":512,
		"model":"`+evil+`","serial":"`+evil+`","pttype":"`+evil+`","children":[
		{"name":"vda1","path":"/dev/vda1","type":"part","size":536870912,"log-sec":512,"fstype":"`+evil+`","label":"`+evil+`",
		"partlabel":"`+evil+`","parttypename":"`+evil+`"}]}]}`)
	layout, err := Parse([]byte(`{"disk":{"main":{"type":"disk","device":"/dev/vda","content":{"type":"filesystem","format":"ext4",
		"device":"/dev/vda","mountpoint":"/"}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := NewPlan(layout, facts, Options{})
	if err != nil {
		t.Fatal(err)
	}
	shown := []string{plan.Disks[0].String(), plan.Disks[0].loses()}
	for _, s := range plan.Steps {
		shown = append(shown, s.Name, s.Destroys)
	}
	for _, o := range plan.Guard(Known{Host: "bravo"}) {
		shown = append(shown, o.String())
	}
	seen := false
	for _, text := range shown {
		seen = seen || strings.Contains(text, "FAKE LINE")
		if strings.ContainsFunc(text, unicode.IsControl) {
			t.Errorf("%q", text)
		}
	}
	if !seen {
		t.Errorf("nothing of it is shown: %q", shown)
	}
}
