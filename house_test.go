// Package provision holds the test of the house: which package may import
// which.
package provision

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestArrows asserts the design's arrows. pxe, installer and web never call
// each other; hosts imports the store and what bounds words; disko, images and internal/tftp import nothing of ours.
func TestArrows(t *testing.T) {
	may := map[string][]string{
		"provision/cache":               {},
		"provision/internal/store":      {},
		"provision/hosts":               {"provision/internal/store", "provision/internal/text"},
		"provision/disko":               {},
		"provision/images":              {},
		"provision/pxe":                 {"provision/hosts", "provision/images", "provision/internal/store", "provision/internal/tftp"},
		"provision/installer":           {"provision/cache", "provision/disko", "provision/hosts", "provision/images", "provision/internal/confirm", "provision/internal/hardware", "provision/internal/nix", "provision/internal/target", "provision/internal/text"},
		"provision/internal/nix":        {"provision/internal/text"},
		"provision/internal/text":       {},
		"provision/internal/hardware":   {},
		"provision/internal/confirm":    {"provision/disko", "provision/hosts"},
		"provision/internal/target":     {},
		"provision/internal/firststage": {},
		"provision/internal/tftp":       {},
		"provision/internal/sshlogin":   {},
		"provision/internal/timeline":   {"provision/hosts"},
		"provision/internal/web":        {"provision/disko", "provision/hosts", "provision/images", "provision/internal/confirm", "provision/internal/text", "provision/internal/timeline"},
		"provision/internal/doctor":     {"provision/hosts", "provision/images", "provision/internal/nix", "provision/pxe"},
		"provision/cmd/provision":       {"provision/cache", "provision/disko", "provision/hosts", "provision/images", "provision/installer", "provision/internal/doctor", "provision/internal/nix", "provision/internal/sshlogin", "provision/internal/store", "provision/internal/target", "provision/internal/text", "provision/internal/timeline", "provision/internal/web", "provision/pxe"},
	}
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		allowed, ours := may[fields[0]]
		if !ours { // the test bed; the rule below keeps it out of what ships
			continue
		}
		seen++
		for _, imp := range fields[1:] {
			if strings.HasPrefix(imp, "provision/") && !slices.Contains(allowed, imp) {
				t.Errorf("%s imports %s", fields[0], imp)
			}
		}
	}
	if seen != len(may) {
		t.Errorf("%d of the %d packages of the house exist", seen, len(may))
	}
}
