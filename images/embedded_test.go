package images

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/tinkerbell/ipxedust/binary"
)

// TestQuickened: our script is in the EFI programs, whole and where iPXE takes it for
// its own, and nothing else has changed.
func TestQuickened(t *testing.T) {
	for name, was := range map[string][]byte{"ipxe.efi": binary.IpxeEFI, "snp.efi": binary.SNP} {
		got := quickened(was)
		from := bytes.Index(was, embeddedHead)
		if from < 0 || bytes.Count(was, embeddedHead) != 1 || bytes.Count(was, embeddedTail) != 1 {
			t.Fatalf("%s: ipxedust's script is another now", name)
		}
		end := from + bytes.Index(was[from:], embeddedTail) + len(embeddedTail)
		if len(got) != len(was) || !bytes.Equal(got[:from], was[:from]) || !bytes.Equal(got[end:], was[end:]) {
			t.Errorf("%s: more than the script has changed", name)
		}
		if script := got[from:end]; !bytes.HasPrefix(script, quickScript) || len(bytes.Trim(script[len(quickScript):], "\n")) > 0 {
			t.Errorf("%s: the script is not whole", name)
		}
		if again := quickened(got); !bytes.Equal(again, got) {
			t.Errorf("%s: it is not left alone a second time", name)
		}
	}
	for _, other := range [][]byte{nil, []byte("MZ"), embeddedHead, append(bytes.Clone(embeddedHead), embeddedTail...), binary.Undionly} {
		if got := quickened(other); !bytes.Equal(got, other) {
			t.Errorf("%.40q has changed", other)
		}
	}
}

// TestProgramsAreQuick: those that are built in, and no others: media have a use for the
// place in ipxedust's script.
func TestProgramsAreQuick(t *testing.T) {
	all, err := Programs("")
	must(t, err)
	for name, want := range map[string]bool{ProgramNative: true, ProgramSNPArm64: true, ProgramUNDI: false} {
		if got := bytes.Contains(all[name], quickScript); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	own := append(bytes.Clone(binary.IpxeEFI), "own"...)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ipxe.efi"), string(own))
	all, err = Programs(dir)
	must(t, err)
	if !bytes.Equal(all[ProgramNative], own) || !bytes.Contains(all[ProgramSNPArm64], quickScript) {
		t.Error("a program of one's own was changed, or one that is built in was not")
	}
}

// TestQuickScript: no command of it waits for an IPv6 router unless all else has failed.
func TestQuickScript(t *testing.T) {
	for _, slow := range []string{"\ndhcp", "&& dhcp", "\nifconf net", "--timeout 2000"} {
		if bytes.Contains(quickScript, []byte(slow)) {
			t.Errorf("it has %q", slow)
		}
	}
	if !bytes.HasPrefix(quickScript, embeddedHead) {
		t.Error("the server would not know it for its own")
	}
}
