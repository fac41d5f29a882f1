package disko

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// hooks are the shell snippets of a node in the layout, and the node's options, which the snippets can read as shell
// variables. Hooks are the only shell code in a plan that is not constant. Each runs as a separate step that says so.
type hooks struct {
	path  string
	texts map[string]string // by attribute; empty ones are left out
	vars  []variable
}

// variable is an option as a bash variable: a string, an array or an associative array.
type variable struct {
	name   string
	open   string // what precedes the values: "" for a string, "=" for an array, "declare -A " for an associative array
	values []string
}

// hookNames are the attributes that hold hooks.
var hookNames = []string{"preCreateHook", "postCreateHook", "preMountHook", "postMountHook", "preUnmountHook", "postUnmountHook"}

// hooks reads a node's hooks; nil if it has none. It must be called before the other attributes are read, since it
// needs all of them.
func (a *attrs) hooks() *hooks {
	h := &hooks{path: a.path, texts: map[string]string{}}
	for _, name := range hookNames {
		text, _ := take[string](a, name)
		switch {
		case strings.TrimSpace(text) == "":
			continue
		case strings.ContainsRune(text, 0):
			a.bad(name, "has a NUL character")
		}
		h.texts[name] = text
	}

	if len(h.texts) == 0 {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(a.raw)) {
		if v, ok := newVariable(name, a.raw[name]); ok {
			h.vars = append(h.vars, v)
		}
	}

	return h
}

// newVariable converts an option as disko's defineHookVariables does; false if hooks get no such variable.
func newVariable(name string, raw json.RawMessage) (v variable, ok bool) {
	if slices.Contains([]string{"content", "partitions", "datasets", "swap", "mode", "subvolumes", "lvs"}, name) || !bareName.MatchString(name) {
		return v, false
	}
	var value any
	if json.Unmarshal(raw, &value) != nil {
		return v, false
	}
	v.name = strings.NewReplacer("-", "_", "'", "_").Replace(name)
	switch value := value.(type) {
	case []any:
		v.open = "="
		for _, e := range value {
			v.values = append(v.values, shellText(e))
		}
	case map[string]any:
		v.open = "declare -A "
		for _, k := range slices.Sorted(maps.Keys(value)) {
			v.values = append(v.values, k, shellText(value[k]))
		}
	default:
		v.values = []string{shellText(value)}
	}

	return v, !strings.ContainsRune(strings.Join(v.values, ""), 0)
}

// shellText converts a value to text like toString of Nix.
func shellText(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case bool:
		return map[bool]string{true: "1"}[v]
	case []any:
		var names []string
		for _, e := range v {
			names = append(names, shellText(e))
		}
		return strings.Join(names, " ")
	}

	return fmt.Sprint(v)
}

// argv returns the command that runs a hook as disko's scripts do (set -efu). The values of variables are passed as
// arguments, so that only the hook itself is shell code.
func (h *hooks) argv(name, device string) []string {
	var script strings.Builder
	var args []string
	for _, v := range h.vars {
		if v.name == "device" && v.open == "" {
			v.values = []string{device}
		}
		n := len(args) + 1
		switch {
		case v.open == "":
			fmt.Fprintf(&script, "%s=${%d}; ", v.name, n)
		case v.open == "=":
			fmt.Fprintf(&script, "%s=(\"${@:%d:%d}\"); ", v.name, n, len(v.values))
		default:
			fmt.Fprintf(&script, "declare -A %s=(", v.name)
			for i := 0; i < len(v.values); i += 2 {
				fmt.Fprintf(&script, "[\"${%d}\"]=\"${%d}\" ", n+i, n+i+1)
			}
			script.WriteString("); ")
		}

		args = append(args, v.values...)
	}

	script.WriteString("set --\n" + h.texts[name])
	return append([]string{"bash", "-efu", "-c", script.String(), name}, args...)
}

// step returns the step that runs a hook; none if there is no such hook.
func (h *hooks) step(stage Stage, name string, on blockTarget) []Step {
	if h.texts[name] == "" {
		return nil
	}
	at := join(h.path, name)
	return []Step{{Stage: stage, Name: "run the layout's " + at, Argv: h.argv(name, on.device), Device: on.device, Hook: at}}
}

// hooked is content that has hooks.
type hooked struct {
	deviceContent
	hooks *hooks
}

func (h hooked) fill(b *builder, on blockTarget) { b.around(h.hooks, on, h.deviceContent) }

// bare returns content without its hooks.
func bare(c deviceContent) deviceContent {
	if h, ok := c.(hooked); ok {
		return h.deviceContent
	}
	return c
}

// frame is a node with mount hooks whose content is being planned.
type frame struct {
	*hooks
	on blockTarget
}

// around plans something that may have hooks. Create hooks run before and after it is made. Mount hooks run around each
// mount inside and, as in disko, also before anything is mounted, when containers are opened. Unmount hooks run once:
// for a mount, around unmounting; for a container, around closing it.
func (b *builder) around(h *hooks, on blockTarget, inside filler) {
	if h == nil {
		inside.fill(b, on)
		return
	}
	before := len(b.steps)
	b.steps = append(b.steps, h.step(StageCreate, "preCreateHook", on)...)
	made := len(b.steps)
	container, mounted := isContainer(inside), len(b.mounts)+len(b.swapOffs)
	if container {
		b.opening = append(b.opening, h.step(StageMount, "preMountHook", on)...)
		b.closing = append(b.closing, h.step(StageUnmount, "postUnmountHook", on)...) // closing is run backwards
	}
	b.frames = append(b.frames, frame{h, on})
	inside.fill(b, on)
	b.frames = b.frames[:len(b.frames)-1]
	switch {
	case container:
		b.opening = append(b.opening, h.step(StageMount, "postMountHook", on)...)
		b.closing = append(b.closing, h.step(StageUnmount, "preUnmountHook", on)...)
	case len(b.mounts)+len(b.swapOffs) > mounted:
		b.unmounting = append(b.unmounting, h.step(StageUnmount, "preUnmountHook", on)...)
		b.unmounted = append(b.unmounted, h.step(StageUnmount, "postUnmountHook", on)...)
	}

	if b.mode != Fresh && len(b.steps) == made {
		b.steps = b.steps[:before] // nothing was made between these hooks
		return
	}
	b.steps = append(b.steps, h.step(StageCreate, "postCreateHook", on)...)
}

// framed puts the mount hooks of all frames around steps. The hooks of the innermost frame are next to the steps.
func (b *builder) framed(steps ...Step) []Step {
	for _, f := range slices.Backward(b.frames) {
		steps = slices.Concat(f.step(StageMount, "preMountHook", f.on), steps, f.step(StageMount, "postMountHook", f.on))
	}
	return steps
}
