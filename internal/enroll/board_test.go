package enroll

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"provision/disko"
	"provision/hosts"
	"provision/internal/store"
)

// TestBoardAuto: a host's board is what its machine was seen to be, or what it was before, and
// what does not fit the flake is refused.
func TestBoardAuto(t *testing.T) {
	db, err := store.OpenBolt(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	vault, err := hosts.OpenVault(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	inv, err := hosts.New(db, vault, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	s := &Service{Hosts: inv}
	preset := func(name string) *disko.Layout {
		t.Helper()
		p, err := disko.FindPreset(name)
		if err != nil {
			t.Fatal(err)
		}
		l, err := p.Layout()
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	const pi4, pi3, pc, strange = "dc:a6:32:00:00:04", "b8:27:eb:00:00:03", "52:54:00:00:00:01", "52:54:00:00:00:09"
	for mac, board := range map[string]string{pi4: "rpi4", pi3: "rpi3", pc: "pc"} {
		inv.See(hosts.Discovered{MAC: mac, Board: board})
	}
	const noGPT = "rpi3: its boot ROM reads no GPT"
	for _, test := range []struct{ mac, arch, name, layout, want, err string }{
		{pi4, "aarch64", "auto", "rpi4", "rpi4", ""}, // with a warning
		{pi4, "aarch64", "", "rpi4", "rpi4", ""},
		{pi4, "aarch64", "rpi5", "rpi5", "rpi5", ""}, // the operator knows better
		{pi4, "aarch64", "rpi3", "rpi4", "", noGPT},
		{pi4, "x86_64", "auto", "rpi4", "", "the machine was seen to be rpi4 (Raspberry Pi 4, 400 or CM4), which is aarch64, and the flake builds bravo for x86_64"},
		{pi3, "aarch64", "auto", "rpi4", "", "does not suit its board, rpi3 (Raspberry Pi 3B, 3B+ or CM3) (--board says if it is another):\n  disk.main.content.partitions.firmware: " + noGPT},
		{pi3, "aarch64", "auto", "rpi3", "rpi3", ""},
		{pc, "x86_64", "auto", "ext4", "pc", ""},
		{strange, "x86_64", "auto", "ext4", "", ""},
		{strange, "x86_64", "rpi9", "ext4", "", "unknown board"},
		{strange, "x86_64", "rpi4", "ext4", "", "the board rpi4 (Raspberry Pi 4, 400 or CM4) is aarch64"},
		{strange, "aarch64", "uefi-aarch64", "bios-ext4", "", "UEFI starts from an EFI system partition"},
	} {
		h := hosts.Host{
			Name:    "bravo",
			MACs:    []string{test.mac},
			Arch:    test.arch,
			Choices: hosts.Choices{Board: test.name}, // as it was asked for
		}
		err := s.board(test.name, &h, preset(test.layout))
		if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) || err == nil && h.Board != test.want {
			t.Errorf("%+v: %q, %v", test, h.Board, err)
		}
	}

	// Enrolled, the machine is not among the discovered any more.
	if _, err := inv.Enroll(hosts.Host{Name: "bravo", MACs: []string{pi4, pc}, Arch: "aarch64", Choices: hosts.Choices{Board: "rpi4"}}, time.Hour, nil); err != nil {
		t.Fatal(err)
	}
	for want, macs := range map[string][]string{"rpi4": {pc, pi4}, "": {strange}} {
		h := hosts.Host{Name: "bravo", MACs: macs, Arch: "aarch64"}
		if err := s.board(AutoBoard, &h, preset("rpi4")); err != nil || h.Board != want {
			t.Errorf("%v: %q, %v", macs, h.Board, err)
		}
	}
}
