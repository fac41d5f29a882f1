package installer

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"provision/hosts"
	"provision/internal/handover"
)

// TestDiskFirst: what is done to the firmware's boot order, and said.
func TestDiskFirst(t *testing.T) {
	captured, err := os.ReadFile("../internal/handover/testdata/ovmf-installed.txt")
	if err != nil {
		t.Fatal(err)
	}
	const esp = "esp 5ef95aa8-1c27-41d6-b76a-7d09f2c56dd2\n"
	made := strings.ReplaceAll(string(captured), "# ", "esp # ") // comments are other ESPs
	last := strings.Replace(made, " 070000000600020001000000050003000400", " 070000000200010000000500030004000600", 1)
	noEntry := strings.Join(slices.DeleteFunc(strings.SplitAfter(made, "\n"), func(l string) bool { return strings.HasPrefix(l, "Boot0006") }), "")
	for name, tt := range map[string]struct{ boots, says, written string }{
		"put last": {last + esp, "Boot0006 (Linux Boot Manager) is first in the firmware's boot order",
			"\x07\x00\x00\x00\x06\x00\x02\x00\x01\x00\x00\x00\x05\x00\x03\x00\x04\x00"},
		"put first": {made + esp, "Boot0006 (Linux Boot Manager) is first in the firmware's boot order", ""},
		"no entry":  {noEntry + esp, "the boot loader of bravo made no entry for its ESP", ""},
		"BIOS":      {esp, "the machine was started by BIOS", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := connect(t)
			dir := pretend(t, map[string]string{"sh": `case $2 in printf*BootOrder*) printf "$4" >>written ;; "cd /sys/firmware"*) cat boots ;; *) exec /bin/sh "$@" ;; esac`})
			if err := os.WriteFile(filepath.Join(dir, "boots"), []byte(tt.boots), 0o644); err != nil {
				t.Fatal(err)
			}
			h := hosts.Host{Name: "bravo", Choices: hosts.Choices{BootOrder: hosts.OrderDiskFirst}}
			words, err := inHand(new(reconciler), h, s).orderBoots(t.Context(), handover.Boots{})
			if err != nil {
				words = err.Error()
			}
			written, _ := os.ReadFile(filepath.Join(dir, "written"))
			if !strings.HasPrefix(words, tt.says) || string(written) != tt.written {
				t.Errorf("it says %q, and BootOrder is written as %q", words, written)
			}
		})
	}
}
