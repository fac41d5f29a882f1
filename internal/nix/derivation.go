package nix

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// Derivation is what an attribute of config.system.build evaluates to, and says how to build it.
type Derivation struct {
	Path   string `json:"path"`   // of the .drv file in the server's store
	Out    string `json:"out"`    // store path of the result
	System string `json:"system"` // that builds it, such as x86_64-linux; not the host's if it is cross-compiled
}

// CanBuild reports whether nix on this machine can build for a system such as x86_64-linux: natively, by emulation
// (extra-platforms), or on a remote builder.
func (s Settings) CanBuild(ctx context.Context, system string) (bool, error) {
	out, err := s.Run(ctx, nil, "show-config", "--json")
	if err != nil { // the command has another name since nix 2.20
		newer, newErr := s.Run(ctx, nil, "config", "show", "--json")
		if newErr == nil {
			out = newer
			err = nil
		}
	}

	var c struct {
		System   struct{ Value string }   `json:"system"`
		Extra    struct{ Value []string } `json:"extra-platforms"`
		Builders struct{ Value string }   `json:"builders"`
	}
	if err == nil {
		err = json.Unmarshal(out, &c)
	}
	if err != nil {
		return false, fmt.Errorf("ask nix what it builds for: %w", err)
	}

	systems := append(builderSystems(c.Builders.Value, c.System.Value), c.System.Value)
	return slices.Contains(systems, system) || slices.Contains(c.Extra.Value, system), nil
}

// builderSystems returns the systems of nix's remote builders, given the setting `builders`. The setting may name files
// with @. A builder without systems has that of this machine (own).
func builderSystems(builders, own string) (systems []string) {
	for _, line := range strings.FieldsFunc(builders, func(r rune) bool { return r == '\n' || r == ';' }) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
		case strings.HasPrefix(fields[0], "@"):
			// nix ignores missing files too.
			if data, err := os.ReadFile(fields[0][1:]); err == nil {
				systems = append(systems, builderSystems(string(data), own)...)
			}
		case len(fields) == 1 || fields[1] == "-":
			systems = append(systems, own)
		default:
			systems = append(systems, strings.Split(fields[1], ",")...)
		}
	}

	return systems
}

// Inputs returns those store paths that a derivation needs for its build and that are in the server's store. It looks
// at the inputs of an input only if that input itself is missing.
func (s Settings) Inputs(ctx context.Context, drv string) (have []string, err error) {
	seen := map[string]bool{drv: true}
	for level := []string{drv}; len(level) > 0; {
		outputs, err := inputsOf(level)
		if err != nil {
			return nil, err
		}

		absent, err := s.Missing(ctx, slices.Concat(slices.Collect(maps.Values(outputs))...))
		if err != nil {
			return nil, err
		}

		absent[""] = true // stands for an output whose path is known only after the build

		level = nil
		for input, paths := range outputs {
			complete := true
			for _, p := range paths {
				if absent[p] {
					complete = false
				} else {
					have = append(have, p)
				}
			}

			if !complete && !seen[input] {
				seen[input] = true
				level = append(level, input)
			}
		}
	}

	slices.Sort(have)
	return slices.Compact(have), nil
}

// inputsOf returns the paths of the outputs that derivations need, by the derivation that makes them.
func inputsOf(drvs []string) (outputs map[string][]string, err error) {
	outputs = make(map[string][]string)
	for _, path := range drvs {
		d, err := readDerivation(path)
		if err != nil {
			return nil, err
		}
		for input, needed := range d.inputs {
			in, err := readDerivation(input)
			if err != nil {
				return nil, err
			}
			for _, name := range needed {
				outputs[input] = append(outputs[input], in.outputs[name])
			}
		}
	}

	return outputs, nil
}

// Missing returns those of the paths that are not in the server's store.
func (s Settings) Missing(ctx context.Context, paths []string) (map[string]bool, error) {
	absent := make(map[string]bool)
	paths = slices.DeleteFunc(slices.Clone(paths), func(p string) bool { return p == "" })
	slices.Sort(paths)
	for some := range slices.Chunk(slices.Compact(paths), 1000) { // to keep the command line short enough
		args := append([]string{"--check-validity", "--print-invalid"}, some...)
		cmd := exec.CommandContext(ctx, "nix-store", args...)
		cmd.Env = s.Env()
		out, err := commandOutput(cmd, nil)
		if err != nil {
			return nil, fmt.Errorf("ask nix what of the inputs is here: %w", err)
		}
		for _, path := range strings.Fields(string(out)) {
			absent[path] = true
		}
	}

	return absent, nil
}

// derivation is what a .drv file says about outputs and inputs.
type derivation struct {
	outputs map[string]string   // store paths by output name
	inputs  map[string][]string // names of the needed outputs, by path of the .drv file
}

// readDerivation reads a .drv file: Derive([(name,path,algorithm,hash),…],[(drv,[output,…]),…],…). See
// src/libstore/derivations.cc of nix.
func readDerivation(path string) (derivation, error) {
	d := derivation{
		outputs: make(map[string]string),
		inputs:  make(map[string][]string),
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return d, fmt.Errorf("read what the system is built from: %w; if it was garbage-collected, run `provision retry`", err)
	}

	p := aterm{text: string(data)}
	p.expect("Derive(")
	p.list(func() {
		p.expect("(")
		name := p.str()
		p.expect(",")
		d.outputs[name] = p.str()
		p.expect(",")
		p.str()
		p.expect(",")
		p.str()
		p.expect(")")
	})
	p.expect(",")
	p.list(func() {
		p.expect("(")
		input := p.str()
		p.expect(",")
		d.inputs[input] = nil
		p.list(func() { d.inputs[input] = append(d.inputs[input], p.str()) })
		p.expect(")")
	})
	if p.err != nil {
		return d, fmt.Errorf("read %s: %w", path, p.err)
	}

	return d, nil
}

// aterm is a parser of nix's text format. After an error it reads nothing more.
type aterm struct {
	text string // what is left to read
	err  error
}

// expect reads exactly s.
func (p *aterm) expect(s string) {
	rest, ok := strings.CutPrefix(p.text, s)
	if !ok && p.err == nil {
		p.err = fmt.Errorf("%q is missing before %.40q: not a derivation that this program knows", s, p.text)
	}
	p.text = rest
}

// list reads a list, and calls item for each element.
func (p *aterm) list(item func()) {
	p.expect("[")
	for p.err == nil && !strings.HasPrefix(p.text, "]") {
		item()
		p.text = strings.TrimPrefix(p.text, ",")
	}
	p.expect("]")
}

// str reads a string.
func (p *aterm) str() string {
	quoted, err := strconv.QuotedPrefix(p.text)
	if err != nil || quoted[0] != '"' {
		p.expect(`"`)
		return ""
	}
	p.text = p.text[len(quoted):]
	s, err := strconv.Unquote(quoted)
	if err != nil && p.err == nil {
		p.err = err
	}
	return s
}
