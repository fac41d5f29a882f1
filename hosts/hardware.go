package hosts

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"
)

// Hardware says which tool describes the machine for the flake, on the live installer, and into which file that goes.
// The zero value means none.
type Hardware struct {
	Tool string // GenerateConfig or Facter
	Path string // relative to the flake's folder, with slashes; empty: see For
}

// The tools, by the names of their programs.
const (
	GenerateConfig = "nixos-generate-config" // makes a NixOS module
	Facter         = "nixos-facter"          // makes a JSON report
)

// noHardware is the word for no tool.
const noHardware = "none"

// files are the default file names, by tool.
var files = map[string]string{GenerateConfig: "hardware-configuration.nix", Facter: "facter.json"}

// Words returns all tools, for completion.
func (h *Hardware) Words() []string { return []string{GenerateConfig, Facter} }

// UnmarshalText reads TOOL or TOOL=PATH. An empty text and "none" mean no tool.
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
		return fmt.Errorf("--generate-hardware-config %s: what %s makes goes into a %s file of its own, such as "+
			"hosts/HOST/%s",
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

// For fills in the default path for a host, if none was given: hosts/HOST/FILE.
func (h Hardware) For(host string) Hardware {
	if h.Tool != "" && h.Path == "" {
		h.Path = path.Join("hosts", host, files[h.Tool])
	}
	return h
}
