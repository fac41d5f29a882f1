package images

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/tinkerbell/ipxedust/binary"
)

// TestMediumScript: what iPXE would trip over. That it boots is tested in QEMU.
func TestMediumScript(t *testing.T) {
	servers := []string{"http://10.0.0.1", "http://10.1.0.1:8080"}
	for _, m := range []MediumFor{
		{Servers: servers},
		{Host: "bravo", MACs: []string{"52:54:00:12:34:56"}, Servers: servers[:1]},
		{Host: "bravo", MACs: []string{"52:54:00:12:34:56", "52:54:00:12:34:57"}, Servers: servers},
	} {
		text := string(MediumScript(m))
		if !strings.HasPrefix(text, "#!ipxe\n") || !strings.HasSuffix(text, "exit 1\n") {
			t.Errorf("%s", text)
		}
		labels := regexp.MustCompile(`(?m)^:(\w+)$`).FindAllStringSubmatch(text, -1)
		var names []string
		for _, l := range labels {
			if slices.Contains(names, l[1]) {
				t.Errorf("two labels are :%s", l[1])
			}
			names = append(names, l[1])
		}
		for _, to := range regexp.MustCompile(`goto (\w+)`).FindAllStringSubmatch(text, -1) {
			if !slices.Contains(names, to[1]) && to[1] != "ask" {
				t.Errorf("there is no :%s", to[1])
			}
		}
		for _, server := range m.Servers {
			if !strings.Contains(text, "chain --autofree "+server+"/ipxe?") {
				t.Errorf("it does not ask %s", server)
			}
		}
		for _, mac := range m.MACs {
			if !strings.Contains(text, "iseq ${net${idx}/mac} "+mac+" && goto ask ||\n") {
				t.Errorf("it does not know %s", mac)
			}
		}
		// A card that is not the host's is left alone.
		if alone := strings.Contains(text, "\ngoto next\n:ask\n"); alone != (m.Host != "") {
			t.Errorf("of %q: other cards are left alone: %v", m.Host, alone)
		}
		for line := range strings.Lines(text) {
			// iPXE's lines are unlimited; a screen's are not.
			if shown, ok := strings.CutPrefix(line, "echo "); ok && len(shown) > 160 {
				t.Errorf("too long for a screen: %s", line)
			}
		}
	}
}

// TestMediumProgram: the iPXE that is built in is told to run the script beside
// it, and a folder's is taken if it looks for one.
func TestMediumProgram(t *testing.T) {
	for arch, from := range map[Arch][]byte{X86_64: binary.IpxeEFI, AArch64: binary.SNP} {
		program, err := MediumProgram("", arch)
		if err != nil {
			t.Fatal(err)
		}
		const told = "\nimgexec autoexec.ipxe ||\nexit 1  "
		if len(program) != len(from) || bytes.Equal(program, from) || bytes.Count(program, []byte(told)) != 1 {
			t.Errorf("%s: it is not told", arch)
		}
		if kernel, err := kernelArch(program); err != nil || kernel != arch {
			t.Errorf("%s: it is for %s, %v", arch, kernel, err)
		}
	}
	builtIn, _ := MediumProgram("", X86_64)
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
		if got, err := MediumProgram(dir, X86_64); err != nil || !bytes.Equal(got, tt.want) {
			t.Errorf("%s: another program, or %v", tt.name, err)
		}
	}
	if _, err := MediumProgram(t.TempDir(), X86_64); err == nil {
		t.Error("an empty folder is a folder of programs")
	}
}
