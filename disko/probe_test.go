package disko

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// probed runs the probe with programs of the test's own.
func probed(t *testing.T, programs map[string]string, look ProbePaths) []byte {
	t.Helper()
	dir := t.TempDir()
	for name, script := range programs {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	argv := Probe(look)
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, said.Bytes())
	}
	return out
}

// TestProbeChatter: what programs that are only run print on standard output gets nowhere, as mount's warnings of util-linux 2.41
// did; and what is read is asked for in English.
func TestProbeChatter(t *testing.T) {
	const chatter = "echo 'mount warning: * btrfs: Deprecated parameter'; printf 'inside\\0/dev/x\\0'; "
	out := probed(t, map[string]string{
		"lsblk":   `[ "$LC_ALL" = C ] || exit 9; echo '{"blockdevices":[{"name":"vdb","kname":"vdb","type":"disk","size":1,"fstype":"btrfs"}]}'`,
		"findmnt": `[ "$LC_ALL" = C ] || exit 9; echo '{"filesystems":[]}'`,
		"mount":   chatter + "exit 0",
		"umount":  chatter + "exit 0",
		"mkdir":   chatter + "exit 0",
		"udevadm": chatter + "exit 0",
	}, ProbePaths{"/dev/vdb": {"no such/home", "swap"}})
	data, err := ReadProbe(out)
	if err != nil {
		t.Fatal(err)
	}
	f := mustFacts(t, string(data))
	if len(f.Inside) != 1 || len(f.Inside["/dev/vdb"]) != 2 {
		t.Errorf("inside: %q", f.Inside)
	}
}

// TestProbeUnclear: a device with signatures of several things is not taken for an empty one, whatever blkid exits with.
func TestProbeUnclear(t *testing.T) {
	for name, tt := range map[string]struct{ blkid, wipefs, want string }{
		"util-linux 2.38":             {"echo 'ambivalent result' >&2; exit 8", "exit 1", "unclear"},
		"util-linux 2.41":             {"exit 2", "printf 'xfs\\next4\\n'", "unclear"},
		"nothing there":               {"exit 2", "exit 0", ""},
		"nothing there, and no tool":  {"exit 2", "exit 127", ""},
		"two copies of one signature": {"exit 2", "printf 'gpt\\ngpt\\n'", ""},
		"what udev does not know":     {"echo TYPE=xfs; echo 'a warning' >&2", "printf 'xfs\\next4\\n'", "xfs"},
		"a partition that is free":    {"echo PART_ENTRY_NUMBER=1", "exit 1", ""},
	} {
		out := probed(t, map[string]string{
			"lsblk": `case $* in *--json*) echo '{"blockdevices":[{"name":"vdb","kname":"vdb","type":"disk","size":1,"fstype":null}]}' ;; *) echo vdb ;; esac`,
			"blkid": tt.blkid, "wipefs": tt.wipefs, "findmnt": `echo '{"filesystems":[]}'`, "udevadm": "exit 0",
		}, nil)
		data, err := ReadProbe(out)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if f := mustFacts(t, string(data)); f.BlockDevices[0].FSType != tt.want {
			t.Errorf("%s: read as %q, want %q", name, f.BlockDevices[0].FSType, tt.want)
		}
	}
}

// TestProbeMoving: a device that starts while the disks are listed is not taken for an empty one.
func TestProbeMoving(t *testing.T) {
	const empty = `{"blockdevices":[{"name":"vg-x", "kname":"dm-0", "path":"/dev/mapper/vg-x","type":"lvm","size":1,"fstype":null}]}`
	out := probed(t, map[string]string{
		"lsblk": "case $* in *--json*) echo '" + empty + "' ;; *) echo 'dm-0 ext4' ;; esac", // by then udev knows it
		"blkid": `[ "$4" = /dev/dm-0 ] && echo TYPE=ext4`, "findmnt": `echo '{"filesystems":[]}'`, "udevadm": "exit 0",
	}, nil)
	data, err := ReadProbe(out)
	if err != nil {
		t.Fatal(err)
	}
	if got := mustFacts(t, string(data)).BlockDevices[0].FSType; got != "ext4" {
		t.Errorf("got %q", got)
	}
	if _, err := ReadProbe([]byte("lsblk\x00" + empty + "\x00end\x00")); err == nil || !strings.Contains(err.Error(), "nothing looked at vg-x") {
		t.Errorf("a device that nothing looked at: %v", err)
	}
}

// TestProbeNoise: a line that a tool adds to what it was asked for does no harm, or is shown in an error.
func TestProbeNoise(t *testing.T) {
	const stray = "warning: something is deprecated\n"
	outputs := []struct{ name, text string }{
		{"lsblk", "{\n \"blockdevices\": [\n  {\"name\":\"vdb\",\"kname\":\"vdb\",\"type\":\"disk\",\"size\":1,\"new-in-2.99\":{\"a\":[1]}}\n ]\n}\n"},
		{"links", "/dev/disk/by-id/x\t../../vdb\n/dev/mapper/y\t../dm-0\n"},
		{"mounts", "{\n \"filesystems\": [\n  {\"target\":\"/\",\"source\":\"/dev/vdb\",\"fstype\":\"ext4\",\"fsroot\":\"/\",\"new\":1}\n ]\n}\n"},
		{"swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/dev/vdb2                               partition\t1048572\t\t0\t\t-2\n/dev/vdb3 partition 1 0 -3\n"},
		{"pvs", "{\n \"report\": [\n  {\"pv\": [\n {\"pv_name\":\"/dev/vdb\", \"vg_name\":\"pool\"}\n ]}\n ]\n ,\n \"log\": []\n}\n"},
		{"lvs", "{\n \"report\": [\n  {\"lv\": [\n {\"vg_name\":\"pool\", \"lv_name\":\"root\", \"lv_size\":\"1\", \"segtype\":\"linear\", \"pool_lv\":\"\"}\n ]}\n ]\n}\n"},
		{"pools", "tank\nzroot\n"},
		{"datasets", "tank\tfilesystem\t-\t-\ntank/v\tvolume\t1\tavailable\n"},
		{"signatures", "/dev/vdb\nTYPE=ext4\nUUID=1\n/dev/vdc\n"},
	}
	print := func(changed int, text string) []byte {
		var out strings.Builder
		for i, o := range outputs {
			if i == changed {
				o.text = text
			}
			out.WriteString(o.name + "\x00" + o.text + "\x00")
		}
		return []byte(out.String() + "end\x00")
	}
	clean, err := ReadProbe(print(-1, ""))
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range outputs {
		lines := strings.SplitAfter(o.text, "\n")
		for at := range lines {
			noisy := strings.Join(lines[:at], "") + stray + strings.Join(lines[at:], "")
			got, err := ReadProbe(print(i, noisy))
			switch {
			case err != nil && !strings.Contains(err.Error(), "deprecated"):
				t.Errorf("%s, line %d: the error does not show what is wrong: %v", o.name, at, err)
			case err == nil && !bytes.Equal(got, clean):
				t.Errorf("%s, line %d: a stray line is taken for an answer: %s", o.name, at, got)
			}
		}
	}
	for name, out := range map[string]string{
		"before all":           "welcome\x00" + string(print(-1, "")),
		"between the sections": strings.Replace(string(print(-1, "")), "mounts\x00", stray+"mounts\x00", 1),
		"cut off":              strings.TrimSuffix(string(print(-1, "")), "end\x00"),
		"nothing":              "",
	} {
		if got, err := ReadProbe([]byte(out)); err == nil {
			t.Errorf("%s: %s", name, got)
		}
	}
}
