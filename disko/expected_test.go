package disko

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestUsual(t *testing.T) {
	const tib = 1 << 40
	places := map[string]blockTarget{"a": {device: "/dev/sda1", size: 2 * tib}, "b": {device: "/dev/sda2", size: tib / 1024}, "c": {device: "/dev/sda3"}}
	for _, c := range []struct {
		device, argv string
		want         time.Duration
	}{
		{"/dev/sda1", "mkfs.vfat -F 32 /dev/sda1", 5 * time.Second},
		{"/dev/sda2", "mkfs.vfat /dev/sda2", 0},
		{"/dev/sda3", "mkfs.vfat /dev/sda3", 0}, // not known how large
		{"/dev/sda1", "mkfs.ext3 /dev/sda1", 7 * time.Second},
		{"/dev/sda1", "mkfs.ext4 /dev/sda1", 0},
		{"/dev/sda1", "mkfs.ntfs /dev/sda1", 0},
		{"/dev/sda2", "cryptsetup open /dev/sda2 kept --key-file -", 2 * time.Second},
		{"/dev/sda1", "cryptsetup -q luksFormat /dev/sda1 --iter-time 5000 --key-file -", 12 * time.Second},
		{"/dev/sda1", "cryptsetup open /dev/sda1 x --key-file -", 5 * time.Second},
		{"/dev/sda1", "cryptsetup luksAddKey /dev/sda1 /k --key-file -", 10 * time.Second},
		{"/dev/sda3", "cryptsetup -q luksFormat /dev/sda3 --key-file -", 6 * time.Second},
		{"/dev/sda3", "cryptsetup luksAddKey /dev/sda3 /k --key-file -", 7 * time.Second},
		{"/dev/sda2", "cryptsetup -q luksFormat /dev/sda2 -i 100 --key-file -", 2 * time.Second},
		{"/dev/sda2", "cryptsetup -q luksFormat /dev/sda2 --iter-time=x --key-file -", 6 * time.Second},
		{"/dev/sda2", "cryptsetup -q luksFormat /dev/sda2 --integrity hmac-sha256", 0},
		{"/dev/md/x", "mdadm --create /dev/md/x", 0},
		{"/dev/sda1", "bash -c hook", 0},
	} {
		steps := []Step{{Argv: strings.Fields(c.argv), Device: c.device}}
		if c.argv == "cryptsetup open /dev/sda1 x --key-file -" || strings.HasPrefix(c.argv, "cryptsetup luksAddKey /dev/sda1") {
			steps = append([]Step{{Argv: strings.Fields("cryptsetup luksFormat /dev/sda1 --iter-time=5000"), Device: c.device}}, steps...)
		}
		setExpected(steps, places)
		if got := steps[len(steps)-1].Expected; got != c.want {
			t.Errorf("%s: %v instead of %v", c.argv, got, c.want)
		}
	}
}

// TestUsualJSON: a duration is a number of seconds, and comes back.
func TestUsualJSON(t *testing.T) {
	l := mustParse(t, readFile(t, "layouts/luks.json"))
	p, err := NewPlan(l, blank(t, l), Options{})
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(p)
	if err != nil || strings.Count(string(data), `"usual_seconds":6`) != 1 || strings.Count(string(data), "usual") != 2 {
		t.Errorf("got %s, %v", data, err)
	}
	var back Plan
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	for i, s := range p.Steps {
		if got := back.Steps[i]; got.Expected != s.Expected || got.Name != s.Name {
			t.Errorf("%v came back as %v", s, got)
		}
	}
}
