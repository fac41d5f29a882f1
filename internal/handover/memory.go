package handover

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"
)

const (
	// loadSpare is what loading takes beside the image: this program's buffers, page tables, and enough that the
	// running system does not come to a halt.
	loadSpare = 96 << 20
	// runSpare is what an installer takes beside its image: a kernel with its tables (some 100 MB of 1.5 GB), systemd
	// with sshd and nix (150 to 250 MB), and mkfs, cryptsetup and the page cache of what is being copied.
	runSpare = 640 << 20
)

// loadNeeds is how much available memory it takes to load an image with a kernel and an initrd of that many bytes, and
// runNeeds how much memory in total the machine must have to run it.
//
// While it is loaded, all of it is in memory three times: in our memfd, in the buffer that kexec_file_load reads it
// into, and in the pages that stay until the new kernel starts; the buffer is freed only after the copy (Linux,
// kernel/kexec_file.c, kimage_file_prepare_segments to kimage_file_post_load_cleanup). kexec's tool has a buffer of
// its own in the kernel's place. Measured on Linux 6.1: of the lab's 91 MB, available memory fell by 344 MB.
//
// When it starts, the initrd is there twice: as it was loaded, and unpacked. Most of a NixOS image is a squashfs, which
// does not grow by unpacking, and stays; the rest may grow to four times its size, and the first copy, freed then,
// makes up for that. So nixos-images' 400 MB want 1.5 GB, which is what nixos-anywhere says of them.
func loadNeeds(kernel, initrd uint64) uint64 { return 3*(kernel+initrd) + loadSpare }

func runNeeds(kernel, initrd uint64) uint64 { return 2*(kernel+initrd) + runSpare }

// A memory is the machine's, in bytes.
type memory struct{ total, available uint64 }

// fits refuses an image that the machine has too little memory for.
func (m memory) fits(kernel, initrd uint64) error {
	// What the kernel took for itself at boot, some 4 % of a small machine's, is no part of total.
	if needs := runNeeds(kernel, initrd); m.total < needs {
		return fmt.Errorf("start the installer by kexec: its image of %s needs a machine with %s of memory, and this one has %s; use a smaller image, or --via netboot if the machine can netboot one", mib(kernel+initrd), mib(needs), mib(m.total))
	}
	if needs := loadNeeds(kernel, initrd); m.available < needs {
		return fmt.Errorf("load the installer for kexec: its image of %s needs %s of available memory while it is loaded, and of this machine's %s there are %s; stop what uses it, or use --via netboot, --via wol or --via manual", mib(kernel+initrd), mib(needs), mib(m.total), mib(m.available))
	}
	return nil
}

// parseMemory reads /proc/meminfo. Kernels before 3.14 have no MemAvailable, and no kexec_file_load either; for them it
// is what is free.
func parseMemory(meminfo string) (memory, error) {
	values := map[string]uint64{}
	for lines := bufio.NewScanner(strings.NewReader(meminfo)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 54)
		if err == nil {
			values[name] = kib << 10
		}
	}

	m := memory{total: values["MemTotal"], available: values["MemFree"]}
	if available, ok := values["MemAvailable"]; ok {
		m.available = available
	}
	if m.total == 0 {
		return memory{}, fmt.Errorf("read the machine's memory: /proc/meminfo has no MemTotal")
	}
	return m, nil
}
