package sshlogin

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// value is the value of a keyword in a file.
type value struct {
	text     string
	operator Operator // whose file it is: ~ and %d mean their home
	at       string   // FILE:LINE
}

// options are what the files say about one machine: for each keyword, in lower case, the first value that was found.
type options struct {
	one  map[string]value
	keys []value  // all values of IdentityFile
	exec []string // places of Match exec, which is not run
}

// reader reads ssh_config files for one machine.
type reader struct {
	options
	to        Target // as it was typed
	final     bool   // this is the second pass, in which Match final holds
	wantFinal bool   // there is a Match final, which needs a second pass
}

// kept are the keywords that are stored, with the first value that is found. Some of them are stored only to say that
// they are not honoured.
var kept = []string{"hostname", "port", "user", "hostkeyalias", "identityagent", "identitiesonly", "proxyjump", "proxycommand",
	"userknownhostsfile", "globalknownhostsfile", "stricthostkeychecking", "nohostauthenticationforlocalhost",
	"knownhostscommand", "revokedhostkeys", "pkcs11provider", "tag"}

// readOptions reads the files of all operators and of the system. If one of them has Match final, it reads them a
// second time.
func (l *Login) readOptions(to Target) (*reader, error) {
	r := &reader{to: to}
	r.one = make(map[string]value)
	if to.User != "" {
		r.one["user"] = value{text: to.User}
	}
	if err := r.readAll(l.Operators, l.System); err != nil {
		return nil, err
	}
	if !r.wantFinal {
		return r, nil
	}
	r.final = true
	return r, r.readAll(l.Operators, l.System)
}

// readAll reads all files once.
func (r *reader) readAll(operators []Operator, system string) error {
	for _, o := range operators {
		f := configFile{path: o.file("config"), folder: filepath.Join(o.Home, ".ssh"), operator: o, private: true}
		if err := r.read(f, true, 0); err != nil {
			return err
		}
	}
	if system == "" || len(operators) == 0 {
		return nil
	}
	return r.read(configFile{path: filepath.Join(system, "ssh_config"), folder: system, operator: operators[0]}, true, 0)
}

// configFile is a file to be read.
type configFile struct {
	path     string
	folder   string // the folder that relative names in Include refer to
	operator Operator
	private  bool // it must not be writable for others
}

const maxIncludes = 16 // depth of nested files, as in ssh

// read reads a file. taken says whether the lines before its first Host or Match apply.
func (r *reader) read(f configFile, taken bool, depth int) error {
	if depth > maxIncludes {
		return fmt.Errorf("read %s: Include goes more than %d files deep", f.path, maxIncludes)
	}
	data, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && f.private {
		err = safe(f)
	}
	if err != nil {
		return fmt.Errorf("read your SSH settings: %w", err)
	}

	outside := taken
	number := 0
	for line := range bytes.Lines(data) {
		number++
		at := fmt.Sprintf("%s:%d", f.path, number)
		fields, err := split(string(line))
		if err != nil {
			return fmt.Errorf("read your SSH settings: %s: %w", at, err)
		}

		if len(fields) == 0 {
			continue
		}
		keyword, args := strings.ToLower(fields[0]), fields[1:]
		switch keyword {
		case "host":
			taken = outside && matchesHost(r.to.Host, args)
		case "match":
			taken, err = r.match(args, f.operator, at)
			taken = taken && outside
		case "include":
			err = r.include(f, args, taken, depth)
		default:
			if taken && len(args) > 0 {
				r.set(keyword, value{text: strings.Join(args, " "), operator: f.operator, at: at}, args[0])
			}
		}
		if err != nil {
			return fmt.Errorf("read your SSH settings: %s: %w", at, err)
		}
	}

	return nil
}

// set stores the value of a line. first is its first word: only some keywords use the others.
func (r *reader) set(keyword string, v value, first string) {
	switch keyword {
	case "identityfile":
		v.text = first
		if !slices.ContainsFunc(r.keys, func(k value) bool { return k.text == v.text && k.operator == v.operator }) {
			r.keys = append(r.keys, v)
		}
		return
	case "userknownhostsfile", "globalknownhostsfile", "proxycommand":
	default:
		v.text = first
	}

	if _, said := r.one[keyword]; said || !slices.Contains(kept, keyword) {
		return
	}

	// Whichever of the two comes first is used.
	_, jump := r.one["proxyjump"]
	_, command := r.one["proxycommand"]
	if (jump || command) && strings.HasPrefix(keyword, "proxy") {
		return
	}
	r.one[keyword] = v
}

// include reads the files that an Include line names.
func (r *reader) include(f configFile, patterns []string, taken bool, depth int) error {
	for _, pattern := range patterns {
		pattern, err := expandHome(pattern, f.operator)
		if err != nil {
			return err
		}

		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(f.folder, pattern)
		}
		files, err := filepath.Glob(pattern)
		if err != nil {
			return fmt.Errorf("include %s: %w", pattern, err)
		}

		for _, path := range files {
			f.path = path
			if err := r.read(f, taken, depth+1); err != nil {
				return err
			}
		}
	}

	return nil
}

// safe returns an error for a file that somebody else may have written, as ssh does: the file decides where a password
// is sent.
func safe(f configFile) error {
	info, err := os.Stat(f.path)
	if err != nil {
		return err
	}
	owner := strconv.FormatUint(uint64(info.Sys().(*syscall.Stat_t).Uid), 10) // always this type on Linux
	switch {
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", f.path)
	case owner != "0" && owner != f.operator.UID && owner != strconv.Itoa(os.Geteuid()):
		return fmt.Errorf("%s belongs to another user (uid %s)", f.path, owner)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s can be written by others: run `chmod go-w %s`", f.path, f.path)
	}

	return nil
}

// split splits a line into its keyword and its arguments. Arguments may be quoted, a backslash escapes a quote, a space
// or a backslash, and # begins a comment.
func split(line string) ([]string, error) {
	line = strings.Trim(line, " \t\r\n\f")
	if line == "" || line[0] == '#' {
		return nil, nil
	}
	end := strings.IndexAny(line, " \t=\"")
	if end < 0 {
		return []string{line}, nil
	}
	fields := []string{line[:end]}
	rest := strings.TrimLeft(line[end:], " \t")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
	for rest != "" && rest[0] != '#' {
		word, after, err := cutWord(rest)
		if err != nil {
			return nil, err
		}
		fields = append(fields, word)
		rest = strings.TrimLeft(after, " \t")
	}

	return fields, nil
}

// cutWord splits off the first word.
func cutWord(s string) (word, after string, err error) {
	var b strings.Builder
	var quote byte
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && i+1 < len(s) && (strings.IndexByte(`'"\`, s[i+1]) >= 0 || quote == 0 && s[i+1] == ' '):
			i++
			b.WriteByte(s[i])
		case quote == 0 && (c == ' ' || c == '\t'):
			return b.String(), s[i:], nil
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote != 0 && c == quote:
			quote = 0
		default:
			b.WriteByte(c)
		}
	}

	if quote != 0 {
		return "", "", fmt.Errorf("a quote is not closed in %s", s)
	}
	return b.String(), "", nil
}
