package disko

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAbreast: disks are made beside each other as far as they do not depend on each other. No step is
// lost, and each disk's keep their order.
func TestAbreast(t *testing.T) {
	files, err := filepath.Glob("testdata/layouts/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d layouts, %v", len(files), err)
	}
	lanes := map[string]string{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		l, err := Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		p, err := NewPlan(l, nil, Options{})
		if err != nil {
			t.Fatal(err)
		}
		count, widths := 0, []string{}
		for _, abreast := range Concurrent(p.Steps) {
			if len(abreast) > 1 {
				widths = append(widths, fmt.Sprint(len(abreast)))
			}
			for _, lane := range abreast {
				count += len(lane)
				for _, s := range lane {
					if len(abreast) > 1 && (s.Disk != lane[0].Disk || s.Stage != abreast[0][0].Stage || s.Hook != "" || s.Argv[0] == "cryptsetup" || s.Argv[0] == "mdadm") {
						t.Errorf("%s: %q runs beside others", file, s.Name)
					}
				}
			}
		}
		if count != len(p.Steps) {
			t.Errorf("%s: %d of %d steps", file, count, len(p.Steps))
		}
		lanes[strings.TrimSuffix(filepath.Base(file), ".json")] = strings.Join(widths, " ")
	}
	for name, want := range map[string]string{
		"mdadm": "2 2", "btrfs-raid": "2", "zfs": "11 10", "lvm": "3", "efi": "", "luks": "", "hooks": "",
	} {
		if lanes[name] != want {
			t.Errorf("%s: disks at a time: %q, want %q", name, lanes[name], want)
		}
	}
}
