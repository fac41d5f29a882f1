package main

import (
	"bytes"
	"os"
	"testing"
	"unicode/utf8"
)

// TestPictures draws layouts on machines, without colour and with it. DISKO_GOLDEN=write
// writes what it finds: look at it (cat) before you commit it.
func TestPictures(t *testing.T) {
	const dir = "testdata/pictures/"
	for _, c := range []struct {
		name, layout, facts string
		width               int
	}{
		{"ext4", "ext4", "blank", 80},
		{"ext4-unknown", "ext4", "", 80},
		{"windows", "ext4", "windows", 80},
		{"windows-wide", "ext4", "windows", 120},
		{"luks-btrfs", "luks-btrfs", "luks", 80},
		{"luks-lvm", "luks-lvm", "lvm", 80},
		{"mdadm", "mdadm", "raid", 80},
		{"zfs", "zfs", "two", 80},
		{"zfs-narrow", "zfs", "two", 40},
	} {
		facts := ""
		if c.facts != "" {
			facts = dir + c.facts + ".facts.json"
		}
		p, err := planFiles(dir+c.layout+".json", facts, nil)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for suffix, color := range map[string]bool{".picture": false, ".ansi": true} {
			var got bytes.Buffer
			drawPlan(&got, p, c.width, color)
			golden := dir + c.name + suffix
			if os.Getenv("DISKO_GOLDEN") == "write" {
				if err := os.WriteFile(golden, got.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if want, err := os.ReadFile(golden); err != nil || !bytes.Equal(want, got.Bytes()) {
				t.Errorf("%s differs (%v):\n%s", golden, err, got.Bytes())
			}
			for line := range bytes.Lines(got.Bytes()) {
				if n := utf8.RuneCount(bytes.TrimSuffix(line, []byte("\n"))); !color && n > c.width {
					t.Errorf("%s has a line of %d characters: %s", golden, n, line)
				}
			}
		}
	}
}
