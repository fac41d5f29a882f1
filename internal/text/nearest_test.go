package text

import "testing"

func TestNearest(t *testing.T) {
	flags := []string{"disk", "disk-encryption-key", "disko", "dry-run", "image", "interface", "dhcp-range"}
	for word, want := range map[string]string{
		"disk-encription-key": "disk-encryption-key",
		"dsk":                 "disk",
		"dryrun":              "dry-run",
		"interfaces":          "interface",
		"dhcp_range":          "dhcp-range",
		"disks":               "disk",
		"colour":              "",
		"":                    "",
		"x":                   "",
	} {
		if got := Nearest(word, flags); got != want {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}
