package boards

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// TestRows: each row is complete, and nothing by which a board is recognised stands in two.
func TestRows(t *testing.T) {
	names := map[string]bool{}
	generic := map[string]bool{}
	models := map[byte]bool{}
	digits := map[byte]bool{}
	for _, b := range All() {
		if b.Name == "" || b.Description == "" || b.Table == 0 || len(b.Mountpoints) == 0 || names[b.Name] {
			t.Errorf("%s is incomplete, or there twice", b)
		}
		names[b.Name] = true
		if b.Arch != x86 && b.Arch != arm64 {
			t.Errorf("%s: architecture %q", b, b.Arch)
		}
		if b.Generic && (generic[b.Arch] || b.Firmware != "") {
			t.Errorf("%s is not the only generic board of %s, or has a firmware of its own", b, b.Arch)
		}
		generic[b.Arch] = generic[b.Arch] || b.Generic
		if b.Firmware != "" && (b.TFTPBlock == 0 || len(b.loads) == 0 || len(b.uboots) == 0) {
			t.Errorf("%s loads nothing of its firmware", b)
		}
		for _, m := range b.Models {
			if models[m.Code] || m.Name == "" {
				t.Errorf("%s: model %#02x has no name, or is there twice", b, m.Code)
			}
			models[m.Code] = true
		}
		if digits[b.Digit] {
			t.Errorf("%s: the digit %c is another board's too", b, b.Digit)
		}
		digits[b.Digit] = b.Digit != 0
		if len(b.names)%2 != 0 {
			t.Errorf("%s: names are pairs", b)
		}
		patterns := []string{}
		for _, l := range b.loads {
			patterns = append(patterns, l.patterns...)
		}
		for _, s := range b.config {
			patterns = append(patterns, s.has, s.lacks)
		}
		for _, p := range patterns {
			if _, err := path.Match(p, "start.elf"); err != nil {
				t.Errorf("%s: %s: %v", b, p, err)
			}
		}
	}
	if !generic[x86] || !generic[arm64] {
		t.Errorf("an architecture has no generic board: %v", generic)
	}
}

// TestParse: a board is found by its name, and by nothing else; the error names all that there are.
func TestParse(t *testing.T) {
	slices.Reverse(All()) // which the next caller does not see
	for i, name := range Names() {
		if b, err := Parse(name); err != nil || b.Name != name || All()[i].Name != name {
			t.Errorf("%s: %s, %v", name, b, err)
		}
	}
	const want = `unknown board "RPI4": it is one of pc, uefi-aarch64, rpi3, rpi4, rpi5`
	if b, err := Parse("RPI4"); b.Name != "" || err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%s, %v", b, err)
	}
	if _, ok := Find(func(b Board) bool { return b.Arch == "riscv64" }); ok {
		t.Error("a board was found that is not there")
	}
}

// TestConfig: config.txt starts the best U-Boot, and fits the device trees and the stubs that are there.
func TestConfig(t *testing.T) {
	const head = "# Written by provision: U-Boot starts the system.\narm_64bit=1\nenable_uart=1\nkernel="
	for _, test := range []struct{ board, tree, want string }{
		{"rpi3", "bcm2710-rpi-3-b.dtb u-boot-rpi-arm64.bin u-boot-rpi3.bin", "u-boot-rpi3.bin\n"},
		{"rpi3", "bcm2837-rpi-3-b.dtb u-boot-rpi-arm64.bin", "u-boot-rpi-arm64.bin\nupstream_kernel=1\n"},
		{"rpi4", "bcm2711-rpi-4-b.dtb u-boot-rpi4.bin u-boot-rpi-arm64.bin", "u-boot-rpi4.bin\n"},
		{"rpi4", "armstub8-gic.bin u-boot-rpi4.bin", "u-boot-rpi4.bin\nenable_gic=1\narmstub=armstub8-gic.bin\n"},
		{"rpi5", "armstub8-gic.bin u-boot-rpi4.bin u-boot-rpi-arm64.bin", "u-boot-rpi-arm64.bin\n"},
	} {
		b, err := Parse(test.board)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.Config(strings.Fields(test.tree)); got != head+test.want {
			t.Errorf("%s with %s:\n%s", test.board, test.tree, got)
		}
	}
}

// TestUBootFile: the path where a U-Boot was found tells for which board it is.
func TestUBootFile(t *testing.T) {
	for where, want := range map[string]string{
		"rpi_3/":                                "u-boot-rpi3.bin",
		"u-boot-rpi3.bin":                       "u-boot-rpi3.bin",
		"/usr/lib/u-boot/rpi_4/":                "u-boot-rpi4.bin",
		"/nix/store/0-uboot-rpi_4_defconfig-1/": "u-boot-rpi4.bin",
		"u-boot-rpi-arm64.bin":                  "u-boot-rpi-arm64.bin",
		"/usr/lib/u-boot/RPI_ARM64/":            "u-boot-rpi-arm64.bin",
		"/rpi4/rpi_arm64/":                      "u-boot-rpi-arm64.bin",
		"/boot/":                                "",
	} {
		if got := UBootFile(where); got != want {
			t.Errorf("%s: %q, want %q", where, got, want)
		}
	}
	if got := strings.Join(UBootFiles(), " "); got != "u-boot-rpi3.bin u-boot-rpi4.bin u-boot-rpi-arm64.bin" {
		t.Error(got)
	}
}

// TestAskedName: device trees of mainline Linux get the names that the firmware asks for.
func TestAskedName(t *testing.T) {
	for _, test := range []struct{ board, file, want string }{
		{"rpi3", "bcm2837-rpi-3-b-plus.dtb", "bcm2710-rpi-3-b-plus.dtb"},
		{"rpi3", "bcm2837-rpi-cm3-io3.dtb", "bcm2710-rpi-cm3.dtb"},
		{"rpi3", "bcm2710-rpi-3-b.dtb", "bcm2710-rpi-3-b.dtb"},
		{"rpi4", "bcm2711-rpi-cm4-io.dtb", "bcm2711-rpi-cm4.dtb"},
		{"rpi5", "bcm2712-rpi-5-b.dtb", "bcm2712-rpi-5-b.dtb"},
		{"pc", "start.elf", "start.elf"},
	} {
		b, err := Parse(test.board)
		if err != nil {
			t.Fatal(err)
		}
		if got := b.AskedName(test.file); got != test.want {
			t.Errorf("%s asks for %s as %s, want %s", test.board, test.file, got, test.want)
		}
	}
}
