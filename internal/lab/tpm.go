package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// tpm plugs a TPM 2.0 into the machine that qemu is to be, and returns the command that emulates the chip. The two talk
// over a pair of sockets, so neither has to wait for the other's, and the chip goes off with the machine.
func (m *Machine) tpm(ctx context.Context, qemu *exec.Cmd) (*exec.Cmd, error) {
	dir := filepath.Join(m.Dir, m.Name+".tpm")
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("make a TPM: %w", err)
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a TPM: %w", err)
	}
	const first = "3" // of ExtraFiles, in the child
	chip := exec.CommandContext(ctx, "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir,
		"--ctrl", "type=unixio,clientfd="+first, "--terminate", "--flags", "not-need-init,startup-clear")
	chip.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	chip.ExtraFiles = []*os.File{os.NewFile(uintptr(ends[0]), "tpm")}
	qemu.ExtraFiles = []*os.File{os.NewFile(uintptr(ends[1]), "tpm")}
	qemu.Args = append(qemu.Args, "-chardev", "socket,id=tpm,fd="+first, "-tpmdev", "emulator,id=tpm0,chardev=tpm",
		"-device", "tpm-crb,tpmdev=tpm0")
	return chip, nil
}

// startBoth starts the TPM, if there is one, and QEMU, and closes our copies of what they talk over.
func startBoth(tpm, qemu *exec.Cmd) error {
	if tpm == nil {
		return qemu.Start()
	}
	defer func() {
		for _, f := range append(tpm.ExtraFiles, qemu.ExtraFiles...) {
			_ = f.Close()
		}
	}()
	if err := tpm.Start(); err != nil {
		return fmt.Errorf("switch on the TPM: %w", err)
	}
	if err := qemu.Start(); err != nil {
		return errors.Join(err, tpm.Process.Kill(), tpm.Wait())
	}
	return nil
}

// ChangePCR7 gives the firmware of a machine with OVMF, which must be off, Microsoft's Secure Boot keys: it measures
// them into PCR 7. It does not enforce them, as nothing of ours is signed. What else it had stored is lost, as is its
// order of booting.
func (m *Machine) ChangePCR7() error {
	store, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.ms.fd")
	if err != nil {
		return fmt.Errorf("change PCR 7 of %s: %w", m.Name, err)
	}
	enforce, err := variable(store, "SecureBootEnable")
	if err != nil {
		return fmt.Errorf("change PCR 7 of %s: %w", m.Name, err)
	}
	enforce[0] = 0
	return os.WriteFile(filepath.Join(m.Dir, m.Name+".vars.fd"), store, 0o644)
}
