package hosts

import (
	"cmp"
	"fmt"
	"path"
	"path/filepath"
	"strings"
)

// Hardware says what the live installer finds out about the machine for the flake, and where
// that goes. The zero value is nothing.
type Hardware struct {
	Tool string `json:"tool"` // GenerateConfig or Facter
	Path string `json:"path"` // below the flake's folder, with slashes
}

// The tools, by the names of their programs.
const (
	GenerateConfig = "nixos-generate-config" // makes a NixOS module
	Facter         = "nixos-facter"          // makes JSON
)

// ParseHardware reads TOOL or TOOL=PATH for a host. Empty and "none" are nothing.
func ParseHardware(s, host string) (Hardware, error) {
	if s == "" || s == "none" {
		return Hardware{}, nil
	}
	var h Hardware
	var file, ext string
	h.Tool, h.Path, _ = strings.Cut(s, "=")
	switch h.Tool {
	case GenerateConfig:
		file, ext = "hardware-configuration.nix", ".nix"
	case Facter:
		file, ext = "facter.json", ".json"
	default:
		return Hardware{}, fmt.Errorf("--generate-hardware-config %s: not a tool; choose %s or %s, with =PATH if it is not to be in hosts/HOST", h.Tool, GenerateConfig, Facter)
	}
	h.Path = path.Clean(cmp.Or(h.Path, "hosts/"+host+"/"+file))
	first, _, _ := strings.Cut(h.Path, "/")
	switch {
	case !filepath.IsLocal(h.Path):
		return Hardware{}, fmt.Errorf("--generate-hardware-config %s: write a path below the flake's folder, such as hosts/HOST/%s", s, file)
	case path.Ext(h.Path) != ext || first == ".git" || path.Base(h.Path) == "flake.nix":
		return Hardware{}, fmt.Errorf("--generate-hardware-config %s: what %s makes goes into a %s file of its own, such as hosts/HOST/%s", s, h.Tool, ext, file)
	}
	return h, nil
}

// String is what ParseHardware reads.
func (h Hardware) String() string {
	if h.Tool == "" {
		return ""
	}
	return h.Tool + "=" + h.Path
}
