package lab

import (
	"fmt"
	"os"
	"strings"
)

// Peak is the most memory that a process had so far, in bytes (VmHWM of proc_pid_status(5)).
func Peak(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	var kB int64
	if _, err := fmt.Sscan(rest, &kB); err != nil {
		return 0, fmt.Errorf("process %d tells no VmHWM: %w", pid, err)
	}
	return kB << 10, nil
}
