// Package provision holds the test of the house: which package may import
// which.
package provision

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// arrows say what each package of the house may import of ours. What shares no line does not know each other: pxe,
// installer and api meet in hosts.
const arrows = `
disko               :
hosts               : internal/store internal/text
images              : internal/boards internal/initrd internal/text
images/media        : images internal/boards
pxe                 : hosts images internal/boards internal/store internal/tftp
installer           : disko hosts images internal/boards internal/bootable internal/cache internal/confirm
installer           : internal/hardware internal/nix internal/handover internal/text

internal/cache      :
internal/store      :
internal/tftp       :
internal/initrd     :
internal/boards     :
internal/text       :
internal/hardware   :
internal/sshlogin   :
internal/handover     :
internal/firststage : internal/initrd
internal/nix        : disko internal/text
internal/confirm    : disko hosts
internal/bootable   : disko internal/boards
internal/enroll     : disko hosts images internal/boards internal/bootable internal/confirm internal/text
internal/takeover   : hosts internal/sshlogin internal/text
internal/timeline   : hosts
internal/doctor     : hosts images internal/nix pxe
internal/api        : hosts images images/media internal/boards internal/enroll internal/text internal/timeline

cmd/provision       : disko hosts images installer pxe internal/boards internal/bootable internal/cache
cmd/provision       : internal/doctor internal/enroll internal/nix internal/sshlogin internal/store internal/takeover
cmd/provision       : internal/handover internal/text internal/timeline internal/api
`

// TestArrows asserts them. The test bed is not of the house, and nothing that ships may import it.
func TestArrows(t *testing.T) {
	may := make(map[string][]string)
	for line := range strings.Lines(arrows) {
		room, imports, ok := strings.Cut(line, ":")
		if ok {
			room = strings.TrimSpace(room)
			may[room] = append(may[room], strings.Fields(imports)...)
		}
	}
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		room := strings.TrimPrefix(fields[0], "provision/")
		allowed, ours := may[room]
		if !ours {
			if room != "provision" && !strings.HasPrefix(room, "internal/lab") {
				t.Errorf("%s is not a room of the house", room)
			}
			continue
		}
		seen++
		for _, imp := range fields[1:] {
			imported, ours := strings.CutPrefix(imp, "provision/")
			if ours && !slices.Contains(allowed, imported) {
				t.Errorf("%s imports %s", room, imported)
			}
		}
	}
	if seen != len(may) {
		t.Errorf("%d of the %d packages of the house exist", seen, len(may))
	}
}
