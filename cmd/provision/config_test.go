package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/pflag"
)

// serveFlagsFor are the flags of serve, after these arguments.
func serveFlagsFor(t *testing.T, args ...string) *pflag.FlagSet {
	t.Helper()
	t.Setenv("PROVISION_SOCKET", "")
	c, _, err := rootCommand().Find([]string{"serve"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	return c.Flags()
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestConfigValues: what a file says is what the flags are, unless the command line says something else.
func TestConfigValues(t *testing.T) {
	path := writeConfig(t, `
flake = "/srv/fleet"
interface = ["br0", "br1=10.0.0.1"]
dhcp = "server"
dhcp-range = ["10.0.0.8-10.0.0.9"]
"dhcp-lease" = "90m"
tftp-blksize = 1_024
verbose = true
nix-option = ["substituters = https://a https://b", "cores=2,3"]
socket = "/run/other.sock"
`)
	for _, test := range []struct {
		flag, want string
		args       []string
	}{
		{"flake", "/srv/fleet", nil},
		{"flake", "/home/fleet", []string{"--flake", "/home/fleet"}},
		{"interface", "[br0,br1=10.0.0.1]", nil},
		{"interface", "[br2]", []string{"--interface=br2"}},
		{"dhcp", "server", nil},
		{"dhcp", "proxy", []string{"--dhcp", "proxy"}}, // the default, but given
		{"dhcp-lease", "1h30m0s", nil},
		{"tftp-blksize", "1024", nil},
		{"verbose", "true", nil},
		{"verbose", "false", []string{"--verbose=false"}},
		{"nix-option", `[substituters = https://a https://b,"cores=2,3"]`, nil}, // no list is made of a comma
		{"socket", "/run/other.sock", nil},
		{"http", ":80", nil},
	} {
		flags := serveFlagsFor(t, test.args...)
		if _, err := readConfig(path, flags); err != nil {
			t.Fatal(err)
		}
		if got := flags.Lookup(test.flag).Value.String(); got != test.want {
			t.Errorf("%s with %v is %s, want %s", test.flag, test.args, got, test.want)
		}
	}
	flags := serveFlagsFor(t)
	t.Setenv("PROVISION_SOCKET", "/run/mine.sock")
	if _, err := readConfig(path, flags); err != nil || flags.Changed("socket") {
		t.Errorf("PROVISION_SOCKET does not go before the file, %v", err)
	}
}

// TestConfigErrors: an error names the file, the line and the key, and says what to write.
func TestConfigErrors(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"\ninterfaces = []", `:2: unknown key "interfaces"; did you mean interface?`},
		{"dhcp_range = []", `:1: unknown key "dhcp_range"; did you mean dhcp-range?`},
		{"colour = 'red'", `:1: unknown key "colour"; keys are the flags`},
		{"[dhcp]\nrange = []", `:1: dhcp: write a text in quotes`},
		{"check = true", `:1: check is for the command line only, as --check`},
		{"config = 'x'", `:1: config is for the command line only`},
		{"help = true", `:1: help is for the command line only`},
		{"flake = '/a'\n\nverbose = 'yes'", `:3: verbose: write true or false, without quotes`},
		{"interface = 'br0'", `:1: interface: write a list of texts, such as interface = \["…", "…"\]`},
		{"dhcp-dns = ['10.0.0.1', 2]", `:1: dhcp-dns: write a list of texts`},
		{"builds = '2'", `:1: builds: write a whole number, without quotes`},
		{"builds = 1.5", `:1: builds: write a whole number`},
		{"http = 80", `:1: http: write a text in quotes, such as http = "…"`},
		{"dhcp-lease = 3600", `:1: dhcp-lease: write a duration in quotes, such as dhcp-lease = "1h30m"`},
		{"dhcp-lease = 'soon'", `:1: dhcp-lease: "soon": time: invalid duration "soon"`},
		{"flake = '/a'\nflake = '/b'", `:2:1: toml: `},
		{"flake = /a", `:1:9: toml: .*; texts are in quotes`},
	} {
		path := writeConfig(t, test.text)
		_, err := readConfig(path, serveFlagsFor(t))
		if err == nil || !strings.HasPrefix(err.Error(), path) || !regexp.MustCompile(test.want).MatchString(
			strings.TrimPrefix(err.Error(), path)) {
			t.Errorf("%q: %v, want %s", test.text, err, test.want)
		}
	}
	// The value of a flag that was given is looked at, too: the next start may be without it.
	path := writeConfig(t, "verbose = 'yes'")
	if _, err := readConfig(path, serveFlagsFor(t, "--verbose")); err == nil {
		t.Error("a wrong value passes beside the flag")
	}
}

// TestConfigOwner: a file that others may write decides nothing; one that they may read does.
func TestConfigOwner(t *testing.T) {
	path := writeConfig(t, "verbose = true")
	for mode, want := range map[os.FileMode]string{0o644: "", 0o600: "", 0o664: "chmod go-w", 0o646: "chmod go-w"} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := readConfig(path, serveFlagsFor(t))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%04o: %v, want %q", mode, err, want)
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	if err := os.Chown(path, 1, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := readConfig(path, serveFlagsFor(t)); err == nil || !strings.Contains(err.Error(), "chown 0 "+path) {
		t.Errorf("another user's file: %v", err)
	}
}

// TestConfigLocate: what serve finds wrong with a flag is told with the line of the file, if that is where it is from.
func TestConfigLocate(t *testing.T) {
	path := writeConfig(t, "\nhttp = 'x'\nflake = './nosuch'")
	file, err := readConfig(path, serveFlagsFor(t, "--flake", "/a"))
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"--http x: write a port":  path + ":2: --http x: write a port",
		"--flake: no such folder": "--flake: no such folder", // given on the command line
		"--dhcp magic: choose":    "--dhcp magic: choose",
		"serve needs --http":      "serve needs --http",
		"--":                      "--",
	} {
		if got := file.locate(fmt.Errorf("%s", text)); got.Error() != want {
			t.Errorf("%s: %s", text, got)
		}
	}
}

// configKeys are the flags that are keys, by name.
func configKeys(t *testing.T) (keys []*pflag.Flag) {
	serveFlagsFor(t).VisitAll(func(f *pflag.Flag) {
		if !slices.Contains(noKeys, f.Name) {
			keys = append(keys, f)
		}
	})
	return keys
}

// defaultTOML is the default of a flag as a file has it.
func defaultTOML(f *pflag.Flag) string {
	switch {
	case f.Value.Type() == "stringSlice" || f.Value.Type() == "stringArray":
		return "[]"
	case f.Value.Type() == "bool" || f.Value.Type() == "int":
		return f.DefValue
	}
	return fmt.Sprintf("%q", f.DefValue)
}

// exampleConfig is packaging/config.toml.
func exampleConfig(keys []*pflag.Flag) string {
	var b strings.Builder
	b.WriteString(`# Options of "provision serve --config FILE", in TOML: each key is a flag by the same name. What is given on the command
# line goes before what is here. "provision serve --config FILE --check" tells whether the file is right.
#
# Two keys are needed, such as
#
#   flake = "/srv/fleet"
#   interface = ["br0"]
#
# All others have the defaults that are written here. This file is made of the program:
# go test ./cmd/provision -run TestExampleConfig -update
`)
	for _, f := range keys {
		b.WriteString("\n")
		line := "#"
		for _, word := range strings.Fields(f.Usage) {
			if len(line)+1+len(word) > 100 {
				b.WriteString(line + "\n")
				line = "#"
			}
			line += " " + word
		}
		fmt.Fprintf(&b, "%s\n#%s = %s\n", line, f.Name, defaultTOML(f))
	}
	return b.String()
}

// TestExampleConfig: the example has every key, with its default.
func TestExampleConfig(t *testing.T) {
	const path = "../../packaging/config.toml"
	keys := configKeys(t)
	want := exampleConfig(keys)
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(data) != want {
		t.Errorf("%s is not what the code says: go test ./cmd/provision -run TestExampleConfig -update", path)
	}
	// Nothing changes if all the keys are put in force.
	all := regexp.MustCompile(`(?m)^#([a-z-]+ = )`).ReplaceAllString(string(data), "$1")
	var values map[string]any
	if err := toml.Unmarshal([]byte(all), &values); err != nil || len(values) != len(keys) {
		t.Fatalf("%d keys of %d, %v", len(values), len(keys), err)
	}
	flags := serveFlagsFor(t)
	if _, err := readConfig(writeConfig(t, all), flags); err != nil {
		t.Fatal(err)
	}
	for _, f := range keys {
		if got := flags.Lookup(f.Name); !got.Changed || got.Value.String() != f.DefValue {
			t.Errorf("%s is %s, want %s", f.Name, got.Value, f.DefValue)
		}
	}
}

// TestConfigurationTable: docs/configuration.md describes every key.
func TestConfigurationTable(t *testing.T) {
	var b strings.Builder
	b.WriteString("| key | default | meaning |\n|---|---|---|\n")
	for _, f := range configKeys(t) {
		fmt.Fprintf(&b, "| `%s` | `%s` | %s |\n", f.Name, defaultTOML(f), strings.ReplaceAll(f.Usage, "|", `\|`))
	}
	generated(t, "configuration.md", b.String())
}
