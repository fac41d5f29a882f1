package hosts

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"
)

// Hardware says what the live installer finds out about the machine for the flake, and where
// that goes. The zero value is nothing.
type Hardware struct {
	Tool string // GenerateConfig or Facter
	Path string // below the flake's folder, with slashes
}

// The tools, by the names of their programs.
const (
	GenerateConfig = "nixos-generate-config" // makes a NixOS module
	Facter         = "nixos-facter"          // makes JSON
)

// noHardware is said in the place of a tool for none.
const noHardware = "none"

// files are what the tools write, if nothing else is said.
var files = map[string]string{GenerateConfig: "hardware-configuration.nix", Facter: "facter.json"}

// Words are all tools.
func (h *Hardware) Words() []string { return []string{GenerateConfig, Facter} }

// UnmarshalText reads TOOL or TOOL=PATH. Empty and none are nothing.
func (h *Hardware) UnmarshalText(text []byte) error {
	*h = Hardware{}
	s := string(text)
	if s == "" || s == noHardware {
		return nil
	}
	tool, file, _ := strings.Cut(s, "=")
	standard := files[tool]
	if standard == "" {
		return fmt.Errorf("--generate-hardware-config %s: not a tool; choose %s or %s, "+
			"with =PATH if it is not to be in hosts/HOST", tool, GenerateConfig, Facter)
	}
	h.Tool = tool
	if file == "" {
		return nil
	}
	h.Path = path.Clean(file)
	first, _, _ := strings.Cut(h.Path, "/")
	ext := path.Ext(standard)
	switch {
	case !filepath.IsLocal(h.Path):
		return fmt.Errorf("--generate-hardware-config %s: write a path below the flake's folder, such as hosts/HOST/%s",
			s, standard)
	case path.Ext(h.Path) != ext || first == ".git" || path.Base(h.Path) == "flake.nix":
		return fmt.Errorf("--generate-hardware-config %s: what %s makes goes into a %s file of its own, such as hosts/HOST/%s",
			s, tool, ext, standard)
	}

	return nil
}

// MarshalText implements [encoding.TextMarshaler].
func (h Hardware) MarshalText() ([]byte, error) {
	switch {
	case h.Tool == "":
		return []byte(noHardware), nil
	case h.Path == "":
		return []byte(h.Tool), nil
	}
	return []byte(h.Tool + "=" + h.Path), nil
}

// For fills in where it goes for a host, if that was not said.
func (h Hardware) For(host string) Hardware {
	if h.Tool != "" && h.Path == "" {
		h.Path = path.Join("hosts", host, files[h.Tool])
	}
	return h
}
