package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"provision/disko"
	"provision/internal/text"
)

// TestPictures draws layouts on machines, without colour and with it. DISKO_GOLDEN=write
// writes what it finds: look at it (cat) before you commit it.
func TestPictures(t *testing.T) {
	const dir = "testdata/pictures/"
	for _, c := range []struct {
		name, layout, facts string
		width               int
		way                 disko.Mode
	}{
		{"ext4", "ext4", "blank", 80, disko.Fresh},
		{"ext4-unknown", "ext4", "", 80, disko.Fresh},
		{"windows", "ext4", "windows", 80, disko.Fresh},
		{"windows-wide", "ext4", "windows", 120, disko.Fresh},
		{"luks-btrfs", "luks-btrfs", "luks", 80, disko.Fresh},
		{"luks-lvm", "luks-lvm", "lvm", 80, disko.Fresh},
		{"mdadm", "mdadm", "raid", 80, disko.Fresh},
		{"zfs", "zfs", "two", 80, disko.Fresh},
		{"zfs-narrow", "zfs", "two", 40, disko.Fresh},
		{"windows-narrow", "ext4", "windows", 50, disko.Fresh},
		{"beside-windows", "ext4", "dual", 80, disko.Format},
		{"all-kept", "ext4", "made", 80, disko.Mount},
	} {
		p, err := planPicture(dir+c.layout+".json", dir+c.facts+".facts.json", c.way)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for suffix, color := range map[string]bool{".picture": false, ".ansi": true} {
			var got bytes.Buffer
			drawPlan(&text.Writer{To: &got}, p, c.width, color)
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

// planPicture plans a layout; a machine without facts is called ".facts.json".
func planPicture(layoutFile, factsFile string, way disko.Mode) (*disko.Plan, error) {
	data, err := os.ReadFile(layoutFile)
	if err != nil {
		return nil, err
	}
	layout, err := disko.Parse(data)
	if err != nil || filepath.Base(factsFile) == ".facts.json" {
		return disko.NewPlan(layout, nil, disko.Options{Mode: way})
	}
	if data, err = os.ReadFile(factsFile); err != nil {
		return nil, err
	}
	facts, err := disko.ParseFacts(data)
	if err != nil {
		return nil, err
	}
	return disko.NewPlan(layout, facts, disko.Options{Mode: way})
}

// TestPlanTimes: steps that take long say so, and how long they take together.
func TestPlanTimes(t *testing.T) {
	p, err := planPicture("testdata/pictures/luks-lvm.json", "testdata/pictures/lvm.facts.json", disko.Fresh)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := showPlan(&out, p); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"format luks as LUKS, ~6 s\n", "open luks as crypted, ~2 s\n", "format home with ext4\n", "usually take ~15 s together"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

// TestPicturesFit: whatever the layout and the width, lines fit and boxes are closed.
func TestPicturesFit(t *testing.T) {
	files, err := filepath.Glob("../../disko/testdata/layouts/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		p, err := planPicture(file, ".facts.json", disko.Fresh)
		if err != nil {
			t.Fatal(err)
		}
		for width := 40; width <= 120; width += 8 {
			var out strings.Builder
			drawPlan(&out, p, width, false)
			for line := range strings.Lines(out.String()) {
				line = strings.TrimSuffix(line, "\n")
				boxed := strings.ContainsAny(line, "│┐┤┘")
				if n := utf8.RuneCountInString(line); n > width || boxed && (n != width || !strings.ContainsRune("│┐┤┘", []rune(line)[n-1])) {
					t.Errorf("%s in %d columns: %s", file, width, line)
				}
			}
		}
	}
}
