package handover

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"
)

const (
	// loadSpare is the memory in bytes that loading takes in addition to the image: this program's buffers, page tables,
	// and enough that the running system does not come to a halt.
	loadSpare = 96 << 20
	// runSpare is the memory in bytes that an installer takes in addition to its image: the kernel with its tables (about
	// 100 MB of 1.5 GB), systemd with sshd and nix (150 to 250 MB), and mkfs, cryptsetup and the page cache for what is
	// being copied.
	runSpare = 640 << 20
)

// loadNeeds returns how much memory must be available to load a kernel and an initrd of these sizes, and runNeeds how
// much memory in total the machine must have to run them. All numbers are bytes.
//
// While they are loaded, they are in memory three times: in the memfd of this program, in the buffer into which
// kexec_file_load reads them, and in the pages that are kept until the new kernel starts. The buffer is freed only
// after the copy (Linux, kernel/kexec_file.c, kimage_file_prepare_segments to kimage_file_post_load_cleanup). The
// program kexec has its own buffer instead of the kernel's. Measured on Linux 6.1: for the lab's image of 91 MB,
// available memory fell by 344 MB.
//
// When the new kernel starts, the initrd is there twice: as loaded, and unpacked. Most of a NixOS image is a squashfs,
// which does not grow when it is unpacked, and stays. The rest may grow to four times its size, which the first copy
// makes up for when it is freed. So the 400 MB of nixos-images need 1.5 GB, which is also what nixos-anywhere
// documents.
func loadNeeds(kernel, initrd uint64) uint64 { return 3*(kernel+initrd) + loadSpare }

func runNeeds(kernel, initrd uint64) uint64 { return 2*(kernel+initrd) + runSpare }

// memory is the machine's memory, in bytes.
type memory struct{ total, available uint64 }

// fits returns an error if the machine has too little memory for an image.
func (m memory) fits(kernel, initrd uint64) error {
	// total does not include what the kernel reserved at boot, about 4 % on a small machine.
	if needs := runNeeds(kernel, initrd); m.total < needs {
		return fmt.Errorf("start the installer by kexec: its image of %s needs a machine with %s of memory, and "+
			"this one has %s; use a smaller image, or --via netboot if the machine can netboot one", mib(kernel+initrd), mib(needs), mib(m.total))
	}
	if needs := loadNeeds(kernel, initrd); m.available < needs {
		return fmt.Errorf("load the installer for kexec: its image of %s needs %s of available memory while it is "+
			"loaded, and of this machine's %s there are %s; stop what uses it, or use --via netboot, --via wol or "+
			"--via manual", mib(kernel+initrd), mib(needs), mib(m.total), mib(m.available))
	}
	return nil
}

// parseMemory parses /proc/meminfo. Kernels before 3.14 have no MemAvailable, and no kexec_file_load either; for these,
// MemFree is used.
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
