package e2e

import (
	"strings"
	"testing"

	"provision/hosts"
)

// TestTPM: a host that was enrolled with --tpm2 comes up with nobody there to type its passphrase. Once PCR 7 is
// another it asks, and the passphrase still opens its disk.
func TestTPM(t *testing.T) {
	t.Parallel()
	const host, device = "kilo", "/dev/disk/by-partlabel/disk-main-luks"
	w := newWorld(t, "server")
	m := w.machine(host)
	m.TPM = true
	w.enroll(m, host, "--tpm2")
	if s := w.status(host); s.TPM2 != "7" {
		t.Errorf("the PCRs are %q", s.TPM2)
	}
	w.on(m)
	w.installed(m, host)
	if said := m.Console().Text(); !strings.Contains(said, "The TPM opened "+device) || strings.Contains(said, "Passphrase for") {
		t.Errorf("somebody had to type the passphrase:\n%s", tailOf(said, 40))
	}
	told := w.await(host, "that the boot loader is there", func(ev hosts.Event) bool {
		return ev.Kind == hosts.EventFinished && ev.Phase == hosts.PhaseBootloader
	})
	if !strings.HasSuffix(told.Message, "; the TPM opens /dev/vda2 (crypted) while PCR 7 stays as it is") {
		t.Errorf("%q", told.Message)
	}
	w.noSecrets(host)

	w.must(m.PowerOff())
	w.must(m.ChangePCR7())
	m.LAN = nil // the firmware has the network first again, and is to start from the disk at once
	w.on(m)
	for _, text := range []string{"The TPM does not open " + device, "Passphrase for " + device + ": "} {
		_, err := m.Console().Expect(w.ctx, text)
		w.must(err)
	}
	w.must(m.Console().Type(w.passphrase + "\n"))
	_, err := m.Console().Expect(w.ctx, "booted "+w.status(host).System)
	w.must(err)
}
