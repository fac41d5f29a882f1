package handover

import (
	"strings"
	"testing"
)

func TestFits(t *testing.T) {
	const mb, mib = 1000 * 1000, 1 << 20
	for _, tt := range []struct {
		name           string
		kernel, initrd uint64
		memory         memory
		want           string // words of the refusal
	}{
		{"the lab's image in 1.5 GiB", 8 * mb, 83 * mb, memory{1457 * mib, 1100 * mib}, ""},
		{"and in 768 MiB", 8 * mb, 83 * mb, memory{700 * mib, 600 * mib}, "87 MiB needs a machine with 814 MiB of memory, and this one has 700 MiB"},
		{"nixos-images' 400 MB in 1.5 GiB, nearly all of it available", 10 * mb, 390 * mb, memory{1457 * mib, 1300 * mib}, ""},
		{"and with little available", 10 * mb, 390 * mb, memory{1457 * mib, 900 * mib}, "382 MiB needs 1241 MiB of available memory while it is loaded, and of this machine's 1457 MiB there are 900 MiB"},
		{"and in 1 GiB", 10 * mb, 390 * mb, memory{960 * mib, 900 * mib}, "382 MiB needs a machine with 1403 MiB of memory, and this one has 960 MiB"},
		{"exactly enough", 1, 1, memory{4 + 640*mib, 6 + 96*mib}, ""},
		{"one too few in total", 1, 1, memory{3 + 640*mib, 6 + 96*mib}, "--via netboot"},
		{"one too few available", 1, 1, memory{4 + 640*mib, 5 + 96*mib}, "--via wol"},
		{"the largest", 4 << 30, 4 << 30, memory{32 << 30, 30 << 30}, ""},
	} {
		err := tt.memory.fits(tt.kernel, tt.initrd)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

func TestParseMemory(t *testing.T) {
	const text = "MemTotal:        1492664 kB\nMemFree:          900000 kB\n"
	for _, tt := range []struct {
		text string
		want memory
		ok   bool
	}{
		{text + "MemAvailable:    1141204 kB\nHugePages_Total:       0\n", memory{1492664 << 10, 1141204 << 10}, true},
		{text, memory{1492664 << 10, 900000 << 10}, true},
		{"MemFree: 1 kB\n", memory{}, false},
		{"MemTotal: many kB\n", memory{}, false},
		{"", memory{}, false},
	} {
		if got, err := parseMemory(tt.text); got != tt.want || (err == nil) != tt.ok {
			t.Errorf("%q: got %v, %v", tt.text, got, err)
		}
	}
}
