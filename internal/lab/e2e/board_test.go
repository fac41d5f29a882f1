package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"provision/images"
	"provision/internal/api"
)

// firmwareIsThere compares what is on the host's disk with what was added.
func (w *world) firmwareIsThere(host, name, at string) {
	w.t.Helper()
	var trees []api.Firmware
	w.must(json.Unmarshal([]byte(w.provision("images", "firmware", "list", "--json")), &trees))
	want := map[string]string{}
	board, err := images.ParseBoard(name)
	w.must(err)
	for name, file := range board.Files(trees[0].Firmware, images.FAT) {
		want[name] = file.SHA256
	}
	uboot := map[string]string{"rpi3": "u-boot-rpi3.bin", "rpi4": "u-boot-rpi4.bin", "rpi5": "u-boot-rpi-arm64.bin"}[name]
	for _, name := range append(map[string][]string{
		"rpi3": {"bootcode.bin", "start.elf", "fixup.dat"},
		"rpi4": {"start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb"},
		"rpi5": {"bcm2712-rpi-5-b.dtb"},
	}[name], uboot) {
		if want[name] == "" {
			w.t.Errorf("Debian's packages have no %s", name)
		}
	}
	config := "# Written by provision: U-Boot starts the system.\narm_64bit=1\nenable_uart=1\nkernel=" + uboot + "\n"
	if name == "rpi3" {
		config += "upstream_kernel=1\n" // Debian's device trees are the kernel's own
	}
	want["config.txt"] = fmt.Sprintf("%x", sha256.Sum256([]byte(config)))
	names := slices.Sorted(maps.Keys(want))
	said := w.run(host, "cd "+at+" && sha256sum -- "+strings.Join(names, " ")) // fails if one is not there
	for i, line := range strings.Split(said, "\n") {
		if i >= len(names) || line != want[names[i]]+"  "+names[i] {
			w.t.Errorf("on the disk: %s", line)
		}
	}
	if n := strings.Count(said, "\n") + 1; n != len(names) {
		w.t.Errorf("%d files, want %d", n, len(names))
	}
	if logs := w.provision("logs", host); !strings.Contains(logs, fmt.Sprintf("put the firmware of %s (%s) into %s: ", name, board.Words, at)) {
		w.t.Errorf("the log does not tell of it:\n%s", logs)
	}
}
