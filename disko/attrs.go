package disko

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// reader collects all problems of a layout, so that one run reports every one of them, and records how its parts depend
// on each other.
type reader struct {
	problems []string
	warnings []Problem
	unknown  []string          // paths of unknown attributes that have no effect
	seen     map[string]string // values that must be unique, and the path of each

	owner   *topDevice               // the device whose content is being read
	blocks  map[string]*block        // block devices, by the name that the layout gives them
	members map[string][]claim       // of RAIDs, volume groups and pools, by "GROUP NAME"
	fewest  map[string]fewestMembers // how many members each of these needs
	borrows []claim                  // empty devices that content elsewhere uses
}

// block is a block device that the layout creates or uses.
type block struct {
	owner *topDevice
	empty bool // has no content of its own
}

// claim records that what is at a path belongs to, or needs, the named device.
type claim struct {
	name, path string
	owner      *topDevice
}

// fewestMembers is the lowest number of members that the device at a path can have.
type fewestMembers struct {
	n          int
	path, what string
}

func newReader() *reader {
	return &reader{
		seen:    map[string]string{},
		blocks:  map[string]*block{},
		members: map[string][]claim{},
		fewest:  map[string]fewestMembers{},
	}
}

// atLeast records how many members a RAID, volume group, pool or file system needs.
func (r *reader) atLeast(key string, n int, path, what string) {
	r.fewest[key] = fewestMembers{n, path, what}
}

// errorf records an error at an attribute path.
func (r *reader) errorf(path, format string, args ...any) {
	r.problems = append(r.problems, path+": "+fmt.Sprintf(format, args...))
}

// warnf records a warning at an attribute path.
func (r *reader) warnf(path, format string, args ...any) {
	r.warnings = append(r.warnings, Problem{Path: path, Text: fmt.Sprintf(format, args...)})
}

// err returns all recorded errors, sorted and joined; nil if there are none.
func (r *reader) err() error {
	slices.Sort(r.problems)
	var errs []error
	for _, p := range slices.Compact(r.problems) {
		errs = append(errs, errors.New(p))
	}
	return errors.Join(errs...)
}

// unique records an error if a value that must be unique on a machine occurs twice in the layout.
func (r *reader) unique(kind, value, path string) {
	key := kind + " " + strconv.Quote(value)
	if other, ok := r.seen[key]; ok {
		r.errorf(path, "%s is taken already by %s", key, other)
		return
	}
	r.seen[key] = path
}

// attrs is an attribute set that is being read. Reading an attribute removes it, so that done can report unknown ones.
type attrs struct {
	*reader
	path   string
	raw    map[string]json.RawMessage
	unread map[string]bool // attributes that are missing or have the wrong type
}

// bareName matches attribute names that Nix needs no quotes for.
var bareName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_'-]*$`)

// join appends a name to an attribute path, quoted where Nix needs it.
func join(path, name string) string {
	if !bareName.MatchString(name) {
		name = strconv.Quote(name)
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

// bad records an error at an attribute, unless an error about its type was recorded already.
func (a *attrs) bad(name, format string, args ...any) {
	if !a.unread[name] {
		a.errorf(a.at(name), format, args...)
	}
}

// at returns the path of an attribute.
func (a *attrs) at(name string) string { return join(a.path, name) }

// take reads an attribute and removes it. If it is null or missing, take returns the zero value and false.
func take[T any](a *attrs, name string) (v T, ok bool) {
	raw, ok := a.raw[name]
	delete(a.raw, name)
	if !ok || string(raw) == "null" {
		return v, false
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		kind := map[string]string{
			"string": "a string", "bool": "true or false", "int": "a whole number",
			"[]string": "a list of strings", "[]int": "a list of whole numbers",
			"map[string]string": "an attribute set of strings", "[]json.RawMessage": "a list",
		}[fmt.Sprintf("%T", v)]
		if kind == "" {
			kind = "an attribute set"
		}
		a.bad(name, "must be %s", kind)
		a.unread[name] = true
		var zero T
		return zero, false
	}
	return v, true
}

// need is take for attributes that evaluated layouts always have: it is an error if one is missing or null.
func need[T any](a *attrs, name string) T {
	_, present := a.raw[name]
	v, ok := take[T](a, name)
	switch {
	case ok:
	case present:
		a.bad(name, "must not be null")
	default:
		a.bad(name, "is missing; evaluate the layout with disko's own modules")
	}
	a.unread[name] = !ok
	return v
}

// older is need for attributes that older versions of disko do not have. These behaved as the value of gave.
func older[T any](a *attrs, name string, gave T) T {
	if _, present := a.raw[name]; !present {
		return gave
	}
	return need[T](a, name)
}

// plain records an error if a value has control characters: no valid name, path or option contains them, and an
// argument of a command cannot contain NUL. It reports whether the values are fine.
func (a *attrs) plain(name string, values ...string) bool {
	for _, v := range values {
		if strings.ContainsFunc(v, unicode.IsControl) {
			a.bad(name, "has a control character in %q", v)
			return false
		}
	}
	return true
}

// str reads a string that must be there.
func (a *attrs) str(name string) string {
	v := need[string](a, name)
	a.plain(name, v)
	return v
}

// flag reads true or false; null and missing are false.
func (a *attrs) flag(name string) bool {
	v, _ := take[bool](a, name)
	return v
}

// optional reads a string; null and missing are empty.
func (a *attrs) optional(name string) string {
	v, _ := take[string](a, name)
	a.plain(name, v)
	return v
}

// list reads a list of strings; null and missing are empty.
func (a *attrs) list(name string) []string {
	v, _ := take[[]string](a, name)
	a.plain(name, v...)
	return v
}

// stringList reads a list that disko inserts into a shell script unquoted, so that an element may hold several words.
// Shell syntax beyond splitting words is an error.
func (a *attrs) stringList(name string) []string {
	var list []string
	for _, v := range a.list(name) {
		if strings.ContainsAny(v, "\"'`\\$;|&<>(){}*?[]~#!") {
			a.bad(name, "%q has shell syntax, which is not supported; write each word as an element of its own", v)
			continue
		}
		list = append(list, strings.Fields(v)...)
	}
	return list
}

// devicePattern finds device paths in arguments.
var devicePattern = regexp.MustCompile(`/dev/[^,= ]+`)

// borrow records the devices that arguments name in addition to the one that is formatted. They must be in the layout
// and be empty: otherwise they would be overwritten without being in the plan.
func (a *attrs) borrow(name string, args []string) []string {
	for _, arg := range args {
		for _, dev := range devicePattern.FindAllString(arg, -1) {
			a.borrows = append(a.borrows, claim{dev, a.at(name), a.owner})
		}
	}
	return args
}

// oneOf reads a string that must be one of those allowed; null is the empty string.
func (a *attrs) oneOf(name string, allowed ...string) string {
	v := a.optional(name)
	if v != "" && !slices.Contains(allowed, v) {
		a.bad(name, "%q is not known; known are %s", v, strings.Join(allowed, ", "))
	}
	return v
}

// matches reads a string that must match a pattern. allowed describes the pattern for people.
func (a *attrs) matches(name string, pattern *regexp.Regexp, allowed string) string {
	v := a.str(name)
	if !pattern.MatchString(v) {
		a.bad(name, "%q is not allowed; allowed are %s", v, allowed)
	}
	return v
}

// options reads an attribute set of strings, and returns "name=value" in byte order of the names.
func (a *attrs) options(name string) []string {
	m, _ := take[map[string]string](a, name)
	var list []string
	for n, v := range m {
		if !propertyName.MatchString(n) {
			a.bad(name, "%q is not the name of a property", n)
		}
		list = append(list, n+"="+v)
	}
	slices.Sort(list)
	a.plain(name, list...)
	return list
}

// propertyName matches a ZFS property, or a user property, which has a colon (zfsprops(7)).
var propertyName = regexp.MustCompile(`^[a-z0-9@][a-z0-9@_.:-]*$`)

// file reads an absolute path; null is the empty string.
func (a *attrs) file(name string) string {
	v, ok := take[string](a, name)
	if ok && a.plain(name, v) && !strings.HasPrefix(v, "/") {
		a.bad(name, "%q is not an absolute path", v)
	}
	return v
}

// ignore removes attributes that matter only to the installed system or to other tools.
func (a *attrs) ignore(names ...string) {
	for _, name := range names {
		delete(a.raw, name)
	}
}

// sets reads an attribute set of attribute sets. The names are in byte order.
func (a *attrs) sets(name string) (names []string, sets map[string]*attrs) {
	m, _ := take[map[string]json.RawMessage](a, name)
	sets = map[string]*attrs{}
	for n, raw := range m {
		path := join(a.at(name), n)
		if !a.plain(name, n) {
			continue
		}
		if s := a.set(path, raw); s != nil {
			names = append(names, n)
			sets[n] = s
		}
	}

	slices.Sort(names)
	return names, sets
}

// each reads a list of attribute sets.
func (a *attrs) each(name string) (sets []*attrs) {
	list, _ := take[[]json.RawMessage](a, name)
	for i, raw := range list {
		if s := a.set(fmt.Sprintf("%s[%d]", a.at(name), i), raw); s != nil {
			sets = append(sets, s)
		}
	}
	return sets
}

// set returns the attribute set in raw; nil if it is null or not an attribute set.
func (r *reader) set(path string, raw json.RawMessage) *attrs {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		r.errorf(path, "must be an attribute set")
		return nil
	}
	if m == nil {
		return nil
	}
	return &attrs{reader: r, path: path, raw: m, unread: map[string]bool{}}
}

// done records an error for each attribute that was not read: an unknown option must not be ignored silently, unless
// its value has no effect.
func (a *attrs) done() {
	for name, raw := range a.raw {
		if saysNothing(raw) {
			a.unknown = append(a.unknown, a.at(name))
			continue
		}
		a.bad(name, "is not known to provision, and is set: this disko is newer than what provision knows; "+
			"update provision, or leave the option out")
	}
}

// saysNothing reports whether a value is null, false or empty, as the default of an option without effect is.
func saysNothing(raw json.RawMessage) bool {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return false
	}
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == ""
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}

	return false
}

// warned returns the warnings, with one more about all unknown attributes that were ignored.
func (r *reader) warned() []Problem {
	slices.SortFunc(r.warnings, func(a, b Problem) int { return strings.Compare(a.String(), b.String()) })
	if len(r.unknown) == 0 {
		return r.warnings
	}
	slices.Sort(r.unknown)
	return append(r.warnings, Problem{Text: "this disko is newer than what provision knows. " +
		"Ignored are options that provision does not know, and that are not set: " + strings.Join(r.unknown, ", ")})
}
