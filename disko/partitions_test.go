package disko

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestPartitions: what firmware sees of layouts of all kinds of tables.
func TestPartitions(t *testing.T) {
	for layout, want := range map[string][]string{
		"hybrid": {"card 1 gpt ESP mbr 0xc vfat [] 33554432", "card 2 gpt ext f2fs [/] 0"},
		"gpt": {
			"main 1 gpt ESP mbr 0xc boot vfat [/boot] 536870912", "main 2 gpt ext mbr 0x7 vfat [] 67108864", "main 3 gpt ext  [] 0",
			"main 4 gpt BIOS boot  [] 1048576", "main 5 gpt ext xfs [/srv/$(data)] 21474836480",
		},
		"parted": {
			"new 1 gpt ESP vfat [/boot] 536870912", "new 2 gpt ext ext4 [/] 0", "new 3 gpt BIOS  [] 0",
			"old 1 mbr alone ext mbr 0x83 boot ext4 [/old] 0", "old 2 mbr alone ext mbr 0x82  [] 0",
		},
		"btrfs": {"main 1 gpt ESP vfat [/boot] 0", "main 2 gpt ext btrfs [/top /home /nix /.swap /] 0"},
	} {
		data, err := os.ReadFile("testdata/layouts/" + layout + ".json")
		if err != nil {
			t.Fatal(err)
		}
		l, err := Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, p := range l.Partitions() {
			words := []string{p.Disk, fmt.Sprint(p.Number), map[bool]string{true: "gpt", false: "mbr alone"}[p.GPT]}
			switch {
			case p.ESP():
				words = append(words, "ESP")
			case p.BIOSBoot():
				words = append(words, "BIOS")
			default:
				words = append(words, "ext")
			}
			if p.MBR != 0 {
				words = append(words, fmt.Sprintf("mbr %#x", p.MBR))
			}
			if p.Bootable {
				words = append(words, "boot")
			}
			got = append(got, strings.Join(append(words, p.Format, fmt.Sprint(p.Mountpoints), fmt.Sprint(p.Size)), " "))
		}
		if len(got) < len(want) || strings.Join(got[:len(want)], "\n") != strings.Join(want, "\n") {
			t.Errorf("%s:\n%s", layout, strings.Join(got, "\n"))
		}
	}
}
