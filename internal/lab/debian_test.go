package lab

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestDebianByHand starts a plain Debian from its disk, logs in, and seals a secret to the machine's TPM; that opens
// after the power was cut, and not on another machine.
func TestDebianByHand(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	suite, err := CurrentSuite()
	check(t, err)
	version, ok := map[Suite]string{Bookworm: "debian 12", Trixie: "debian 13"}[suite]
	if !ok {
		t.Skipf("Debian %s has no version", suite)
	}
	b := newBed(t)
	host, login := newKey(t), newKey(t)
	lap := stopwatch(t)
	disk, err := DebianDisk(ctx, CacheDir(), filepath.Join(t.TempDir(), "debian"), DebianOptions{Login: login.Public, HostKey: host, Serial: "LAB0"}, os.Stderr)
	check(t, err)
	lap("disk")
	m := &Machine{Name: "debian", Dir: t.TempDir(), LAN: b.lan, MAC: "52:54:00:12:34:77", Disks: []Disk{disk}, DiskFirst: true, TPM: true}
	shell := b.debian(t, ctx, m, host, login)
	lap("power-on to shell")
	for command, want := range map[string]string{
		". /etc/os-release; echo $ID $VERSION_ID":          version,
		"cat /proc/1/comm":                                 "systemd",
		"findmnt -n -o FSTYPE,SOURCE /":                    "ext4   /dev/vda2",
		"ls /sys/firmware/efi/efivars | grep -c BootOrder": "1",
		"cat /proc/sys/kernel/kexec_load_disabled":         "0",
		"stat -c %a:%u /root/.ssh /root/.ssh/authorized_keys /etc/ssh/ssh_host_ed25519_key | xargs": "700:0 600:0 600:0",
		"systemctl --failed --no-legend --plain":                                                    "",
	} {
		got, err := shell.Run(ctx, command)
		if err != nil || got != want {
			t.Errorf("%s: %q, want %q (%v)", command, got, want, err)
		}
	}
	blame, err := shell.Run(ctx, "systemd-analyze; systemd-analyze blame | head -20")
	t.Logf("%s (%v)", blame, err)
	_, err = shell.Run(ctx, "echo between us | systemd-creds encrypt --with-key=tpm2 --tpm2-pcrs=7 --name=x - /root/sealed && sync")
	check(t, err)
	check(t, m.PowerOff())

	lap("switched off")
	shell = b.debian(t, ctx, m, host, login)
	lap("power-on to shell")
	if got, err := shell.Run(ctx, "systemd-creds decrypt --name=x /root/sealed -"); err != nil || got != "between us" {
		t.Errorf("after a power cut the TPM gives %q (%v)", got, err)
	}
	check(t, m.PowerOff())
	check(t, os.RemoveAll(filepath.Join(m.Dir, m.Name+".tpm"))) // another chip
	shell = b.debian(t, ctx, m, host, login)
	if got, err := shell.Run(ctx, "systemd-creds decrypt --name=x /root/sealed -"); err == nil {
		t.Errorf("another TPM gives %q", got)
	}
}

// debian switches the machine on and logs in.
func (b bed) debian(t *testing.T, ctx context.Context, m *Machine, host, login Key) *Shell {
	t.Helper()
	check(t, m.Start(ctx))
	t.Cleanup(func() {
		check(t, m.PowerOff())
		if t.Failed() {
			t.Logf("%s\n%s", b.router.Log(), m.Console().Text())
		}
	})
	_, err := m.Console().Expect(ctx, "debian login:")
	check(t, err)
	address, err := b.router.Lease(ctx, m.MAC)
	check(t, err)
	shell, err := Dial(ctx, address, host.Signer.PublicKey(), login.Signer)
	for err != nil && ctx.Err() == nil {
		time.Sleep(100 * time.Millisecond) // sshd, which may start after the prompt, has no other event to offer
		shell, err = Dial(ctx, address, host.Signer.PublicKey(), login.Signer)
	}
	check(t, err)
	return shell
}
