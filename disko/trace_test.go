package disko

import (
	"bufio"
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestLikeDisko compares plans with the commands that disko's own scripts ran for the
// same layouts. What is left out or rewritten on either side is all said here.
func TestLikeDisko(t *testing.T) {
	for name, c := range map[string]struct {
		changes map[string]any // to the layout, where the example goes beyond what is supported
		skip    string         // lines that disko or we have because of that
	}{
		"btrfs-subvolumes":         {},
		"gpt-bios-compat":          {},
		"gpt-name-with-whitespace": {},
		"gpt-unformatted":          {},
		"hybrid":                   {},
		"luks-interactive-login":   {},
		"simple-efi":               {},
		"with-lib":                 {},
		"luks-btrfs-subvolumes": {
			map[string]any{"disk.main.content.partitions.luks.content.additionalKeyFiles": []any{}},
			"cryptsetup luksAddKey /dev/disk/by-partlabel/disk-main-luks /tmp/additionalSecret.key --key-file /tmp/secret.key",
		},
		"swap": {
			map[string]any{"disk.main.content.partitions.encryptedSwap.content.randomEncryption": false},
			"mkswap /dev/disk/by-partlabel/disk-main-encryptedSwap",
		},
	} {
		t.Run(name, func(t *testing.T) {
			data := readFile(t, "layouts/"+name+".json")
			if c.changes != nil {
				data = edit(t, data, c.changes)
			}
			p, err := NewPlan(mustParse(t, data), nil)
			if err != nil {
				t.Fatal(err)
			}
			for stage, file := range map[Stage]string{StageCreate: "1create", StageMount: "2mount"} {
				want := without(theirs(t, readFile(t, "traces/"+name+"."+file+".jsonl")), c.skip)
				got := without(ourCommands(p, stage), c.skip)
				if !slices.Equal(got, want) {
					t.Errorf("%s: got\n%s\nwant\n%s", stage, strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			}
			checkSettling(t, p)
		})
	}
}

func without(list []string, skip string) []string {
	return slices.DeleteFunc(list, func(s string) bool { return s == skip })
}

var temporary = regexp.MustCompile(`\$TMP\d+`)

// theirs are disko's commands: without its checks, with one temporary mount for all of
// a btrfs, and without what checkSettling looks at.
func theirs(t *testing.T, trace []byte) []string {
	t.Helper()
	var list []string
	for sc := bufio.NewScanner(bytes.NewReader(trace)); sc.Scan(); {
		var line struct {
			Argv  []string
			Query bool
		}
		if err := json.Unmarshal(sc.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if line.Query || line.Argv[0] == "partprobe" || line.Argv[0] == "udevadm" {
			continue
		}
		for i, arg := range line.Argv {
			arg = temporary.ReplaceAllString(arg, scratch)
			line.Argv[i] = strings.TrimSuffix(strings.ReplaceAll(arg, "//", "/"), "/")
			if arg == "subvol=/" {
				line.Argv[i] = arg
			}
		}
		cmd := strings.Join(line.Argv, " ")
		if n := len(list) - 1; n >= 0 && list[n] == "umount "+scratch && strings.HasSuffix(cmd, scratch+" -o subvol=/") {
			list = list[:n]
			continue
		}
		list = append(list, cmd)
	}
	return list
}

// ourCommands are a stage's: without the wiping of new partitions, folders (disko's
// are not in the traces), swap being turned on (disko forgets), and btrfs named to mount.
func ourCommands(p *Plan, stage Stage) []string {
	var list []string
	for _, s := range p.Steps {
		if s.Stage != stage || slices.Contains([]string{"wipefs", "mkdir", "partprobe", "udevadm", "swapon"}, s.Argv[0]) {
			continue
		}
		argv := s.Argv
		if i := slices.Index(argv, "--key-file"); i >= 0 && argv[i+1] == "-" && s.Stdin != "" {
			argv = slices.Clone(argv)
			argv[i+1] = "<(PASSWORD)"
		}
		list = append(list, strings.Replace(strings.Join(argv, " "), " -t btrfs", "", 1))
	}
	return list
}

// checkSettling looks at what must be between partitioning and formatting: the kernel and
// udev know the partitions, and each is wiped.
func checkSettling(t *testing.T, p *Plan) {
	t.Helper()
	for i, d := range p.Disks {
		var got []string
		for _, s := range p.Steps {
			if s.Stage == StageCreate && s.Device == d.Device && s.Argv[0] != "sgdisk" {
				got = append(got, strings.Join(s.Argv, " "))
			}
		}
		settle := "udevadm settle --timeout 120"
		if want := []string{settle, "partprobe " + d.Device, "udevadm trigger --subsystem-match=block", settle}; !slices.Equal(got, want) {
			t.Errorf("after partitioning: got %q, want %q", got, want)
		}
		for n := range p.layout[i].parts {
			dev := p.layout[i].parts[n].device
			k := slices.IndexFunc(p.Steps, func(s Step) bool { return s.Stage == StageCreate && s.Device == dev })
			if want := "wipefs --all --force " + dev; k < 0 || strings.Join(p.Steps[k].Argv, " ") != want {
				t.Errorf("%s is not wiped first", dev)
			}
		}
	}
}
