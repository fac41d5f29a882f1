package nix

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// Derivation is a host's toplevel that is not built yet.
type Derivation struct {
	Path   string `json:"path"`   // the .drv in our store
	Out    string `json:"out"`    // what it makes
	System string `json:"system"` // that builds it, such as x86_64-linux: not the host's, if that is cross-built
}

// CanBuild reports whether nix here can build for a system: by itself, by what it emulates, or by a
// remote builder.
func (b Builder) CanBuild(ctx context.Context, system string) (bool, error) {
	out, err := b.Run(ctx, nil, "show-config", "--json")
	if err != nil { // nix 2.20 and later have another name for it
		if newer, newErr := b.Run(ctx, nil, "config", "show", "--json"); newErr == nil {
			out, err = newer, nil
		}
	}
	if err != nil {
		return false, fmt.Errorf("ask nix what it builds for: %w", err)
	}
	var c struct {
		System   struct{ Value string }   `json:"system"`
		Extra    struct{ Value []string } `json:"extra-platforms"`
		Builders struct{ Value string }   `json:"builders"`
	}
	if err := json.Unmarshal(out, &c); err != nil {
		return false, fmt.Errorf("ask nix what it builds for: %w", err)
	}
	return system == c.System.Value || slices.Contains(c.Extra.Value, system) ||
		slices.Contains(builderSystems(c.Builders.Value, c.System.Value), system), nil
}

// builderSystems are those of nix's remote builders: in its setting `builders`, or in the files
// that this names with @. A builder that names none has ours.
func builderSystems(builders, own string) (systems []string) {
	for _, line := range strings.FieldsFunc(builders, func(r rune) bool { return r == '\n' || r == ';' }) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
		case strings.HasPrefix(fields[0], "@"):
			// nix ignores a file that is not there, too.
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

// Inputs are the outputs that we have of what a derivation needs to be built. What made these is
// not needed any more.
func (b Builder) Inputs(ctx context.Context, drv string) (have []string, err error) {
	seen := map[string]bool{drv: true}
	for level := []string{drv}; len(level) > 0; {
		var wanted, next []string
		outputs := make(map[string][]string)
		for _, path := range level {
			d, err := readDerivation(path)
			if err != nil {
				return nil, err
			}
			for input, names := range d.inputs {
				in, err := readDerivation(input)
				if err != nil {
					return nil, err
				}
				for _, name := range names {
					outputs[input] = append(outputs[input], in.outputs[name])
				}
				wanted = append(wanted, outputs[input]...)
			}
		}
		missing, err := b.Missing(ctx, wanted)
		if err != nil {
			return nil, err
		}
		for input, paths := range outputs {
			lacks := slices.ContainsFunc(paths, func(p string) bool { return missing[p] })
			for _, p := range paths {
				if !missing[p] {
					have = append(have, p)
				}
			}
			if lacks && !seen[input] {
				seen[input] = true
				next = append(next, input)
			}
		}
		level = next
	}
	slices.Sort(have)
	return slices.Compact(have), nil
}

// Missing are those of the paths that our store does not have.
func (b Builder) Missing(ctx context.Context, paths []string) (map[string]bool, error) {
	lacks := map[string]bool{"": true} // an output that has its path only once it is built
	slices.Sort(paths)
	paths = slices.DeleteFunc(slices.Compact(paths), func(p string) bool { return p == "" })
	for some := range slices.Chunk(paths, 1000) { // a command line has its limits
		cmd := exec.CommandContext(ctx, "nix-store", append([]string{"--check-validity", "--print-invalid"}, some...)...)
		cmd.Env = b.Env()
		out, err := Output(cmd, nil)
		if err != nil {
			return nil, fmt.Errorf("ask nix what of the inputs is here: %w", err)
		}
		for _, path := range strings.Fields(string(out)) {
			lacks[path] = true
		}
	}
	return lacks, nil
}

// derivation is what a .drv file says of its outputs and inputs.
type derivation struct {
	outputs map[string]string   // paths by name
	inputs  map[string][]string // names of outputs by .drv
}

// readDerivation reads a .drv file: Derive([(name,path,algorithm,hash),…],[(drv,[output,…]),…],…),
// as nix's src/libstore/derivations.cc writes it.
func readDerivation(path string) (derivation, error) {
	d := derivation{make(map[string]string), make(map[string][]string)}
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

// aterm reads nix's text form from its front. After an error it reads nothing more.
type aterm struct {
	text string
	err  error
}

func (p *aterm) expect(s string) {
	rest, ok := strings.CutPrefix(p.text, s)
	if !ok && p.err == nil {
		p.err = fmt.Errorf("%q is missing before %.40q: not a derivation that this program knows", s, p.text)
	}
	p.text = rest
}

func (p *aterm) list(item func()) {
	p.expect("[")
	for p.err == nil && !strings.HasPrefix(p.text, "]") {
		item()
		p.text = strings.TrimPrefix(p.text, ",")
	}
	p.expect("]")
}

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
