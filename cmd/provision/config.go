package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/pflag"

	"provision/internal/text"
)

// noKeys are the flags of serve that are about one start, and so are not keys of its configuration file.
var noKeys = []string{"config", "check", "help"}

// flagAtStart finds the flag with which an error begins.
var flagAtStart = regexp.MustCompile(`^--([a-z0-9-]+)`)

// configFile is a configuration file that was read: TOML, in which each key is a flag of serve by its name.
type configFile struct {
	path  string
	lines map[string]int // of the keys, counted from 1
	used  map[string]bool
}

// readConfig sets the flags that the file names and the command line does not. PROVISION_SOCKET goes before the file,
// as it does for all other commands.
func readConfig(path string, flags *pflag.FlagSet) (*configFile, error) {
	data, err := readOurs(path)
	if err != nil {
		return nil, err
	}

	c := &configFile{path: path, used: make(map[string]bool)}
	values, err := c.parse(data)
	if err != nil {
		return nil, err
	}

	names := slices.SortedFunc(maps.Keys(values), func(a, b string) int { return cmp.Compare(c.lines[a], c.lines[b]) })
	for _, name := range names {
		flag := flags.Lookup(name)
		if flag == nil || slices.Contains(noKeys, name) {
			return nil, c.at(name, unknownKey(name, flags))
		}
		given := flag.Changed || name == "socket" && os.Getenv("PROVISION_SOCKET") != ""
		if err := setFlag(flag, values[name], given); err != nil {
			return nil, c.at(name, fmt.Errorf("%s: %w", name, err))
		}
		c.used[name] = !given
	}

	return c, nil
}

// readOurs reads a file that nobody may have changed who is not root or ourselves: it names programs that root runs.
func readOurs(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	defer f.Close()

	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}

	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	switch {
	case info.IsDir():
		return nil, fmt.Errorf("--config %s: it is a folder; name the file in it", path)
	case owner != 0 && owner != os.Geteuid():
		return nil, fmt.Errorf("--config %s: it belongs to the user %d, who could change what this server runs. "+
			"If what is in it is right: chown %d %s", path, owner, os.Geteuid(), path)
	case info.Mode().Perm()&0o022 != 0:
		return nil, fmt.Errorf("--config %s: others may write it (mode %04o), and could change what this server runs. "+
			"If what is in it is right: chmod go-w %s", path, info.Mode().Perm(), path)
	}

	data, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("--config: %w", err)
	}
	return data, nil
}

// parse returns the values of the keys, and keeps on which line each is.
func (c *configFile) parse(data []byte) (map[string]any, error) {
	var values map[string]any
	if err := toml.Unmarshal(data, &values); err != nil {
		return nil, c.parseError(err)
	}

	// A value has no position, but a key that a struct has no field for does.
	c.lines = make(map[string]int)
	strict := toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields()
	var all *toml.StrictMissingError
	if err := strict.Decode(new(struct{})); err != nil && !errors.As(err, &all) {
		return nil, c.parseError(err)
	}

	if all != nil {
		for _, e := range all.Errors {
			name := e.Key()[0]
			if c.lines[name] == 0 {
				c.lines[name], _ = e.Position()
			}
		}
	}

	return values, nil
}

// parseError says where a file is not TOML.
func (c *configFile) parseError(err error) error {
	var d *toml.DecodeError
	if !errors.As(err, &d) {
		return fmt.Errorf("%s: %w", c.path, err)
	}
	line, column := d.Position()
	return fmt.Errorf("%s:%d:%d: %w; texts are in quotes, lists in [ ]", c.path, line, column, err)
}

// at is an error that says on which line the key is.
func (c *configFile) at(name string, err error) error {
	return fmt.Errorf("%s:%d: %w", c.path, c.lines[name], err)
}

// locate says where in the file an error is that begins with a flag, if the flag was set there.
func (c *configFile) locate(err error) error {
	if c == nil || err == nil {
		return err
	}
	flag := flagAtStart.FindStringSubmatch(err.Error())
	if flag == nil || !c.used[flag[1]] {
		return err
	}
	return c.at(flag[1], err)
}

// unknownKey says which key was probably meant.
func unknownKey(name string, flags *pflag.FlagSet) error {
	if slices.Contains(noKeys, name) {
		return fmt.Errorf("%s is for the command line only, as --%s", name, name)
	}
	var names []string
	flags.VisitAll(func(f *pflag.Flag) {
		if !slices.Contains(noKeys, f.Name) {
			names = append(names, f.Name)
		}
	})
	if near := text.Nearest(strings.ReplaceAll(name, "_", "-"), names); near != "" {
		return fmt.Errorf("unknown key %q; did you mean %s?", name, near)
	}
	return fmt.Errorf("unknown key %q; keys are the flags that `provision serve --help` lists, without the dashes", name)
}

// setFlag gives a flag the value of a key. One that was given on the command line stays, but the file's value must do.
func setFlag(flag *pflag.Flag, value any, given bool) error {
	words, err := flagWords(flag, value)
	if err != nil || given {
		return err
	}
	if list, is := flag.Value.(pflag.SliceValue); is {
		err = list.Replace(words)
	} else {
		err = flag.Value.Set(words[0])
	}
	if err != nil {
		return fmt.Errorf("%q: %w", strings.Join(words, ", "), err)
	}
	flag.Changed = true
	return nil
}

// flagWords are what a flag takes for a TOML value: several for a list, else one.
func flagWords(flag *pflag.Flag, value any) ([]string, error) {
	if _, is := flag.Value.(pflag.SliceValue); is {
		items, is := value.([]any)
		words := make([]string, len(items))
		for i, item := range items {
			words[i], is = item.(string)
			if !is {
				break
			}
		}

		if !is {
			return nil, fmt.Errorf(`write a list of texts, such as %s = ["…", "…"]`, flag.Name)
		}
		return words, nil
	}

	switch v := value.(type) {
	case bool:
		if flag.Value.Type() == "bool" {
			return []string{strconv.FormatBool(v)}, nil
		}
	case int64:
		if flag.Value.Type() == "int" {
			return []string{strconv.FormatInt(v, 10)}, nil
		}
	case string:
		if flag.Value.Type() != "bool" && flag.Value.Type() != "int" {
			return []string{v}, nil
		}
	}

	switch flag.Value.Type() {
	case "bool":
		return nil, errors.New("write true or false, without quotes")
	case "int":
		return nil, errors.New("write a whole number, without quotes")
	case "duration":
		return nil, fmt.Errorf("write a duration in quotes, such as %s = \"1h30m\"", flag.Name)
	}

	return nil, fmt.Errorf("write a text in quotes, such as %s = \"…\"", flag.Name)
}
