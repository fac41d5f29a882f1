package lab

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestTPMByHand installs kilo and enrolls the TPM: the host then starts by itself, and asks for the passphrase once PCR 7
// is another.
func TestTPMByHand(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	b := newBed(t)
	disk, err := NewDisk(filepath.Join(t.TempDir(), "disk"), 4<<30, "LAB-DISK-1")
	check(t, err)
	m, system := installByHand(t, ctx, b, "kilo", disk, newKey(t), newKey(t))
	m.Kernel = ""
	starts := func(texts ...string) {
		t.Helper()
		lap := stopwatch(t)
		check(t, m.Start(ctx))
		for _, text := range texts {
			_, err := m.Console().Expect(ctx, text)
			check(t, err)
			lap(text)
		}
	}
	starts("The TPM opened /dev/disk/by-partlabel/disk-main-luks", "booted "+system, "kilo login:")
	check(t, m.PowerOff())
	// Microsoft's Secure Boot keys, which the firmware measures into PCR 7. The order of booting is lost with the rest.
	keys, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.ms.fd")
	check(t, err)
	check(t, os.WriteFile(filepath.Join(m.Dir, m.Name+".vars.fd"), keys, 0o644))
	m.LAN = nil
	starts("The TPM does not open /dev/disk/by-partlabel/disk-main-luks", "Passphrase for /dev/disk/by-partlabel/disk-main-luks: ")
	check(t, m.Console().Type("secret\n"))
	_, err = m.Console().Expect(ctx, "booted "+system)
	check(t, err)
	check(t, m.PowerOff())
}
