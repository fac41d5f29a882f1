package installer

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"provision/disko"
	"provision/hosts"
)

// noisy makes the login shell of the SSH server's root print before and after each command,
// as start-up files do, without a newline at the end of it.
func noisy(t *testing.T, programs map[string]string) *session {
	t.Helper()
	all := maps.Clone(programs)
	if all == nil {
		all = map[string]string{}
	}
	all["sh"] = `[ -z "$QUIET" ] || exec /bin/sh "$@"
export QUIET=1
printf 'lsblk\0done\nended 0 1\n{"blockdevices": []}\nwelcome'
/bin/sh "$@"
status=$?
printf 'done\nbye\0'
exit $status`
	pretend(t, all)
	return connect(t)
}

// TestNoise: each reader of what the machine's programs print gets just that, whatever the
// start-up files of root's shell print.
func TestNoise(t *testing.T) {
	const disks = `{"blockdevices":[{"name":"vdb","path":"/dev/vdb","type":"disk","size":8589934592}]}`
	s := noisy(t, map[string]string{
		"lsblk":               `echo '` + disks + `'`,
		"findmnt":             `echo '{"filesystems":[]}'`,
		"df":                  `echo 'Filesystem 1024-blocks Used Available Capacity Mounted on'; echo '/dev/vdb1 1000 1 999 1% /boot'`,
		"modprobe":            "exit 0",
		"systemd-cryptenroll": "echo /dev/tpmrm0",
		"mine":                "echo mine; exit 3",
		"nixos-facter":        `echo '{"version": 1}'`,
	})
	ctx := t.Context()

	if out, err := s.run(ctx, nil, "printf", "only this"); err != nil || string(out) != "only this" {
		t.Errorf("run: %q, %v", out, err)
	}
	if out, err := s.run(ctx, nil, "mine"); string(out) != "mine\n" || err == nil || strings.Contains(err.Error(), "welcome") {
		t.Errorf("of a command that fails: %q, %v", out, err)
	}
	raw, err := readFacts(ctx, s, commandLimit, exclusiveLock(disko.Probe(nil)...))
	if err != nil || !strings.Contains(string(raw), "/dev/vdb") {
		t.Errorf("disks: %s, %v", raw, err)
	}
	if words, macs, err := describeMachine(ctx, s); err != nil || words[0] != "UEFI" && words[0] != "BIOS" || !slices.Contains(macs, macHere(t)) {
		t.Errorf("memory and cards: %q, %q, %v", words, macs, err)
	}
	if free, err := freeSpace(ctx, s, "/boot"); err != nil || free != 999<<10 {
		t.Errorf("free: %d, %v", free, err)
	}
	if _, err := cryptenroll(ctx, s); err != nil {
		t.Errorf("TPM: %v", err)
	}
	if data, err := readHardware(ctx, s, hosts.Facter); err != nil || string(data) != "{\"version\": 1}\n" {
		t.Errorf("hardware: %q, %v", data, err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := batchOf(step("touch", "touch", file), step("fail", "false")).run(ctx, s); err == nil || !strings.HasPrefix(err.Error(), "fail: ") {
		t.Errorf("steps: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the first step did not run: %v", err)
	}
}

// macHere is a network card's that this machine has.
func macHere(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("/sys/class/net/*/address")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if mac := strings.TrimSpace(string(data)); err == nil && len(mac) == 17 && mac != "00:00:00:00:00:00" {
			return mac
		}
	}
	t.Skip("this machine has no network card")
	return ""
}

// TestCutOff: an answer that has no end is an error that shows it, and not an answer.
func TestCutOff(t *testing.T) {
	pretend(t, map[string]string{"sh": `echo "half of"; exit 0`})
	out, err := connect(t).run(t.Context(), nil, "cat", "/etc/hostname")
	if err == nil || !strings.Contains(err.Error(), "missing") || !strings.Contains(err.Error(), "half of") {
		t.Errorf("%q, %v", out, err)
	}
}

// TestLookUnanswered: a machine that does not say what it was asked is not asked again for ever.
func TestLookUnanswered(t *testing.T) {
	const disks = `{"blockdevices":[{"name":"vdb","path":"/dev/vdb","type":"disk","size":8589934592}]}`
	pretend(t, map[string]string{
		"lsblk":   `echo '` + disks + `'`,
		"findmnt": `echo '{"filesystems":[]}'`,
		"mount":   "echo 'mount warning: deprecated'; exit 0",
		"umount":  "exit 0",
	})
	d := &Disks{Client: connect(t).client}
	facts, err := d.probe(t.Context(), disko.ProbePaths{"/dev/vdb": {"home"}})
	if err != nil || facts.Inside["/dev/vdb"]["home"] != "" {
		t.Errorf("%v, %v", facts, err)
	}
	if err := (disko.ProbePaths{"/dev/vdb": {"home"}}).Answered(facts); err != nil {
		t.Errorf("an answer that nothing is there: %v", err)
	}
	if err := (disko.ProbePaths{"/dev/vdc": {"home"}}).Answered(facts); err == nil || !strings.Contains(err.Error(), "/dev/vdc") {
		t.Errorf("no answer: %v", err)
	}
}
