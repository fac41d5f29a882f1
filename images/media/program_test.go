package media

import (
	"bytes"
	"debug/pe"
	"os"
	"path/filepath"
	"testing"

	"github.com/tinkerbell/ipxedust/binary"

	"provision/images"
)

// TestProgram: the iPXE that is built in is told to run the script beside
// it, and a folder's is taken if it looks for one.
func TestProgram(t *testing.T) {
	for arch, from := range map[images.Arch][]byte{images.X86_64: binary.IpxeEFI, images.AArch64: binary.SNP} {
		program, err := Program("", arch)
		if err != nil {
			t.Fatal(err)
		}
		const told = "\nimgexec autoexec.ipxe ||\nexit 1  "
		if len(program) != len(from) || bytes.Equal(program, from) || bytes.Count(program, []byte(told)) != 1 {
			t.Errorf("%s: it is not told", arch)
		}
		machine := map[images.Arch]uint16{images.X86_64: pe.IMAGE_FILE_MACHINE_AMD64, images.AArch64: pe.IMAGE_FILE_MACHINE_ARM64}
		if f, err := pe.NewFile(bytes.NewReader(program)); err != nil || f.Machine != machine[arch] {
			t.Errorf("%s: it is for another machine, or %v", arch, err)
		}
	}
	builtIn, _ := Program("", images.X86_64)
	old := bytes.ReplaceAll(binary.IpxeEFI, []byte("autoexec"), []byte("--------"))
	newer := append(bytes.Clone(binary.IpxeEFI), "newer"...)
	own := bytes.ReplaceAll(newer, []byte("a8b7e61f1075"), []byte("------------"))
	for _, tt := range []struct {
		name string
		have map[string][]byte
		want []byte
	}{
		{"one that looks for a script", map[string][]byte{"ipxe.efi": own}, own},
		{"one of ipxedust's", map[string][]byte{"ipxe.efi": newer}, append(bytes.Clone(builtIn), "newer"...)},
		{"one that does not", map[string][]byte{"ipxe.efi": old}, builtIn},
		{"only one for netboot", map[string][]byte{"snponly.efi": own}, builtIn},
		{"the one that is built in", map[string][]byte{"ipxe.efi": binary.IpxeEFI}, builtIn},
	} {
		dir := t.TempDir()
		for name, data := range tt.have {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := Program(dir, images.X86_64); err != nil || !bytes.Equal(got, tt.want) {
			t.Errorf("%s: another program, or %v", tt.name, err)
		}
	}
	if _, err := Program(t.TempDir(), images.X86_64); err == nil {
		t.Error("an empty folder is a folder of programs")
	}
}
