package disko

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// hooks are a node's own shell snippets, and the node's options, which the snippets find
// as shell variables. They are the only shell in a plan that is not constant, and each is
// a step of its own that says so.
type hooks struct {
	path  string
	texts map[string]string // by attribute, those that are not empty
	vars  []variable
}

// variable is an option as bash has it: a string, an array or an associative array.
type variable struct {
	name   string
	open   string // what comes before the values
	values []string
}

var hookNames = []string{"preCreateHook", "postCreateHook", "preMountHook", "postMountHook", "preUnmountHook", "postUnmountHook"}

// hooks reads a node's hooks; nil if it has none. It comes before the other attributes
// are read, as it looks at them too.
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

// newVariable is what disko's defineHookVariables makes of an option.
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

// shellText is Nix's toString.
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

// argv runs a hook as disko's scripts do (set -efu). The values are arguments, so that
// nothing but the hook itself is shell.
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

// step is a hook's step; none if there is no such hook.
func (h *hooks) step(stage Stage, name string, on blockTarget) []Step {
	if h.texts[name] == "" {
		return nil
	}
	at := join(h.path, name)
	return []Step{{Stage: stage, Name: "run the layout's " + at, Argv: h.argv(name, on.device), Device: on.device, Hook: at}}
}

// hooked is content with hooks.
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

// frame is what has mount hooks, while what is inside is planned.
type frame struct {
	*hooks
	on blockTarget
}

// around plans what something with hooks does. Create hooks run before and after. Mount
// hooks run around each mount inside and, as in disko, where containers are opened, before
// anything is mounted. Unmount hooks run once: around unmounting what is mounted itself,
// and around closing what is a container.
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
		b.closing = append(b.closing, h.step(StageUnmount, "postUnmountHook", on)...) // read backwards
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
		b.steps = b.steps[:before] // nothing was made between its hooks
		return
	}
	b.steps = append(b.steps, h.step(StageCreate, "postCreateHook", on)...)
}

// framed puts the mount hooks of all frames around steps, the innermost nearest.
func (b *builder) framed(steps ...Step) []Step {
	for _, f := range slices.Backward(b.frames) {
		steps = slices.Concat(f.step(StageMount, "preMountHook", f.on), steps, f.step(StageMount, "postMountHook", f.on))
	}
	return steps
}
