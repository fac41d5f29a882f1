package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"provision/images"
	"provision/internal/web"
)

// firmwareIsThere compares what is on the host's disk with what was added.
func (w *world) firmwareIsThere(host string) {
	w.t.Helper()
	var trees []web.Firmware
	w.must(json.Unmarshal([]byte(w.provision("images", "firmware", "list", "--json")), &trees))
	want := map[string]string{}
	board, err := images.ParseBoard("rpi4")
	w.must(err)
	for name, file := range board.Files(trees[0].Firmware, images.FAT) {
		want[name] = file.SHA256
	}
	for _, name := range []string{"start4.elf", "fixup4.dat", "bcm2711-rpi-4-b.dtb", "u-boot-rpi4.bin"} {
		if want[name] == "" {
			w.t.Errorf("Debian's packages have no %s", name)
		}
	}
	const config = "# Written by provision: U-Boot starts the system.\narm_64bit=1\nenable_uart=1\nkernel=u-boot-rpi4.bin\n"
	want["config.txt"] = fmt.Sprintf("%x", sha256.Sum256([]byte(config)))
	names := slices.Sorted(maps.Keys(want))
	said := w.run(host, "cd /boot && sha256sum -- "+strings.Join(names, " ")) // fails if one is not there
	for i, line := range strings.Split(said, "\n") {
		if i >= len(names) || line != want[names[i]]+"  "+names[i] {
			w.t.Errorf("on the disk: %s", line)
		}
	}
	if n := strings.Count(said, "\n") + 1; n != len(names) {
		w.t.Errorf("%d files, want %d", n, len(names))
	}
	if logs := w.provision("logs", host); !strings.Contains(logs, "put the firmware of rpi4 (Raspberry Pi 4, 400 or CM4) into /boot: ") {
		w.t.Errorf("the log does not tell of it:\n%s", logs)
	}
}
